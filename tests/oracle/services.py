# SPDX-License-Identifier: Apache-2.0
"""Scaled endpoints for the differential tests: members in any state, and flows that go on already."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace

from hypothesis import strategies as st

from mizar.oracle.tables import (
    PLACES_OF_SERVICE,
    Agent,
    AnsweredAs,
    Endpoint,
    FlowKey,
    FlowKind,
    Flows,
    Leg,
    Member,
    Service,
    Tunnel,
)
from tests.oracle.draws import Draw

SERVICE_HOST = 31
PORTS = ((4002, 80), (80, 4002), (0, 0), (7, 7))
PROTOCOLS = (6, 17, 1, 58)


def spread(members: int, kind: int) -> tuple[int, ...]:
    """Places over members: none, the first only, or all in turn."""
    if not members or kind == 0:
        return (-1,) * PLACES_OF_SERVICE
    return tuple((place * kind) % members for place in range(PLACES_OF_SERVICE))


SPREAD = {(members, kind): spread(members, kind) for members in range(4) for kind in (0, 1, 7)}


@st.composite
def services(draw: Draw, known: Mapping[int, Endpoint], here: bytes, sender: Agent | None) -> Service:
    """A service over some of the endpoints of its VPC, `known` by any number."""
    rows = draw(st.lists(st.sampled_from(sorted(known)), max_size=3, unique=True)) if known else []
    states: st.SearchStrategy[tuple[bool, bool]] = st.sampled_from(
        [(False, False)] * 4 + [(True, False), (False, True)]
    )
    # What the direct path has learned is in `endpoints` alone.
    members = [Member(replace(known[row], learned=False, gone=False), *draw(states)) for row in rows]
    if sender is not None and draw(st.booleans()):
        own = Endpoint(sender.network, sender.mac, here, Tunnel.GENEVE, 1, sender.uid)
        members = [member for member in members if member.endpoint.mac != own.mac][:2]
        members.append(Member(own, *draw(states)))
    kind = draw(st.sampled_from([7, 7, 7, 1, 0]))
    near = draw(st.sampled_from([(), (), SPREAD[len(members), 1]]))
    listened = kind == 1  # a load balancer is no draw of its own: there are not that many
    members = [replace(member, listened=listened) for member in members]
    return Service(tuple(members), SPREAD[len(members), kind], near, listened, listened and bool(near))


def listener_table(services_of: Mapping[tuple[int, bytes], Service]) -> dict[tuple[int, bytes, int, bytes], bytes]:
    """What load balancers take of what the tests send: one port is another at their members, and one is the same."""
    return {
        (vni, address, protocol, port.to_bytes(2, "big")): target.to_bytes(2, "big")
        for (vni, address), service in services_of.items()
        if service.listened
        for protocol, (port, target) in itertools.product((6, 17), ((80, 8080), (4002, 4002)))
    }


@st.composite
def flow_tables(draw: Draw, services_of: Mapping[tuple[int, bytes], Service], sender: Agent | None) -> Flows:
    """Room for some, many or no flows, and some that are there: choices, and what the sender answers for a service."""
    flows = Flows({vni: draw(st.sampled_from([1000, 1000, 1000, 1, 0])) for vni, _ in services_of})
    for (vni, address), service in services_of.items():
        leg = sender.leg(4 if len(address) == 4 else 6) if sender is not None else None
        if sender is None or leg is None or sender.vni != vni:
            continue
        clients = draw(st.lists(st.sampled_from(["peer", "itself"]), max_size=2, unique=True))
        for client, ports in ((client, ports) for client in clients for ports in PORTS):
            port_bytes = ports[0].to_bytes(2, "big") + ports[1].to_bytes(2, "big")
            for protocol in PROTOCOLS:
                other = address if client == "itself" else peer_of(leg)
                answered = AnsweredAs(address, b"\x1f\x90" if service.listened and protocol in (6, 17) else b"")
                flows[FlowKey(FlowKind.SERVICE, vni, other, leg.address, port_bytes, protocol)] = answered
                if service.members and draw(st.sampled_from([False, False, True])):
                    key = FlowKey(FlowKind.CHOICE, vni, leg.address, address, port_bytes, protocol)
                    flows[key] = draw(st.sampled_from(service.members))
    return flows


def peer_of(leg: Leg) -> bytes:
    """Somebody beside the sender."""
    return leg.address[:-1] + bytes([21 if leg.address[-1] != 21 else 12])
