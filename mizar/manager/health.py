# SPDX-License-Identifier: Apache-2.0
"""What droplets say of one another's health: who calls whom down.

Owned by mizar.manager.fleet. Daemons probe the droplets that matter to them and pass over those that are silent by
themselves; here it is only kept what they tell. A droplet is dead when a peer calls it down and its daemon does not
answer the manager either: two witnesses that see it on different ways. Neither is ever believed alone.
"""

from __future__ import annotations

from collections.abc import Iterable


class Reports:
    """Names of droplets, by the name of the droplet that calls them down."""

    def __init__(self) -> None:
        self._down_by: dict[str, set[str]] = {}

    def replace(self, reporter: str, down: Iterable[str]) -> set[str]:
        """All that a reporter calls down, as it says when it connects; returns those about whom something changed."""
        before = {name for name, reporters in self._down_by.items() if reporter in reporters}
        after = set(down)
        for name in before - after:
            self.report(reporter, name, down=False)
        for name in after - before:
            self.report(reporter, name, down=True)
        return before ^ after

    def report(self, reporter: str, name: str, *, down: bool) -> None:
        """One change."""
        reporters = self._down_by.setdefault(name, set())
        (reporters.add if down else reporters.discard)(reporter)
        if not reporters:
            del self._down_by[name]

    def witnesses(self, name: str) -> list[str]:
        """Who calls a droplet down."""
        return sorted(self._down_by.get(name, ()))
