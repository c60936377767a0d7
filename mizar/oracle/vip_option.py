# SPDX-License-Identifier: Apache-2.0
"""The VIP option (contracts/wire.md): the member inside, and what the client wrote in an option beside it.

Called by public, which chooses the member, and by transit at the member's droplet, for which it is as without from
there on.
"""

from __future__ import annotations

import struct
from dataclasses import replace as changed

from mizar.oracle.flow import TCP, UDP
from mizar.oracle.flow_table import Transport, parse_transport
from mizar.oracle.frames import ETHERNET, Inner, Kind
from mizar.oracle.options import OPTION_CLASS, VIP, Options
from mizar.oracle.outcome import Packet, RefusedError
from mizar.oracle.rewrite import IPV4_CHECKSUM, PUBLIC_MAC, replace
from mizar.oracle.service import follow, target_of
from mizar.oracle.tables import Droplet, Member

BYTES = {Kind.IPV4: 12, Kind.IPV6: 24}
"""Of the whole option."""


def address_to_member(here: Droplet, vni: int, inner: Inner, member: Member) -> tuple[bytes, bytes]:
    """The frame as it goes to the member, and the option."""
    transport = parse_transport(inner, to_service=True)
    assert transport is not None
    own = next((one for one in member.addresses if len(one) == len(inner.destination)), None)
    if own is None:
        raise RefusedError("SERVICE_WITHOUT_MEMBER")
    port, target = bytes(2), b""
    if not transport.later:
        port, target = transport.ports[2:], target_of(here, vni, inner.destination, transport) or b""
        if not target:
            raise RefusedError("NO_LISTENER")
    data = port + bytes(2) + inner.destination
    option = struct.pack("!HBB", OPTION_CLASS, VIP, len(data) // 4) + data
    return _exchanged(inner, transport, own, target), option


def restore(here: Droplet, packet: Packet, inner: Inner, options: Options, *, believed: bool) -> Inner:
    """What the client wrote. `believed`: a droplet with a daemon says so, of a packet on its way to an endpoint."""
    data = options.vip
    assert data is not None
    port, vip = data[:2], data[4:]
    transport = parse_transport(inner, to_service=True)
    if not believed or inner.ether_source != PUBLIC_MAC or len(vip) != len(inner.destination) or transport is None:
        raise RefusedError("VIP_OPTION")
    end = here.endpoints.get((packet.vni, vip))
    members = end.service.members if end and end.service else ()
    if not any(_is_here(one, inner) for one in members):
        raise RefusedError("VIP_OPTION")
    if transport.later:
        if any(port):
            raise RefusedError("VIP_OPTION")
        return changed(inner, frame=_exchanged(inner, transport, vip, b""), destination=vip)
    if here.listeners.get((packet.vni, vip, transport.protocol, port)) != transport.ports[2:]:
        raise RefusedError("VIP_OPTION")
    frame = _exchanged(inner, transport, vip, port)
    payload = frame[inner.header : inner.header + len(inner.payload)]
    return changed(inner, frame=frame, destination=vip, payload=payload)


def _is_here(member: Member, inner: Inner) -> bool:
    endpoint = member.endpoint
    at = endpoint.mac == inner.ether_destination and inner.destination in member.addresses
    return at and bool(endpoint.ifindex) and member.listened


def _exchanged(inner: Inner, transport: Transport, address: bytes, port: bytes) -> bytes:
    """The frame to another address and port; empty: a later fragment, which shows none. Sums of changes, as the C has
    them: one's complement has two zeros."""
    v4 = inner.kind is Kind.IPV4
    frame, before = inner.frame, inner.destination
    at = ETHERNET + (16 if v4 else 24)
    frame = replace(frame, at, address)
    if v4:
        frame = follow(frame, IPV4_CHECKSUM, before, address)
    if transport.error:
        return _about(frame, inner, transport, address, port)
    if not port:
        return frame
    place = transport.checksum_at - (14 if transport.protocol == TCP else 4)
    changes = before + transport.ports[2:], address + port
    frame = follow(frame, transport.checksum_at, *changes, may_be_missing=transport.protocol == UDP)
    return replace(frame, place, port)


def _about(frame: bytes, inner: Inner, transport: Transport, address: bytes, port: bytes) -> bytes:
    """The packet that an error is about: it went from the service."""
    v4, at = inner.kind is Kind.IPV4, transport.embedded_at
    frame = replace(frame, at + (12 if v4 else 8), address)
    before = transport.ports[2:], port
    if v4:
        frame = follow(frame, at + 10, inner.destination, address)
        frame = follow(frame, at - 6, *before)
    else:
        frame = follow(frame, at - 6, inner.destination * 2 + before[0], address * 2 + port)
    return replace(frame, at + (20 if v4 else 40), port)
