# SPDX-License-Identifier: Apache-2.0
"""How long Attach and Detach take, as a daemon measures it (`elapsed_us`): one endpoint after the other.

    sudo .venv/bin/python bench/attach.py [--count 100]

A real daemon in namespaces of its own; every endpoint gets a namespace that is there already, as a runtime makes it.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from pyroute2 import IPRoute

from mizar._built import transit_pb2 as pb
from tests.transit.rig import FRONT, Droplet, Rig, endpoint, local, put_droplet, put_network, put_vpc, rig, until

KINDS = ("namespace", "pool", "tap")


def main() -> None:
    """Attach and detach `count` endpoints of each kind."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100)
    count = parser.parse_args().count
    with tempfile.TemporaryDirectory() as folder, rig(Path(folder)) as made:
        measure(made, count)


def measure(made: Rig, count: int) -> None:
    """All kinds, one after the other."""
    one, places = droplet(made, count)
    for kind in KINDS:
        attached, detached = measured(one, places, kind)
        show(f"attach, {kind}", attached)
        show(f"detach, {kind} (as the caller sees it)", detached)


def droplet(made: Rig, count: int) -> tuple[Droplet, list[str]]:
    """One droplet that is everything, and so many namespaces."""
    one = made.add_droplet()
    one.start("--pool", str(min(count, 1024)))
    one.apply(put_droplet(one), put_vpc(one), put_network(FRONT, one))
    return one, [made.make_namespace(f"e{number}") for number in range(count)]


def measured(one: Droplet, places: list[str], kind: str) -> tuple[list[float], list[float]]:
    """Milliseconds of each Attach, and of each Detach."""
    attached, detached = [], []
    until(lambda: one.links() == [] and len(waiting(one)) == len(places), "what was before has ended", 120)
    for number, place in enumerate(places):
        what = endpoint(number % 89, FRONT, one)
        what.mac = bytes((2, 0, 0, 0, 2, number))
        what.addresses[:] = [bytes((10, 0, 1, 2 + number)), what.addresses[1][:15] + bytes((2 + number,))]
        wanted = local(f"{kind}-{number}", what, name=place)
        if kind == "pool":
            wanted.workload.CopyFrom(pb.Workload(pool=f"{place}f"))
        if kind == "tap":
            wanted.workload.CopyFrom(pb.Workload(tap=pb.Tap()))
        (result,) = one.attach(wanted)
        assert not result.error, result
        attached.append(result.elapsed_us / 1000)
        time.sleep(0.005)
    for number in range(len(places)):
        begun = time.perf_counter()
        one.detach(f"{kind}-{number}")
        detached.append((time.perf_counter() - begun) * 1000)
    return attached, detached


def waiting(one: Droplet) -> list[str]:
    """What is in the pool."""
    with IPRoute(netns=one.namespace) as ip:
        names = [str(link.get_attr("IFLA_IFNAME")) for link in ip.get_links()]
    return [name for name in names if name.startswith("pool")]


def show(what: str, times_ms: list[float]) -> None:
    """Median and the worst of a hundred."""
    ordered = sorted(times_ms)
    worst = ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)]
    print(f"{what:42} median {statistics.median(ordered):6.2f} ms   p99 {worst:7.2f} ms")


if __name__ == "__main__":
    main()
