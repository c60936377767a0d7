# SPDX-License-Identifier: Apache-2.0
"""Steps: who has to be told what, and in which order. Plain data, called by the manager.

Two orders hold. On one droplet, an entry comes after those that it refers to (droplets, VPCs, networks, endpoints,
local endpoints), and deletes go the other way. Between droplets there are three waves, so that no packet is sent to
a droplet that does not know yet, or no longer, what to do with it: see `Wave`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum

from mizar.planner.entries import Entry, Key


class Wave(IntEnum):
    """All droplets finish (or are given up) one wave before any begins the next."""

    LEARN = 0
    """Entries that are new on their droplet: new bouncers learn endpoints, new dividers learn networks."""
    POINT = 1
    """Entries that change: hosts and dividers are told of the new hop set, members of their new role."""
    FORGET = 2
    """Deletes: nobody sends there any more."""


@dataclass(frozen=True, slots=True)
class Step:
    """One change of one droplet's tables: `entry` is put, or the entry with its key is deleted."""

    droplet: str
    wave: Wave
    entry: Entry

    @property
    def delete(self) -> bool:
        """Whether the entry goes."""
        return self.wave is Wave.FORGET


class Plan:
    """Steps that wait to be done. Later steps replace what they make superfluous, so that its size stays bounded.

    Holds no history: steps of several changes may be added while earlier plans are under way.
    """

    def add(self, steps: Iterable[Step]) -> None:
        """Adds the steps of one change, after those of all changes before."""
        raise NotImplementedError

    def waves(self) -> list[tuple[Wave, Mapping[str, list[Step]]]]:
        """The waves that have anything to do, in order; for each droplet (by name) its steps in order."""
        raise NotImplementedError


def diff(droplet: str, desired: Iterable[Entry], actual: Iterable[Entry]) -> list[Step]:
    """The steps, in order, after which a droplet that holds `actual` holds `desired`: for a daemon that (re)connects.

    Duplicates by key in either are not expected. New entries first, then changed ones, then deletes.
    """
    raise NotImplementedError
