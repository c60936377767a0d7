# SPDX-License-Identifier: Apache-2.0
"""Ways through the overlay, hop by hop: what each droplet counts while a known number of packets passes.

Called by mizar.lab.demo. It reads counters only; it does not know what the droplets should do, but what must add up:
all are sent once; each goes on the direct path, or is divided and bounced by droplets that have the part, but not both;
and all are delivered once. Drops are not asked for: what
was lost is not heard, and what an endpoint's own stack sends meanwhile (multicast reports) is refused and counted too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from mizar.lab.findings import Member
from mizar.lab.probes import Probes

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
    def direct(self) -> int:
        """How many went straight to the destination's host; the others went over the hops."""
        return sum(hop.packets for hop in self.hops if hop.did == _DEEDS[1][1])

    @property
    def ok(self) -> bool:
        """Whether every packet is accounted for."""
        return not self.problems


# What droplets do, in the order in which a packet meets it: counter and words.
_DEEDS = (
    ("sentPackets", "agent: encapsulated and sent"),
    ("directPackets", "agent: of these, straight to the destination's host"),
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
    interval_s: float = 0.0,
) -> Path:
    """Sends the packets, waits until they have arrived, and tells who did what."""
    sender, receiver = probes.of(source), probes.of(destination)
    key = ("sink", list(probes).index(sender))
    heard_before, before = probes.heard(receiver).get(key, 0), read_counts()
    sender.ask("send", address=destination.addresses[0], count=PACKETS, bytes=PACKET_BYTES, interval_s=interval_s)
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
    """Everything that does not add up: who may count what, and which sums are possible."""
    direct = sum(counts["directPackets"] for counts in delta.values())
    some = (0, PACKETS - direct)
    allowed: dict[str, tuple[frozenset[str], Sequence[int]]] = {
        "sentPackets": (frozenset({source.droplet}), (PACKETS,)),
        "directPackets": (frozenset({source.droplet}), range(PACKETS + 1)),
        "toDividerPackets": (roles.source_bouncers, some),
        "dividedPackets": (roles.dividers, some),
        "bouncedPackets": (roles.destination_bouncers, some),
        "deliveredPackets": (frozenset({destination.droplet}), (PACKETS,)),
    }
    problems = []
    for counter, (droplets, totals) in allowed.items():
        counted = {name: counts[counter] for name, counts in delta.items() if counts[counter]}
        total = sum(counted.values())
        if strangers := set(counted) - droplets:
            problems.append(f"{counter} at {', '.join(sorted(strangers))}, where none was expected")
        if total not in totals:
            problems.append(f"{counter}: {total} in all, expected {' or '.join(map(str, sorted(set(totals))))}")
    return problems
