# SPDX-License-Identifier: Apache-2.0
"""DHCPv4 (RFC 2131, 2132; rapid commit: RFC 4039). The lease is the endpoint's address, for ever the same.

So nothing has to be remembered: an offer is no reservation, and a lease that ran out can be had again.
"""

from __future__ import annotations

import struct

from mizar.transit.guest.frames import BROADCAST, BROADCAST_MAC, Request, udp4
from mizar.transit.guest.lease import BadRequestError, Lease, Leg

_FIXED = struct.Struct("!BBBBIHH4s4s4s4s16s192xI")
_MAGIC = 0x63825363
_REQUEST, _REPLY, _ETHERNET = 1, 2, 1
_BROADCAST_FLAG = 0x8000
DISCOVER, OFFER, REQUEST, DECLINE, ACK, NAK, RELEASE, INFORM = range(1, 9)
_PAD, _MASK, _ROUTER, _DNS, _DOMAIN, _MTU, _ADDRESS, _LEASE, _TYPE, _SERVER = 0, 1, 3, 6, 15, 26, 50, 51, 53, 54
_RENEW, _REBIND, _RAPID, _END = 58, 59, 80, 255
_LEAST = 300  # bytes of a message: old relays and clients want BOOTP's


def answer(request: Request, lease: Lease) -> bytes | None:
    """The frame that answers, or None where silence does. Raises BadRequestError."""
    leg = lease.ipv4
    if leg is None:
        return None
    try:
        fields = _FIXED.unpack_from(request.message)
    except struct.error as error:
        raise BadRequestError("a DHCPv4 message ends early") from error
    op, hardware, mac_bytes, _, xid, _, flags, client, _, _, relay, chaddr, magic = fields
    if (op, hardware, mac_bytes, magic) != (_REQUEST, _ETHERNET, 6, _MAGIC) or any(relay):
        raise BadRequestError("no DHCPv4 request over Ethernet")
    if chaddr[:6] != lease.mac:
        raise BadRequestError("a DHCPv4 request for another MAC")
    options = _options(request.message[_FIXED.size :])
    kind = _reply_to(options, client, leg)
    if kind is None:
        return None
    informed = options[_TYPE] == bytes([INFORM])
    body = _answer_options(kind, lease, leg, leased=not informed, rapid=options[_TYPE] == bytes([DISCOVER]))
    yours = leg.address if kind != NAK and not informed else bytes(4)
    message = _FIXED.pack(
        _REPLY, _ETHERNET, 6, 0, xid, 0, flags, client if kind == ACK else bytes(4), yours, bytes(4), bytes(4),
        chaddr, _MAGIC,
    )  # fmt: skip
    message += body
    message += bytes(max(0, _LEAST - len(message)))
    if kind == NAK or (flags & _BROADCAST_FLAG and not any(client)):
        return udp4(BROADCAST_MAC, leg.gateway, BROADCAST, message)
    return udp4(lease.mac, leg.gateway, client if any(client) else leg.address, message)


def _options(data: bytes) -> dict[int, bytes]:
    """The options by their code; those that come in pieces are joined (RFC 3396)."""
    found: dict[int, bytes] = {}
    while data and data[0] != _END:
        if data[0] == _PAD:
            data = data[1:]
            continue
        if len(data) < 2 or len(data) < 2 + data[1]:
            raise BadRequestError("a DHCPv4 option ends early")
        found[data[0]] = found.get(data[0], b"") + data[2 : 2 + data[1]]
        data = data[2 + data[1] :]
    if len(found.get(_TYPE, b"")) != 1:
        raise BadRequestError("a DHCPv4 message without type")
    return found


def _reply_to(options: dict[int, bytes], client: bytes, leg: Leg) -> int | None:
    """Which message answers: RFC 2131 4.3."""
    kind = options[_TYPE][0]
    if kind == DISCOVER:
        return ACK if _RAPID in options else OFFER
    if kind == INFORM:
        return ACK if client == leg.address else None
    if kind != REQUEST or options.get(_SERVER, leg.gateway) != leg.gateway:
        return None  # release, decline: the address stays theirs; or another server was chosen
    wanted = options.get(_ADDRESS, client)
    return ACK if wanted == leg.address and client in (bytes(4), leg.address) else NAK


def _answer_options(kind: int, lease: Lease, leg: Leg, *, leased: bool, rapid: bool) -> bytes:
    found = [(_TYPE, bytes([kind])), (_SERVER, leg.gateway)]
    if kind != NAK:
        if leased:
            whole = lease.settings.lease_s
            times = ((_LEASE, whole), (_RENEW, whole // 2), (_REBIND, whole * 7 // 8))
            found += [(code, struct.pack("!I", seconds)) for code, seconds in times]
        mask = (0xFFFFFFFF << (32 - leg.length)) & 0xFFFFFFFF
        found += [(_MASK, struct.pack("!I", mask)), (_ROUTER, leg.gateway), (_MTU, struct.pack("!H", lease.mtu))]
        servers = lease.settings.servers(4)
        found += [(_DNS, b"".join(servers))] if servers else []
        found += [(_DOMAIN, lease.settings.domain.encode("ascii"))] if lease.settings.domain else []
        found += [(_RAPID, b"")] if rapid and kind == ACK else []
    return b"".join(bytes([code, len(data)]) + data for code, data in found) + bytes([_END])
