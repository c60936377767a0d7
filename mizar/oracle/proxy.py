# SPDX-License-Identifier: Apache-2.0
"""proxy: what becomes of a frame for a side of a proxied endpoint (docs/proxied-endpoints.md).

Called by agent.py and, through fleet.py, behind deliver; `onward` is the agent that sends for the other side. The flows
that the droplet knows afterwards are in the packet, and so in the outcome.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace

from mizar.model.addresses import ROUTER_MAC, SERVICE_MAC
from mizar.oracle.checksum import adjusted
from mizar.oracle.flow import mix
from mizar.oracle.frames import ETHERNET, ICMP, ICMPV6, Inner, Kind, parse_inner
from mizar.oracle.outcome import Outcome, Packet, RefusedError
from mizar.oracle.proxy_flows import CANDIDATES, EMBRYOS, FIRST_CHOSEN_PORT, PORT_TRIES, Flow, FlowKey
from mizar.oracle.rewrite import replace as put
from mizar.oracle.tables import Droplet, Proxy

PROXY_INTERFACE = 0x80000000
MOST_PROXIES = 8
"""That one packet may come through on a droplet: enum proxy_chain of dataplane/lib/proxy.h."""
TCP, UDP, FRAGMENT = 6, 17, 44
FIN, SYN, RST, ACK = 1, 2, 4, 16
CHECKSUM_AT = {TCP: 16, UDP: 6, ICMP: 2, ICMPV6: 2}
ERRORS = {ICMP: (3, 11, 12), ICMPV6: (1, 2, 3, 4)}
REQUEST = {ICMP: 8, ICMPV6: 128}
ANSWER = {ICMP: 0, ICMPV6: 129}

Onward = Callable[[Droplet, Packet, int], Outcome]


@dataclass(frozen=True, slots=True)
class Ports:
    """What a transport header says: source and destination port, of an echo its identifier and 0."""

    source: int
    destination: int
    request: bool = False
    echo: bool = False
    flags: int = 0


@dataclass(frozen=True, slots=True)
class Quoted:
    """The packet that an ICMP error quotes: `at` is its place behind the error's own eight bytes, in the payload."""

    source: bytes
    destination: bytes
    protocol: int
    ports: Ports
    header: int
    check: int | None
    """Where its transport checksum stands, in the payload; None: there is none to update."""


@dataclass(frozen=True, slots=True)
class Side:
    """One side of a proxy and, of the family at hand, both of its addresses."""

    vni: int
    own: bytes | None
    other_vni: int
    other: bytes | None


def is_proxy(ifindex: int) -> bool:
    """Whether an interface is a side of a proxy."""
    return ifindex >= PROXY_INTERFACE


def proxy(here: Droplet, packet: Packet, ifindex: int, onward: Onward) -> Outcome:
    """`packet.frame` has come to a side of a proxy."""
    slot, second = (ifindex - PROXY_INTERFACE) >> 1, ifindex & 1
    found = here.proxies.get(slot)
    packet.vni, packet.vpc_known, packet.proxied = 0, False, True
    if found is None:
        return packet.refused("PROXY_GONE", always_drop=True)
    packet.vni, packet.vpc_known = (found.source_vni if second else found.client_vni), True
    try:
        frame = handle_frame(packet, found, slot, bool(second))
    except RefusedError as refused:
        return packet.refused(refused.reason, always_drop=True)
    packet.proxies += 1
    if packet.proxies > MOST_PROXIES:
        return packet.refused("PROXY_GONE", always_drop=True)
    packet.frame = frame
    return onward(here, packet, ifindex ^ 1)


def handle_frame(packet: Packet, found: Proxy, slot: int, second: bool) -> bytes:
    """The frame on the other side."""
    inner = parse_inner(packet.frame)
    if inner.kind not in (Kind.IPV4, Kind.IPV6):
        raise RefusedError("PROXY_PROTOCOL")
    if inner.fragment:
        raise RefusedError("PROXY_FRAGMENT")
    quoted = None
    ports = parse_transport(inner)
    if ports is None:
        quoted = parse_quoted(inner)
    family = 4 if inner.kind is Kind.IPV4 else 6
    ends = (found.client.get(family), found.source.get(family))
    vnis = (found.client_vni, found.source_vni)
    side = Side(vnis[second], ends[second], vnis[not second], ends[not second])
    if side.own != inner.destination or side.other is None:
        raise RefusedError("PROXY_GONE")
    if inner.ttl <= 1:
        raise RefusedError("TTL_EXPIRED")
    flow = locate_flow(packet, found, slot, side, inner, ports, quoted, begins=not second)
    if quoted is not None:
        return write_error(inner, quoted, flow, side.other)
    assert ports is not None
    return write_packet(inner, ports, flow, side.other)


def parse_transport(inner: Inner) -> Ports | None:
    """TCP, UDP or an echo; None for an ICMP error."""
    payload, protocol = inner.payload, inner.protocol
    if protocol in (TCP, UDP):
        if len(payload) < (20 if protocol == TCP else 8):
            raise RefusedError("INNER_TRUNCATED")
        source, destination = struct.unpack_from("!HH", payload)
        return Ports(source, destination, flags=payload[13] if protocol == TCP else 0)
    if protocol == (ICMP if inner.kind is Kind.IPV4 else ICMPV6):
        if len(payload) < 8:
            raise RefusedError("INNER_TRUNCATED")
        if payload[0] in (REQUEST[protocol], ANSWER[protocol]):
            return echo_ports(payload, protocol)
        if payload[0] in ERRORS[protocol]:
            return None
    raise RefusedError("PROXY_FRAGMENT" if inner.kind is Kind.IPV6 and protocol == FRAGMENT else "PROXY_PROTOCOL")


def echo_ports(message: bytes, protocol: int) -> Ports:
    """The identifier is the port of who asked."""
    (identifier,) = struct.unpack_from("!H", message, 4)
    request = message[0] == REQUEST[protocol]
    return Ports(identifier if request else 0, 0 if request else identifier, request=request, echo=True)


def parse_quoted(inner: Inner) -> Quoted:
    """RFC 792 and 4443: the IP header of what caused the error, and at least eight bytes behind it."""
    rest, icmp = inner.payload[8:], ICMP if inner.kind is Kind.IPV4 else ICMPV6
    header = 20 if icmp == ICMP else 40
    if len(rest) < header:
        raise RefusedError("INNER_TRUNCATED")
    if icmp == ICMP:
        first, fragment, protocol = rest[0], struct.unpack_from("!H", rest, 6)[0], rest[9]
        if first >> 4 != 4 or first & 15 < 5:
            raise RefusedError("INNER_IP_HEADER")
        if fragment & 0x3FFF:
            raise RefusedError("PROXY_FRAGMENT")
        source, destination, header = rest[12:16], rest[16:20], (first & 15) * 4
        if len(rest) < header:
            raise RefusedError("INNER_TRUNCATED")
    else:
        if rest[0] >> 4 != 6:
            raise RefusedError("INNER_IP_HEADER")
        protocol, source, destination = rest[6], rest[8:24], rest[24:40]
    message, at = rest[header:], 8 + header
    if len(message) < 8:
        raise RefusedError("INNER_TRUNCATED")
    check: int | None
    if protocol in (TCP, UDP):
        ports = Ports(*struct.unpack_from("!HH", message))
        check = at + CHECKSUM_AT[protocol]
        if len(inner.payload) < check + 2 or (protocol == UDP and not any(message[6:8])):
            check = None
    elif protocol == icmp and message[0] in (REQUEST[icmp], ANSWER[icmp]):
        ports, check = echo_ports(message, icmp), at + CHECKSUM_AT[icmp]
    else:
        raise RefusedError("PROXY_PROTOCOL")
    return Quoted(source, destination, protocol, ports, at, check)


# ---- flows


def locate_flow(
    packet: Packet, found: Proxy, slot: int, side: Side, inner: Inner, ports: Ports | None, quoted: Quoted | None,
    *, begins: bool,
) -> Flow:  # fmt: skip
    """The flow that the frame belongs to or, from a client, begins. An error belongs to that of what it quotes."""
    assert side.own is not None
    if quoted is not None:
        if quoted.source != inner.destination:
            raise RefusedError("PROXY_NO_FLOW")
        ends = quoted.ports
        key = FlowKey(side.vni, side.own, quoted.destination, ends.source, ends.destination, quoted.protocol)
        if key not in packet.proxy_flows.entries:
            raise RefusedError("PROXY_NO_FLOW")
        return packet.proxy_flows.entries[key]
    assert ports is not None
    key = FlowKey(side.vni, side.own, inner.source, ports.destination, ports.source, inner.protocol)
    tcp = inner.protocol == TCP
    if key not in packet.proxy_flows.entries:
        if not begins or (tcp and ports.flags & RST) or (ports.echo and not ports.request):
            raise RefusedError("PROXY_NO_FLOW")
        begin_flow(packet, found, slot, key, side)
    flow = replace(packet.proxy_flows.entries[key], used=True)
    if tcp and ports.flags & (SYN | ACK) == SYN:  # it begins anew: both sides forget the one before
        flow = replace(flow, fin=False, reset=False)
        behind = key_behind(side.other_vni, side.other, key, flow)
        if behind in packet.proxy_flows.entries:
            packet.proxy_flows = packet.proxy_flows.put(
                behind, replace(packet.proxy_flows.entries[behind], fin=False, reset=False)
            )
    elif tcp:
        flow = replace(flow, fin=flow.fin or bool(ports.flags & FIN), reset=flow.reset or bool(ports.flags & RST))
    packet.proxy_flows = packet.proxy_flows.put(key, flow)
    return flow


def key_behind(vni: int, local: bytes | None, key: FlowKey, flow: Flow) -> FlowKey:
    """The key of the same flow on the other side."""
    return FlowKey(vni, local or b"", flow.remote, flow.local_port, flow.remote_port, key.protocol)


def begin_flow(packet: Packet, found: Proxy, slot: int, key: FlowKey, side: Side) -> None:
    """Both entries, under the first port that is free at the source."""
    usage = packet.proxy_flows.using(slot)
    if usage.begun - usage.evicted >= found.budget and not evict_embryo(packet, found, slot):
        usage = packet.proxy_flows.using(slot)
        packet.proxy_flows = packet.proxy_flows.counted(slot, replace(usage, refused=usage.refused + 1))
        raise RefusedError("PROXY_FULL")
    target = found.target.get(4 if len(key.local) == 4 else 6, b"")
    for attempt in range(PORT_TRIES):
        port = candidate_port(key, attempt)
        flow = Flow(slot, target, port, key.local_port)
        behind = key_behind(side.other_vni, side.other, key, flow)
        if behind not in packet.proxy_flows.entries:
            break
    else:
        raise RefusedError("PROXY_FULL")
    answer = Flow(slot, key.remote, key.local_port, key.remote_port)
    usage = packet.proxy_flows.using(slot)
    embryos = {**usage.embryos, usage.begun % EMBRYOS: key}
    packet.proxy_flows = packet.proxy_flows.put(behind, answer).put(key, flow)
    packet.proxy_flows = packet.proxy_flows.counted(slot, replace(usage, begun=usage.begun + 1, embryos=embryos))


def candidate_port(key: FlowKey, attempt: int) -> int:
    """The port that shall stand for the client's: its own, then others that follow from the flow."""
    if not attempt:
        return key.remote_port
    mapped = key.remote if len(key.remote) == 16 else bytes(10) + b"\xff\xff" + key.remote
    words = [int.from_bytes(mapped[at : at + 4], sys.byteorder) for at in range(0, 16, 4)]
    value = mix(words[0] << 32 | words[1]) ^ (words[2] << 32 | words[3])
    value = mix(value ^ (key.protocol << 24 | key.remote_port << 8 | attempt))
    return FIRST_CHOSEN_PORT + (value & 0xFFFFFFFF) % (65536 - FIRST_CHOSEN_PORT)


def evict_embryo(packet: Packet, found: Proxy, slot: int) -> bool:
    """Lets go a flow that nobody has answered."""
    for _ in range(CANDIDATES):
        usage = packet.proxy_flows.using(slot)
        key = usage.embryos.get(usage.cursor % EMBRYOS)
        usage = replace(usage, cursor=usage.cursor + 1)
        packet.proxy_flows = packet.proxy_flows.counted(slot, usage)
        flow = packet.proxy_flows.entries.get(key) if key else None
        if key is None or flow is None or flow.slot != slot:
            continue
        behind = key_behind(found.source_vni, found.source.get(4 if len(key.remote) == 4 else 6), key, flow)
        answer = packet.proxy_flows.entries.get(behind)
        if answer and answer.used:
            continue
        packet.proxy_flows = packet.proxy_flows.without(key, behind).counted(
            slot, replace(usage, evicted=usage.evicted + 1)
        )
        return True
    return False


# ---- frames


def pair(source: int, destination: int) -> bytes:
    """Two ports."""
    return struct.pack("!HH", source, destination)


def write_packet(inner: Inner, ports: Ports, flow: Flow, source: bytes) -> bytes:
    """Other addresses and ports, the checksum over both after them."""
    before, after = inner.source + inner.destination, source + flow.remote
    at, old, new = inner.header, pair(ports.source, ports.destination), pair(flow.local_port, flow.remote_port)
    if ports.echo:
        place, end = at + 4, slice(0, 2) if ports.request else slice(2, 4)
        old, new = old[end], new[end]
    else:
        place = at
    check_at = at + CHECKSUM_AT[inner.protocol]
    (check,) = struct.unpack_from("!H", inner.frame, check_at)
    if check or inner.protocol != UDP:
        if inner.protocol != ICMP:
            check = mangled(adjusted(check, before, after), inner.protocol)
        if old != new:
            check = mangled(adjusted(check, old, new), inner.protocol)
    frame = put(put(inner.frame, check_at, struct.pack("!H", check)), place, new)
    return write_ip(frame, inner, after)


def mangled(check: int, protocol: int) -> int:
    """UDP's 0 would mean that there is none (RFC 768)."""
    return 0xFFFF if protocol == UDP and not check else check


def write_ip(frame: bytes, inner: Inner, addresses: bytes) -> bytes:
    """One more virtual hop, other addresses, and the service's MAC."""
    frame = ROUTER_MAC + SERVICE_MAC + frame[12:]
    if inner.kind is Kind.IPV6:
        return put(put(frame, ETHERNET + 7, bytes([inner.ttl - 1])), ETHERNET + 8, addresses)
    (check,) = struct.unpack_from("!H", frame, ETHERNET + 10)
    before = frame[ETHERNET + 8 : ETHERNET + 10] + frame[ETHERNET + 12 : ETHERNET + 20]
    after = bytes([inner.ttl - 1, inner.protocol]) + addresses
    head = after[:2] + struct.pack("!H", adjusted(check, before, after))
    return put(frame, ETHERNET + 8, head + addresses)


def write_error(inner: Inner, quoted: Quoted, flow: Flow, source: bytes) -> bytes:
    """The quoted packet as it was on the other side; in every checksum what changed under it."""
    payload, before = inner.payload, inner.payload
    old, new = pair(quoted.ports.source, quoted.ports.destination), pair(flow.remote_port, flow.local_port)
    place = quoted.header
    if quoted.ports.echo:
        end = slice(0, 2) if quoted.ports.request else slice(2, 4)
        place, old, new = place + 4, old[end], new[end]
    addresses = quoted.source + quoted.destination, flow.remote + source
    if quoted.check is not None:
        (check,) = struct.unpack_from("!H", payload, quoted.check)
        covered = (b"", b"") if quoted.protocol == ICMP else addresses
        check = mangled(adjusted(check, covered[0] + old, covered[1] + new), quoted.protocol)
        payload = put(payload, quoted.check, struct.pack("!H", check))
    payload = put(payload, place, new)
    if inner.kind is Kind.IPV4:
        (check,) = struct.unpack_from("!H", payload, 8 + 10)
        payload = put(payload, 8 + 10, struct.pack("!H", adjusted(check, *addresses)) + addresses[1])
    else:
        payload = put(payload, 8 + 8, addresses[1])
    (check,) = struct.unpack_from("!H", payload, 2)
    after = source + flow.remote
    if inner.kind is Kind.IPV6:
        check = adjusted(check, inner.source + inner.destination, after)
    even = bytes(len(payload) % 2)
    check = adjusted(check, before[8:] + even, payload[8:] + even)
    payload = put(payload, 2, struct.pack("!H", check))
    return write_ip(put(inner.frame, inner.header, payload), inner, after)
