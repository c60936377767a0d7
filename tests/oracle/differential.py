# SPDX-License-Identifier: Apache-2.0
"""One case: a droplet and packets; the programs in the kernel must do what the oracle says, byte for byte.

Called by the short runs (test_differential.py; test_at_tc.py for tc ingress) and the long one (fuzz.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace

from hypothesis import given
from hypothesis import strategies as st

from mizar.oracle.agent import agent
from mizar.oracle.outcome import Outcome, Verdict
from mizar.oracle.stack import substrate
from mizar.oracle.tables import Droplet
from mizar.oracle.transit import transit
from tests.oracle.draws import Draw, steady
from tests.oracle.droplets import droplets
from tests.oracle.havoc import variants
from tests.oracle.packets import agent_frames, tunnel_frames
from tests.oracle.real import RealDroplet
from tests.oracle.substrates import move

SHORTEST_TEST_RUN = {b"\x08\x00": 34, b"\x86\xdd": 54}
"""By ethertype: the kernel refuses shorter frames before a tc program sees them. 15 for all others."""
SENDER = 1


@dataclass(frozen=True, slots=True)
class Arrival:
    """A frame at one of the two doors, `segments` for those of an endpoint."""

    door: str
    frame: bytes
    segments: int = 1

    def __repr__(self) -> str:
        return f"Arrival({self.door!r}, bytes.fromhex({self.frame.hex()!r}), {self.segments})"


@dataclass(frozen=True, slots=True)
class Case:
    """A droplet, and what arrives there."""

    here: Droplet
    arrivals: tuple[Arrival, ...]
    seed: int = 0
    """Of the variants."""


@st.composite
def cases(draw: Draw, most: int = 8, substrate: str = "ipv4") -> Case:
    """Any droplet of a substrate, any packets."""
    here = move(draw(droplets()), substrate)
    transits = st.builds(Arrival, st.just("transit"), tunnel_frames(here, substrate))
    agents = st.builds(Arrival, st.just("agent"), agent_frames(here), st.sampled_from([1, 1, 1, 3]))
    arrivals = draw(st.lists(st.one_of(transits, agents), min_size=1, max_size=most))
    return Case(here, tuple(arrivals), draw(st.integers(0, 1 << 32)))


def predict(here: Droplet, arrival: Arrival) -> Outcome:
    """What the oracle says."""
    if arrival.door == "transit":
        return transit(here, arrival.frame)
    if arrival.door == "stack":
        return substrate(here, arrival.frame, arrival.segments)
    return agent(here, SENDER, arrival.frame, arrival.segments)


def observe(real: RealDroplet, arrival: Arrival, *, counting: bool = True) -> Outcome:
    """What the kernel does."""
    if arrival.door == "transit":
        return real.transit(arrival.frame, counting=counting)
    if arrival.door == "stack":
        return real.stack(arrival.frame, arrival.segments, counting=counting)
    return real.agent(SENDER, arrival.frame, arrival.segments, counting=counting)


def can_run(arrival: Arrival, *, at_tc: bool = False) -> bool:
    """Whether a test run takes it, of Transit at tc too."""
    if arrival.door == "transit" and not at_tc:
        return len(arrival.frame) >= 14
    return len(arrival.frame) >= SHORTEST_TEST_RUN.get(arrival.frame[12:14], 15)


def visible(outcome: Outcome, door: str) -> tuple[object, ...]:
    """As much of an outcome as a test run shows: what a redirect leads to and a dropped frame's bytes are not seen."""
    verdict = outcome.verdict
    if door != "transit" and verdict in (Verdict.ANSWER, Verdict.DELIVER, Verdict.STACK):
        verdict = Verdict.SEND
    frame = b"" if verdict is Verdict.DROP else outcome.frame
    handover = outcome.handover if door == "transit" else None
    return verdict, frame.hex(), handover, outcome.reason, dict(outcome.counted)


def check_arrival(real: RealDroplet, here: Droplet, arrival: Arrival) -> None:
    """Both, compared, with all counters."""
    real.fill_endpoints(here)
    expected = visible(predict(here, arrival), arrival.door)
    found = visible(observe(real, arrival), arrival.door)
    assert expected == found, f"{arrival}\n  oracle {expected}\n  kernel {found}"


def check(real: RealDroplet, here: Droplet, arrivals: Iterable[Arrival]) -> list[Outcome]:
    """All of them, on tables that are filled already; returns what the oracle said, for statistics.

    Reading counters costs ten times what a run does: they are compared in sum, and one by one only to find who differs.
    """
    arrivals = [arrival for arrival in arrivals if can_run(arrival, at_tc=real.ingress is not None)]
    outcomes, total = [], Counter[tuple[str, str | int, str]]()
    for arrival in arrivals:
        said = predict(here, arrival)
        seen = observe(real, arrival, counting=False)
        if said.gone:
            real.fill_endpoints(here)
        if visible(said, arrival.door)[:-2] != visible(seen, arrival.door)[:-2]:
            real.counted()
            check_arrival(real, here, arrival)
        outcomes.append(said)
        total.update({(*key, name): by for key, fields in said.counted.items() for name, by in fields.items()})
    found = {(*key, name): by for key, fields in real.counted().items() for name, by in fields.items()}
    if found != total:
        for arrival in arrivals:
            check_arrival(real, here, arrival)
        raise AssertionError(f"counters differ in sum only: oracle {total}, kernel {found}, of {arrivals}")
    if here.policies:
        assert real.policies.flows() == here.policy_flows
    return outcomes


def check_case(real: RealDroplet, case: Case, count: int = 0) -> list[Outcome]:
    """A case and, with `count`, so many variants of each of its packets."""
    real.fill(case.here)
    outcomes = check(real, case.here, case.arrivals)
    for arrival in case.arrivals:
        frames = variants(arrival.frame, case.seed, count)
        outcomes += check(real, case.here, (replace(arrival, frame=frame) for frame in frames))
    return outcomes


def try_cases(
    real: RealDroplet, substrate: str, most: int, doors: Collection[str] = ("transit", "agent")
) -> Counter[object]:
    """So many cases of a substrate with what comes to these doors, the same every time. Returns how often each step and
    reason was seen."""
    seen: Counter[object] = Counter()

    @steady(most)
    @given(cases(substrate=substrate))
    def each(case: Case) -> None:
        arrivals = tuple(one for one in case.arrivals if one.door in doors)
        for outcome in check_case(real, replace(case, arrivals=arrivals), count=10):
            seen.update([outcome.reason, outcome.step])

    each()
    return seen
