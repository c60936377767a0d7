# SPDX-License-Identifier: Apache-2.0
"""How many costly requests of one kind are worked on or wait at the same time. Used by mizar.api.app and its parts.

What one tenant asks must never keep another, or an administrator, from being answered. It must be used on one thread.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from mizar.model.errors import TemporaryError


class Turns:
    """`what`: their name in plural. At most `each` of a tenant, `most` of all tenants, and `most` of administrators."""

    def __init__(self, what: str, most: int, each: int) -> None:
        self._what, self._most, self._each = what, most, each
        self._held: Counter[str | None] = Counter()

    @contextmanager
    def taken(self, tenant: str | None) -> Iterator[None]:
        """One for the length of the block; `tenant` is None for administrators. Raises TemporaryError."""
        others = self._held.total() - self._held[None]
        full = self._held[None] >= self._most if tenant is None else others >= self._most
        if full or (tenant is not None and self._held[tenant] >= self._each):
            raise TemporaryError(f"too many {self._what} are being worked out; try again")
        self._held[tenant] += 1
        try:
            yield
        finally:
            self._held[tenant] -= 1
            if not self._held[tenant]:
                del self._held[tenant]
