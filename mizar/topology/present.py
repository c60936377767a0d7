# SPDX-License-Identifier: Apache-2.0
"""What was found on the host (Present), whose it is, and what to do about it (Plan). Pure.

Called by plan and eswitches, which fill a Plan; by look, which fills a Present.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mizar.kernel.topology_facts import Device, Found, Mark
from mizar.topology.steps import Key, Step, where


@dataclass(frozen=True)
class Present:
    """What was found on the host."""

    namespaces: Mapping[str, Mark | None] = field(default_factory=dict)
    """Every name, and whose it is."""
    enterable: frozenset[str] = frozenset()
    """Names of namespaces other than the host's own."""
    links: Mapping[Key, Found] = field(default_factory=dict)
    devices: tuple[Device, ...] = ()
    no_devices: str = ""
    """Why there is none."""
    missing: Mapping[str, str] = field(default_factory=dict)
    """Features that were asked for and are absent, with what the kernel said."""

    def of(self, topology: str) -> list[Found]:
        """What a topology made."""
        return [found for found in self.links.values() if found.mark is not None and found.mark.topology == topology]


@dataclass
class Plan:
    """What to do. With a conflict or a refusal nothing of it may be done."""

    steps: list[Step] = field(default_factory=list)
    conflicts: list[str] = field(default_factory=list)
    """Things of others that stand in the way."""
    refusals: list[str] = field(default_factory=list)
    """What this host lacks."""


def ours(found: Found, topology: str) -> bool:
    """Whether a link was made by a topology, or was left half made."""
    return found.mark is not None and found.mark.topology in (topology, "")


def half_made(found: Found) -> bool:
    """Whether a link was left by somebody who was interrupted between making and marking it."""
    return found.mark is not None and not found.mark.topology


def foreign(found: Found, topology: str) -> str:
    """A sentence about a link that is in the way."""
    mark = found.mark
    whose = f"topology {mark.topology} made it" if mark is not None and mark.topology else "somebody else made it"
    return f"{where(found.link.key)} is there, and {whose}, not {topology}: it is left alone"
