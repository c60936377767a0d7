# SPDX-License-Identifier: Apache-2.0
"""One case: a droplet and packets; the programs in the kernel must do what the oracle says, byte for byte.

Called by the short run (test_differential.py) and the long one (fuzz.py).
"""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import strategies as st

from mizar.oracle.agent import agent
from mizar.oracle.outcome import Outcome, Verdict
from mizar.oracle.tables import Droplet
from mizar.oracle.transit import transit
from tests.oracle import known
from tests.oracle.droplets import Draw, droplets
from tests.oracle.packets import agent_frames, tunnel_frames
from tests.oracle.real import RealDroplet

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


@st.composite
def cases(draw: Draw, most: int = 8) -> Case:
    """Any droplet, any packets."""
    here = draw(droplets())
    transits = st.builds(Arrival, st.just("transit"), tunnel_frames(here))
    agents = st.builds(Arrival, st.just("agent"), agent_frames(here), st.sampled_from([1, 1, 1, 3]))
    return Case(here, tuple(draw(st.lists(st.one_of(transits, agents), min_size=1, max_size=most))))


def predict(here: Droplet, arrival: Arrival) -> Outcome:
    """What the oracle says."""
    if arrival.door == "transit":
        return transit(here, arrival.frame)
    return agent(here, SENDER, arrival.frame, arrival.segments)


def observe(real: RealDroplet, arrival: Arrival) -> Outcome:
    """What the kernel does."""
    if arrival.door == "transit":
        return real.transit(arrival.frame)
    return real.agent(SENDER, arrival.frame, arrival.segments)


def can_run(arrival: Arrival) -> bool:
    """Whether a test run takes it."""
    if arrival.door == "transit":
        return len(arrival.frame) >= 14
    return len(arrival.frame) >= SHORTEST_TEST_RUN.get(arrival.frame[12:14], 15)


def visible(outcome: Outcome, door: str) -> tuple[object, ...]:
    """As much of an outcome as a test run shows: what a redirect leads to and a dropped frame's bytes are not seen."""
    verdict = outcome.verdict
    if door == "agent" and verdict in (Verdict.ANSWER, Verdict.DELIVER):
        verdict = Verdict.SEND
    frame = b"" if verdict is Verdict.DROP else outcome.frame
    handover = outcome.handover if door == "transit" else None
    return verdict, outcome.reason, frame.hex(), dict(outcome.counted), handover


def check_arrival(real: RealDroplet, here: Droplet, arrival: Arrival) -> Outcome | None:
    """Both, compared. None where it is a known divergence, or nothing that a test run takes."""
    if not can_run(arrival):
        return None
    said = predict(here, arrival)
    seen = observe(real, arrival)
    expected, found = visible(said, arrival.door), visible(seen, arrival.door)
    if expected != found and known.divergence(here, arrival.door, arrival.frame, said, seen):
        return None
    assert expected == found, f"{arrival}\n  oracle {expected}\n  kernel {found}"
    return said


def check(real: RealDroplet, case: Case) -> list[Outcome]:
    """All of a case; returns what the oracle said, for statistics."""
    real.fill(case.here)
    said = (check_arrival(real, case.here, arrival) for arrival in case.arrivals)
    return [outcome for outcome in said if outcome]
