# SPDX-License-Identifier: Apache-2.0
"""Scaled endpoints of the oracle's tables in the maps of a real droplet. Called by real.py alone."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mizar.kernel.layout import constant
from mizar.kernel.tables import network_key
from mizar.model.addresses import to_mapped
from mizar.oracle.tables import AnsweredAs, FlowKey, Flows, Member, PublicAddress, Service
from tests.oracle.real_policies import MEMBER_POLICED

MEMBER_LIMITED = 32

if TYPE_CHECKING:
    from tests.oracle.real import RealDroplet

DRAINING, DOWN, LISTENED, BYPASS = 64, 128, 16, 4


class RealServices:
    """Slots of services and members, from 1 on."""

    def __init__(self, droplet: RealDroplet) -> None:
        self.droplet = droplet
        self.services: dict[Service, int] = {}
        self.members: dict[int, int] = {}
        self.used = 0
        self.public: dict[int, str] = {}

    def write(self, vni: int, service: Service) -> int:
        """The slot of a service, after writing it and its members."""
        if service in self.services:
            return self.services[service]
        tables = self.droplet.tables
        self.used += 1
        slot = self.services[service] = self.used
        slots = [self.write_member(vni, slot, member) for member in service.members]
        near = 0
        if service.near:
            self.used += 1
            near = self.used
            self.droplet.write(tables.services, near, {"place": _places(service.near, slots), "flags": _flags(service)})
        self.droplet.write(
            tables.services, slot, {"near": near, "place": _places(service.places, slots), "flags": _flags(service)}
        )
        return slot

    def write_member(self, vni: int, service: int, member: Member) -> int:
        """The slot of a member."""
        tables = self.droplet.tables
        slot = self.members[id(member)] = len(self.members) + 1
        flags = (DRAINING if member.draining else 0) | (DOWN if member.down else 0)
        flags |= LISTENED if member.listened else 0
        flags |= constant("MEMBER_BY_OPTION") if member.by_option else 0
        flags |= BYPASS if member.endpoint.bypass else 0
        flags |= MEMBER_POLICED if member.endpoint.uid in self.droplet.policies.policed else 0
        flags |= MEMBER_LIMITED if member.endpoint.uid in self.droplet.limited else 0
        value = self.droplet.endpoint_value(vni, member.endpoint) | {"flags": flags}
        self.droplet.write(tables.members, slot, value)
        if member.addresses:
            own = {f"addr{4 if len(one) == 4 else 6}": to_mapped(one) for one in member.addresses}
            self.droplet.write(tables.member_notes, slot, {"service": service, "mac": member.endpoint.mac} | own)
        if member.endpoint.ifindex:
            self.droplet.write(tables.member_slots, {"service": service, "mac": member.endpoint.mac}, slot)
        return slot

    def write_flows(self, flows: Flows) -> None:
        """What goes on already, and the room for more."""
        tables = self.droplet.tables
        for vni, room in flows.room.items():
            slot = self.droplet.vpc_slots.of(vni)
            self.droplet.write(tables.flow_budgets, slot, {"until": room})
            self.droplet.write(tables.flow_counts, slot, {"inserted": 0})
        for key, value in flows.items():
            tables.flows.put(_key(key), self._flow(value))

    def write_listeners(self, listeners: Mapping[tuple[int, bytes, int, bytes], bytes]) -> None:
        """What load balancers take."""
        for (vni, address, protocol, port), target in listeners.items():
            key = {"vni": vni, "addr": to_mapped(address), "port_be": _port(port), "protocol": protocol}
            self.droplet.write(self.droplet.tables.listeners, key, {"target_be": _port(target)})

    def write_public(self, public: Mapping[bytes, PublicAddress]) -> None:
        """Addresses that the droplet attracts."""
        tables = self.droplet.tables
        tables.public_switch.put(0, int(bool(public)))
        for address, found in public.items():
            slot = self.write(found.vni, found.service)
            value = {"vni": found.vni, "wire_vni": found.wire_vni or found.vni, "service": slot}
            value["vpc_slot"] = self.droplet.vpc_slots.of(found.vni)
            value["flags"] = constant("SERVICE_VIP_OPTION") if found.vip_option else 0
            self.public[2 * slot + (len(address) == 16)] = address.hex()
            self.droplet.write(tables.public_addresses, {"addr": to_mapped(address)}, value)
            for prefix, length in found.inside:
                key = network_key(slot, to_mapped(prefix), length)
                key = {"prefix_bits": key["prefix_bits"], "table_be": key["vni_be"], "addr": key["addr"]}
                self.droplet.write(tables.public_inside, key, 1)

    def _flow(self, value: Member | AnsweredAs) -> dict[str, Any]:
        if isinstance(value, AnsweredAs):
            return {
                "addr": to_mapped(value.address),
                "member": int.from_bytes(value.port, sys.byteorder),
                "outside": int(value.outside),
            }
        return {"member": self.members[id(value)], "mac": value.endpoint.mac}


def _flags(service: Service) -> int:
    return int(service.listened) | 2 * service.by_client


def _port(port: bytes) -> int:
    return int.from_bytes(port, sys.byteorder)


def _places(places: tuple[int, ...], slots: list[int]) -> tuple[int, ...]:
    return tuple(slots[number] if number >= 0 else 0 for number in places)


def _key(key: FlowKey) -> dict[str, Any]:
    return {
        "vni": key.vni,
        "client": to_mapped(key.client),
        "server": to_mapped(key.server),
        "ports_be": int.from_bytes(key.ports, sys.byteorder),
        "protocol": key.protocol,
        "kind": key.kind.value,
    }
