# SPDX-License-Identifier: Apache-2.0
"""Proof that VPCs with equal addresses never hear one another.

Called by mizar.lab.demo. Every endpoint sends to every address that endpoints of other VPCs have, and every endpoint
listens to all frames that arrive, whoever they are addressed to. Those of its own VPC, or of a peer, that have such an
address must hear it (so the proof is not that nothing works), nobody else may; and the droplets must not have delivered
one packet more than that.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping

from mizar.lab.findings import Group, Isolation, Member
from mizar.lab.probes import Probes

PAYLOAD_BYTES = 64


def isolation(probes: Probes, delivered: Callable[[], Mapping[Group, int]], limit_s: float) -> Isolation:
    """Runs the proof. `delivered` reads how many packets the droplets have delivered in each VPC;
    `limit_s`: how long what is under way may take to arrive."""
    expected, sent = _plan(probes)
    for probe in probes:
        probe.ask("sniff")
    before = {probe.member: probes.heard(probe) for probe in probes}
    delivered_before = _at_rest(delivered, limit_s)
    for probe in probes:
        for address in sent[probe.member]:
            probe.ask("send", address=address, count=1, bytes=PAYLOAD_BYTES, icmp=True)
    missing = _await(probes, expected, before, limit_s)
    problems = [f"{hearer} did not hear {source} of its own VPC by {way}" for hearer, way, source in missing]
    wanted = Counter({probe.member.group: 0 for probe in probes})
    for hearer, way, source in expected:
        wanted[hearer.group] += 1
        if way == "icmp":  # it is answered, and the answer is delivered too
            wanted[source.group] += 1
    problems += _delivered_problems(wanted, delivered_before, delivered, limit_s)
    return Isolation(
        sent=2 * sum(len(addresses) for addresses in sent.values()),
        expected=len(expected),
        heard=len(expected) - len(missing),
        foreign=tuple(foreign(probes)),
        problems=tuple(problems),
    )


def foreign(probes: Probes) -> list[str]:
    """Everybody of another VPC whom anybody has heard since the probes began, by whatever way."""
    found = []
    for probe in probes:
        for (way, number), count in probes.heard(probe).items():
            stranger = probes.number(number)
            if not probe.member.may_hear(stranger):
                found.append(f"{probe.member} heard {stranger} of another VPC {count} times by {way}")
    return found


def _plan(probes: Probes) -> tuple[list[tuple[Member, str, Member]], dict[Member, list[str]]]:
    """(who must hear, by which way, whom), and the foreign addresses that each member sends to."""
    members = [probe.member for probe in probes]
    expected: list[tuple[Member, str, Member]] = []
    sent: dict[Member, list[str]] = {}
    for member in members:
        strangers = {address for other in members if not member.may_hear(other) for address in other.addresses}
        sent[member] = sorted(strangers - set(member.addresses))  # its own would not leave its namespace
        for other in members:
            if member.may_hear(other):
                hits = strangers.intersection(other.addresses) - set(member.addresses)
                expected += [(other, way, member) for way in ("sink", "icmp") for _ in hits]
    return expected, sent


def _await(
    probes: Probes,
    expected: list[tuple[Member, str, Member]],
    before: Mapping[Member, Mapping[tuple[str, int], int]],
    limit_s: float,
) -> list[tuple[Member, str, Member]]:
    """Waits until all that is expected was heard; returns what was not within the limit."""
    numbers = {probe.member: number for number, probe in enumerate(probes)}
    wanted = Counter(expected)
    end = time.monotonic() + limit_s
    while True:
        heard = {probe.member: probes.heard(probe) for probe in probes}
        missing = []
        for (hearer, way, source), count in wanted.items():
            key = (way, numbers[source])
            missing += [(hearer, way, source)] * (count - heard[hearer].get(key, 0) + before[hearer].get(key, 0))
        if not missing or time.monotonic() > end:
            return missing
        time.sleep(0.02)


def _at_rest(delivered: Callable[[], Mapping[Group, int]], limit_s: float) -> Mapping[Group, int]:
    """What was delivered once two readings agree: the ends of the connections before may still be on their way."""
    end = time.monotonic() + limit_s
    before = delivered()
    while True:
        time.sleep(0.05)
        now = delivered()
        if now == before or time.monotonic() > end:
            return now
        before = now


def _delivered_problems(
    wanted: Mapping[Group, int],
    before: Mapping[Group, int],
    delivered: Callable[[], Mapping[Group, int]],
    limit_s: float,
) -> list[str]:
    """Compares what the droplets say that they delivered; the last answers may still be on their way at first."""
    end = time.monotonic() + limit_s
    while True:
        now = delivered()
        problems = [
            f"the droplets delivered {now[group] - before[group]} packets in {group[0]}/{group[1]}, expected {count}"
            for group, count in sorted(wanted.items())
            if now[group] - before[group] != count
        ]
        if not problems or time.monotonic() > end:
            return problems
        time.sleep(0.02)
