# SPDX-License-Identifier: Apache-2.0
"""A table of prefixes: the longest that holds an address, those around a prefix, and those inside of it.

Called by the registry (networks of a VPC) and by the planner. Pure. A question costs as many lookups as the table has
different lengths, whatever the number of prefixes; `inside` alone looks at all that are longer than what is asked.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar

from mizar.model.addresses import Address, Prefix

V = TypeVar("V")
_BITS = {4: 32, 6: 128}


class PrefixTable(Generic[V]):
    """Prefixes of both families, each with a value."""

    def __init__(self) -> None:
        # (version, length) → leading bits → prefix and value; no length is without a prefix
        self._rows: dict[tuple[int, int], dict[int, tuple[Prefix, V]]] = {}

    def put(self, prefix: Prefix, value: V) -> None:
        """Adds a prefix, or changes its value."""
        self._rows.setdefault((prefix.version, prefix.prefixlen), {})[_leading(prefix)] = prefix, value

    def remove(self, prefix: Prefix) -> None:
        """Forgets a prefix; nothing happens when it is not there."""
        place = prefix.version, prefix.prefixlen
        row = self._rows.get(place, {})
        row.pop(_leading(prefix), None)
        if not row:
            self._rows.pop(place, None)

    def get(self, prefix: Prefix) -> V | None:
        """The value of exactly this prefix."""
        found = self._rows.get((prefix.version, prefix.prefixlen), {}).get(_leading(prefix))
        return found[1] if found else None

    def longest(self, address: Address) -> tuple[Prefix, V] | None:
        """The longest prefix that holds the address."""
        bits, number = _BITS[address.version], int(address)
        found = None
        for (version, length), row in self._rows.items():
            if version == address.version and (found is None or length > found[0].prefixlen):
                found = row.get(number >> (bits - length), found)
        return found

    def around(self, prefix: Prefix) -> Iterator[tuple[Prefix, V]]:
        """The prefixes that hold all of this one, itself left out, the longest first."""
        number, bits = int(prefix.network_address), _BITS[prefix.version]
        for version, length in sorted(self._rows, reverse=True):
            if version == prefix.version and length < prefix.prefixlen:
                found = self._rows[version, length].get(number >> (bits - length))
                if found:
                    yield found

    def inside(self, prefix: Prefix) -> Iterator[tuple[Prefix, V]]:
        """The prefixes that lie in this one, itself left out, the shortest first."""
        leading = _leading(prefix)
        for version, length in sorted(self._rows):
            if version == prefix.version and length > prefix.prefixlen:
                for key, found in self._rows[version, length].items():
                    if key >> (length - prefix.prefixlen) == leading:
                        yield found


def _leading(prefix: Prefix) -> int:
    return int(prefix.network_address) >> (_BITS[prefix.version] - prefix.prefixlen)
