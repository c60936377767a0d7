# SPDX-License-Identifier: Apache-2.0
"""Ports of first fragments, for the later ones that have none. Called by the table.

A fragment that comes before its first has no ports and is refused: nothing is kept that a stranger could fill.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from mizar.pipeline.interpreter.connection import Seen
from mizar.pipeline.interpreter.nat_connection import ticks
from mizar.pipeline.nat import Timeouts

_Datagram = tuple[int, int, str, int, int, int]


@dataclass
class Fragments:
    """By metadata, addresses, protocol and identification (RFC 791, RFC 8200): ports, and when the first was seen."""

    notes: dict[_Datagram, tuple[int, int, int]] = field(default_factory=dict)

    def note(self, seen: Seen, now: int) -> None:
        """Remembers a first fragment; anything else leaves no trace."""
        if seen.datagram is not None and not seen.later:
            self.notes[_key(seen)] = (seen.flow.source_port, seen.flow.destination_port, now)

    def ports(self, seen: Seen, now: int, timeouts: Timeouts) -> tuple[int, int] | None:
        """The ports of a later fragment's datagram; None where its first fragment was not seen or is long ago."""
        found = self.notes.get(_key(seen))
        if found is None or now - found[2] > ticks(timeouts.fragment_s):
            self.notes.pop(_key(seen), None)
            return None
        return found[0], found[1]


def _key(seen: Seen) -> _Datagram:
    assert seen.datagram is not None
    flow = seen.flow
    return flow.meta, flow.version, flow.protocol, flow.source, flow.destination, seen.datagram
