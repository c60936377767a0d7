# SPDX-License-Identifier: Apache-2.0
"""Plans a fleet with the manager's own planner, and tells as JSON what that took: a process of its own, to be weighed.

    python -m bench.suite.fleet_plan DROPLETS ENDPOINTS

The daemons are simulated: what each would be told is counted, and nothing is sent. Networks have ENDPOINTS_EACH
endpoints, spread over all droplets, VPCs have NETWORKS_EACH networks, and both have MEMBERS members.
"""

from __future__ import annotations

import gc
import json
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from mizar.planner.entries import PrefixEntry, WorkloadEntry
from mizar.planner.facts import DropletFact, EndpointFact, NetworkFact, VpcFact
from mizar.planner.placement import Placement
from mizar.planner.topology import Topology

ENDPOINTS_EACH, NETWORKS_EACH, MEMBERS = 10_000, 5, 3
WORKLOAD = WorkloadEntry(namespace="workload")
NEW = DropletFact("new", bytes((172, 31, 255, 254)), True, 1500)
SAMPLES = 1000


def endpoint(number: int, droplets: Sequence[str]) -> EndpointFact:
    """The number-th of all; on a droplet that has nothing to do with its number's neighbours."""
    network = number // ENDPOINTS_EACH
    address = (0x0A000002 + number % ENDPOINTS_EACH).to_bytes(4, "big")
    mac = b"\x02\0" + (number % (1 << 32)).to_bytes(4, "big")
    host = droplets[number * 2654435761 % (1 << 32) % len(droplets)]
    return EndpointFact(
        f"{number:032x}", 1 + network // NETWORKS_EACH, network, (address,), mac, host, 1, WORKLOAD
    )  # fmt: skip


def memory_bytes() -> int:
    """What this process has now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


class Fleet:
    """Droplets, placed networks and VPCs, endpoints."""

    def __init__(self, droplets: int, endpoints: int) -> None:
        self.endpoints = endpoints
        self.networks = max(1, endpoints // ENDPOINTS_EACH)
        self.topology = Topology()
        names = self.names = [f"d{number}" for number in range(droplets)]
        addresses = (0x0B000000 + number for number in range(droplets))
        self.bouncers, self.dividers = Placement(names), Placement(names)
        self.topology.load(
            DropletFact(name, address.to_bytes(4, "big"), True, 1500)
            for name, address in zip(names, addresses, strict=True)
        )

    def place(self) -> None:
        """All networks and VPCs."""
        prefix = (PrefixEntry(bytes((10, 0, 0, 0)), 8, bytes((10, 0, 0, 1))),)
        for network in range(self.networks):
            vni = 1 + network // NETWORKS_EACH
            if network % NETWORKS_EACH == 0:
                self.topology.put_vpc(VpcFact(vni, self.dividers.put(f"vpc{vni}", MEMBERS)))
            members = self.bouncers.put(f"network{network}", MEMBERS)
            self.topology.put_network(NetworkFact(vni, network, prefix, members))

    def fill(self, more: int = 0) -> int:
        """All endpoints, or some more of the last network; how many changes daemons would be told."""
        first, last = (self.endpoints, self.endpoints + more) if more else (0, self.endpoints)
        changes = 0
        for number in range(first, last):
            fact = endpoint(min(number, self.networks * ENDPOINTS_EACH - 1) if not more else number, self.names)
            if more:
                network = self.networks - 1
                fact = EndpointFact(
                    fact.uid, 1 + network // NETWORKS_EACH, network, fact.addresses, fact.mac, fact.host, 1, WORKLOAD
                )  # fmt: skip
            changes += len(self.topology.put_endpoint(fact))
        return changes


def timed(work: Callable[[], object]) -> float:
    """Seconds."""
    begun = time.monotonic()
    work()
    return time.monotonic() - begun


def main(droplets: int, endpoints: int) -> dict[str, float]:
    """Everything once."""
    gc.disable()  # a server sets aside what stays (mizar/api/garbage.py)
    begun = time.monotonic()
    fleet = Fleet(droplets, endpoints)
    placed_s = timed(fleet.place)
    before = memory_bytes()
    filled_s = timed(fleet.fill)
    whole_s = time.monotonic() - begun
    told = {"memory": memory_bytes() / 1e6, "memory, each endpoint": (memory_bytes() - before) / endpoints}
    told |= {"whole fleet": whole_s, "placing a network": placed_s / fleet.networks * 1000}
    told |= {"an endpoint": filled_s / endpoints * 1e6, "changes, an endpoint": fleet.fill(SAMPLES) / SAMPLES}
    for name, placement in (("bouncers", fleet.bouncers), ("dividers", fleet.dividers)):
        load = placement.load().values()
        told |= {f"{name}, most on a droplet": max(load), f"{name}, mean on a droplet": statistics.mean(load)}
    places = sum(fleet.bouncers.load().values())
    joined: list[int] = []
    joins_s = timed(lambda: joined.append(len(fleet.topology.put_droplet(NEW))))
    moved = len(fleet.bouncers.add_droplet(NEW.name))
    told |= {"a droplet joins": joins_s * 1000, "changes, a droplet joins": joined[0]}
    told["bouncers that move to one that joins"] = 100 * moved / places
    busiest = max(fleet.bouncers.load().items(), key=lambda one: one[1])[0]
    told["bouncers that move when the busiest leaves"] = 100 * len(fleet.bouncers.remove_droplet(busiest)) / places
    return told


if __name__ == "__main__":
    print(json.dumps(main(int(sys.argv[1]), int(sys.argv[2]))))
