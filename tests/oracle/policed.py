# SPDX-License-Identifier: Apache-2.0
"""A droplet whose endpoints are policed, and what they send and are sent, for test_policed.py.

Hosts 11 (which sends, at interface 1) and 12 of RED live here, 21 and 22 elsewhere, and 31 is a service of 11 and 12.
Few addresses and ports, and packets that come again, so that they meet flows; now and then the policies change.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from hypothesis import strategies as st

from mizar.oracle.policies import EndpointPolicy, PolicyFlows, PolicySet
from mizar.oracle.tables import PLACES_OF_SERVICE, Agent, Droplet, Endpoint, Flows, Leg, Member, Network, Service, Vpc
from tests.oracle import build
from tests.oracle.differential import Arrival, check
from tests.oracle.draws import Draw
from tests.oracle.droplets import GATEWAY, HOST, KNOWN, ME, MY_MAC, PEERS, RED, address, even, mac_of, mostly, prefix
from tests.oracle.policies import endpoint_policies
from tests.oracle.real import RealDroplet

HERE, THERE, SERVED = {11: 1, 12: 300}, (21, 22), 31
GROUP_SETS = (0, 7, 7, 2)
PORTS = (80, 4002)
FLAGS = (0x02, 0x10, 0x12, 0x11, 0x04, 0x10, 0x08)


@dataclass(frozen=True)
class Change:
    """The policies of the droplet are other ones."""

    policies: dict[str, EndpointPolicy]


@dataclass(frozen=True)
class Again:
    """One of the packets before comes once more: the last, the one before that, and so on."""

    back: int


Event = Arrival | Change | Again


CLOSED = EndpointPolicy(PolicySet(), PolicySet(), since=1)


def leg(family: int, host: int) -> Leg:
    return Leg(address(family, 1, host), address(family, 1, GATEWAY), prefix(family, 1)[1])


@st.composite
def policed_droplets(draw: Draw) -> Droplet:
    """Its endpoints' policies, as far as they have some, and the room that they have for flows."""
    uids = {host: f"e{host}" for host in HERE}
    served = draw(st.sampled_from([(), (), (), (11,), (11, 12)]))
    agents = {
        ifindex: Agent(
            uids[host], RED, 1, mac_of(1, host), bouncers=even(ME), bounced_here=True, ipv4=leg(4, host),
            ipv6=leg(6, host), group_set=draw(st.sampled_from(GROUP_SETS)), member=host in served,
        )
        for host, ifindex in HERE.items()
    }  # fmt: skip
    rows = {host: Endpoint(1, mac_of(1, host), ME, ifindex=HERE[host], uid=uids[host]) for host in HERE}
    rows |= {host: Endpoint(1, mac_of(1, host), HOST) for host in THERE}
    service = Service(
        tuple(Member(rows[host]) for host in served),
        tuple(place % len(served) if served else -1 for place in range(PLACES_OF_SERVICE)),
    )
    rows[SERVED] = Endpoint(1, bytes(6), b"", service=service)
    policies = draw(changes)
    network = {family: Network(1, leg(family, 1).gateway, even(ME), bounced_here=True) for family in (4, 6)}
    return Droplet(
        ME, MY_MAC, KNOWN, {RED: Vpc(even(HOST))},
        {(RED, *prefix(family, 1)): network[family] for family in network},
        {(RED, address(family, 1, host)): row for family in (4, 6) for host, row in rows.items()},
        agents,
        flows=Flows({RED: 1000}),
        policies=policies.policies,
        policy_flows=PolicyFlows({RED: draw(st.sampled_from([1000, 1000, 1000, 2]))}),
    )  # fmt: skip


@st.composite
def some_policies(draw: Draw) -> Change:
    """Of both endpoints here, mostly; sometimes nothing is allowed."""
    any_policies = st.one_of(endpoint_policies(PEERS), endpoint_policies(PEERS), st.just(CLOSED))
    return Change({f"e{host}": draw(any_policies) for host in HERE if mostly(draw)})


changes = some_policies()


@st.composite
def transports(draw: Draw, family: int, src: bytes, dst: bytes, depth: int = 0) -> tuple[int, bytes]:
    """Protocol and bytes, of few ports."""
    what = draw(st.sampled_from(["tcp", "tcp", "udp", "echo", "error", "sctp", "other", "message", "short"]))
    own, other = draw(st.permutations(PORTS))
    icmp = 1 if family == 4 else 58
    if what == "tcp":
        return 6, build.tcp(own, other, draw(st.sampled_from(FLAGS)))
    if what == "udp":
        return 17, build.udp(own, other, b"mizar!")
    if what == "echo":
        kind = draw(st.sampled_from([8, 0] if family == 4 else [128, 129]))
        return icmp, build.echo(kind, 0, b"mizar!")
    if what == "message":
        return icmp, build.echo(draw(st.sampled_from([13, 9, 5] if family == 4 else [139, 127, 100])), 0, b"mizar!")
    if what == "sctp":
        return 132, build.udp(own, other, bytes(4))
    if what == "short":
        return draw(st.sampled_from([6, 17, icmp])), bytes(8) if draw(st.booleans()) else bytes(12)
    if what == "other" or depth:
        return draw(st.sampled_from([50, 47])), bytes(16)
    # About what the receiver sent, or somebody else.
    about = draw(st.sampled_from([dst, dst, dst, src])), draw(st.sampled_from([src, src, address(family, 1, 21)]))
    protocol, body = draw(transports(family, *about, depth=1))
    packet = build.ipv4(*about, protocol, body) if family == 4 else build.ipv6(*about, protocol, body)
    packet = packet[: draw(st.sampled_from([28, 48, 200]))]
    kind = draw(st.sampled_from([3, 11, 12] if family == 4 else [1, 2, 3, 4]))
    return icmp, build.echo(kind, 0, packet)


@st.composite
def packets(draw: Draw, source: int, target: int) -> tuple[int, bytes]:
    """Ethertype and packet of a host to another; sometimes a fragment, sometimes with headers in between."""
    family = draw(st.sampled_from([4, 6]))
    src, dst = address(family, 1, source), address(family, 1, target)
    protocol, body = draw(transports(family, src, dst))
    odd = draw(st.sampled_from(["", "", "", "", "first", "later", "hidden"]))
    if family == 4:
        fragment = {"first": 0x2000, "later": 0x0003}.get(odd, 0x4000)
        options = bytes([1] * 8) if odd == "hidden" else b""
        return 0x0800, build.ipv4(src, dst, protocol, body, fragment=fragment, options=options)
    if odd in ("first", "later"):
        at = 1 if odd == "first" else 0x19
        protocol, body = 44, bytes([protocol, 0]) + at.to_bytes(2, "big") + bytes(4) + body
    elif odd:
        protocol, body = 60, bytes([protocol, 0, 1, 4, 0, 0, 0, 0]) + body
    return 0x86DD, build.ipv6(src, dst, protocol, body)


@st.composite
def events(draw: Draw) -> Event:
    """What 11 sends, what comes to the hosts here, or a change."""
    what = draw(st.sampled_from(["agent"] * 4 + ["transit"] * 4 + ["change", "change"] + ["again"] * 8))
    if what == "change":
        change: Change = draw(changes)
        return change
    if what == "again":
        return Again(draw(st.integers(1, 6)))
    if what == "agent":
        ethertype, packet = draw(packets(11, draw(st.sampled_from([12, 21, 21, 22, SERVED]))))
        return Arrival("agent", build.ethernet(build.ROUTER, mac_of(1, 11), ethertype, packet))
    source, target = draw(st.sampled_from(THERE)), draw(st.sampled_from([11, 11, 11, 12, SERVED]))
    ethertype, packet = draw(packets(source, target))
    groups, kind = draw(st.sampled_from(GROUP_SETS)), draw(st.sampled_from(["geneve", "vxlan"]))
    fields: dict[str, Any] = {"options": build.ours(0x02, groups.to_bytes(4, "big")) if groups else b""}
    if kind == "vxlan":
        fields = {"first": 0x88, "inner_type": groups} if groups else {}
    inner = build.ethernet(build.ROUTER, mac_of(1, source), ethertype, packet)
    return Arrival(
        "transit", build.tunnel(kind, inner, src=HOST, dst=ME, src_mac=mac_of(2, 4), dst_mac=MY_MAC, vni=RED, **fields)
    )


stories = st.lists(events(), min_size=16, max_size=40)


def run(real: RealDroplet, here: Droplet, happening: Sequence[Event], seen: Counter[str]) -> None:
    """The same verdicts, frames, counters and flows after each of them; `seen`: what policies did."""
    real.fill(here)
    generation, before = 5, list[Arrival]()
    for event in happening:
        if isinstance(event, Change):
            generation += 1
            policies = {uid: replace(policy, generation=generation) for uid, policy in event.policies.items()}
            here = replace(here, policies=policies)
            real.fill(here)
            continue
        if isinstance(event, Again):
            if event.back > len(before):
                continue
            event = before[-event.back]
        before.append(event)
        for said in check(real, here, [event]):
            seen.update([said.reason] if said.reason else [])
            seen.update("known" if one.known else "audited" if one.audited else "judged" for one in said.judged)
        seen.update(name for flow in here.policy_flows.values() for name in ("ended", "kept") if getattr(flow, name))
