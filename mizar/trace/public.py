# SPDX-License-Identifier: Apache-2.0
"""What comes from the substrate for a load balancer's public address: who takes it, which member, and why that one.

Called by explain.py. Pure.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from ipaddress import ip_address

from mizar.oracle.fleet import Hop
from mizar.oracle.flow_table import Transport, parse_transport
from mizar.oracle.frames import Inner, parse_inner
from mizar.oracle.outcome import RefusedError, Verdict
from mizar.oracle.tables import Droplet, FlowKey, FlowKind, Member, PublicAddress
from mizar.trace.names import Names
from mizar.trace.rows import Rows
from mizar.trace.sight import Sight, look
from mizar.trace.tables import flow_point

_PROTOCOLS = {1: "icmp", 6: "tcp", 17: "udp", 58: "icmpv6"}


def public_at(here: Droplet, arrived: bytes) -> PublicAddress | None:
    """The public address that a frame is for, where it came in no tunnel to a droplet that attracts it."""
    if not here.public:
        return None
    sight = look(arrived, here)
    return here.public.get(sight.inner.destination) if sight.inner and sight.tunnel is None else None


def chosen(here: Droplet, public: PublicAddress, hop: Hop, rows: Rows | None, names: Names) -> str:
    """Whose address it is, who else attracts it, which listener takes it, which member is chosen, and why."""
    inner = parse_inner(hop.arrived)
    known = names.endpoint(public.vni, inner.destination)
    others = ", ".join(names.attracting(inner.destination)) or "this droplet"
    address = str(ip_address(inner.destination))
    parts = [f"public_addresses: {address} is {known.name if known else 'a load balancer'}'s, attracted by {others}"]
    transport = parse_transport(inner, to_service=True)
    if transport is not None:
        parts += _listener(here, public, inner, transport)
        parts += _choice(here, public, inner, transport, hop, rows, names)
    sent = look(hop.outcome.frame, here)
    if sent.vip and sent.inner:
        parts.append(f"{in_option(sent)}; the inner destination is {_member_end(sent.inner)}")
    if hop.outcome.reason in ("SERVICE_WITHOUT_MEMBER", ""):
        parts.append(f"members: {'; '.join(_members(here, public, names)) or 'none'}")
    return "\n".join(parts)


def in_option(sight: Sight) -> str:
    """What a VIP option says."""
    port = f" port {_port(sight.vip[:2])}" if any(sight.vip[:2]) else ""
    return f"VIP option: {ip_address(sight.vip[4:])}{port}"


def _member_end(inner: Inner) -> str:
    transport = parse_transport(inner, to_service=True)
    return _end(inner, transport) if transport else str(ip_address(inner.destination))


def _listener(here: Droplet, public: PublicAddress, inner: Inner, transport: Transport) -> Iterator[str]:
    protocol = _PROTOCOLS.get(transport.protocol, str(transport.protocol))
    target = here.listeners.get((public.vni, inner.destination, transport.protocol, transport.ports[2:]))
    if target is not None:
        yield f"listeners: {protocol} {_port(transport.ports[2:])} → members' port {_port(target)}"
        return
    there = sorted(
        f"{_PROTOCOLS.get(number, str(number))} {_port(port)}"
        for vni, address, number, port in here.listeners
        if (vni, address) == (public.vni, inner.destination)
    )
    yield f"listeners: {', '.join(there) or 'none'}"


def _choice(
    here: Droplet,
    public: PublicAddress,
    inner: Inner,
    transport: Transport,
    hop: Hop,
    rows: Rows | None,
    names: Names,
) -> Iterator[str]:
    member = _went_to(here, public, hop)
    if member is None:
        return
    ports = transport.shared
    key = FlowKey(FlowKind.CHOICE, public.vni, transport.other, inner.destination, ports, transport.protocol)
    entry = rows.tables.get("flows", {}).get(flow_point(key).key) if rows else None
    known = entry is not None and bytes.fromhex(entry["mac"]) == member.endpoint.mac
    affinity = "the client's address alone" if public.service.by_client else "the flow's hash"
    why = "the flow is known, and stays" if known else f"by {affinity}"
    where = names.droplet(member.endpoint.host or b"")
    yield f"services: {_name(public, member, names)} on {where} takes it: {why}"


def _went_to(here: Droplet, public: PublicAddress, hop: Hop) -> Member | None:
    outcome = hop.outcome
    if outcome.verdict not in (Verdict.SEND, Verdict.DELIVER) or outcome.reason:
        return None
    sight = look(outcome.frame, here)
    mac = sight.inner.ether_destination if sight.inner else b""
    return next((one for one in public.service.members if one.endpoint.mac == mac), None)


def _members(here: Droplet, public: PublicAddress, names: Names) -> Iterator[str]:
    places = public.service.places
    for number, member in enumerate(public.service.members):
        share = 100 * places.count(number) / len(places)
        states = [word for word, is_so in (
            ("draining: takes no new flow", member.draining),
            ("down: its check fails", member.down),
            ("its droplet is down", member.endpoint.host in here.down),
            ("it takes what comes from outside alone: its droplet has no daemon", member.by_option),
        ) if is_so]  # fmt: skip
        yield f"{_name(public, member, names)} {share:.0f} %" + "".join(f", {state}" for state in states)


def answered(hop: Hop, where: str) -> str:
    """How the answer leaves, where the packet came from outside; `where`: the member's droplet."""
    note = hop.outcome.handover
    if note is None or not note.public:
        return ""
    try:
        before, after = parse_inner(hop.arrived), parse_inner(hop.outcome.frame)
    except RefusedError:
        return ""
    one, other = (parse_transport(inner, to_service=True) for inner in (before, after))
    if one is None or other is None:
        return ""
    to, source = _end(after, other), _end(before, one)
    return f"\nfor {to}; the answer leaves {where} straight, by its host's routes, as from {source}"


def _end(inner: Inner, transport: Transport) -> str:
    address = str(ip_address(inner.destination))
    return f"{address} port {_port(transport.ports[2:])}" if any(transport.ports[2:]) else address


def _name(public: PublicAddress, member: Member, names: Names) -> str:
    return names.member(public.vni, member.endpoint.mac) or f"the member with MAC {member.endpoint.mac.hex(':')}"


def _port(raw: bytes) -> int:
    return int(struct.unpack("!H", raw)[0])
