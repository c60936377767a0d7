# SPDX-License-Identifier: Apache-2.0
"""A daemon killed while it attaches endpoints of every kind, at any moment: the next one holds whole ones only."""

import signal
import threading

import pytest

from mizar._built import transit_pb2 as pb
from mizar.kernel import namespaces
from tests.marks import first_of
from tests.transit.rig import FRONT, Rig, endpoint, until
from tests.transit.test_life import alone
from tests.transit.traffic import ping


@pytest.mark.parametrize("after_s", first_of([0.03, 0.0, 0.01, 0.06, 0.12]))
def test_killed_while_it_attaches_every_kind(made: Rig, after_s: float) -> None:
    """Containers, functions and machines: interfaces, pins and names are those of endpoints that the new daemon holds;
    repeating the request makes the rest, and detaching leaves nothing."""
    one, (first,) = alone(made, "uid-1")
    places = [
        pb.Workload(name=made.make_namespace("e2")),
        pb.Workload(pool=f"{made.prefix}-f3"),
        pb.Workload(tap=pb.Tap()),
        pb.Workload(pool=f"{made.prefix}-f5", interface="net0"),
        pb.Workload(tap=pb.Tap(name="vm-six", queues=2)),
    ]
    wanted = [
        pb.LocalEndpoint(uid=f"uid-{number}", endpoint=endpoint(number, FRONT, one), workload=place)
        for number, place in enumerate(places, 2)
    ]
    request = one.client.Attach.future(pb.AttachRequest(endpoints=wanted))
    threading.Event().wait(after_s)  # the moment of death is what is varied
    one.stop(signal.SIGKILL)
    request.cancel()
    one.start()
    held = one.state().local_endpoints
    assert [found.problem for found in held] == [""] * len(held)
    names = {found.host_interface for found in held}
    until(lambda: set(one.links()) == {name for name in names if name.startswith("mz")}, "no other interface is left")
    assert one.pins() == sorted(f"agent_{name}" for name in names)
    functions = {found.local.workload.pool for found in held if found.local.workload.pool}
    assert {name for name in namespaces.names() if name.startswith(f"{made.prefix}-f")} == functions
    one.attach_whole(*wanted)
    for place, address in ((places[1].pool, "10.0.1.11"), (places[3].pool, "10.0.1.12"), (first, "10.0.1.13")):
        assert ping(place, address, 5.0) is not None
    one.detach(*(each.uid for each in wanted))
    until(lambda: len(one.links()) == len(one.pins()) == 1, "nothing of them is left")
    assert not [name for name in namespaces.names() if name.startswith(f"{made.prefix}-f")]
