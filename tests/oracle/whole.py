# SPDX-License-Identifier: Apache-2.0
"""Fleets with everything that the planner knows, on any substrate, and what their endpoints may send.

Five VPCs, as far as they are drawn: two with equal addresses, one more on the VNI of the first, told by its identity,
and two that may be peered. Endpoints anywhere, with groups, options and routes; scaled endpoints, and proxied ones into
any VPC, to endpoints, scaled endpoints and one another.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from hypothesis import strategies as st

from mizar.model.addresses import SERVICE_MAC
from mizar.oracle.policies import NetworkAcl
from mizar.oracle.tables import Droplet
from mizar.planner.entries import PrefixEntry, RouteEntry
from mizar.planner.facts import (
    DropletFact,
    EndpointFact,
    MemberFact,
    NetworkFact,
    PeeringFact,
    ProxyFact,
    ServiceFact,
    VpcFact,
)
from tests.oracle import build
from tests.oracle.build import option
from tests.oracle.draws import Draw
from tests.oracle.droplets import mostly, packed
from tests.oracle.packets import mangled
from tests.oracle.planned import DAEMONS, NAMES, PEERED_NUMBERS, PEERED_VNIS, VNIS, Planned, hosts, members, plan, side
from tests.oracle.policies import network_acls, policies, policy_flows
from tests.oracle.substrates import SUBSTRATES
from tests.oracle.traffic import datagram, echo_request
from tests.unit.planner.world import AROUND, World, droplet, endpoint, network

TWIN = VpcFact(0x1000005, (), VNIS[0], bytes(range(1, 17)))
"""On the first VPC's VNI."""
PEERS = PEERED_VNIS[1:]
LINK, SOURCE, SERVED = 100, 110, 120
"""Places of proxied endpoints, of what stands for their clients, and of scaled endpoints in their networks."""
ALONE = {"d3": (True, False), "d4": (False, True)}
"""On the substrate of both families: what these have of IPv4 and IPv6. All others have both."""


def droplet_on(name: str, substrate: str) -> DropletFact:
    """A droplet of the plan with the addresses that it has on a substrate."""
    fact = droplet(name)
    six = packed(f"2001:db8::{0 if fact.daemon else 1}{int(name[1:]):02x}")
    has4, has6 = {"ipv4": (True, False), "ipv6": (False, True)}.get(substrate) or ALONE.get(name, (True, True))
    if not has4:
        return replace(fact, address=six)
    return replace(fact, second=six) if has6 else fact


@st.composite
def whole_fleets(draw: Draw, substrate: str = "", kinds: int = 5) -> Planned:
    """Any of them; `substrate`: this one. `kinds`: how many of the VPCs at most."""
    world = World()
    on = substrate or draw(st.sampled_from(SUBSTRATES))
    for name in NAMES:
        world.droplets[name] = droplet_on(name, on)
    draw_vpcs(draw, world, kinds)
    for vni in list(world.vpcs):
        draw_endpoints(draw, world, vni)
    for vni in list(world.vpcs):
        if draw(st.booleans()):
            draw_service(draw, world, vni)
    for place in range(draw(st.integers(0, 3))):
        draw_link(draw, world, place)
    return plan(world)


@st.composite
def policed(draw: Draw, planned: Planned) -> Planned:
    """The same fleet, where some endpoints of some droplets have any policies, and some networks any ACLs."""
    addresses = [one for fact in planned.world.endpoints.values() for one in fact.addresses]
    prefixes = [(one, 8 * len(one)) for one in addresses] + [(bytes(4), 0), (bytes(16), 0)]
    acls = draw(network_acls(edges(planned), prefixes))
    for name, here in planned.fleet.droplets.items():
        vni_of = {agent.uid: agent.vni for agent in here.agents.values()}
        found = draw(policies(vni_of, prefixes))
        flows = draw(policy_flows({uid: vni_of[uid] for uid in found}, addresses))
        planned.fleet.droplets[name] = ruled(replace(here, policies=found, policy_flows=flows), acls)
    return planned


def edges(planned: Planned) -> list[tuple[int, bytes, int, int]]:
    """The prefixes of all networks: VNI, prefix, its length, the network."""
    networks = planned.world.networks.items()
    return [(vni, one.address, one.length, number) for (vni, number), fact in networks for one in fact.prefixes]


def ruled(here: Droplet, acls: Mapping[tuple[int, bytes, int], NetworkAcl]) -> Droplet:
    """A droplet with the ACLs of the VPCs that it knows."""
    held = {key: acl for key, acl in acls.items() if key[0] in here.vpcs}
    return replace(here, network_acls=held, acl_vpcs=frozenset(vni for vni, _, _ in held))


def draw_vpcs(draw: Draw, world: World, kinds: int) -> None:
    """VPCs and their networks."""
    rows: list[tuple[VpcFact, tuple[int, ...]]] = [(VpcFact(vni, ()), (1, 2, AROUND)) for vni in VNIS]
    rows.append((TWIN, (1, 2, AROUND)))
    rows += [(VpcFact(vni, ()), PEERED_NUMBERS[place]) for place, vni in enumerate(PEERED_VNIS) if place]
    chosen = draw(st.lists(st.sampled_from(range(len(rows))), min_size=2, max_size=kinds, unique=True))
    for fact, numbers in (rows[number] for number in sorted(chosen)):
        world.vpcs[fact.vni] = replace(fact, dividers=draw(members))
        for number in numbers[: draw(st.integers(1, len(numbers)))]:
            made = network(fact.vni, number, draw(members))
            world.networks[fact.vni, number] = replace(made, routes=draw(tables_of(made)))
    if all(vni in world.vpcs for vni in PEERS) and mostly(draw):
        peering = PeeringFact(side(1), side(2))
        world.peerings[peering.vnis] = peering


@st.composite
def tables_of(draw: Draw, fact: NetworkFact) -> tuple[RouteEntry, ...]:
    """Mostly none; else some prefixes, each to somewhere."""
    if mostly(draw):
        return ()
    zero = [PrefixEntry(bytes(len(one.address)), 0, one.gateway) for one in fact.prefixes]
    found = draw(st.lists(st.sampled_from([*zero, *fact.prefixes]), max_size=3, unique=True))
    return tuple(sorted(RouteEntry(one.address, one.length, draw(st.sampled_from([1, 1, 2, 3]))) for one in found))


def draw_endpoints(draw: Draw, world: World, vni: int) -> None:
    """Simple endpoints of a VPC, somewhere; some are about to move."""
    for _, number in [key for key in world.networks if key[0] == vni]:
        for place, host in enumerate(draw(st.lists(hosts, min_size=1, max_size=3))):
            fact = endpoint(vni, number, place, host, draw(st.sampled_from([1, 1, 2])))
            both = fact.addresses
            fact = replace(fact, addresses=draw(st.sampled_from([both, both, both[:1], both[1:]])))
            if draw(st.sampled_from([False, False, True])):
                groups = draw(st.sampled_from([(7,), (7, 9)]))
                fact = replace(fact, groups=groups, group_set=len(groups))
            if draw(st.sampled_from([False, False, True])):
                fact = replace(fact, options=option(0x0102, 1, draw(st.sampled_from([0, 1, 5]))))
            if fact.workload and draw(st.sampled_from([False] * 5 + [True])):
                fact = replace(fact, standby=draw(st.sampled_from([name for name in DAEMONS if name != host])))
            world.endpoints[fact.uid] = fact


def draw_service(draw: Draw, world: World, vni: int) -> None:
    """A scaled endpoint of a VPC, whose members may be any of its endpoints, in any state."""
    number = draw(st.sampled_from([number for of, number in world.networks if of == vni]))
    able = [uid for uid, fact in world.endpoints.items() if fact.vni == vni]
    uids = draw(st.lists(st.sampled_from(able), max_size=3, unique=True))
    states = st.sampled_from([1, 1, 1, 2, 3, 4])
    chosen = tuple(MemberFact(uid, draw(st.sampled_from([1, 1, 3])), draw(states)) for uid in uids)
    addresses = endpoint(vni, number, SERVED, "d1").addresses
    world.services[f"service-{vni}"] = ServiceFact(
        f"service-{vni}", vni, number, addresses, draw(st.booleans()), chosen
    )


def draw_link(draw: Draw, world: World, place: int) -> None:
    """A proxied endpoint of one VPC, whose target is in another, or in the same."""
    client, server = draw(st.sampled_from(sorted(world.vpcs))), draw(st.sampled_from(sorted(world.vpcs)))
    targets = [
        fact.addresses for fact in world.endpoints.values() if fact.vni == server and not _stands_for_clients(fact)
    ]
    targets += [fact.addresses for fact in world.services.values() if fact.vni == server]
    target = draw(st.sampled_from(targets))
    carrier = draw(st.sampled_from(DAEMONS))
    here = draw(st.sampled_from([number for of, number in world.networks if of == client]))
    there = draw(st.sampled_from([number for of, number in world.networks if of == server]))
    source = replace(endpoint(server, there, SOURCE + place, carrier), workload=None, carried=True)
    ends = {len(one): one for one in target}
    source = replace(source, addresses=tuple(one for one in source.addresses if len(one) in ends))
    link = replace(endpoint(client, here, LINK + place, carrier), workload=None, carried=True)
    proxy = ProxyFact(
        server, there, source.addresses, source.mac, source.tunnel, tuple(ends[len(one)] for one in source.addresses)
    )
    world.endpoints |= {source.uid: source, link.uid: replace(link, proxy=proxy)}


def _stands_for_clients(fact: EndpointFact) -> bool:
    """Such an endpoint is nobody's target."""
    return SOURCE <= int(fact.uid.split("-")[2]) < SERVED


def senders(planned: Planned) -> list[EndpointFact]:
    """Endpoints that send of their own: those of a daemon, and those behind tunnel ends without one."""
    return [fact for fact in planned.world.endpoints.values() if not fact.carried]


@st.composite
def anything(draw: Draw, planned: Planned, source: EndpointFact) -> bytes:
    """A frame of an endpoint: any transport, to any address that anybody has, sometimes with bytes changed."""
    here = draw(st.sampled_from(source.addresses))
    world = planned.world
    known = [a for each in world.endpoints.values() for a in each.addresses if len(a) == len(here)]
    known += [a for each in world.services.values() for a in each.addresses if len(a) == len(here)]
    to = draw(st.sampled_from(known))
    what = draw(st.sampled_from(["udp", "tcp", "tcp", "echo", "tunnel"]))
    ports = draw(st.sampled_from([4002, 443, 40000])), draw(st.sampled_from([4002, 443]))
    if what == "echo":
        frame = echo_request(source.mac, here, to)
    elif what == "tcp":
        segment = build.tcp(*ports, draw(st.sampled_from([2, 2, 0x10, 0x12, 4, 0x11])))
        packet = build.ipv4(here, to, 6, segment) if len(here) == 4 else build.ipv6(here, to, 6, segment)
        frame = build.ethernet(build.ROUTER, source.mac, 0x0800 if len(here) == 4 else 0x86DD, packet)
    else:
        frame = datagram(source.mac, here, to, ports[0])
    if what == "tunnel":
        wire = draw(st.sampled_from(sorted({fact.wire_vni or fact.vni for fact in world.vpcs.values()})))
        payload = build.tunnel(
            draw(st.sampled_from(["geneve", "vxlan"])), frame, src=here[:4], dst=here[:4], src_mac=source.mac,
            dst_mac=build.ROUTER, vni=wire,
        )[42:]  # fmt: skip
        frame = datagram(source.mac, here, to, 6081, payload)
    if draw(st.sampled_from([False] * 9 + [True])):
        frame = SERVICE_MAC + frame[6:]
    return bytes(draw(mangled(st.just(frame))))
