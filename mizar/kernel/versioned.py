# SPDX-License-Identifier: Apache-2.0
"""Tables of which each CPU remembers entries for a while (dataplane/lib/near_endpoint.h and others).

Owns the versions: whatever is written through such a table gives the place of its key a version that it never had,
behind the write, so that no CPU goes on with what was before. Called by tables.py.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

from mizar.kernel.layout import U32, constant
from mizar.kernel.maps import K, Table, V

_WORDS = struct.Struct("=5I")
_MANY = 64  # keys from which on all places get another version: cheaper than to tell which


def endpoint_place(key: bytes) -> int:
    """Of an endpoint_key, the place of its version: as endpoint_hash() of near_endpoint.h."""
    vni, first, second, third, last = _WORDS.unpack(key)
    mixed: int = (vni << 12 ^ first ^ second ^ third << 7 ^ last) * 0x9E3779B1
    return (mixed & 0xFFFF_FFFF) >> (33 - constant("ENDPOINT_VERSIONS").bit_length())


def agent_place(key: bytes) -> int:
    """The same of an interface."""
    return int(U32.unpack(key)) & (constant("AGENT_VERSIONS") - 1)


def only_place(_key: bytes) -> int:
    """Of a table that is seldom written."""
    return 0


class VersionedTable(Table[K, V]):
    """A table whose writing is seen at once by who remembers its entries."""

    def versioned_by(self, versions: Table[int, int], place: Callable[[bytes], int]) -> VersionedTable[K, V]:
        """Itself, knowing its versions."""
        self._versions, self._place = versions, place
        return self

    def put(self, key: K, value: V, *, only: Literal["any", "new", "existing"] = "any") -> None:
        """As of any table."""
        super().put(key, value, only=only)
        self._raise([self._key.pack(key)])

    def delete(self, key: K) -> bool:
        """As of any table."""
        there = super().delete(key)
        self._raise([self._key.pack(key)])
        return there

    def put_many(self, entries: Iterable[tuple[K, V]]) -> int:
        """As of any table."""
        written = list(entries)
        try:
            return super().put_many(written)
        finally:
            self._raise([self._key.pack(key) for key, _ in written[:_MANY]])

    def put_raw(self, entries: Sequence[tuple[bytes, bytes]]) -> None:
        """As of any table."""
        try:
            super().put_raw(entries)
        finally:
            self._raise([key for key, _ in entries[:_MANY]])

    def _delete_packed(self, packed: Sequence[bytes]) -> int:
        try:
            return super()._delete_packed(packed)
        finally:
            self._raise(packed[:_MANY])

    def _raise(self, keys: Sequence[bytes]) -> None:
        """`keys`: the first of those that were written."""
        many = len(keys) >= _MANY
        places = range(self._versions.max_entries) if many else sorted({self._place(key) for key in keys})
        version = time.monotonic_ns() & 0xFFFF_FFFF
        self._versions.put_many((place, version) for place in places)
