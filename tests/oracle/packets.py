# SPDX-License-Identifier: Apache-2.0
"""Packets for the differential tests: sound ones with a few oddities, and then bytes changed, cut off or added."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from mizar.model.addresses import to_mapped as mapped
from mizar.oracle.tables import Droplet
from tests.oracle import build
from tests.oracle.draws import Draw
from tests.oracle.droplets import (
    APPLIANCES,
    BLUE,
    BOUNCER,
    DIVIDER,
    GATEWAY,
    GHOST,
    GONE,
    HOST,
    HOSTS,
    IDENTITY,
    ME,
    MY_MAC,
    NUMBERS,
    RED,
    STRANGER,
    UNRESOLVED,
    address,
    mac_of,
    mostly,
    packed,
)
from tests.oracle.oddities import ODD_IPV4, ODD_IPV6, ODD_ND_OPTIONS, ODD_OUTER, ODD_OUTER6, ODD_TTLS, either, oddities
from tests.oracle.substrates import addresses_between

BROADCAST = b"\xff" * 6
SERVICE_MAC, APPLIANCE_MAC = bytes.fromhex("024d5a000002"), bytes.fromhex("024d5a000003")
MACS = (build.ROUTER, mac_of(1, 11), mac_of(2, 12), BROADCAST, bytes.fromhex("333300000001"), bytes(6))
EVERYWHERE: dict[int, list[bytes]] = {
    family: [address(family, number, host) for number in NUMBERS for host in (GATEWAY, *HOSTS, GHOST)]
    for family in (4, 6)
}
SPECIAL: dict[int, list[bytes]] = {
    4: [packed(text) for text in ("0.0.0.0", "224.0.0.251", "255.255.255.255", "240.0.0.1", "127.0.0.1", "10.9.0.1")],
    6: [
        packed(text)
        for text in (
            "::",
            "ff02::1",
            "fe80::1",
            "::ffff:10.0.1.11",
            "::1",
            "fd00:99::1",
            "::10.0.1.11",
            "ff02::1:ff00:b",
        )
    ],
}
EXTENSIONS = (0, 43, 44, 60)
SIZES = (30, 0, 1, 3, 4, 8, 200, 1400, 3000)
CLASSES, TYPES = (0x0102, 0xFF01, 0x0000), (0x01, 0x00, 0x7F, 0x80, 0xFF)


own_options = st.lists(
    st.one_of(
        st.sampled_from([HOST, STRANGER, bytes(4), bytes(16), mapped(HOST)]).map(lambda data: build.ours(0x01, data)),
        st.sampled_from([0, 1, 7, 0xFFFF, 0x10001]).map(lambda number: build.ours(0x02, number.to_bytes(4, "big"))),
        st.integers(0, 5).map(lambda words: build.ours(0x04, bytes(4 * words))),
        st.just(build.option(0x0102, 0x01, 2)),
        st.sampled_from([IDENTITY, IDENTITY, bytes(16)]).map(lambda data: build.ours(0x83, data)),
        st.sampled_from([(0x02, 0), (0x01, 8), (0x83, 12), (0x85, 4), (0x85, 0)]).map(
            lambda odd: build.ours(odd[0], bytes(odd[1]))
        ),
    ),
    max_size=3,
).map(b"".join)
"""Those of the wire's contract, now and then of a size that they cannot have."""
options = st.one_of(
    st.just(b""),
    own_options,
    st.lists(
        st.builds(
            build.option,
            st.sampled_from(CLASSES),
            st.sampled_from([0x01, *TYPES]),
            st.sampled_from([0, 1, 0xE1, 5, 31]),
            st.sampled_from([None, None, None, 0, 2]),
        ),
        max_size=4,
    ).map(lambda each: b"".join(each)[:252]),
    st.integers(1, 63).map(lambda words: b"\x01\x02\x01\x00" * words),
)
controls = st.builds(
    lambda before, kind, words: before + bytes.fromhex("ff0185") + bytes([words, kind]) + bytes(3 + 4 * (words - 1)),
    st.sampled_from([b"", b"", build.option(0x0102, 1, 2)]),
    st.integers(0, 5),
    st.sampled_from([1, 1, 16, 17, 17]),
)
nd_options = st.lists(
    st.one_of(
        st.sampled_from(MACS).map(lambda mac: b"\x01\x01" + mac),
        st.sampled_from(MACS).map(lambda mac: b"\x0e\x01" + mac),
        st.sampled_from(ODD_ND_OPTIONS),
    ),
    max_size=8,
).map(b"".join)


tcp_options = st.lists(
    st.one_of(
        st.integers(0, 0xFFFF).map(lambda mss: b"\x02\x04" + mss.to_bytes(2, "big")),
        st.sampled_from(
            [b"\x01", b"\x04\x02", b"\x03\x03\x07", b"\x08\x0a" + bytes(8), b"\x00", b"\x05\x00", b"\x02\x05"]
        ),
    ),
    max_size=5,
).map(lambda options: b"".join(options)[:40])


@st.composite
def solicitations(draw: Draw, src: bytes, own_mac: bytes) -> tuple[bytes, bytes]:
    """A solicitation or one of its neighbours: destination, message."""
    target = draw(st.sampled_from([*EVERYWHERE[6], *SPECIAL[6]]))
    group = packed("ff02::1:ff00:0")[:13] + target[13:]
    dst = either(draw, group, [target, packed("ff02::1")])
    kind = either(draw, 135, [133, 134, 136, 137])
    tail = draw(st.one_of(st.just(b"\x01\x01" + own_mac), nd_options))
    message = bytes([kind, either(draw, 0, [1]), 0, 0]) + bytes(4) + target + tail
    return dst, build.icmpv6(src, dst, message, check=either(draw, None, [0, 0xFFFF]))


@st.composite
def extended(draw: Draw, protocol: int, body: bytes) -> tuple[int, bytes]:
    """Extension headers of IPv6 in front: protocol, and bytes. Mostly none, now and then more than anybody reads."""
    count = either(draw, 0, [1, 1, 1, 2, 7, 8, 9])
    for kind in draw(st.lists(st.sampled_from(EXTENSIONS), min_size=count, max_size=count)):
        if kind == 44:
            rest = either(draw, bytes(6), [b"\x00\x01" + bytes(4), b"\x00\x08" + bytes(4)])
            body = bytes([protocol, either(draw, 0, [9])]) + rest + body
        else:
            units = either(draw, 0, [1, 3])
            body = bytes([protocol, either(draw, units, [30, 255])]) + bytes(6 + 8 * units) + body
        protocol = kind
    return protocol, body


@st.composite
def configuration(draw: Draw, own_mac: bytes, own: dict[int, bytes], family: int) -> bytes:
    """A request for an endpoint's configuration, or something like it."""
    body = bytes(draw(st.sampled_from([4, 240, 300, 1000])))
    mac = either(draw, own_mac, MACS)
    if family == 4:
        src = draw(st.sampled_from([bytes(4), own.get(4, bytes(4)), address(4, 1, 12)]))
        gateways = [address(4, number, GATEWAY) for number in NUMBERS]
        dst = draw(st.sampled_from([b"\xff" * 4, b"\xff" * 4, *gateways, packed("10.0.1.255")]))
        ports: tuple[int, int] = either(draw, (68, 67), [(67, 68), (68, 68), (546, 547)])
        fields = {"fragment": either(draw, 0, [0x2000])} | draw(oddities(ODD_IPV4, 1))
        packet = build.ipv4(src, dst, 17, build.udp(ports[0], ports[1], body), **fields)
        return build.ethernet(either(draw, BROADCAST, MACS), mac, 0x0800, packet)
    src = draw(st.sampled_from([packed("fe80::5"), own.get(6, bytes(16)), bytes(16), address(6, 1, 12)]))
    if draw(st.booleans()):
        ports = either(draw, (546, 547), [(547, 546), (546, 546)])
        dst = either(draw, packed("ff02::1:2"), [packed("ff05::1:3"), packed("ff02::1"), address(6, 1, GATEWAY)])
        packet = build.ipv6(src, dst, 17, build.udp(ports[0], ports[1], body), **draw(oddities(ODD_IPV6, 1)))
    else:
        message = build.icmpv6(src, packed("ff02::2"), b"\x85\0\0\0" + bytes(draw(st.sampled_from([0, 4, 12]))))
        packet = build.ipv6(src, packed("ff02::2"), 58, message, ttl=either(draw, 255, [64]))
    return build.ethernet(either(draw, bytes.fromhex("333300010002"), MACS), mac, 0x86DD, packet)


@st.composite
def errors(draw: Draw, family: int, src: bytes, dst: bytes) -> tuple[int, bytes]:
    """An ICMP error about a packet that went the other way, as a rule: protocol, message."""
    protocol = either(draw, draw(st.sampled_from([6, 17])), [1, 58, 50])
    transport = either(draw, b"\x0f\xa2\x00\x50", [b"\x00\x50\x0f\xa2"]) + bytes([0, 7, 0, 7])
    transport = transport[: either(draw, 8, [3, 7])]
    first, second = either(draw, (dst, src), [(src, dst), (dst, dst)])
    if family == 4:
        about = build.ipv4(first, second, protocol, transport, fragment=either(draw, 0x4000, [0x2000, 0x00B9]))
        kind = draw(st.sampled_from([3, 3, 11, 12, 4, 5]))
        message = bytes([kind, 3, 0, 0]) + bytes(4) + about
        return 1, message[:2] + build.summed(message).to_bytes(2, "big") + message[4:]
    about = build.ipv6(first, second, protocol, transport)
    kind = draw(st.sampled_from([1, 2, 3, 4, 5, 100]))
    return 58, build.icmpv6(src, dst, bytes([kind, 0, 0, 0]) + bytes(4) + about)


@st.composite
def inner_frames(draw: Draw, here: Droplet, own: tuple[bytes, dict[int, bytes]]) -> bytes:
    """What an endpoint with this MAC and these addresses sends, now and then under another name."""
    own_mac, own_addresses = own
    family: int = either(draw, draw(st.sampled_from(list(own_addresses) or [4, 6])), [4, 6])
    reachable = [each for _, each in here.endpoints if len(each) == (4 if family == 4 else 16)]
    src: bytes = either(
        draw, own_addresses.get(family, EVERYWHERE[family][1]), [EVERYWHERE[family][2], *SPECIAL[family]]
    )
    dst: bytes = draw(st.sampled_from((reachable or EVERYWHERE[family]) * 9 + EVERYWHERE[family] + SPECIAL[family]))
    others = [build.ROUTER, build.ROUTER, SERVICE_MAC, APPLIANCE_MAC, APPLIANCE_MAC, mac_of(9, 9)]
    src_mac = either(draw, own_mac, others)
    macs = [*MACS, *(row.mac for row in here.endpoints.values()), *APPLIANCES]
    dst_mac: bytes = either(draw, APPLIANCES[0] if src_mac == APPLIANCE_MAC else build.ROUTER, macs)
    what: str = draw(
        st.sampled_from(["udp", "tcp", "echo", "discovery", "udp", "tcp", "echo", "other", "discovery", "noise", "ask"])
    )
    if what == "ask":
        asked: bytes = draw(configuration(own_mac, own_addresses, family))
        return asked
    if what == "discovery":
        src = either(draw, src, [bytes(len(src)), bytes(len(src)), packed("fe80::1") if family == 6 else src])
    body = bytes(index * 7 & 0xFF for index in range(draw(st.sampled_from(SIZES))))
    if what == "noise":
        return build.ethernet(dst_mac, src_mac, draw(st.sampled_from([0x0800, 0x86DD, 0x0806, 0x8100, 0x88CC])), body)
    if what == "discovery" and family == 4:
        request = build.arp(either(draw, own_mac, MACS), src, dst, **draw(oddities(
            [("operation", 2), ("operation", 0), ("hardware", 6), ("protocol", 0x86DD), ("sizes", 0x0606)], 1
        )))  # fmt: skip
        return build.ethernet(either(draw, BROADCAST, MACS), src_mac, 0x0806, request + body[:18])
    protocols = {"udp": 17, "tcp": 6, "echo": 1 if family == 4 else 58}
    protocol: int = protocols[what] if what in protocols else draw(st.sampled_from([0, 44, 50, 58, 1]))
    if what in ("udp", "tcp"):
        sport, dport = draw(st.one_of(st.just(80), st.integers(0, 0xFFFF))), 4002
        if what == "udp":
            body = build.udp(sport, dport, body)
        else:
            words, flags = either(draw, None, [0, 4, 5, 6, 15]), draw(st.sampled_from([0x10, 0x02, 0x12, 0xC2, 0x11]))
            body = build.tcp(sport, dport, flags, draw(tcp_options), words) + body
    elif what == "echo":
        kind = either(draw, 8 if family == 4 else 128, [0, 129, 3])
        check = either(draw, None, [0, 0xFFFF, 0xF7FF])
        body = build.echo(kind, either(draw, 0, [1]), body, check)
        body = body if family == 4 else build.icmpv6(src, dst, body, check)
    if draw(st.sampled_from([False] * 7 + [True])):
        protocol, body = draw(errors(family, src, dst))
    ttl: int = either(draw, 64, ODD_TTLS)
    if family == 4:
        fields = {"ttl": ttl, "fragment": either(draw, 0x4000, [0x2000, 0x00B9])} | draw(oddities(ODD_IPV4))
        return build.ethernet(dst_mac, src_mac, 0x0800, build.ipv4(src, dst, protocol, body, **fields))
    if what == "discovery":
        dst, body = draw(solicitations(src, own_mac))
        protocol, ttl = 58, either(draw, 255, [64, 254])
        dst_mac = either(draw, b"\x33\x33" + dst[12:], MACS)
    fields = {"ttl": ttl} | draw(oddities(ODD_IPV6))
    protocol, body = draw(extended(protocol, body))
    return build.ethernet(dst_mac, src_mac, 0x86DD, build.ipv6(src, dst, protocol, body, **fields))


@st.composite
def mangled(draw: Draw, frames: st.SearchStrategy[bytes], shortest: int = 14) -> bytes:
    """A frame, sometimes with a few bytes changed, with an end cut off or padded."""
    frame = bytearray(draw(frames))
    way = draw(st.sampled_from(["whole"] * 9 + ["poke", "poke", "cut", "pad"]))
    if way == "poke" and frame:
        for place, value in draw(st.lists(st.tuples(st.integers(0, 150), st.integers(0, 255)), min_size=1, max_size=3)):
            frame[place % len(frame)] = value
    elif way == "cut":
        del frame[max(shortest, draw(st.integers(shortest, 160))) :]
    elif way == "pad":
        frame += b"\xa5" * draw(st.sampled_from([1, 2, 6, 18, 64]))
    return bytes(frame)


@st.composite
def tunnel_frames(draw: Draw, here: Droplet, substrate: str) -> bytes:
    """What a substrate may bring."""
    vni = either(draw, draw(st.sampled_from([RED, BLUE])), [GONE])
    own = mac_of(1, 21), {4: address(4, 1, 21), 6: address(6, 1, 21)}
    inner = draw(mangled(inner_frames(here, own), shortest=0))
    kind = draw(st.sampled_from(["geneve", "vxlan"]))
    fields: dict[str, Any] = {}
    sender = either(draw, HOST, [BOUNCER, DIVIDER, UNRESOLVED, STRANGER, ME])
    fields["src"], fields["dst"] = draw(st.sampled_from(addresses_between(sender, substrate)))
    fields |= {"sport": draw(st.integers(0, 0xFFFF)), "tos": draw(st.sampled_from([0, 1, 0xB8, 0xFF]))}
    fields["options"] = draw(options) if kind == "geneve" else b""
    if kind == "geneve" and not mostly(draw):
        fields |= {"second": 0x80, "options": draw(st.one_of(controls, options))}
    fields |= draw(oddities(ODD_OUTER if len(fields["dst"]) == 4 else ODD_OUTER6))
    return build.tunnel(kind, inner, src_mac=mac_of(2, fields["src"][-1]), dst_mac=MY_MAC, vni=vni, **fields)


def agent_frames(here: Droplet) -> st.SearchStrategy[bytes]:
    """What the endpoint at interface 1 may send."""
    agent = here.agents.get(1)
    mac = agent.mac if agent else mac_of(1, 11)
    legs = {family: agent.leg(family) for family in (4, 6)} if agent else {}
    return mangled(inner_frames(here, (mac, {family: leg.address for family, leg in legs.items() if leg})))
