# SPDX-License-Identifier: Apache-2.0
"""Addresses of endpoints: which one of a prefix a new endpoint gets, and its MAC.

Called where endpoints are created. Pure: what is taken is asked of the caller, so that the store stays the only
memory; the caller keeps a cursor per prefix. Never gives the network, gateway or (IPv4) broadcast address.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from mizar.model.addresses import ROUTER_MAC, Address, Prefix, is_reserved
from mizar.model.errors import ConflictError, ExhaustedError, InvalidError


def allocate(prefix: Prefix, taken: Callable[[Address], bool], *, cursor: Address | None = None) -> Address:
    """The next free address after `cursor` (the last one allocated; None: from the beginning), wrapping at the end.

    One call costs O(1) amortised: an address is looked at again only after all others have been. An address that was
    given back rests as long as possible. Raises ExhaustedError when every address is taken or reserved.
    """
    raise NotImplementedError


def check_requested(prefix: Prefix, address: Address, taken: Callable[[Address], bool]) -> Address:
    """A certain address, as asked for. Raises InvalidError (outside or reserved) or ConflictError (taken)."""
    raise NotImplementedError


def derive_mac(uid: str, taken: Callable[[bytes], bool] = lambda _: False) -> bytes:
    """6 bytes 02:…, locally administered, the same for the same uid; never the virtual router's."""
    raise NotImplementedError
