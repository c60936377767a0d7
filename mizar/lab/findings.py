# SPDX-License-Identifier: Apache-2.0
"""What a demo finds out, as values: who took part, each check, and whether tenants were apart.

Made by traffic.py and isolation.py over a real lab, and by simulated.py over none. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

Group = tuple[str, str]
"""Tenant and VPC."""
DATAGRAMS, STREAMS = ("icmp", "udp"), ("tcp",)


@dataclass(frozen=True, slots=True)
class Member:
    """An endpoint that takes part: where it belongs, where it lives, what reaches it."""

    tenant: str
    vpc: str
    network: str
    name: str
    droplet: str
    namespace: str
    addresses: tuple[str, ...]
    peers: tuple[tuple[str, str], ...] = ()
    """Groups that its own is peered with."""

    @property
    def group(self) -> tuple[str, str]:
        """Where it belongs: tenant and VPC."""
        return self.tenant, self.vpc

    def may_hear(self, other: Member) -> bool:
        """Whether packets may pass between the two: within a VPC, and between peers."""
        return other.group == self.group or other.group in self.peers

    def __str__(self) -> str:
        return f"{self.tenant}/{self.name}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """One check: `detail` says what went wrong, empty when nothing did; `policy`, that a policy did not allow it."""

    way: str
    elapsed_ms: float
    detail: str
    policy: str = ""

    @property
    def ok(self) -> bool:
        """Whether what came back is what was sent, from the one it was sent to."""
        return not self.detail


@dataclass(frozen=True, slots=True)
class Cell:
    """All checks from one endpoint to another."""

    source: Member
    destination: Member
    outcomes: tuple[Outcome, ...]

    @property
    def full(self) -> bool:
        """Whether every way to every address was tried."""
        return len(self.outcomes) >= len(self.destination.addresses) * len(DATAGRAMS + STREAMS)

    @property
    def ok(self) -> bool:
        """Whether every way works."""
        return self.full and all(outcome.ok for outcome in self.outcomes)

    def with_outcomes(self, outcomes: Sequence[Outcome]) -> Cell:
        """The same cell with what was found out since."""
        return Cell(self.source, self.destination, (*self.outcomes, *outcomes))


def pairs(members: Sequence[Member]) -> list[tuple[Member, Member]]:
    """All ordered pairs within the VPCs and between peers."""
    return [(one, other) for one in members for other in members if one != other and one.may_hear(other)]


@dataclass(frozen=True, slots=True)
class Isolation:
    """What was sent towards foreign addresses, what of it was heard at home, and everything that is wrong."""

    sent: int
    expected: int
    heard: int
    foreign: tuple[str, ...]
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether nobody heard a stranger, and everybody their own."""
        return not self.foreign and not self.problems
