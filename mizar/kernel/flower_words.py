# SPDX-License-Identifier: Apache-2.0
"""tc's filters and actions as the kernel reads them: attributes of linux/pkt_cls.h and linux/tc_act/, in bytes.

Called by `flower`. pyroute2 has no flower, ct, tunnel_key, pedit and csum; so every word that the pipeline's plans
use is here. Numbers follow the names in those headers. Touches nothing.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from ipaddress import ip_address
from typing import Any, Literal

from mizar.pipeline.headers import Notation
from mizar.pipeline.tc.rules import Action, Field, Filter, Flags, Match, Policer, Word

PROTOCOLS = {"all": 0x0003, "ip": 0x0800, "arp": 0x0806, "802.1q": 0x8100, "ipv6": 0x86DD}
_IP_PROTOCOLS = {"icmp": 1, "tcp": 6, "udp": 17, "icmpv6": 58}
_GOTO = 2 << 28
_RESULTS = {"pass": 0, "drop": 2, "pipe": 3}
_PIPE, _STOLEN = 3, 4
_CT_STATES = {"new": 1, "est": 2, "rel": 4, "trk": 8, "inv": 16, "rpl": 32}
_CT_WORDS = {"commit": 1, "force": 2, "clear": 4, "nat": 8, "src": 16, "dst": 32}
_IP_FLAGS = {"frag": 1, "firstfrag": 2}
# Key and mask of flower's fields.
_MASKED = {
    "dst_mac": (4, 5),
    "src_mac": (6, 7),
    "tcp_flags": (71, 72),
    "ip_tos": (73, 74),
    "ip_ttl": (75, 76),
    "ct_mark": (95, 96),
}
_ADDRESSES = {"src_ip": ((10, 11), (14, 15)), "dst_ip": ((12, 13), (16, 17))}
_WHOLE = {"vlan_id": (23, 2), "vlan_prio": (24, 1), "cvlan_id": (77, 2), "cvlan_prio": (78, 1), "enc_key_id": (26, 4)}
_ETHERTYPES = {"vlan_ethtype": 25, "cvlan_ethtype": 79}
_PORTS = {
    ("tcp", "src_port"): (18, 35),
    ("tcp", "dst_port"): (19, 36),
    ("udp", "src_port"): (20, 37),
    ("udp", "dst_port"): (21, 38),
}
_PORT_RANGES = {"src_port": (87, 88), "dst_port": (89, 90)}
_ICMP = {("icmp", "code"): 49, ("icmp", "type"): 51, ("icmpv6", "code"): 53, ("icmpv6", "type"): 55}
_ETH, _IP4, _NETWORK, _UDP = 1, 2, 0, 5  # enum pedit_header_type


def attribute(kind: int, data: bytes) -> bytes:
    """A netlink attribute."""
    return struct.pack("=HH", 4 + len(data), kind) + data + bytes(-len(data) % 4)


def options(rule: Filter, devices: dict[str, int]) -> bytes:
    """TCA_OPTIONS of a filter. `devices`: interfaces by name."""
    acts = actions(rule.actions, devices)
    if rule.classifier == "fw":
        assert rule.mark is not None
        return attribute(4, acts) + attribute(5, struct.pack("=I", rule.mark[1]))
    if rule.classifier == "matchall":
        return attribute(2, acts)
    known = {one.name: one.value for one in rule.fields if isinstance(one, Word)}
    found = b"".join(_field(one, known) for one in rule.fields)
    if rule.protocol not in ("all", "802.1q"):
        found += attribute(8, struct.pack(">H", PROTOCOLS[rule.protocol]))
    elif rule.protocol == "802.1q":
        found += attribute(8, struct.pack(">H", 0x8100))
    return found + attribute(3, acts)


def _field(one: Field, known: dict[str, str]) -> bytes:
    if isinstance(one, Flags):
        names = _CT_STATES if one.name == "ct_state" else _IP_FLAGS
        value = sum(names[word] for word in one.on)
        mask = value | sum(names[word] for word in one.off)
        if one.name == "ct_state":
            return attribute(91, struct.pack("=H", value)) + attribute(92, struct.pack("=H", mask))
        return attribute(47, struct.pack(">I", value)) + attribute(48, struct.pack(">I", mask))
    if isinstance(one, Word):
        if one.name in _ETHERTYPES:
            return attribute(_ETHERTYPES[one.name], struct.pack(">H", PROTOCOLS[one.value]))
        if one.name == "ip_proto":
            return attribute(9, bytes([_IP_PROTOCOLS[one.value]]))
        if one.name == "arp_op":
            return attribute(61, bytes([{"request": 1, "reply": 2}[one.value]])) + attribute(62, b"\xff")
        return attribute(2, one.value.encode() + b"\0")  # indev
    return _match(one, known.get("ip_proto", ""))


def _match(one: Match, protocol: str) -> bytes:
    if one.name in _WHOLE:
        kind, size = _WHOLE[one.name]
        order: Literal["little", "big"] = "little" if one.name in ("vlan_id", "cvlan_id") else "big"
        return attribute(kind, one.value.to_bytes(size, order))
    if one.last is not None:
        low, high = _PORT_RANGES[one.name]
        return attribute(low, struct.pack(">H", one.value)) + attribute(high, struct.pack(">H", one.last))
    if one.name in _ADDRESSES:
        key, mask = _ADDRESSES[one.name][one.notation is Notation.IPV6]
    elif one.name in ("src_port", "dst_port"):
        key, mask = _PORTS[protocol, one.name]
    elif one.name in ("type", "code"):
        key = _ICMP[protocol, one.name]
        mask = key + 1
    else:
        key, mask = _MASKED[one.name]
    size = (one.width + 7) // 8
    if one.name == "ct_mark":
        return attribute(key, struct.pack("=I", one.value)) + attribute(mask, struct.pack("=I", one.mask))
    return attribute(key, one.value.to_bytes(size, "big")) + attribute(mask, one.mask.to_bytes(size, "big"))


def actions(several: Iterable[Action], devices: dict[str, int]) -> bytes:
    """Nested attributes of a list of actions."""
    return b"".join(attribute(place, _action(one, devices)) for place, one in enumerate(several, 1))


def _action(one: Action, devices: dict[str, int]) -> bytes:
    kind = one.kind.partition(" ")[0]
    found = attribute(1, kind.encode() + b"\0")
    cookie = one.get("cookie")
    if cookie is not None:
        found += attribute(6, bytes.fromhex(str(cookie)))
    return found + attribute(2 | 0x8000, b"".join(_conf(kind, one, devices)))


def _conf(kind: str, one: Action, devices: dict[str, int]) -> Iterator[bytes]:
    conf: dict[str, Any] = dict(one.conf)
    match kind:
        case "gact":
            result = next((value for word, value in _RESULTS.items() if conf.get(word)), None)
            yield attribute(2, _general(_GOTO | int(conf["goto chain"]) if result is None else result))
        case "skbedit":
            yield attribute(2, _general(_PIPE))
            if "queue_mapping" in conf:
                yield attribute(4, struct.pack("=H", conf["queue_mapping"]))
            yield attribute(5, struct.pack("=I", conf["mark"]))
            if "ptype" in conf:
                yield attribute(7, struct.pack("=H", 0))  # PACKET_HOST
        case "vlan":
            word = next(word for word in ("pop", "push", "modify") if conf.get(word))
            yield attribute(2, _general(_PIPE) + struct.pack("=i", {"pop": 1, "push": 2, "modify": 3}[word]))
            if word != "pop":
                yield attribute(3, struct.pack("=H", conf["id"])) + attribute(4, b"\x81\x00")
        case "tunnel_key":
            yield attribute(2, _general(_PIPE) + struct.pack("=i", 1 if conf.get("set") else 2))
            if conf.get("set"):
                yield attribute(3, ip_address(str(conf["src_ip"])).packed)
                yield attribute(4, ip_address(str(conf["dst_ip"])).packed)
                yield attribute(7, struct.pack(">I", conf["id"])) + attribute(9, struct.pack(">H", conf["dst_port"]))
                yield attribute(10, b"\1") + attribute(13, bytes([int(conf["ttl"])]))
        case "ct":
            yield from _ct(conf)
        case "police":
            yield attribute(1, _policer(int(conf["index"])))
        case "mirred":
            yield attribute(2, _general(_STOLEN) + struct.pack("=iI", 1, devices[str(conf["dev"])]))
        case "csum":
            yield attribute(1, _general(_PIPE) + struct.pack("=I", 1))
        case "pedit":
            keys = [key for name, value in one.conf if name != "pipe" for key in _munged(name, value)]
            packed = b"".join(_key(mask, value, at) for _, at, mask, value in keys)
            yield attribute(4, _general(_PIPE) + struct.pack("=BBH", len(keys), 0, 0) + packed)
            kinds = (
                attribute(1, struct.pack("=H", header)) + attribute(2, struct.pack("=H", 0)) for header, *_ in keys
            )
            yield attribute(5 | 0x8000, b"".join(attribute(6 | 0x8000, kind) for kind in kinds))
        case _:
            raise AssertionError(f"no plan has the action {kind}")


def _ct(conf: dict[str, Any]) -> Iterator[bytes]:
    yield attribute(1, _general(_PIPE))
    words = sum(bit for word, bit in _CT_WORDS.items() if conf.get(word))
    yield attribute(3, struct.pack("=H", words)) + attribute(4, struct.pack("=H", conf["zone"]))
    if "mark" in conf:
        yield attribute(5, struct.pack("=I", conf["mark"])) + attribute(6, struct.pack("=I", 0xFFFFFFFF))
    if "addr" in conf:
        low, _, high = str(conf["addr"]).partition("-")
        first, last = (ip_address(one).packed for one in (low, high or low))
        kind = 9 if len(first) == 4 else 11
        yield attribute(kind, first) + attribute(kind + 1, last)
    if "port" in conf:
        low, _, high = str(conf["port"]).partition("-")
        for place, port in ((13, low), (14, high or low)):
            yield attribute(place, struct.pack(">H", int(port)))


def _general(result: int) -> bytes:
    """tc_gen: index, capabilities, what to do then, two counts of references."""
    return struct.pack("=IIIii", 0, 0, result, 0, 0)


def _key(mask: bytes, value: bytes, at: int) -> bytes:
    """struct tc_pedit_key; `mask` has the bits that stay."""
    return mask + value + struct.pack("=IIII", at, 0, 0, 0)


Munged = tuple[int, int, bytes, bytes]
"""Kind of header, offset, bits that stay, new bits."""


def _munged(name: str, value: int | str | bool) -> list[Munged]:
    if name == "munge eth dst set":
        mac = bytes.fromhex(str(value).replace(":", ""))
        return [(_ETH, 0, bytes(4), mac[:4]), (_ETH, 4, b"\0\0\xff\xff", mac[4:] + bytes(2))]
    if name == "munge eth src set":
        mac = bytes.fromhex(str(value).replace(":", ""))
        return [(_ETH, 4, b"\xff\xff\0\0", bytes(2) + mac[:2]), (_ETH, 8, bytes(4), mac[2:])]
    if name == "munge ip tos set":
        return [(_IP4, 0, b"\xff\0\xff\xff", bytes([0, int(value), 0, 0]))]
    if name == "munge offset 4 u32 set":
        return [(_NETWORK, 4, bytes(4), int(value).to_bytes(4, "big"))]
    assert name == "munge udp sport set", name
    return [(_UDP, 0, b"\0\0\xff\xff", int(value).to_bytes(2, "big") + bytes(2))]


def _policer(index: int) -> bytes:
    """struct tc_police: what exceeds is dropped."""
    return struct.pack("=Ii3I12s12siiI", index, _RESULTS["drop"], 0, 0, 0, bytes(12), bytes(12), 0, 0, 0)


def policer(one: Policer) -> bytes:
    """The nested attributes of RTM_NEWACTION for one policer. A burst is given in ticks of 64 ns."""
    burst = one.burst * 1_000_000_000 // (one.packets_per_s * 64)
    conf = attribute(1, _policer(one.number)) + attribute(5, struct.pack("=I", _PIPE))
    conf += attribute(10, struct.pack("=Q", one.packets_per_s)) + attribute(11, struct.pack("=Q", burst))
    return attribute(1, attribute(1, b"police\0") + attribute(2 | 0x8000, conf))


def policer_name(number: int) -> bytes:
    """The nested attributes of RTM_DELACTION."""
    return attribute(1, attribute(1, b"police\0") + attribute(3, struct.pack("=I", number)))
