# SPDX-License-Identifier: Apache-2.0
"""Numbers that name VPCs and networks: 24-bit VNIs, network ids, and the 128-bit identity.

Called where objects are created. Pure: what is taken is asked of the caller, so that the store stays the only memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from mizar.model.errors import ConflictError, ExhaustedError, InvalidError

LAST_VNI = 2**24 - 1
ALL_VNIS = range(1, LAST_VNI + 1)
FIRST_NUMBER, LAST_NUMBER = 2**24, 2**32 - 1
"""Of VPCs that share a VNI: VPC_NUMBERS of contracts/dataplane.h."""
LAST_NETWORK_ID = 2**32 - 1
LAST_POLICY_ID = 0xFFFF
"""It is the upper half of the numbers of the policy's rules."""


def allocate_vni(
    taken: Callable[[int], bool], *, requested: int | None = None, cursor: int = 0, vnis: range = ALL_VNIS
) -> int:
    """A VNI of 1 to 2^24-1: the requested one, else of `vnis` the next free one after `cursor`.

    The caller passes the last one allocated as cursor: then a VNI rests as long as possible before it names another
    VPC, and the search ends at its first try unless somebody requested that one.
    Raises InvalidError (out of range), ConflictError (requested and taken) or ExhaustedError.
    """
    if requested is not None:
        if not 1 <= requested <= LAST_VNI:
            raise InvalidError(f"expected a VNI of 1 to {LAST_VNI}, found {requested}")
        if taken(requested):
            raise ConflictError(f"VNI {requested} is taken by another VPC")
        return requested
    return _next_free(taken, cursor, vnis, "VNI")


def allocate_number(taken: Callable[[int], bool], *, cursor: int = 0) -> int:
    """The number of a VPC that shares its VNI: the next free one after `cursor`. Raises ExhaustedError."""
    return _next_free(taken, cursor, range(FIRST_NUMBER, LAST_NUMBER + 1), "number of a VPC")


def allocate_network_id(taken: Callable[[int], bool], *, cursor: int = 0) -> int:
    """An id, unique within its VPC: the next free one after `cursor`. Raises ExhaustedError."""
    return _next_free(taken, cursor, range(1, LAST_NETWORK_ID + 1), "network id")


def allocate_policy_id(taken: Callable[[int], bool]) -> int:
    """An id, unique within its VPC: the lowest free one. Raises ExhaustedError."""
    return _next_free(taken, 0, range(1, LAST_POLICY_ID + 1), "policy id")


def vpc_identity(tenant_uid: str, vpc_uid: str) -> str:
    """The 128 bits that name a VPC everywhere, `tenant:vpc` as 16 hex digits each, derived from the objects' uids."""
    return f"{_number64(tenant_uid)}:{_number64(vpc_uid)}"


def _number64(uid: str) -> str:
    return hashlib.blake2b(uid.encode(), digest_size=8).hexdigest()


def _next_free(taken: Callable[[int], bool], cursor: int, numbers: range, what: str) -> int:
    after = cursor + 1 - numbers.start if cursor in numbers else 0
    for part in (numbers[after:], numbers[:after]):
        for number in part:
            if not taken(number):
                return number
    raise ExhaustedError(f"no {what} is free: all of {numbers[0]} to {numbers[-1]} are taken")
