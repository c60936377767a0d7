# SPDX-License-Identifier: Apache-2.0
"""Planning, execution and reading back, against each other: any sequence of changes, an error at any write, a death
at any write."""

import contextlib
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mizar.model.errors import ConflictError, MizarError, TemporaryError
from mizar.model.policy_rows import GROUP, PEER, VERDICT
from mizar.transit.batch import Plan
from mizar.transit.execute import execute
from mizar.transit.marks import option_bytes
from mizar.transit.policy_values import (
    Binding,
    DeleteNetworkAcl,
    DeletePolicySet,
    NetworkAcl,
    PolicySet,
    PutNetworkAcl,
    PutPolicySet,
    checked,
)
from mizar.transit.readback import Found, read
from mizar.transit.state import Limits, State
from mizar.transit.values import (
    Change,
    DeleteDroplet,
    DeleteEndpoint,
    DeleteGroupSet,
    DeleteNetwork,
    DeletePeering,
    DeleteProxy,
    DeleteVpc,
    Droplet,
    Endpoint,
    Network,
    NextHop,
    Peering,
    Prefix,
    Proxy,
    PutDroplet,
    PutEndpoint,
    PutGroupSet,
    PutNetwork,
    PutPeering,
    PutProxy,
    PutVpc,
    Route,
    RouteAction,
    Tunnel,
    Vpc,
    Wanted,
)
from mizar.transit.workloads import InNamespace, NamespaceBy
from tests.unit.transit.fakes import FakeMaps

# Droplets are 172.30.9.1 (this one) to .4; VNIs 1 and 2, and a third VPC on VNI 1; networks 1 and 2 with 10.0.N.0/24
# and fd00:10:0:N::/64.
OWN = bytes((172, 30, 9, 1))
LIMITS = Limits(droplets=8, vpcs=4, networks=8, endpoints=8, local_endpoints=4, proxies=3)

droplets = st.integers(1, 4).map(lambda number: bytes((172, 30, 9, number)))
hops = st.sets(droplets, max_size=3).map(lambda found: tuple(sorted(found)))
SHARED, IDENTITY = 1 << 24, bytes(range(16))
ROOM = 1450
vnis, ids = st.sampled_from([1, 2, SHARED]), st.integers(1, 2)


def prefix4(number: int) -> Prefix:
    return Prefix(bytes((10, 0, number, 0)), 24, bytes((10, 0, number, 1)))


def prefix6(number: int) -> Prefix:
    address = bytes.fromhex(f"fd0000100000000{number}") + bytes(8)
    return Prefix(address, 64, address[:-1] + b"\1")


def vpc(vni: int, dividers: tuple[bytes, ...]) -> Vpc:
    return Vpc(vni, dividers, wire_vni=1, identity=IDENTITY) if vni == SHARED else Vpc(vni, dividers)


APPLIANCES = bytes((2, 0, 0, 0, 9, 9)), bytes((2, 0, 0, 0, 9, 8))
ROUTED = ((bytes(4), 0), (bytes(16), 0), (bytes((10, 0, 0, 0)), 16), (bytes.fromhex("20010db8") + bytes(12), 32))


@st.composite
def networks(draw: st.DrawFn) -> Network:
    number = draw(ids)
    prefixes = draw(st.sampled_from([(prefix4(number),), (prefix4(number), prefix6(number)), (prefix6(number),)]))
    table = draw(
        st.lists(st.tuples(st.sampled_from(ROUTED), st.sampled_from(RouteAction)), unique_by=lambda one: one[0])
    )
    hops_to = st.builds(NextHop, st.sampled_from(APPLIANCES), droplets, st.sampled_from(Tunnel), ids)
    routes = tuple(
        Route(*to, action, draw(hops_to) if action is RouteAction.ENDPOINT else None) for to, action in sorted(table)
    )
    return Network(draw(vnis), number, prefixes, draw(hops), routes=routes)


@st.composite
def endpoints(draw: st.DrawFn) -> Endpoint:
    number, which = draw(ids), draw(st.integers(2, 5))
    v4 = prefix4(number).address[:3] + bytes((which,))
    v6 = prefix6(number).address[:15] + bytes((draw(st.integers(2, 5)),))
    addresses = draw(st.sampled_from([(v4,), (v4, v6), (v6,)]))
    mac = bytes((2, 0, 0, 0, 0, draw(st.integers(1, 5))))
    return Endpoint(draw(vnis), number, addresses, mac, draw(droplets), draw(st.sampled_from(Tunnel)))


@st.composite
def proxies(draw: st.DrawFn) -> Proxy:
    client, source = (replace(draw(endpoints()), host=OWN) for _ in range(2))
    targets = tuple(address[:-1] + b"\x09" for address in source.addresses)
    return Proxy(replace(client, mac=client.mac[:5] + b"\x06"), source, targets)


@st.composite
def peerings(draw: st.DrawFn) -> Peering:
    """To prefixes that are networks' too, and to others."""
    old, new = prefix4(draw(st.integers(2, 4))), prefix6(draw(st.integers(2, 4)))
    both = ((old.address, old.length), (new.address, new.length))
    return Peering(draw(vnis), draw(vnis), draw(st.sampled_from([both, both[:1], both[1:]])))


@st.composite
def policy_sets(draw: st.DrawFn) -> PolicySet:
    """Few classes and ranks, so that a change often fits beside what is there."""
    prefixes = st.sampled_from([(bytes(16), 0), (bytes(10) + b"\xff\xff\n\0\0\0", 104), (b"\xfd" + bytes(15), 8)])
    peers = draw(st.dictionaries(prefixes, st.integers(1, 3), max_size=3))
    groups = draw(st.dictionaries(st.integers(1, 3), st.integers(1, 3), max_size=2))
    places = st.sampled_from([(1, 0, 0, 0), (1, 6, 0, 8), (2, 6, 80, 24), (3, 17, 64, 18)])
    verdicts = draw(st.dictionaries(places, st.integers(0, 3), max_size=3))
    return PolicySet(
        draw(vnis),
        draw(st.integers(1, 2)),
        b"".join(sorted(PEER.pack(*place, number) for place, number in peers.items())),
        b"".join(sorted(GROUP.pack(*pair) for pair in groups.items())),
        b"".join(
            sorted(VERDICT.pack(n, p, q, bits, rank, rank & 1, rank + 9) for (n, p, q, bits), rank in verdicts.items())
        ),
    )


@st.composite
def network_acls(draw: st.DrawFn) -> NetworkAcl:
    """Of networks that may be there or not, by sets that may be."""
    number = draw(st.integers(1, 3))
    both = tuple((one.address, one.length) for one in (prefix4(number), prefix6(number)))
    sets = (draw(st.integers(0, 2)) for _ in range(4))
    return NetworkAcl(draw(vnis), draw(st.integers(1, 3)), draw(st.sampled_from([both, both[:1], both[1:]])), *sets)


changes: st.SearchStrategy[Change] = st.one_of(
    network_acls().map(PutNetworkAcl),
    st.builds(DeleteNetworkAcl, vnis, ids),
    policy_sets().map(lambda found: PutPolicySet(checked(found))),
    st.builds(DeletePolicySet, vnis, ids),
    peerings().map(PutPeering),
    st.builds(DeletePeering, vnis, vnis),
    droplets.map(lambda address: PutDroplet(Droplet(address))),
    droplets.map(DeleteDroplet),
    st.builds(lambda vni, dividers: PutVpc(vpc(vni, dividers)), vnis, hops),
    st.builds(PutGroupSet, vnis, ids, st.sampled_from([(1,), (1, 7)])),
    st.builds(DeleteGroupSet, vnis, ids),
    vnis.map(DeleteVpc),
    networks().map(PutNetwork),
    st.builds(DeleteNetwork, vnis, ids),
    endpoints().map(PutEndpoint),
    endpoints().map(lambda found: DeleteEndpoint(found.vni, found.addresses)),
    proxies().map(PutProxy),
    endpoints().map(lambda found: DeleteProxy(found.vni, found.addresses[0])),
)
START: list[Change] = [PutDroplet(Droplet(bytes((172, 30, 9, number)))) for number in range(1, 5)]
START += [PutVpc(Vpc(1, (OWN,))), PutNetwork(Network(1, 1, (prefix4(1), prefix6(1)), (OWN,)))]


class Bench:
    """A state with its maps, and interfaces that exist."""

    def __init__(self, start: Sequence[Change] = ()) -> None:
        self.maps = FakeMaps()
        self.state = State(OWN, LIMITS)
        self.interfaces: list[Found] = []
        for change in start:
            self.do(change)

    def do(self, *batch: Change) -> None:
        plan = Plan(self.state)
        try:
            for change in batch:
                plan.add(change)
            execute(self.maps, plan.ops)
        except MizarError:
            plan.journal.roll_back()
            raise
        plan.journal.commit()

    def attach(self, wanted: Wanted, ifindex: int) -> None:
        plan = Plan(self.state)
        try:
            plan.put_local(wanted, f"mz{ifindex}", ifindex)
            execute(self.maps, plan.ops)
        except MizarError:
            plan.journal.roll_back()
            raise
        plan.journal.commit()
        self.interfaces = [one for one in self.interfaces if one.uid != wanted.uid]
        mtu = wanted.mtu or ROOM - len(option_bytes(wanted, self.state.vpcs[wanted.endpoint.vni]))
        self.interfaces.append(Found(f"mz{ifindex}", ifindex, mtu, (ROOM,), wanted.uid, wanted.workload))

    def check(self) -> None:
        """What is in the maps is the state, and nothing else."""
        reading = read(self.maps, OWN, LIMITS, self.interfaces)
        assert reading.repairs == []
        assert reading.strays == []
        assert comparable(reading.state) == comparable(self.state)


def comparable(state: State) -> State:
    """Without the order of what is a set."""
    return replace(
        state,
        networks=dict(sorted(state.networks.items())),
        vpcs=dict(sorted(state.vpcs.items())),
        group_sets=dict(sorted(state.group_sets.items())),
        policy_sets=dict(sorted(state.policy_sets.items())),
        network_acls=dict(sorted(state.network_acls.items())),
    )


def attempt(bench: Bench, *batch: Change) -> bool:
    before, held = bench.maps.contents(), bench.state.copy()
    try:
        bench.do(*batch)
    except MizarError:
        assert bench.maps.contents() == before
        assert comparable(bench.state.copy()) == comparable(held)
        return False
    return True


@settings(max_examples=150, deadline=None)
@given(st.lists(st.lists(changes, max_size=4), max_size=12), st.booleans())
def test_maps_are_always_the_image_of_the_state(batches: list[list[Change]], prepared: bool) -> None:
    """After any sequence of batches, each taken whole or refused whole."""
    bench = Bench(START if prepared else ())
    for batch in batches:
        attempt(bench, *batch)
        bench.check()


@settings(max_examples=60, deadline=None)
@given(st.lists(changes, min_size=1, max_size=8))
def test_repeating_a_batch_changes_nothing(batch: list[Change]) -> None:
    """Idempotence: the second time no change counts and nothing is written, unless the batch takes back its own."""
    bench = Bench(START)
    deletes = any(type(change).__name__.startswith("Delete") for change in batch)
    if attempt(bench, *batch) and not deletes and len({type(change) for change in batch}) == len(batch):
        before = bench.maps.contents()
        plan = Plan(bench.state)
        assert sum(plan.add(change) for change in batch) == 0
        assert plan.ops == []
        assert bench.maps.contents() == before


@settings(max_examples=60, deadline=None)
@given(st.lists(changes, min_size=1, max_size=6), st.integers(0, 20))
def test_an_error_in_the_middle_is_undone(batch: list[Change], at: int) -> None:
    """The maps and the state are as before, whatever write failed."""
    bench = Bench(START)
    bench.maps.fail_at = at
    attempt(bench, *batch)
    bench.maps.fail_at = -1
    bench.check()


@settings(max_examples=100, deadline=None)
@given(st.lists(changes, min_size=1, max_size=6), st.integers(0, 20))
def test_a_death_in_the_middle_is_repaired(batch: list[Change], at: int) -> None:
    """A daemon that dies between two writes leaves maps that the next one makes consistent, by adding no tenant's."""
    bench = Bench(START)
    plan = Plan(bench.state)
    try:
        for change in batch:
            plan.add(change)
    except MizarError:
        return
    execute(bench.maps, plan.ops[:at])
    reading = read(bench.maps, OWN, LIMITS, [])
    execute(bench.maps, reading.repairs)
    again = read(bench.maps, OWN, LIMITS, [])
    assert again.repairs == []
    assert comparable(again.state) == comparable(reading.state)
    after = Bench()
    after.maps, after.state = bench.maps, again.state
    for change in START:
        attempt(after, change)
    after.check()


def test_an_identity_names_one_vpc_for_good() -> None:
    """Neither a second VPC takes it, nor does the first one change it; once it is gone, it is free."""
    bench = Bench(START)
    bench.do(PutVpc(vpc(SHARED, ())))
    with pytest.raises(ConflictError):
        bench.do(PutVpc(replace(vpc(SHARED, ()), vni=SHARED + 1)))
    with pytest.raises(ConflictError):
        bench.do(PutVpc(replace(vpc(SHARED, ()), identity=bytes(16))))
    with pytest.raises(ConflictError):
        bench.do(PutVpc(replace(vpc(SHARED, ()), wire_vni=2)))
    bench.do(DeleteVpc(SHARED), PutVpc(replace(vpc(SHARED, ()), vni=SHARED + 1)))
    bench.check()


WORKLOAD = InNamespace(NamespaceBy.NAME, "red", "eth0")
LOCAL = Wanted(
    "uid-1", Endpoint(1, 1, (bytes((10, 0, 1, 9)),), bytes((2, 0, 0, 0, 9, 9)), OWN, Tunnel.VXLAN), WORKLOAD, 0
)
MARKS = bytes.fromhex("0102 01 01 61626364")


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from([b"", MARKS, MARKS * 3]), st.sampled_from([0, 7]), st.integers(77, 78)), min_size=1
    )
)
def test_options_of_an_agent_come_and_go(ways: list[tuple[bytes, int, int]]) -> None:
    """Its entry never speaks of options that are not there."""
    bench = Bench(START)
    for options, group_set, ifindex in ways:
        bench.attach(replace(LOCAL, options=options, group_set=group_set), ifindex)
        bench.check()


@pytest.mark.parametrize("standby", [False, True])
def test_bypass_is_kept_and_can_be_changed(standby: bool) -> None:
    """The entries tell it, whatever else they say; the interface's size is then no wish of anybody's."""
    bench = Bench(START)
    for bypass in (True, False, True):
        bench.attach(replace(LOCAL, bypass=bypass, standby=standby), 77)
        bench.check()
    ((_, agent),) = bench.maps.agents.items()
    assert agent["flags"] == 1 + 2 * standby + 4
    assert all(row["flags"] == 1 + 4 for _, row in bench.maps.endpoints.items() if row["ifindex"])
    found = Found("mz77", 77, ROOM + 50, (ROOM,), "uid-1", WORKLOAD)
    wanted = read(bench.maps, OWN, LIMITS, [found]).state.locals["uid-1"].wanted
    assert wanted == replace(LOCAL, bypass=True, standby=standby)


BINDINGS = st.builds(Binding, st.integers(0, 2), st.integers(0, 2), st.just(False), st.just(False)).flatmap(
    lambda found: st.sampled_from(
        [found, found._replace(audit_ingress=bool(found.ingress)), found._replace(beside_egress=2 * bool(found.egress))]
    )
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.one_of(changes, policy_sets().map(PutPolicySet), BINDINGS), max_size=12), st.integers(-1, 40))
def test_a_policed_endpoint_is_judged_by_the_newest_rules_or_by_those_before(
    steps: list[Change | Binding], fail_at: int
) -> None:
    """Bound to other sets, and sets that change: the maps are the state's image; what is refused changes nothing."""
    bench = Bench(START)
    for step in steps:
        bench.maps.fail_at = fail_at
        if isinstance(step, Binding):
            before = bench.maps.contents()
            try:
                bench.attach(replace(LOCAL, policy=step), 77)
            except MizarError:
                assert bench.maps.contents() == before
        else:
            attempt(bench, step)
        bench.maps.fail_at = -1
        bench.check()
        for uid, judged in bench.state.judged.items():
            assert judged.since <= judged.generation
            assert bench.state.locals[uid].wanted.policy != Binding()


def test_only_an_endpoint_that_was_there_before_its_first_policy_has_a_time_of_grace() -> None:
    """It ends at a fixed time, whatever changes of the rules follow, and begins anew with the next first policy."""
    bench, policed = Bench(START), replace(LOCAL, policy=Binding(1, 0))
    bench.do(PutPolicySet(PolicySet(1, 1, b"", b"", b"")))

    def grace() -> int:
        ((_, record),) = bench.maps.endpoint_policies.used()
        return int(record["grace_until"])

    bench.attach(policed, 77)
    assert grace() == 0
    bench.attach(LOCAL, 77)
    bench.attach(policed, 77)
    first = grace()
    assert first > 0
    bench.do(PutPolicySet(PolicySet(1, 1, b"", b"", VERDICT.pack(0, 0, 0, 0, 0, 1, 7))))
    assert grace() == first
    bench.check()


def test_a_set_that_changes_row_by_row_keeps_its_number_and_another_does_not() -> None:
    """One more peer of a rule is written beside the others; another order of rules takes the place of the old as a
    whole."""
    one = PEER.pack(b"\xfd" + bytes(15), 128, 5)
    two = one + PEER.pack(b"\xfe" + bytes(15), 128, 5)
    allow, deny = VERDICT.pack(5, 0, 0, 0, 0, 1, 7), VERDICT.pack(5, 0, 0, 0, 0, 0, 8)
    bench = Bench(START)
    bench.do(PutPolicySet(PolicySet(1, 1, one, b"", allow)))
    bench.attach(replace(LOCAL, policy=Binding(1, 0)), 77)
    ((_, first),) = bench.maps.endpoint_policies.used()
    bench.do(PutPolicySet(PolicySet(1, 1, two, b"", allow)))
    ((_, second),) = bench.maps.endpoint_policies.used()
    bench.do(PutPolicySet(PolicySet(1, 1, two, b"", deny)))
    ((_, third),) = bench.maps.endpoint_policies.used()
    assert first["ingress"] == second["ingress"] != third["ingress"]
    assert first["since"] == second["since"] == third["since"] == first["generation"]
    assert first["generation"] < second["generation"] < third["generation"]
    assert len(list(bench.maps.policy_peers.items())) == 2
    assert {agent["flags"] & 64 for _, agent in bench.maps.agents.items()} == {64}
    bench.check()
    with pytest.raises(MizarError, match="in use by local endpoint uid-1"):
        bench.do(DeletePolicySet(1, 1))
    bench.attach(LOCAL, 77)
    bench.do(DeletePolicySet(1, 1))
    assert not any(
        map(bench.maps.contents().get, ("endpoint_policies", "policy_sets", "policy_peers", "policy_verdicts"))
    )
    with pytest.raises(MizarError, match="not known; put it first"):
        bench.attach(replace(LOCAL, policy=Binding(1, 0)), 77)


def test_a_network_is_judged_by_its_newest_rules_and_lets_go_of_them() -> None:
    """Other rules have another number, which its entries name from then on; the VPC is marked as long as it has any."""
    one = PEER.pack(b"\xfd" + bytes(15), 128, 5)
    allow, deny = VERDICT.pack(5, 0, 0, 0, 0, 1, 7), VERDICT.pack(5, 0, 0, 0, 0, 0, 8)
    prefix = (bytes((10, 0, 1, 0)), 24)
    bench = Bench(START)
    with pytest.raises(MizarError, match="not known; put it first"):
        bench.do(PutNetworkAcl(NetworkAcl(1, 1, (prefix,), ingress=1)))
    bench.do(PutPolicySet(PolicySet(1, 1, one, b"", allow)), PutNetworkAcl(NetworkAcl(1, 1, (prefix,), ingress=1)))
    bench.check()
    ((_, first),) = bench.maps.network_acls.items()
    assert list(bench.maps.acl_vpcs.used()) == [(bench.state.vpcs[1].slot, 1)]
    bench.do(PutPolicySet(PolicySet(1, 1, one, b"", deny)))
    ((_, second),) = bench.maps.network_acls.items()
    assert first["ingress"] != second["ingress"]
    bench.check()
    with pytest.raises(MizarError, match="in use by the ACL of network 1"):
        bench.do(DeletePolicySet(1, 1))
    with pytest.raises(MizarError, match="belongs to ACL of network 1"):
        bench.do(PutNetworkAcl(NetworkAcl(1, 2, (prefix,))))
    bench.do(DeleteNetworkAcl(1, 1), DeletePolicySet(1, 1))
    assert not any(map(bench.maps.contents().get, ("network_acls", "acl_vpcs", "policy_sets", "policy_peers")))
    bench.check()


SOURCES = Route(bytes(4), 0, RouteAction.VPC), Route(bytes((10, 9, 0, 0)), 16, RouteAction.BLACKHOLE)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.one_of(changes, st.tuples(st.booleans(), st.integers(0, 2), st.booleans())), max_size=8))
def test_an_appliance_is_known_by_its_mac(steps: list[Change | tuple[bool, int, bool]]) -> None:
    """It forwards or not, from more or fewer sources, lives here or stands by, while routes lead to it or not."""
    bench = Bench(START)
    for step in steps:
        if isinstance(step, tuple):
            forwarding, sources, standby = step
            allowed = SOURCES[:sources] if forwarding else ()
            wanted = replace(LOCAL, forwarding=forwarding, sources=allowed, standby=standby)
            with contextlib.suppress(MizarError):
                bench.attach(wanted, 77)
        else:
            attempt(bench, step)
        bench.check()


@settings(max_examples=80, deadline=None)
@given(st.lists(changes, max_size=6))
def test_local_endpoints_follow_every_change(batch: list[Change]) -> None:
    """Roles, gateways and prefixes change under a local endpoint; its agent's entry is always the state's image."""
    bench = Bench(START)
    bench.attach(LOCAL, 77)
    for change in batch:
        attempt(bench, change)
        bench.check()
    assert bench.state.locals["uid-1"].wanted == LOCAL


@pytest.mark.parametrize("at", range(4))
def test_local_endpoint_half_made_or_half_gone(at: int) -> None:
    """The agent's entry decides: with it the endpoint is completed, without it everything else goes."""
    bench = Bench(START)
    plan = Plan(bench.state)
    plan.put_local(LOCAL, "mz77", 77)
    execute(bench.maps, plan.ops[:at])
    found = Found("mz77", 77, ROOM, (ROOM,), "uid-1", WORKLOAD)
    committed = any(op.table == "agents" for op in plan.ops[:at])
    reading = read(bench.maps, OWN, LIMITS, [found])
    assert (list(reading.state.locals) == ["uid-1"]) == committed
    assert (reading.strays == [found]) == (not committed)
    execute(bench.maps, reading.repairs)
    assert read(bench.maps, OWN, LIMITS, [found]).repairs == []
    gone = read(bench.maps, OWN, LIMITS, [])
    execute(bench.maps, gone.repairs)
    assert not bench.maps.contents()["agents"]
    assert not bench.maps.contents()["endpoints"]


def test_endpoint_that_moves_here_replaces_the_remote_one() -> None:
    """What is local is taken by no other endpoint; the same one, with another host, stands by here from then on."""
    bench = Bench(START)
    remote = replace(LOCAL.endpoint, host=bytes((172, 30, 9, 2)))
    bench.do(PutEndpoint(remote))
    bench.attach(LOCAL, 77)
    bench.check()
    assert list(bench.state.remotes()) == []
    with pytest.raises(MizarError, match="taken by local endpoint uid-1"):
        bench.do(PutEndpoint(replace(remote, mac=bytes((2, 0, 0, 0, 0, 99)))))
    with pytest.raises(MizarError, match="end it by Detach"):
        bench.do(DeleteEndpoint(1, remote.addresses))
    bench.do(PutEndpoint(remote))
    bench.check()
    assert list(bench.state.remotes()) == [remote]
    assert bench.state.locals["uid-1"].wanted.standby


def test_undo_that_fails_is_told() -> None:
    """The caller learns that the tables must be read anew."""
    bench = Bench(START)

    class Dead(FakeMaps):
        def written(self) -> None:
            self.fail_at -= 1
            if self.fail_at < 0:
                raise TemporaryError("no memory")

    dead = Dead()
    dead.tables = bench.maps.tables
    for table in dead.tables.values():
        table.maps = dead
    dead.fail_at = 1
    bench.maps = dead
    with pytest.raises(MizarError, match="taking back what was done before failed as well"):
        bench.do(PutVpc(Vpc(2, (OWN,))))


def test_undo_goes_backwards() -> None:
    """An entry that is written twice in a batch gets back what it had before the first time."""
    writes = 6  # VPC 1 twice (flags of its network, hop set, entry), then droplets: fails somewhere after both
    two, three = bytes((172, 30, 9, 2)), bytes((172, 30, 9, 3))
    for at in range(2 * writes):
        bench = Bench(START)
        bench.maps.fail_at = at
        attempt(bench, PutVpc(Vpc(1, (two,))), PutDroplet(Droplet(bytes((172, 30, 9, 7)))), PutVpc(Vpc(1, (three,))))
        bench.maps.fail_at = -1
        bench.check()
