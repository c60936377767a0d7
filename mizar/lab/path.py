# SPDX-License-Identifier: Apache-2.0
"""Ways through the overlay, hop by hop: what each droplet counts while a known number of packets passes.

Called by mizar.lab.demo. It reads counters only; it does not know what the droplets should do, but what must add up:
all are sent once, divided and bounced by droplets that have the part, and delivered once. Drops are not asked for: what
was lost is not heard, and what an endpoint's own stack sends meanwhile (multicast reports) is refused and counted too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from mizar.lab.probes import Member, Probes

PACKETS, PACKET_BYTES = 200, 100
Counts = Mapping[str, Mapping[str, int]]
"""Droplet → counter of the VPC (as in VpcCounters of contracts/transit.proto) → value."""


@dataclass(frozen=True, slots=True)
class Roles:
    """Which droplets may be what on the way between two networks."""

    source_bouncers: frozenset[str]
    dividers: frozenset[str]
    destination_bouncers: frozenset[str]


@dataclass(frozen=True, slots=True)
class Hop:
    """What one droplet did to the packets."""

    droplet: str
    did: str
    packets: int


@dataclass(frozen=True, slots=True)
class Path:
    """The way of PACKETS datagrams from one endpoint to another."""

    source: Member
    destination: Member
    packets: int
    hops: tuple[Hop, ...]
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether every packet is accounted for."""
        return not self.problems


# What droplets do, in the order in which a packet meets it: counter and words.
_DEEDS = (
    ("sentPackets", "agent: encapsulated and sent"),
    ("toDividerPackets", "bouncer: network unknown, to a divider"),
    ("dividedPackets", "divider: to a bouncer of the destination's network"),
    ("bouncedPackets", "bouncer: to the destination's host"),
    ("deliveredPackets", "host: decapsulated and delivered"),
)


def longest(paths: Sequence[Path]) -> Path:
    """The one with most hops, of equals the first."""
    return max(paths, key=lambda path: len(path.hops))


def follow(
    probes: Probes,
    source: Member,
    destination: Member,
    roles: Roles,
    read_counts: Callable[[], Counts],
    limit_s: float,
) -> Path:
    """Sends the packets, waits until they have arrived, and tells who did what."""
    sender, receiver = probes.of(source), probes.of(destination)
    key = ("sink", list(probes).index(sender))
    heard_before, before = probes.heard(receiver).get(key, 0), read_counts()
    sender.ask("send", address=destination.addresses[0], count=PACKETS, bytes=PACKET_BYTES)
    end = time.monotonic() + limit_s
    while (heard := probes.heard(receiver).get(key, 0) - heard_before) < PACKETS and time.monotonic() < end:
        time.sleep(0.02)
    after = read_counts()
    delta = {name: {c: after[name][c] - before[name].get(c, 0) for c in after[name]} for name in after}
    hops = tuple(
        Hop(name, words, counts[counter])
        for counter, words in _DEEDS
        for name, counts in sorted(delta.items())
        if counts[counter]
    )
    problems = _problems(delta, source, destination, roles)
    if heard != PACKETS:
        problems.insert(0, f"{destination} heard {heard} of {PACKETS} packets")
    return Path(source, destination, PACKETS, hops, tuple(problems))


def _problems(delta: Counts, source: Member, destination: Member, roles: Roles) -> list[str]:
    """Everything that does not add up. A deed with None is allowed to whom it is, and may be left out."""
    allowed: dict[str, tuple[frozenset[str], bool]] = {
        "sentPackets": (frozenset({source.droplet}), True),
        "toDividerPackets": (roles.source_bouncers, False),
        "dividedPackets": (roles.dividers, False),
        "bouncedPackets": (roles.destination_bouncers, False),
        "deliveredPackets": (frozenset({destination.droplet}), True),
    }
    problems = []
    for counter, (droplets, always) in allowed.items():
        counted = {name: counts[counter] for name, counts in delta.items() if counts[counter]}
        total = sum(counted.values())
        if strangers := set(counted) - droplets:
            problems.append(f"{counter} at {', '.join(sorted(strangers))}, where none was expected")
        if total not in ((PACKETS,) if always else (0, PACKETS)):
            problems.append(f"{counter}: {total} in all, expected {PACKETS}")
    return problems
