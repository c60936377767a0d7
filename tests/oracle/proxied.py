# SPDX-License-Identifier: Apache-2.0
"""A droplet that carries proxied endpoints, and what may come to them, for test_proxied.py.

Two VPCs with equal addresses, network 1 in each. Host 11 of RED sends at interface 1, 12 lives here too, 21 elsewhere.
Proxy N has the client address 100 + N in one VPC and the source 110 + N in the same or the other; its target is one of
the hosts, or a proxied endpoint: chains, and circles that a planner would refuse.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from mizar.model.addresses import SERVICE_MAC
from mizar.oracle.proxy import PROXY_INTERFACE
from mizar.oracle.tables import Agent, Droplet, Endpoint, Leg, Network, Proxy, Tunnel, Vpc
from tests.oracle import build
from tests.oracle.draws import Draw
from tests.oracle.droplets import (
    BLUE,
    DIVIDER,
    GATEWAY,
    HOST,
    KNOWN,
    ME,
    MY_MAC,
    RED,
    address,
    even,
    mac_of,
    uid_of,
)

PAIR = (RED, BLUE)
PORTS = (1000, 1001, 7)
SOURCES = (11, 12, 21, GATEWAY, 99)


@dataclass(frozen=True)
class Arrival:
    """`what`: a frame to an interface, or "reply" or "error": made of the last frame that left a proxy."""

    what: str
    ifindex: int = 0
    frame: bytes = b""
    fields: tuple[int, ...] = ()


def leg(family: int, host: int) -> Leg:
    return Leg(address(family, 1, host), address(family, 1, GATEWAY), 24 if family == 4 else 64)


@st.composite
def carriers(draw: Draw) -> Droplet:
    nets, ends, agents, proxies = {}, {}, {}, {}
    bounced = draw(st.booleans())
    for vni in PAIR:
        for family, prefix, length in ((4, "0a000100", 24), (6, "fd000010000000010000000000000000", 64)):
            row = Network(1, address(family, 1, GATEWAY), even(HOST), bounced_here=bounced)
            nets[vni, bytes.fromhex(prefix), length] = row
            for host, here in ((11, 1), (12, 300 + PAIR.index(vni)), (21, 0)):
                uid = uid_of(vni, 1, host) if here else ""
                ends[vni, address(family, 1, host)] = Endpoint(
                    1, mac_of(1, host), ME if here else HOST, ifindex=here, uid=uid
                )
    agents[1] = Agent(
        uid_of(RED, 1, 11), RED, 1, mac_of(1, 11), bouncers=even(HOST), bounced_here=bounced,
        ipv4=leg(4, 11), ipv6=leg(6, 11),
    )  # fmt: skip
    tunnels = st.sampled_from([Tunnel.GENEVE, Tunnel.VXLAN])
    for slot in range(1, draw(st.integers(1, 3)) + 1):
        client_vni, source_vni = draw(st.sampled_from(PAIR)), draw(st.sampled_from(PAIR))
        target = draw(st.sampled_from([11, 12, 21, 21, 101, 102, 103]))
        families = draw(st.sampled_from([(4, 6), (4, 6), (4,), (6,)]))
        proxies[slot] = Proxy(
            client_vni,
            source_vni,
            {family: address(family, 1, 100 + slot) for family in (4, 6)},
            {family: address(family, 1, 110 + slot) for family in families},
            {family: address(family, 1, target) for family in families},
            draw(st.sampled_from([1, 1, 2, 8])),
        )
        for side, (vni, host, present) in enumerate(
            ((client_vni, 100 + slot, (4, 6)), (source_vni, 110 + slot, families))
        ):
            interface, uid = PROXY_INTERFACE + 2 * slot + side, uid_of(vni, 1, host)
            for family in present:
                ends[vni, address(family, 1, host)] = Endpoint(1, mac_of(1, host), ME, ifindex=interface, uid=uid)
            agents[interface] = Agent(
                uid, vni, 1, SERVICE_MAC, draw(tunnels), even(HOST), bounced,
                ipv4=leg(4, host) if 4 in present else None, ipv6=leg(6, host) if 6 in present else None,
            )  # fmt: skip
    vpcs = {vni: Vpc(even(DIVIDER)) for vni in PAIR}
    mtus = {HOST: draw(st.sampled_from([0, 0, 0, 200]))}
    return Droplet(ME, MY_MAC, KNOWN, vpcs, nets, ends, agents, mtus=mtus, proxies=proxies)


checks = st.sampled_from([0, 0xFFFF, 0x1234, 1])
ttls = st.sampled_from([64, 64, 64, 64, 2, 1, 255])


def transport(draw: Draw, family: int, src: bytes, dst: bytes, *, client: bool) -> tuple[int, bytes]:
    """Protocol and message."""
    sport, dport = draw(st.sampled_from(PORTS)), draw(st.sampled_from(PORTS[1:]))
    body = bytes(index & 0xFF for index in range(draw(st.sampled_from([0, 1, 8, 30, 31, 300]))))
    what = draw(st.sampled_from(["udp", "tcp", "tcp", "echo", "udp", "error", "odd"]))
    icmp = 1 if family == 4 else 58
    if what == "udp":
        return 17, struct.pack("!HHHH", sport, dport, 8 + len(body), draw(checks)) + body
    if what == "tcp":
        flags = draw(st.sampled_from([0x02, 0x10, 0x12, 0x11, 0x04, 0x14, 0x02]))
        return 6, struct.pack("!HHIIBBHHH", sport, dport, 1, 2, 5 << 4, flags, 100, draw(checks), 0) + body
    if what == "echo":
        kind = (8 if family == 4 else 128) if draw(st.booleans()) or client else (0 if family == 4 else 129)
        return icmp, struct.pack("!BBHHH", kind, 0, draw(checks), sport, 1) + body
    if what == "error":
        return icmp, error_about(
            draw, family, ip_packet(family, dst, src, *transport(draw, family, dst, src, client=client))
        )
    return draw(st.sampled_from([0, 44, 47, 1, 58])), bytes(range(draw(st.sampled_from([0, 3, 8, 40]))))


def error_about(draw: Draw, family: int, packet: bytes) -> bytes:
    kind = draw(st.sampled_from([3, 3, 11, 12, 5, 4] if family == 4 else [1, 2, 3, 4, 5]))
    quoted = packet[: draw(st.sampled_from([28, 48, 60, 88, 500]))]
    return struct.pack("!BBHI", kind, 3, draw(checks), 0) + quoted


def ip_packet(family: int, src: bytes, dst: bytes, protocol: int, body: bytes, **fields: Any) -> bytes:
    if family == 4:
        return build.ipv4(src, dst, protocol, body, **fields)
    return build.ipv6(src, dst, protocol, body, **{key: value for key, value in fields.items() if key == "ttl"})


@st.composite
def arrivals(draw: Draw, here: Droplet) -> Arrival:
    what = draw(st.sampled_from(["reply", "reply", "reply", "error", "agent", "client", "client", "source"]))
    if what in ("reply", "error"):
        return Arrival(what, fields=(draw(st.integers(0, 3)), draw(st.sampled_from([28, 48, 60, 500])), draw(checks)))
    slot, family = draw(st.sampled_from(sorted(here.proxies))), draw(st.sampled_from([4, 6]))
    found, ifindex = here.proxies[slot], PROXY_INTERFACE + 2 * slot + (what == "source")
    dst = (found.source if what == "source" else found.client).get(family) or address(family, 1, 110 + slot)
    if draw(st.integers(0, 19)) == 0:
        dst = address(family, 1, 99)
    src, mac = address(family, 1, draw(st.sampled_from(SOURCES))), build.ROUTER
    if what == "agent":
        src, mac, ifindex = address(family, 1, 11), mac_of(1, 11), 1
    fields: dict[str, Any] = {"ttl": draw(ttls)}
    if draw(st.integers(0, 9)) == 0:
        fields |= draw(
            st.sampled_from([{"fragment": 0x2000}, {"fragment": 3}, {"options": bytes([1] * 8)}, {"check": 0xFFFF}])
        )
    packet = ip_packet(family, src, dst, *transport(draw, family, src, dst, client=what != "source"), **fields)
    frame = bytearray(build.ethernet(build.ROUTER, mac, 0x0800 if family == 4 else 0x86DD, packet))
    if draw(st.integers(0, 9)) == 0:
        for place, value in draw(st.lists(st.tuples(st.integers(0, 150), st.integers(0, 255)), min_size=1, max_size=2)):
            frame[place % len(frame)] = value
    elif draw(st.integers(0, 9)) == 0:
        del frame[max(60, draw(st.integers(60, 160))) :]
    return Arrival(what, ifindex, bytes(frame))


def answer_to(here: Droplet, left: bytes, arrival: Arrival) -> tuple[int, bytes] | None:
    """Interface and frame of what comes back for an inner frame that left a proxy; None where it came from none."""
    family = 4 if left[12:14] == b"\x08\x00" else 6
    packet = left[14:]
    header = (packet[0] & 15) * 4 if family == 4 else 40
    src, dst = (packet[12:16], packet[16:20]) if family == 4 else (packet[8:24], packet[24:40])
    sides = {
        address_of: PROXY_INTERFACE + 2 * slot + side
        for slot, found in here.proxies.items()
        for side, ends in enumerate((found.client, found.source))
        for address_of in ends.values()
    }
    if src not in sides:
        return None
    protocol, body = packet[9] if family == 4 else packet[6], packet[header:]
    variant, cut, check = arrival.fields
    if arrival.what == "error":
        kind = (3, 11, 12, 3)[variant] if family == 4 else variant + 1
        protocol, body = 1 if family == 4 else 58, struct.pack("!BBHI", kind, 1, check, 0) + packet[:cut]
    elif protocol in (6, 17) and len(body) >= 8:
        body = body[2:4] + body[:2] + body[4:]
        if protocol == 6 and len(body) >= 20:
            body = body[:13] + bytes([(0x12, 0x10, 0x11, 0x14)[variant]]) + body[14:]
    elif len(body) >= 8:
        body = bytes([{8: 0, 128: 129}.get(body[0], body[0])]) + body[1:]
    frame = build.ethernet(
        MY_MAC[:5] + b"\0", build.ROUTER, 0x0800 if family == 4 else 0x86DD, ip_packet(family, dst, src, protocol, body)
    )
    return sides[src], frame
