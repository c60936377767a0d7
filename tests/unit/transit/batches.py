# SPDX-License-Identifier: Apache-2.0
"""Any change of a droplet's tables, and a state whose maps follow it: what tests of batches are made of."""

from collections.abc import Sequence
from dataclasses import replace

from hypothesis import strategies as st

from mizar.model.errors import MizarError
from mizar.model.policy_rows import GROUP, PEER, VERDICT
from mizar.transit.batch import Plan
from mizar.transit.execute import execute
from mizar.transit.marks import option_bytes
from mizar.transit.policy_values import (
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


WORKLOAD = InNamespace(NamespaceBy.NAME, "red", "eth0")
LOCAL = Wanted(
    "uid-1", Endpoint(1, 1, (bytes((10, 0, 1, 9)),), bytes((2, 0, 0, 0, 9, 9)), OWN, Tunnel.VXLAN), WORKLOAD, 0
)
