# SPDX-License-Identifier: Apache-2.0
"""Addresses of endpoints: which one of a prefix a new endpoint gets, and its MAC.

Called where endpoints are created. Pure: what is taken is asked of the caller, so that the store stays the only
memory; the caller keeps a cursor per prefix. Never gives the network, gateway or (IPv4) broadcast address.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from mizar.model.addresses import APPLIANCE_MAC, ROUTER_MAC, SERVICE_MAC, Address, Prefix, is_reserved
from mizar.model.errors import ConflictError, ExhaustedError, InvalidError

_RESERVED_FIRST = 2
"""The network (IPv6: the subnet-router anycast) address and the gateway come first in every prefix."""


def _nothing(_: Address) -> Prefix | None:
    return None


def allocate(
    prefix: Prefix,
    taken: Callable[[Address], bool],
    *,
    cursor: Address | None = None,
    other: Callable[[Address], Prefix | None] = _nothing,
) -> Address:
    """The next free address after `cursor` (the last one allocated; None: from the beginning), wrapping at the end.

    `other` tells the prefix of another network, inside of this one, that an address belongs to; it is passed over as a
    whole. One call costs O(1) amortised: an address is looked at again only after all others have been. An address
    that was given back rests as long as possible. Raises ExhaustedError when every address is taken or reserved.
    """
    end = capacity(prefix) + _RESERVED_FIRST
    start = _RESERVED_FIRST
    if cursor is not None and cursor in prefix:
        start = max(start, int(cursor) - int(prefix.network_address) + 1)
    for place, stop in ((start, end), (_RESERVED_FIRST, min(start, end))):
        while place < stop:
            address = prefix[place]
            hole = other(address)
            if hole is None and not taken(address):
                return address
            place = place + 1 if hole is None else int(hole.broadcast_address) - int(prefix.network_address) + 1
    raise ExhaustedError(f"no address is free in {prefix}: all {capacity(prefix)} are taken")


def capacity(prefix: Prefix) -> int:
    """How many endpoints the prefix has addresses for."""
    return prefix.num_addresses - _RESERVED_FIRST - (prefix.version == 4)


def check_requested(prefix: Prefix, address: Address, taken: Callable[[Address], bool]) -> Address:
    """A certain address, as asked for. Raises InvalidError (outside or reserved) or ConflictError (taken)."""
    if address not in prefix:
        raise InvalidError(f"expected an address within {prefix}, found {address}")
    if is_reserved(prefix, address):
        raise InvalidError(f"{address} is reserved in {prefix}: the network's, the gateway's or the broadcast address")
    if taken(address):
        raise ConflictError(f"{address} is taken by another endpoint")
    return address


def derive_mac(uid: str, taken: Callable[[bytes], bool] = lambda _: False) -> bytes:
    """6 bytes 02:…, locally administered, the same for the same uid; never the virtual router's.

    `taken`: MACs of the same network that must be avoided; the next candidate follows from the uid as well.
    """
    for attempt in range(1024):
        mac = b"\x02" + hashlib.blake2b(f"{uid}/{attempt}".encode(), digest_size=5).digest()
        if mac not in (ROUTER_MAC, SERVICE_MAC, APPLIANCE_MAC) and not taken(mac):
            return mac
    raise ExhaustedError(f"no MAC is free for endpoint {uid}")
