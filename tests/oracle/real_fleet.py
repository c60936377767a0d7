# SPDX-License-Identifier: Apache-2.0
"""A fleet in the kernel: the programs of every droplet, loaded each with its own configuration.

A packet's way over the oracle's fleet is walked again: at each hop the programs get what the oracle sent there, and
must do the same with it. Called by the short run (test_real_fleet.py) and the long one (fuzz.py).
"""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import strategies as st

from mizar.oracle.fleet import Hop, Way
from mizar.oracle.outcome import Handover, Outcome
from tests.oracle.differential import Arrival, can_run, visible
from tests.oracle.draws import Draw
from tests.oracle.planned import DAEMONS, Planned, fleets, plan
from tests.oracle.real import RealDroplet
from tests.oracle.told import mac_on_substrate
from tests.oracle.traffic import hostile, sent
from tests.oracle.whole import anything, droplet_on, policed, whole_fleets


@dataclass(frozen=True)
class Journey:
    """Frames of one endpoint, whose interface on its host is 1 where it has one."""

    planned: Planned
    source: str
    frames: tuple[bytes, ...]


@st.composite
def journeys(draw: Draw) -> Journey:
    """Any planned fleet, any of its endpoints, any frames."""
    world = draw(fleets()).world
    uid = draw(st.sampled_from(sorted(world.endpoints)))
    planned = plan(world, uid if world.endpoints[uid].workload else "")
    source = world.endpoints[uid]
    return Journey(planned, uid, tuple(draw(hostile(planned, source)) for _ in range(4)))


@st.composite
def whole_journeys(draw: Draw, substrate: str) -> Journey:
    """The same over fleets with everything in them, on a substrate."""
    world = draw(whole_fleets(substrate)).world
    uid = draw(st.sampled_from(sorted(uid for uid, fact in world.endpoints.items() if not fact.carried)))
    planned = draw(policed(plan(world, uid if world.endpoints[uid].workload else "")))
    return Journey(planned, uid, tuple(draw(anything(planned, world.endpoints[uid])) for _ in range(6)))


class RealFleet:
    """The droplets that have a daemon, loaded once and filled anew for each journey.

    Here XDP leaves to `deliver` what it sends, as on a veth; the single droplet of droplets.py sends by XDP_TX.
    """

    def __init__(self, substrate: str = "ipv4") -> None:
        facts = [droplet_on(name, substrate) for name in DAEMONS]
        self.droplets = {
            fact.address: RealDroplet(
                fact.address, mac_on_substrate(fact.address), address6=fact.second, send_by_tc=True
            )
            for fact in facts
        }

    def close(self) -> None:
        """Frees all programs."""
        for each in self.droplets.values():
            each.close()

    def check(self, journey: Journey) -> list[Way]:
        """Every hop of every frame."""
        for address, each in self.droplets.items():
            each.fill(journey.planned.fleet.droplets[address])
        source = journey.planned.world.endpoints[journey.source]
        ways = []
        for frame in journey.frames:
            if can_run(Arrival("agent", frame)):
                ways.append(sent(journey.planned, source, frame))
                self.walk(ways[-1])
        for address, each in self.droplets.items():
            here = journey.planned.fleet.droplets[address]
            if here.policies:
                assert each.policies.flows() == here.policy_flows
        return ways

    def walk(self, way: Way) -> None:
        """One way again. `deliver` needs the metadata that only XDP can write, so no test run shows it."""
        handed = None
        for hop in way.hops:
            if hop.program != "deliver":
                seen = self.run(hop, handed)
                expected, found = visible(hop.outcome, hop.program), visible(seen, hop.program)
                assert expected == found, f"{hop.program} {hop.arrived.hex()}\n  oracle {expected}\n  kernel {found}"
            handed = hop.outcome.handover

    def run(self, hop: Hop, handed: Handover | None) -> Outcome:
        """What the kernel does with what came there; `handed`: to whom `deliver` gave it before."""
        real = self.droplets[hop.droplet]
        if hop.program == "proxy":
            assert handed is not None
            return real.proxy(handed.ifindex, hop.arrived)
        return real.agent(1, hop.arrived) if hop.program == "agent" else real.transit(hop.arrived)
