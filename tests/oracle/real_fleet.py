# SPDX-License-Identifier: Apache-2.0
"""A fleet in the kernel: the programs of every droplet, loaded each with its own configuration.

A packet's way over the oracle's fleet is walked again: at each hop the programs get what the oracle sent there, and
must do the same with it. Called by the short run (test_real_fleet.py) and the long one (fuzz.py).
"""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import strategies as st

from mizar.oracle.fleet import Way
from tests.oracle.differential import Arrival, can_run, visible
from tests.oracle.draws import Draw
from tests.oracle.planned import DAEMONS, Planned, fleets, mac_on_substrate, plan
from tests.oracle.real import RealDroplet
from tests.oracle.traffic import hostile, sent
from tests.unit.planner.world import droplet


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


class RealFleet:
    """The droplets that have a daemon, loaded once and filled anew for each journey.

    Here XDP leaves to `deliver` what it sends, as on a veth; the single droplet of droplets.py sends by XDP_TX.
    """

    def __init__(self) -> None:
        addresses = [droplet(name).address for name in DAEMONS]
        self.droplets = {
            address: RealDroplet(address, mac_on_substrate(address), send_by_tc=True) for address in addresses
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
        return ways

    def walk(self, way: Way) -> None:
        """One way again. `deliver` needs the metadata that only XDP can write, so no test run shows it."""
        for hop in way.hops:
            real = self.droplets[hop.droplet]
            if hop.program != "deliver":
                seen = real.agent(1, hop.arrived) if hop.program == "agent" else real.transit(hop.arrived)
                expected, found = visible(hop.outcome, hop.program), visible(seen, hop.program)
                assert expected == found, f"{hop.program} {hop.arrived.hex()}\n  oracle {expected}\n  kernel {found}"
