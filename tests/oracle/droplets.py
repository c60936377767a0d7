# SPDX-License-Identifier: Apache-2.0
"""Droplets for the differential tests: any tables, sound or not, over one small plan of addresses.

Three VPCs have equal addresses. Each may have the networks 1 and 2 beside one another and 3, which holds both: the
longest prefix wins. The endpoint under test sends at interface 1, the loopback of a test run.
"""

from __future__ import annotations

import struct
from dataclasses import replace
from ipaddress import ip_address

from hypothesis import strategies as st

from mizar.oracle.tables import PLACES, Agent, Droplet, Endpoint, HopSet, Leg, Network, Service, Tunnel, Vpc
from tests.oracle.build import option, ours
from tests.oracle.draws import Draw
from tests.oracle.policies import network_acls, policies, policy_flows
from tests.oracle.services import SERVICE_HOST, flow_tables, listener_table, services


def packed(text: str) -> bytes:
    return ip_address(text).packed


def mac_of(*numbers: int) -> bytes:
    return b"\x02\0\0\0" + bytes(numbers)


ME, BOUNCER, DIVIDER, HOST, UNRESOLVED, UNLISTED, STRANGER = (
    packed(f"192.0.2.{number}") for number in (1, 2, 3, 4, 5, 6, 99)
)
MEMBERS = tuple(packed(f"192.0.2.{16 + place}") for place in range(PLACES))
KNOWN: dict[bytes, bytes | None] = {
    address: mac_of(2, address[-1]) for address in (ME, BOUNCER, DIVIDER, HOST, *MEMBERS)
}
KNOWN[UNRESOLVED] = None
MY_MAC = mac_of(2, 1)

RED, BLUE, GONE = 0x0A0B0C, 0x0A0B0D, 0x0A0B0E
GREEN, TENANT, VPC_ID = 0x1000005, 0x0102030405060708, 9
IDENTITY = struct.pack("!QQ", TENANT, VPC_ID)
"""GREEN is a third VPC, on RED's VNI."""
VNIS = (RED, BLUE, GREEN)
NUMBERS = (1, 2, 3)
GATEWAY, HOSTS, GHOST = 1, (11, 12, 21), 99
APPLIANCES = mac_of(9, 1), mac_of(1, HOSTS[0])
"""MACs: of one that is nothing else, and of one that may be the sender."""


def address(family: int, number: int, host: int) -> bytes:
    """An address of a network; those of network 3 are in no other."""
    part = 7 if number == 3 else number
    return packed(f"10.0.{part}.{host}") if family == 4 else packed(f"fd00:10:0:{part}::{host:x}")


def prefix(family: int, number: int) -> tuple[bytes, int]:
    """Prefix and length of a network."""
    if number == 3:
        return (packed("10.0.0.0"), 16) if family == 4 else (packed("fd00:10::"), 32)
    return (packed(f"10.0.{number}.0"), 24) if family == 4 else (packed(f"fd00:10:0:{number}::"), 64)


def even(*members: bytes | None) -> HopSet:
    return tuple(members[place % len(members)] for place in range(PLACES))


HOP_SETS: tuple[HopSet, ...] = (
    *(even(BOUNCER), MEMBERS, even(HOST, DIVIDER, BOUNCER)) * 3,
    even(ME), (), even(None), even(UNRESOLVED), even(UNLISTED), even(ME, HOST, DIVIDER),
    even(UNRESOLVED, BOUNCER), (None, *MEMBERS[1:]),
)  # fmt: skip

hop_sets = st.sampled_from(HOP_SETS)
families = st.sampled_from([(4, 6), (4,), (6,)])
tunnels = st.sampled_from([Tunnel.GENEVE, Tunnel.VXLAN])
flags = st.tuples(st.booleans(), st.booleans())
sets = st.fixed_dictionaries({(vni, number): hop_sets for vni in VNIS for number in NUMBERS})
peers = st.sampled_from([0, 0, 0, 0, 0, RED, BLUE, GONE])
networks = st.lists(st.tuples(st.sampled_from(VNIS), st.sampled_from(NUMBERS), families, flags, peers), max_size=8)
homes = st.sampled_from([None, HOST, None, BOUNCER, None, HOST, DIVIDER, UNRESOLVED, ME, UNLISTED])
endpoints = st.lists(
    st.tuples(st.sampled_from(VNIS), st.sampled_from(NUMBERS), st.sampled_from(HOSTS), homes, families, tunnels),
    min_size=1,
    max_size=10,
)
vpcs = st.fixed_dictionaries({vni: st.builds(Vpc, hop_sets, st.booleans()) for vni in VNIS})
learning = st.sampled_from([(False, False)] * 4 + [(True, False)] * 3 + [(True, True)])
downs = st.sampled_from([(), (), (BOUNCER,), (HOST, DIVIDER), MEMBERS[1::3], MEMBERS])
endpoint_options = st.sampled_from(
    [b"", b"", ours(0x02, bytes([0, 0, 0, 7, 0, 0, 0, 3])), option(0x0102, 1, 4), b"\x01\x02\x01\x00" * 63]
)
path_mtus = st.sampled_from([0, 1500, 1500, 60, 100, 180, 1280, 9000])
lengths = st.sampled_from([None, None, None, 0, 1, 31, 32])


routes = st.dictionaries(
    st.sampled_from([
        *((packed(zero), 0) for zero in ("0.0.0.0", "::")),
        *(prefix(family, number) for family in (4, 6) for number in NUMBERS),
        *((address(family, 1, HOSTS[1]), 32 if family == 4 else 128) for family in (4, 6)),
    ]),
    st.sampled_from(["vpc", "vpc", "blackhole", "substrate", "substrate", *APPLIANCES]),
    max_size=3,
)  # fmt: skip
sources = st.dictionaries(
    st.sampled_from([(packed("0.0.0.0"), 0), (packed("::"), 0), *(prefix(family, 3) for family in (4, 6))]),
    st.sampled_from(["vpc", "vpc", "vpc", "blackhole"]),
    max_size=4,
)


appliances = st.dictionaries(
    st.tuples(st.sampled_from(VNIS), st.sampled_from(APPLIANCES)),
    st.builds(
        lambda number, home, tunnel: Endpoint(
            number, APPLIANCES[0], home or ME, tunnel, 0 if home else 7, "" if home else "fw"
        ),
        st.sampled_from(NUMBERS), homes, tunnels,
    ),
    max_size=3,
)  # fmt: skip


group_sets = st.dictionaries(
    st.tuples(st.sampled_from(VNIS), st.sampled_from([7, 0xFFFF])), st.sampled_from([(3,), (3, 9)]), max_size=2
)


PEER_ADDRESSES = [address(family, number, host) for family in (4, 6) for number in (1, 2) for host in (*HOSTS, 31)]
PEERS = [
    *((packed(zero), 0) for zero in ("0.0.0.0", "::")),
    *(prefix(family, number) for family in (4, 6) for number in NUMBERS),
    *((one, 8 * len(one)) for one in PEER_ADDRESSES),
]
"""Prefixes that policies may name."""
ACL_PLACES = [(vni, *prefix(family, number), number) for vni in VNIS for family in (4, 6) for number in NUMBERS]


def mostly(draw: Draw) -> bool:
    """Nine times of ten."""
    return bool(draw(st.sampled_from([True] * 9 + [False])))


@st.composite
def agents(draw: Draw, bouncers: dict[tuple[int, int], HopSet]) -> Agent:
    """The agent of an endpoint; its network's prefix may be anything."""
    vni, number, host = draw(st.sampled_from(VNIS)), draw(st.sampled_from(NUMBERS)), draw(st.sampled_from(HOSTS))
    bounced, routed = draw(flags)
    legs: dict[int, Leg] = {}
    for family in draw(families):
        length = draw(lengths)
        known = prefix(family, number)[1] if length is None else length * (1 if family == 4 else 4)
        legs[family] = Leg(address(family, number, host), address(family, number, GATEWAY), known)
    raw, needs_identity = draw(endpoint_options), vni == GREEN
    return Agent(
        uid_of(vni, number, host), vni, number, mac_of(number, host), draw(tunnels), bouncers[vni, number],
        bounced, routed, legs.get(4), legs.get(6), RED if needs_identity else vni,
        (ours(0x83, IDENTITY) + raw)[:252] if needs_identity else raw, draw(st.sampled_from([0, 7, 0xFFFF])),
        needs_identity, routes=draw(routes), forwarding=draw(st.sampled_from([True, False, False])),
        sources=draw(sources), through_divider=not mostly(draw),
    )  # fmt: skip


def uid_of(vni: int, number: int, host: int) -> str:
    return f"{vni:x}-{number}-{host}"


@st.composite
def droplets(draw: Draw) -> Droplet:
    """A droplet in any state."""
    bouncers = draw(sets)
    nets, ends = {}, {}
    for vni, number, present, (bounced, routed), peer in draw(networks):
        for family in present:
            gateway = address(family, number, GATEWAY)
            place = Network(number, gateway, bouncers[vni, number], bounced, routed, peer)
            nets[vni, *prefix(family, number)] = place
    for vni, number, host, home, present, tunnel in draw(endpoints):
        ifindex = 0 if home else 100 * (1 + VNIS.index(vni)) + 10 * number + HOSTS.index(host)
        uid = "" if home else uid_of(vni, number, host)
        learned, gone = draw(learning) if home else (False, False)
        row = Endpoint(number, mac_of(number, host), home or ME, tunnel, ifindex, uid, learned, gone)
        row = replace(row, bypass=not home and (number + host) % 2 == 0)
        for family in present:
            ends[vni, address(family, number, host)] = row
    known = draw(vpcs)
    if mostly(draw):
        sender = {1: draw(agents(bouncers))}
    else:
        sender, known = {}, dict(list(known.items())[: draw(st.sampled_from([0, 1, 2]))])
    identities = {(RED, TENANT, VPC_ID): GREEN} if mostly(draw) else {}
    mtus = {to: draw(path_mtus) for to in KNOWN}
    down = frozenset(draw(downs))
    scaled: dict[tuple[int, bytes], Service] = {}
    for vni in draw(st.lists(st.sampled_from(VNIS), max_size=2, unique=True)):
        scaled |= draw(scaled_endpoints(vni, ends, sender, bouncers))
    flows = draw(flow_tables(scaled, sender.get(1)))
    listeners = listener_table(scaled)
    link = mostly(draw)
    vni_of = {row.uid: vni for (vni, _), row in ends.items() if row.ifindex}
    vni_of |= {row.uid: row.vni for row in sender.values()}
    policed, ruled = draw(policies(vni_of, PEERS)), draw(network_acls(ACL_PLACES, PEERS))
    return Droplet(
        ME, MY_MAC, KNOWN, known, nets, ends, sender, down, identities=identities, mtus=mtus, stack_link=link,
        flows=flows,
        listeners=listeners,
        foreign=down,
        group_sets=draw(group_sets),
        appliances=draw(appliances),
        policies=policed,
        network_acls=ruled,
        acl_vpcs=frozenset({vni for vni, _, _ in ruled} - set(draw(st.sampled_from([(), (), (), VNIS[:1]])))),
        policy_flows=draw(policy_flows({uid: vni_of[uid] for uid in policed}, PEER_ADDRESSES)),
    )  # fmt: skip


@st.composite
def scaled_endpoints(
    draw: Draw,
    vni: int,
    ends: dict[tuple[int, bytes], Endpoint],
    sender: dict[int, Agent],
    bouncers: dict[tuple[int, int], HopSet],
) -> dict[tuple[int, bytes], Service]:
    """A service of a VPC, put into `ends` under its addresses; the agents of its members here come to `sender`."""
    number = draw(st.sampled_from(NUMBERS))
    rows = {
        200 * NUMBERS.index(row.network) + at[-1]: (at, row)
        for (of, at), row in ends.items()
        if of == vni and row.service is None and (row.ifindex or row.host != ME)
    }
    own = sender.get(1)
    of_vpc = own if own is not None and own.vni == vni else None
    service = draw(services({name: row for name, (_, row) in rows.items()}, ME, of_vpc))
    for member in service.members:
        if member.endpoint.ifindex == 1 and of_vpc is not None:
            sender[1] = replace(of_vpc, member=True)
        elif member.endpoint.ifindex and mostly(draw):
            agent = agent_of(vni, member.endpoint, draw(families))
            sender[member.endpoint.ifindex] = replace(agent, bouncers=bouncers[vni, agent.network])
    row = Endpoint(number, bytes(6), b"", draw(tunnels), service=service)
    found = {(vni, address(family, number, SERVICE_HOST)): service for family in (4, 6)}
    ends.update(dict.fromkeys(found, row))
    return found


def agent_of(vni: int, endpoint: Endpoint, present: tuple[int, ...]) -> Agent:
    """The agent of an endpoint of this droplet, which matters to services alone: its addresses."""
    host = endpoint.mac[-1]
    legs = {
        family: Leg(address(family, endpoint.network, host), address(family, endpoint.network, GATEWAY), 24)
        for family in present
    }
    return Agent(endpoint.uid, vni, endpoint.network, endpoint.mac, ipv4=legs.get(4), ipv6=legs.get(6), member=True)
