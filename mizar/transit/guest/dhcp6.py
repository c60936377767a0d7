# SPDX-License-Identifier: Apache-2.0
"""DHCPv6 (RFC 8415; DNS: RFC 3646). The address is the endpoint's, for ever the same; nothing is remembered."""

from __future__ import annotations

import struct

from mizar.model.addresses import ROUTER_MAC
from mizar.transit.guest.frames import Request, udp6
from mizar.transit.guest.lease import BadRequestError, Lease, Leg, domain_bytes

SOLICIT, ADVERTISE, REQUEST, CONFIRM, RENEW, REBIND, REPLY, RELEASE, DECLINE = range(1, 10)
INFORMATION = 11
_CLIENT_ID, _SERVER_ID, _IA_NA, _IA_ADDRESS, _STATUS, _RAPID, _DNS, _DOMAINS = 1, 2, 3, 5, 13, 14, 23, 24
_SUCCESS, _NO_ADDRESS, _NOT_ON_LINK = 0, 2, 4
_DUID = struct.pack("!HH", 3, 1) + ROUTER_MAC
"""RFC 8415 11.4: of the link-layer address."""
_MOST_ASSOCIATIONS = 8
_WANT_SERVER = (REQUEST, RENEW, RELEASE, DECLINE)
_FORBID_SERVER = (SOLICIT, CONFIRM, REBIND)

Options = list[tuple[int, bytes]]


def answer(request: Request, lease: Lease) -> bytes | None:
    """The frame that answers, or None where silence does. Raises BadRequestError."""
    leg, message = lease.ipv6, request.message
    if leg is None:
        return None
    if len(message) < 4:
        raise BadRequestError("a DHCPv6 message ends early")
    kind, transaction = message[0], message[1:4]
    options = _options(message[4:])
    if not _is_for_us(kind, options):
        return None
    reply, body = _reply_to(kind, options, lease, leg)
    if reply is None:
        return None
    client = [option for option in options if option[0] == _CLIENT_ID]
    head = _packed([*client, (_SERVER_ID, _DUID)])
    return udp6(lease.mac, request.source, bytes([reply]) + transaction + head + _packed(body))


def _options(data: bytes) -> Options:
    found: Options = []
    while data:
        if len(data) < 4:
            raise BadRequestError("a DHCPv6 option ends early")
        code, length = struct.unpack_from("!HH", data)
        if len(data) < 4 + length:
            raise BadRequestError("a DHCPv6 option ends early")
        found.append((code, data[4 : 4 + length]))
        data = data[4 + length :]
    return found


def _packed(options: Options) -> bytes:
    return b"".join(struct.pack("!HH", code, len(data)) + data for code, data in options)


def _is_for_us(kind: int, options: Options) -> bool:
    """RFC 8415 16: who must be named, and who must not."""
    servers = [data for code, data in options if code == _SERVER_ID]
    clients = [data for code, data in options if code == _CLIENT_ID]
    if kind == INFORMATION:
        return servers in ([], [_DUID]) and len(clients) <= 1
    if len(clients) != 1 or not 2 < len(clients[0]) <= 130:
        return False
    if kind in _WANT_SERVER:
        return servers == [_DUID]
    return kind in _FORBID_SERVER and not servers


def _reply_to(kind: int, options: Options, lease: Lease, leg: Leg) -> tuple[int | None, Options]:
    """Which message answers, and what it says beside who speaks to whom."""
    associations = [data for code, data in options if code == _IA_NA][:_MOST_ASSOCIATIONS]
    about = _about(lease)
    if kind == INFORMATION:
        return REPLY, about
    if kind in (RELEASE, DECLINE):
        return REPLY, [_status(_SUCCESS)]
    if kind == CONFIRM:
        asked = [address for data in associations for address in _addresses(data)]
        right = all(address == leg.address for address in asked)
        return (REPLY, [_status(_SUCCESS if right else _NOT_ON_LINK)]) if asked else (None, [])
    given = [(_IA_NA, _association(data, lease, leg, first=not place)) for place, data in enumerate(associations)]
    if kind == SOLICIT:
        rapid = [(code, b"") for code, _ in options if code == _RAPID][:1]
        return (REPLY if rapid else ADVERTISE), [*rapid, *given, *about]
    return REPLY, [*given, *about]


def _addresses(association: bytes) -> list[bytes]:
    if len(association) < 12:
        raise BadRequestError("a DHCPv6 association ends early")
    return [data[:16] for code, data in _options(association[12:]) if code == _IA_ADDRESS and len(data) >= 24]


def _association(association: bytes, lease: Lease, leg: Leg, *, first: bool) -> bytes:
    """The first gets the endpoint's address, others none; what else a client thought to have is taken away."""
    asked, whole = _addresses(association), lease.settings.lease_s
    own = [leg.address] if first else []
    inside: Options = [(_IA_ADDRESS, address + struct.pack("!II", whole, whole)) for address in own]
    wrong = dict.fromkeys(address for address in asked if address not in own)
    inside += [(_IA_ADDRESS, address + bytes(8)) for address in wrong]
    if not own:
        inside.append(_status(_NO_ADDRESS))
    return association[:4] + struct.pack("!II", whole // 2, whole * 4 // 5) + _packed(inside)


def _status(code: int) -> tuple[int, bytes]:
    return _STATUS, struct.pack("!H", code)


def _about(lease: Lease) -> Options:
    servers, domain = lease.settings.servers(16), domain_bytes(lease.settings.domain)
    found: Options = [(_DNS, b"".join(servers))] if servers else []
    return [*found, (_DOMAINS, domain)] if domain else found
