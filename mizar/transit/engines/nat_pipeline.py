# SPDX-License-Identifier: Apache-2.0
"""The gateway's flow pipeline for one NAT gateway (docs/pipeline.md), and what it was told, checked.

Called by `nat_gateway`. Frames come by two interfaces, told apart by their MACs: from inside, from outside. What is
from inside and for inside still, after its translation, is for a forward of the gateway's own (hairpin): it goes back
by the namespace's stack. What is from outside and stays there is dropped. Pure.
"""

import json
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Any

from mizar._built import transit_pb2 as pb
from mizar.kernel.nat_way import INSIDE_MAC, OUTSIDE_MAC
from mizar.model.errors import InvalidError

INSIDE, OUTSIDE = 0x1000, 0x2000
"""Metadata of both sides."""
OWN_PORTS = (32768, 65535)
MOST_CONNECTIONS = 1 << 18
_PROTOCOLS = {6: "tcp", 17: "udp"}
_LENGTHS = (4, 16)


def checked(nat: pb.NatGateway) -> pb.NatGateway:
    """The same. Raises InvalidError that says what cannot be."""
    if not 1 <= len(nat.public) <= 16 or len(set(nat.public)) < len(nat.public):
        raise InvalidError("a NAT gateway has 1 to 16 public addresses, each once")
    if any(len(one) not in _LENGTHS for one in nat.public):
        raise InvalidError("a public address has 4 or 16 bytes")
    if not 1 <= len(nat.inside) <= 64:
        raise InvalidError("a NAT gateway has 1 to 64 prefixes inside")
    for subnet in (*nat.inside, *nat.never, *nat.reach):
        prefix_of(subnet)
    if not 16 <= nat.connections <= MOST_CONNECTIONS:
        raise InvalidError(f"a NAT gateway has 16 to {MOST_CONNECTIONS} connections, found {nat.connections}")
    if len(nat.forwards) > 256:
        raise InvalidError("a NAT gateway has at most 256 forwards")
    seen = set()
    for forward in nat.forwards:
        key = forward.protocol, forward.public, forward.port
        if forward.protocol not in _PROTOCOLS or forward.public not in nat.public or key in seen:
            raise InvalidError("a forward is of TCP or UDP, at an address of its gateway, and its port is its alone")
        if not 1 <= forward.port < OWN_PORTS[0] or not 1 <= forward.target_port <= 65535:
            raise InvalidError(f"a forward is from a port below {OWN_PORTS[0]} to one")
        if len(forward.address) != len(forward.public):
            raise InvalidError("a forward is to an address of its family")
        seen.add(key)
    if nat.HasField("pair"):
        _check_pair(nat.pair)
    return nat


def _check_pair(pair: pb.NatPair) -> None:
    if len(pair.own) not in _LENGTHS or len(pair.other) != len(pair.own) or pair.own == pair.other:
        raise InvalidError("two instances of a NAT gateway have two addresses of one family")
    if len(pair.key) != 64 or set(pair.key) - set("0123456789abcdef"):
        raise InvalidError("the key of two instances of a NAT gateway has 64 hexadecimal digits")


def prefix_of(subnet: pb.Subnet) -> IPv4Network | IPv6Network:
    """Raises InvalidError for what is none."""
    try:
        return ip_network((subnet.address, subnet.length))
    except ValueError as error:
        raise InvalidError(f"a prefix has 4 or 16 bytes and a length that they have room for: {error}") from error


def description(nat: pb.NatGateway) -> str:
    """The file that `mizar gateway run` reads: JSON, which is YAML."""
    own = f"{OWN_PORTS[0]}-{OWN_PORTS[1]}"
    masquerade = []
    for length in _LENGTHS:
        if addresses := [str(ip_address(one)) for one in nat.public if len(one) == length]:
            masquerade.append({"inside": INSIDE, "outside": OUTSIDE, "addresses": addresses, "ports": own})
    forward = [
        {
            "inside": INSIDE, "inside_address": str(ip_address(one.address)), "inside_ports": one.target_port,
            "outside": OUTSIDE, "outside_address": str(ip_address(one.public)), "outside_ports": one.port,
            "protocol": _PROTOCOLS[one.protocol],
        }
        for one in nat.forwards
    ]  # fmt: skip
    rules: dict[str, Any] = {"masquerade": masquerade}
    rules |= {"forward": forward} if forward else {}
    rules["quotas"] = [{"inside": INSIDE, "connections": nat.connections}]
    found = {
        "pipeline": "nat-gateway",
        "nat": rules,
        "groups": [
            {
                "name": "Side",
                "steps": [
                    {
                        "switch": "parse",
                        "cases": [
                            _side(OUTSIDE_MAC, INSIDE, "From inside"),
                            _side(INSIDE_MAC, OUTSIDE, "From outside"),
                        ],
                    }
                ],
            },
            _translation("From inside", {OUTSIDE: [{"goto": "Out"}], INSIDE: [{"trap": "kernel"}]}),
            _translation("From outside", {INSIDE: [{"goto": "Out"}]}),
            {"name": "Out", "steps": ["stop"]},
        ],
    }
    return json.dumps(found, indent=1)


def _side(mac: bytes, meta: int, group: str) -> dict[str, Any]:
    """Metadata comes from a tag: one of VLAN 0 is put on for that, and taken off."""
    steps = ["push_vlan", {"set_meta": {"from": "vlan", "add": meta}}, "pop_vlan", {"goto": group}]
    return {"when": f"eth dst {mac.hex(':')}", "steps": steps}


def _translation(name: str, after: dict[int, list[Any]]) -> dict[str, Any]:
    changed: list[Any] = [{"when": str(meta), "steps": steps} for meta, steps in after.items()]
    changed.append({"when": "otherwise", "steps": _drop("same side")})
    translated = ["nat", {"switch": "metadata", "cases": changed}]
    states = [
        {"when": "new", "steps": [{"nat": {"allocate": True}}, translated[1]]},
        {"when": "established | related", "steps": translated},
        {"when": "invalid", "steps": _drop("invalid")},
    ]
    connection = {"switch": "conntrack", "cases": states}
    when = "eth / ip / (tcp | udp | icmp | fragment)"
    return {"name": name, "steps": [{"switch": "parse", "cases": [{"when": when, "steps": [connection]}]}]}


def _drop(why: str) -> list[Any]:
    return [{"count": why}, "drop"]
