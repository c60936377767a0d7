# SPDX-License-Identifier: Apache-2.0
"""The substrates of the differential tests: IPv4, IPv6, and a fleet of both.

The plan of droplets.py names droplets by IPv4 addresses. Here each gets the addresses that it has on a substrate, by
the last byte of that address, and tables are told so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from mizar.oracle.tables import Droplet, Endpoint, Flows, HopSet, Member, Service
from tests.oracle.droplets import ME, MY_MAC, UNLISTED, UNRESOLVED, packed
from tests.oracle.real import RealDroplet

SUBSTRATES = ("ipv4", "ipv6", "both")
_FOREIGN = (UNRESOLVED,)
"""On a substrate of one family this droplet has the other."""


def in_ipv6(address: bytes) -> bytes:
    """2001:db8::/64, with the same last byte."""
    return packed(f"2001:db8::{address[-1]:x}")


def addresses_of(address: bytes, substrate: str) -> tuple[bytes, ...]:
    """What a droplet of the plan has: the first one names it."""
    both = (address, in_ipv6(address))
    if substrate == "both":
        return both if address == ME else (both, both[:1], both[1:])[address[-1] % 3]
    own, other = both if substrate == "ipv4" else both[::-1]
    if address in _FOREIGN:
        return (other,)
    return (address, in_ipv6(address)) if address != ME and address[-1] % 4 == 3 else (own,)


def move(here: Droplet, substrate: str) -> Droplet:
    """The same droplet on another substrate. One with which it shares no family has no MAC."""

    def name(address: bytes) -> bytes:
        return addresses_of(address, substrate)[0]

    def hops(members: HopSet) -> HopSet:
        return tuple(name(member) if member else None for member in members)

    moved: dict[Service, tuple[Service, dict[Member, Member]]] = {}

    def service(old: Service) -> Service:
        if old not in moved:
            members = {m: replace(m, endpoint=replace(m.endpoint, host=name(m.endpoint.host))) for m in old.members}
            moved[old] = replace(old, members=tuple(members.values())), members
        return moved[old][0]

    def endpoint(row: Endpoint) -> Endpoint:
        return replace(row, service=service(row.service)) if row.service else replace(row, host=name(row.host))

    endpoints = {key: endpoint(row) for key, row in here.endpoints.items()}
    members = {before: after for _, found in moved.values() for before, after in found.items()}
    flows = Flows(here.flows.room)
    flows.update({key: members[value] if isinstance(value, Member) else value for key, value in here.flows.items()})
    known = {address: addresses_of(address, substrate) for address in here.droplets}
    own = addresses_of(here.address, substrate)
    sizes = {len(one) for one in own}
    macs: Mapping[bytes, bytes | None] = {
        found[0]: here.droplets[address] if sizes & {len(one) for one in found} else None
        for address, found in known.items()
    }
    return replace(
        here,
        address=own[0],
        address6=own[1] if len(own) == 2 else b"",
        droplets=macs,
        addresses6={found[0]: found[1] for found in known.values() if len(found) == 2},
        vpcs={vni: replace(row, dividers=hops(row.dividers)) for vni, row in here.vpcs.items()},
        networks={key: replace(row, bouncers=hops(row.bouncers)) for key, row in here.networks.items()},
        endpoints=endpoints,
        flows=flows,
        down=frozenset(name(address) for address in here.down),
        appliances={key: replace(row, host=name(row.host)) for key, row in here.appliances.items()},
        agents={index: replace(row, bouncers=hops(row.bouncers)) for index, row in here.agents.items()},
    )


def loaded(substrate: str, *, at_tc: bool = False) -> RealDroplet:
    """The programs of ME, whose Transit is that of XDP or of tc ingress."""
    address, *second = addresses_of(ME, substrate)
    return RealDroplet(address, MY_MAC, address6=second[0] if second else b"", at_tc=at_tc)


def addresses_between(address: bytes, substrate: str) -> list[tuple[bytes, bytes]]:
    """From where and to where a packet of a droplet may come: in each family that ME speaks."""
    own = addresses_of(ME, substrate)
    listed = addresses_of(address, substrate) if address != UNLISTED else (address, in_ipv6(address))
    pairs = [(source, to) for to in own for source in listed if len(source) == len(to)]
    return pairs or [(in_ipv6(address) if len(own[0]) == 16 else address, own[0])]
