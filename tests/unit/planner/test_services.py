# SPDX-License-Identifier: Apache-2.0
"""Who is told of scaled endpoints and their members, in which order, and what a state that nobody knows means."""

from __future__ import annotations

from dataclasses import replace

from mizar.planner.entries import HealthEntry, ServiceEntry
from mizar.planner.facts import MemberFact, ServiceFact, VpcFact
from mizar.planner.plan import Plan, Wave, diff
from mizar.planner.topology import Topology
from tests.unit.planner.world import droplet, endpoint, network

VNI = 1
CHECK = HealthEntry(80, "", 1000, 500, 2, 3)


def topology() -> Topology:
    """d1 to d3 host the endpoints 0 to 2 of network 1; d4 has nothing to do with the VPC."""
    made = Topology()
    for name in ("d1", "d2", "d3", "d4"):
        made.put_droplet(droplet(name))
    made.put_vpc(VpcFact(VNI, ("d1",)))
    made.put_network(network(VNI, 1, ("d1",)))
    for place in range(3):
        made.put_endpoint(endpoint(VNI, 1, place, f"d{place + 1}"))
    return made


def service(*places: int, state: int = 1) -> ServiceFact:
    members = tuple(MemberFact(f"{VNI}-1-{place}", 1, state) for place in places)
    return ServiceFact("web", VNI, 1, (bytes((10, 0, 1, 100)),), False, members, CHECK)


def held(made: Topology, name: str) -> list[ServiceEntry]:
    return [entry for entry in made.desired_for(name) if isinstance(entry, ServiceEntry)]


def test_all_who_know_the_vpc_are_told() -> None:
    """And nobody else; of the check as well."""
    made = topology()
    told = made.put_service(service(0, 1))
    assert {change.droplet for change in told} == {"d1", "d2", "d3"}
    assert made.put_service(service(0, 1)) == []
    assert [entry.health for entry in held(made, "d3")] == [CHECK]
    assert held(made, "d4") == []
    made.put_endpoint(endpoint(VNI, 1, 3, "d4"))
    assert len(held(made, "d4")) == 1
    assert {change.droplet for change in made.remove_service(VNI, "web")} == {"d1", "d2", "d3", "d4"}


def test_a_new_member_is_known_at_home_before_it_gets_flows() -> None:
    """Its host learns of it first, and gives it none until all may; one that may not be well gets none."""
    for state, beside in ((1, 2), (0, 3)):
        made, plan = topology(), Plan()
        made.put_service(service(0, state=state))
        plan.add(made.put_service(service(0, 1, state=state)))
        waves = dict(plan.waves())
        assert list(waves) == [Wave.LEARN, Wave.POINT]
        (step,) = waves[Wave.LEARN]["d2"]
        assert isinstance(step.entry, ServiceEntry)
        assert [member.state for member in step.entry.members] == [state, beside]
        assert set(waves[Wave.POINT]) == {"d1", "d2", "d3"}


def test_a_state_that_nobody_knows_changes_nothing() -> None:
    """A manager that has not heard of a member finds any state right, and a known one none but its own."""
    made = topology()
    made.put_service(service(0, 1, state=0))
    (unknown,) = held(made, "d1")
    down = replace(unknown, members=tuple(replace(member, state=4) for member in unknown.members))
    assert diff("d1", [unknown], [down]) == []
    healthy = replace(unknown, members=tuple(replace(member, state=1) for member in unknown.members))
    assert [step.entry for step in diff("d1", [healthy], [down])] == [healthy]
    assert len(diff("d1", [unknown], [replace(down, health=None)])) == 1
