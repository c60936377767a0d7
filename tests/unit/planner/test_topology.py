# SPDX-License-Identifier: Apache-2.0
"""Any history of changes leaves exactly the tables that the objects call for, and a packet is never led astray."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mizar.model.errors import ConflictError, InvalidError, MizarError, NotFoundError
from mizar.planner.entries import DropletEntry, EndpointEntry, LocalEntry, WorkloadEntry
from mizar.planner.facts import ServiceFact, VpcFact
from mizar.planner.plan import Change, Plan
from tests.unit.planner.budget import examples
from tests.unit.planner.fabric import Fabric
from tests.unit.planner.world import World, droplet, endpoint, network, peering, service

NAMES = ["d1", "d2", "d3", "d4", "d5", "f1"]
VNIS = [1, 2]
NUMBERS = [1, 2, 3, 4]
PLACES = [0, 1, 2]


class History(RuleBasedStateMachine):
    """Changes in any order. Steps wait in a plan for a while, as they do in a manager, and are then taken."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.fabric = Fabric()
        self.plan = Plan()
        self.gone: set[str] = set()

    @initialize()
    def most_droplets_are_there(self) -> None:
        for name in NAMES[:4]:
            self.put_droplet(name)

    def pick(self, data: Any, values: Any) -> Any:
        return data.draw(st.sampled_from(sorted(values)))

    def members(self, data: Any) -> tuple[str, ...]:
        able = sorted(name for name, fact in self.world.droplets.items() if fact.daemon)
        return tuple(data.draw(st.lists(st.sampled_from(able), unique=True, max_size=3))) if able else ()

    def did(self, changes: list[Change]) -> None:
        self.plan.add(changes)

    @rule(name=st.sampled_from(NAMES))
    def put_droplet(self, name: str) -> None:
        fact = droplet(name)
        if name in self.world.droplets:
            assert self.world.topology.put_droplet(self.world.droplets[name]) == []
            return
        self.take()  # a name is free again when all have forgotten it
        self.fabric.know(name, fact.address)
        self.did(self.world.topology.put_droplet(fact))
        self.world.droplets[name] = fact

    @precondition(lambda self: "f1" in self.world.droplets and not self.world.droplets["f1"].daemon)
    @rule()
    def foreign_droplet_gets_a_daemon(self) -> None:
        fact = replace(self.world.droplets["f1"], daemon=True)
        if any(e.host == "f1" for e in self.world.endpoints.values()):
            with pytest.raises(ConflictError):
                self.world.topology.put_droplet(fact)
            return
        self.did(self.world.topology.put_droplet(fact))
        self.world.droplets["f1"] = fact

    @rule(name=st.sampled_from(NAMES))
    def remove_droplet(self, name: str) -> None:
        used = (
            any(name in vpc.dividers for vpc in self.world.vpcs.values())
            or any(name in net.bouncers for net in self.world.networks.values())
            or any(name == e.host for e in self.world.endpoints.values())
        )
        if name not in self.world.droplets:
            with pytest.raises(NotFoundError):
                self.world.topology.remove_droplet(name)
        elif used:
            with pytest.raises(ConflictError):
                self.world.topology.remove_droplet(name)
        else:
            self.did(self.world.topology.remove_droplet(name))
            del self.world.droplets[name]
            self.take()
            assert not self.fabric.droplets[name].table
            del self.fabric.droplets[name]

    @rule(vni=st.sampled_from(VNIS), data=st.data())
    def put_vpc(self, vni: int, data: Any) -> None:
        fact = VpcFact(vni, self.members(data))
        self.did(self.world.topology.put_vpc(fact))
        assert self.world.topology.put_vpc(fact) == []
        self.world.vpcs[vni] = fact

    @precondition(lambda self: self.world.vpcs)
    @rule(data=st.data())
    def remove_vpc(self, data: Any) -> None:
        vni = self.pick(data, self.world.vpcs)
        for fact in [one for one in self.world.services.values() if one.vni == vni]:
            self.end_service(fact)
        if any(vni == net.vni for net in self.world.networks.values()) or self.world.peerings:
            with pytest.raises(ConflictError):
                self.world.topology.remove_vpc(vni)
            return
        self.did(self.world.topology.remove_vpc(vni))
        del self.world.vpcs[vni]

    @precondition(lambda self: len(self.world.vpcs) == len(VNIS))
    @rule()
    def put_peering(self) -> None:
        fact = peering(*VNIS)
        self.did(self.world.topology.put_peering(fact))
        assert self.world.topology.put_peering(fact) == []
        self.world.peerings[fact.vnis] = fact

    @precondition(lambda self: self.world.peerings)
    @rule()
    def remove_peering(self) -> None:
        (pair,) = self.world.peerings
        self.did(self.world.topology.remove_peering(pair))
        with pytest.raises(NotFoundError):
            self.world.topology.remove_peering(pair)
        del self.world.peerings[pair]

    @precondition(lambda self: self.world.vpcs)
    @rule(number=st.sampled_from(NUMBERS), data=st.data())
    def put_network(self, number: int, data: Any) -> None:
        fact = network(self.pick(data, self.world.vpcs), number, self.members(data))
        self.did(self.world.topology.put_network(fact))
        assert self.world.topology.put_network(fact) == []
        self.world.networks[fact.vni, number] = fact

    @precondition(lambda self: self.world.networks)
    @rule(data=st.data())
    def remove_network(self, data: Any) -> None:
        key = self.pick(data, self.world.networks)
        for fact in [one for one in self.world.services.values() if (one.vni, one.network_id) == key]:
            self.end_service(fact)
        if any(key == (e.vni, e.network_id) for e in self.world.endpoints.values()):
            with pytest.raises(ConflictError):
                self.world.topology.remove_network(*key)
            return
        self.did(self.world.topology.remove_network(*key))
        del self.world.networks[key]

    @precondition(lambda self: self.world.networks and self.world.droplets)
    @rule(place=st.sampled_from(PLACES), tunnel=st.sampled_from([1, 2]), data=st.data())
    def put_endpoint(self, place: int, tunnel: int, data: Any) -> None:
        vni, number = self.pick(data, self.world.networks)
        fact = endpoint(vni, number, place, self.pick(data, self.world.droplets), tunnel)
        if self.world.droplets[fact.host].daemon:
            fact = replace(fact, workload=WorkloadEntry(namespace=fact.uid))
        present = self.world.endpoints.get(fact.uid)
        if present is not None:
            if present.host != fact.host:
                with pytest.raises(ConflictError):
                    self.world.topology.put_endpoint(fact)
            fact = replace(present, tunnel=tunnel)
        elif fact.uid in self.gone:
            self.take()  # the store gives addresses free when their delete is done
        self.did(self.world.topology.put_endpoint(fact))
        assert self.world.topology.put_endpoint(fact) == []
        self.world.endpoints[fact.uid] = fact
        self.refresh_services(fact.uid)

    @precondition(lambda self: self.world.endpoints)
    @rule(data=st.data())
    def remove_endpoint(self, data: Any) -> None:
        """Who is a member of a scaled endpoint leaves that first, as in the manager."""
        uid = self.pick(data, self.world.endpoints)
        for fact in list(self.world.services.values()):
            members = tuple(member for member in fact.members if member.uid != uid)
            if members != fact.members:
                self.world.services[fact.uid] = replace(fact, members=members)
                self.did(self.world.topology.put_service(self.world.services[fact.uid]))
        self.did(self.world.topology.remove_endpoint(uid))
        self.gone.add(uid)
        del self.world.endpoints[uid]

    @precondition(lambda self: self.world.networks)
    @rule(data=st.data())
    def put_service(self, data: Any) -> None:
        vni, number = self.pick(data, self.world.networks)
        able = sorted(uid for uid, fact in self.world.endpoints.items() if fact.vni == vni)
        uids = data.draw(st.lists(st.sampled_from(able), unique=True, max_size=3)) if able else []
        fact = service(vni, number, tuple((uid, data.draw(st.sampled_from([1, 1, 2, 4]))) for uid in uids))
        self.did(self.world.topology.put_service(fact))
        assert self.world.topology.put_service(fact) == []
        self.world.services[fact.uid] = fact

    @precondition(lambda self: self.world.services)
    @rule(data=st.data())
    def remove_service(self, data: Any) -> None:
        self.end_service(self.world.services[self.pick(data, self.world.services)])

    def end_service(self, fact: ServiceFact) -> None:
        self.did(self.world.topology.remove_service(fact.vni, fact.uid))
        with pytest.raises(NotFoundError):
            self.world.topology.remove_service(fact.vni, fact.uid)
        del self.world.services[fact.uid]

    def refresh_services(self, uid: str) -> None:
        """What is known of a member has changed."""
        for fact in self.world.services.values():
            if any(member.uid == uid for member in fact.members):
                self.did(self.world.topology.put_service(fact))

    @rule()
    def take(self) -> None:
        """All that waits is done; now tables are what they must be and lead every packet home."""
        self.fabric.run(self.plan)
        self.plan = Plan()
        self.gone.clear()
        for name in self.world.droplets:
            table = self.fabric.droplets[name].table if name in self.fabric.droplets else {}
            assert table == self.world.expected(name)
        check_reach(self.world, self.fabric)
        check_services(self.world, self.fabric)

    @invariant()
    def desired_is_what_a_rebuilt_topology_wants(self) -> None:
        rebuilt = self.world.rebuilt()
        for name in self.world.droplets:
            desired = list(self.world.topology.desired_for(name))
            assert [entry.order for entry in desired] == sorted(entry.order for entry in desired)
            as_table = {entry.key: entry for entry in desired}
            assert len(as_table) == len(desired)
            assert as_table == self.world.expected(name)
            assert as_table == {entry.key: entry for entry in rebuilt.desired_for(name)}


def check_reach(world: World, fabric: Fabric) -> None:
    """Every pair within a VPC that has the bouncers and dividers it needs; equal addresses of others never answer."""
    for source in world.endpoints.values():
        if source.workload is None:
            continue
        for target in world.endpoints.values():
            if target.vni != source.vni:
                continue
            goal = {f"to {target.uid}"} if target.workload else {f"at {target.host}"}
            for address in target.addresses:
                outcomes = fabric.send(source.uid, source.host, address)
                astray = {o for o in outcomes - goal if o.startswith(("to ", "at "))}
                assert not astray, f"{source.uid} → {target.uid}: {astray}"
                if served(world, source.vni):
                    assert outcomes == goal, f"{source.uid} → {target.uid}"


def check_services(world: World, fabric: Fabric) -> None:
    """Whoever sends to a scaled endpoint meets one of its members that take new flows."""
    for fact in world.services.values():
        goal = members_of(world, fact)
        for source in world.endpoints.values():
            if source.vni == fact.vni and source.workload is not None and served(world, source.vni):
                outcomes = fabric.send(source.uid, source.host, fact.addresses[0])
                assert outcomes == (goal or {"SERVICE_WITHOUT_MEMBER"}), f"{source.uid} → {fact.uid}"


def members_of(world: World, fact: ServiceFact) -> set[str]:
    """What becomes of packets to a scaled endpoint."""
    healthy = [world.endpoints[member.uid] for member in fact.members if member.state == 1]
    return {f"to {one.uid}" if one.workload else f"at {one.host}" for one in healthy}


def served(world: World, vni: int) -> bool:
    networks = [net for net in world.networks.values() if net.vni == vni]
    return bool(world.vpcs[vni].dividers) and all(net.bouncers for net in networks)


TestHistory = History.TestCase
TestHistory.settings = examples(150, stateful_step_count=40)


def two_droplets(count: int) -> tuple[World, list[int]]:
    """A VPC with one network and `count` endpoints; the number of steps that each endpoint took."""
    world = World()
    for name in ("d1", "d2", "d3", "d4"):
        world.topology.put_droplet(droplet(name))
    world.topology.put_vpc(VpcFact(1, ("d3",)))
    world.topology.put_network(network(1, 1, ("d1", "d2")))
    return world, [len(world.topology.put_endpoint(endpoint(1, 1, place, "d4"))) for place in range(count)]


def test_creating_an_endpoint_tells_its_host_and_its_bouncers_whatever_the_size_of_the_vpc() -> None:
    """First on its host: VPC, network and itself; then itself only. Each bouncer: one entry."""
    _, steps = two_droplets(200)
    assert steps == [5] + [3] * 199


def test_a_change_of_bouncers_moves_the_entries_of_that_network_alone() -> None:
    world, _ = two_droplets(10)
    world.topology.put_network(network(1, 2, ("d3",)))
    world.topology.put_endpoint(endpoint(1, 2, 0, "d4"))
    changes = world.topology.put_network(network(1, 1, ("d1", "d3")))
    moved = [(change, change.after or change.before) for change in changes]
    moved = [(change, entry) for change, entry in moved if isinstance(entry, EndpointEntry)]
    assert {(change.droplet, change.after is None) for change, _ in moved} == {("d3", False), ("d2", True)}
    assert {entry.network_id for _, entry in moved if isinstance(entry, EndpointEntry)} == {1}
    assert len(moved) == 20


def test_a_droplet_without_a_daemon_is_told_nothing_and_is_no_member() -> None:
    world = World()
    world.topology.put_droplet(droplet("d1"))
    world.topology.put_droplet(droplet("f1"))
    with pytest.raises(InvalidError, match="f1"):
        world.topology.put_vpc(VpcFact(1, ("f1",)))
    world.topology.put_vpc(VpcFact(1, ("d1",)))
    world.topology.put_network(network(1, 1, ("d1",)))
    changes = world.topology.put_endpoint(endpoint(1, 1, 0, "f1"))
    assert [(change.droplet, type(change.after)) for change in changes] == [("d1", EndpointEntry)]
    assert list(world.topology.desired_for("f1")) == []


def test_a_droplet_gives_up_its_daemon_only_when_it_has_nothing_to_do() -> None:
    world = World()
    world.topology.put_droplet(droplet("d1"))
    world.topology.put_vpc(VpcFact(1, ("d1",)))
    with pytest.raises(ConflictError, match="divides VPC 1"):
        world.topology.put_droplet(replace(droplet("d1"), daemon=False))
    world.topology.put_vpc(VpcFact(1, ()))
    assert world.topology.put_droplet(replace(droplet("d1"), daemon=False)) == []


def test_all_droplets_know_who_has_no_daemon() -> None:
    """They judge what it sends themselves; and no more, once it has one."""
    world = World()
    for name in ("d1", "d2", "f1"):
        world.topology.put_droplet(droplet(name))
    changes = world.topology.put_droplet(replace(droplet("f1"), daemon=True))
    told, address = [change for change in changes if change.droplet != "f1"], droplet("f1").address
    assert [(one.droplet, one.before, one.after) for one in told] == [
        (name, DropletEntry(address, "f1", foreign=True), DropletEntry(address, "f1")) for name in ("d1", "d2")
    ]


def test_what_raises_changes_nothing() -> None:
    world, _ = two_droplets(1)
    before = {name: list(world.topology.desired_for(name)) for name in ("d1", "d2", "d3", "d4")}
    other_prefix = network(1, 2, ()).prefixes
    calls: list[tuple[Callable[[], object], type[MizarError]]] = [
        (lambda: world.topology.put_vpc(VpcFact(2, ("d9",))), NotFoundError),
        (lambda: world.topology.put_network(network(9, 1, ("d1",))), NotFoundError),
        (lambda: world.topology.put_network(network(1, 3, ("d9",))), NotFoundError),
        (lambda: world.topology.put_network(replace(network(1, 1, ("d1",)), prefixes=other_prefix)), ConflictError),
        (lambda: world.topology.put_endpoint(endpoint(1, 7, 0, "d1")), NotFoundError),
        (lambda: world.topology.put_endpoint(endpoint(1, 1, 1, "d9")), NotFoundError),
        (lambda: world.topology.remove_endpoint("nobody"), NotFoundError),
        (lambda: world.topology.remove_network(1, 1), ConflictError),
        (lambda: world.topology.remove_vpc(1), ConflictError),
        (lambda: world.topology.put_droplet(replace(droplet("d1"), address=bytes(4))), ConflictError),
        (lambda: world.topology.put_droplet(replace(droplet("d1"), name="d8")), ConflictError),
    ]
    for call, error in calls:
        with pytest.raises(error):
            call()
    assert before == {name: list(world.topology.desired_for(name)) for name in ("d1", "d2", "d3", "d4")}


def test_the_host_of_an_endpoint_that_is_also_its_bouncer_holds_it_once() -> None:
    world = World()
    world.topology.put_droplet(droplet("d1"))
    world.topology.put_vpc(VpcFact(1, ()))
    world.topology.put_network(network(1, 1, ("d1",)))
    changes = world.topology.put_endpoint(endpoint(1, 1, 0, "d1"))
    assert [type(change.after) for change in changes] == [LocalEntry]
