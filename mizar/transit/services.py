# SPDX-License-Identifier: Apache-2.0
"""Scaled endpoints on this droplet: planning of their entries, and finding them again in the maps.

`ServicePlan` is a part of `batch.Plan`; `implied` and `read_services` of `readback`. A member that lives here leads to
its interface: it follows what attaches and detaches. It must never do I/O but read.
"""

import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from mizar.kernel.layout import constant
from mizar.model.addresses import from_mapped, mac_text, mapped_length, text_of, to_mapped
from mizar.model.errors import ConflictError, NotFoundError
from mizar.transit import maglev
from mizar.transit.entries import Op, agent_put, endpoint_delete
from mizar.transit.proxies import ProxyPlan
from mizar.transit.service_values import Listener, Member, MemberState, Service, ServiceKey
from mizar.transit.state import State
from mizar.transit.values import Endpoint, EndpointFlag, Local, Tunnel, Wanted

_FLAGS = {
    MemberState.HEALTHY: 0,
    MemberState.DRAINING: constant("MEMBER_DRAINING"),
    MemberState.UNKNOWN: constant("MEMBER_DRAINING"),
    MemberState.DOWN: constant("MEMBER_DOWN"),
}


class ServicePlan(ProxyPlan):
    """A plan in the making."""

    def put_service(self, new: Service) -> bool:
        """Plan a scaled endpoint, new or changed; False when it is there already."""
        state, journal = self.state, self.journal
        old = state.services.get(new.key)
        new = _with_states(new, old)
        if old is not None and old.same(new):
            return False
        vpc = state.vpcs.get(new.vni)
        if vpc is None:
            raise NotFoundError(f"VPC {new.vni} is not known; put it first")
        for member in new.members:
            self.slot_of(member.host, "a member's host")
        for address in new.all_addresses:
            holder = state.at.get((new.vni, address))
            other = state.serving.get((new.vni, address), new.key)
            if holder is not None or other != new.key:
                raise ConflictError(f"{text_of(address)} is taken by {holder or 'another scaled endpoint'}")
        slots = {member.mac: member.slot for member in old.members} if old else {}
        members = tuple(
            replace(member, slot=slots.get(member.mac) or journal.take(state.member_slots)) for member in new.members
        )
        service = replace(
            new,
            members=members,
            slot=old.slot if old else journal.take(state.service_slots),
            near=(old.near if old else 0)
            or (journal.take(state.service_slots) if new.colocated or new.vip_option else 0),
        )
        self._count_members(old, -1)
        journal.put(state.services, service.key, service)
        self._count_members(service, 1)
        for address in service.all_addresses:
            journal.put(state.serving, (service.vni, address), service.key)
        # Who answers for the service knows it before anybody is sent there.
        self._refresh_agents_of(service.members, service.vni)
        if old is None:
            self.ops += [Op("public_counters", 2 * service.slot + family, None) for family in (0, 1)]
        self.ops += implied(state, service)
        if old is not None:
            self._clear(old, service)
        return True

    def delete_service(self, vni: int, address: bytes) -> bool:
        """Plan the end of a scaled endpoint, by an address of it; False when there is none."""
        state, journal = self.state, self.journal
        key = state.serving.get((vni, address))
        if key is None:
            return False
        service = state.services[key]
        for one in service.all_addresses:
            journal.drop(state.serving, (vni, one))
            self.ops.append(endpoint_delete(vni, one))
        self._count_members(service, -1)
        journal.drop(state.services, key)
        self.ops += [Op("services", service.slot, {}), Op("service_notes", service.slot, {})]
        journal.give_back(state.service_slots, service.slot)
        if service.near:
            self.ops.append(Op("services", service.near, {}))
            journal.give_back(state.service_slots, service.near)
        self._clear(service, None)
        return True

    def _clear(self, old: Service, new: Service | None) -> None:
        """What an earlier state of a service had and this one has not."""
        kept = {member.mac for member in new.members} if new else set()
        gone = [member for member in old.members if member.mac not in kept]
        here = {member.mac for member in new.members if member.host == self.state.own} if new else set()
        for member in old.members:
            if member.host == self.state.own and member.mac not in here:  # it is gone, or has moved away
                self.ops.append(Op("member_slots", {"service": old.slot, "mac": member.mac}, None))
        for member in gone:
            self.ops += [Op("members", member.slot, {}), Op("member_notes", member.slot, {})]
            self.journal.give_back(self.state.member_slots, member.slot)
        wanted = {listener_key(new, one, address) for one, address in _listening(new)} if new else set()
        for one, address in _listening(old):
            if listener_key(old, one, address) not in wanted:
                self.ops.append(Op("listeners", _listener_entry(old, one, address), None))
        kept_public = {str(op.key) for op in public_entries(self.state, new)} if new else set()
        for op in public_entries(self.state, old):
            if op.table != "public_switch" and str(op.key) not in kept_public:
                self.ops.append(Op(op.table, op.key, None))
        if old.attracted and not any(one.attracted for one in self.state.services.values()):
            self.ops.append(Op("public_switch", 0, 0))
        self._refresh_agents_of(tuple(gone), old.vni)
        if new is not None and old.near and not new.near:
            self.ops.append(Op("services", old.near, {}))

    def _count_members(self, service: Service | None, by: int) -> None:
        for member in service.members if service else ():
            self.journal.count(self.state.uses, member.host, by)
            self.journal.count(self.state.uses, ("member", service.vni if service else 0, member.mac), by)

    def _refresh_agents_of(self, members: tuple[Member, ...], vni: int) -> None:
        locals_ = (local_of(self.state, vni, member) for member in members)
        self.ops += [agent_put(self.state, local) for local in locals_ if local is not None]

    def refresh_reach(self, host: bytes) -> None:
        """A droplet is reached by another address than before, or no more."""
        for service in list(self.state.services.values()):
            if any(member.host == host for member in service.members):
                self.ops += implied(self.state, service)

    def refresh_services(self, endpoint: Endpoint) -> None:
        """A member came to this droplet, or left it."""
        if not self.state.uses[("member", endpoint.vni, endpoint.mac)]:
            return
        for service in list(self.state.services.values()):
            if service.vni == endpoint.vni and any(member.mac == endpoint.mac for member in service.members):
                self.ops += implied(self.state, service)

    def put_local(self, wanted: Wanted, host_interface: str, ifindex: int) -> Local:
        """As of any endpoint; a member's services lead to its interface from now on."""
        local = super().put_local(wanted, host_interface, ifindex)
        self.refresh_services(local.endpoint)
        return local

    def delete_local(self, uid: str) -> Local | None:
        """As of any endpoint; a member's services lead to it no more."""
        local = super().delete_local(uid)
        if local is not None:
            self.refresh_services(local.endpoint)
        return local


def _with_states(new: Service, old: Service | None) -> Service:
    """Of members whose state the caller does not know, what is held."""
    held = {member.mac: member.state for member in old.members} if old else {}
    members = tuple(
        replace(one, state=held.get(one.mac, MemberState.UNKNOWN)) if one.state is MemberState.KEPT else one
        for one in new.members
    )
    return replace(new, members=members)


def local_of(state: State, vni: int, member: Member) -> Local | None:
    """The endpoint of this droplet that a member is, if it is attached."""
    uid = state.uids.get((vni, member.addresses[0])) if member.host == state.own else None
    local = state.locals.get(uid) if uid else None
    return local if local is not None and local.endpoint.mac == member.mac else None


def implied(state: State, service: Service) -> list[Op]:
    """All entries of a service: members first, then the places that lead to them, then what leads there."""
    vpc = state.vpcs[service.vni]
    network = state.networks.get((service.vni, service.network_id))
    ops = [
        Op("listeners", _listener_entry(service, one, address), {"target_be": _be16(one.target)})
        for one, address in _listening(service)
    ]
    listened = constant("MEMBER_LISTENED") if service.listeners else 0
    for rank, member in enumerate(service.members):
        local = local_of(state, service.vni, member)
        here = member.host == state.own
        by_option = constant("MEMBER_BY_OPTION") if _by_option(state, service, member) else 0
        value = {
            "droplet": 0 if here and local is None else state.droplets[member.host].slot,
            "ifindex": local.ifindex if local else 0,
            "slot": local.slot if local else 0,
            "vpc_slot": vpc.slot,
            "mac": member.mac,
            "tunnel": int(member.tunnel),
            "flags": _FLAGS[member.state] | _flags_of(local) | listened | by_option,
        }
        ops += [Op("members", member.slot, value), Op("member_notes", member.slot, _member_note(service, rank, member))]
        if here:
            ops.append(Op("member_slots", {"service": service.slot, "mac": member.mac}, member.slot))
    near = _near(state, service)
    if service.near:
        ops.append(Op("services", service.near, {"place": _places(near), "flags": service_flags(service)}))
    places = _places(_within_reach(state, [member for member in service.members if member.takes_new]))
    ops += [
        Op("service_notes", service.slot, _service_note(service)),
        Op(
            "services",
            service.slot,
            {"near": service.near if near else 0, "place": places, "flags": service_flags(service)},
        ),
    ]
    entry = {
        "slot": service.slot,
        "vpc_slot": vpc.slot,
        "network": network.hops if network else 0,
        "flags": constant("ENDPOINT_SCALED"),
    }
    keys = [{"vni": service.vni, "addr": to_mapped(address)} for address in service.all_addresses]
    ops += public_entries(state, service)
    return ops + [Op("endpoints", key, entry) for key in keys]


def _by_option(state: State, service: Service, member: Member) -> bool:
    """Whether a member takes what bears the public address in an option, and nothing else: nobody translates there."""
    return service.vip_option and state.droplets[member.host].foreign


def _near(state: State, service: Service) -> list[Member]:
    """The members that agents choose from, where it is not all of them."""
    taking = [member for member in service.members if member.takes_new]
    here = [member for member in taking if local_of(state, service.vni, member)] if service.colocated else []
    if here or not service.vip_option:
        return here
    translated = [member for member in taking if not _by_option(state, service, member)]
    return translated if len(translated) < len(taking) else []


def service_flags(service: Service) -> int:
    """enum service_flag."""
    listened = constant("SERVICE_LISTENED") if service.listeners else 0
    return listened | (constant("SERVICE_BY_CLIENT") if service.by_client else 0)


def _listening(service: Service) -> Iterator[tuple[Listener, bytes]]:
    for address in service.all_addresses:
        for one in service.listeners:
            yield one, address


def public_entries(state: State, service: Service) -> list[Op]:
    """What makes this droplet attract public addresses: from whom nothing is taken, then from everybody else."""
    if not service.attracted:
        return []
    vpc = state.vpcs[service.vni]
    table_be = int.from_bytes(service.slot.to_bytes(4, "big"), sys.byteorder)
    ops = [
        Op("public_inside",
           {"prefix_bits": 32 + mapped_length(address, length), "table_be": table_be, "addr": to_mapped(address)}, 1)
        for address, length in service.inside
    ]  # fmt: skip
    value = {"vni": vpc.vni, "wire_vni": vpc.wire_vni or vpc.vni, "service": service.slot, "vpc_slot": vpc.slot}
    value["flags"] = constant("SERVICE_VIP_OPTION") if service.vip_option else 0
    ops += [Op("public_addresses", {"addr": to_mapped(address)}, value) for address in service.public]
    return [*ops, Op("public_switch", 0, 1)]


def listener_key(service: Service, one: Listener, address: bytes) -> tuple[int, bytes, int, int]:
    """What names an entry of `listeners`."""
    return service.vni, address, one.protocol, one.port


def _listener_entry(service: Service, one: Listener, address: bytes) -> dict[str, Any]:
    return {"vni": service.vni, "addr": to_mapped(address), "port_be": _be16(one.port), "protocol": one.protocol}


def _be16(number: int) -> int:
    """As a number whose bytes in memory are in network order."""
    return int.from_bytes(number.to_bytes(2, "big"), sys.byteorder)


def _flags_of(local: Local | None) -> int:
    """In `members` that an endpoint is policed is another bit: there its own says that a member drains."""
    flags = local.flags if local else EndpointFlag.NONE
    own = constant("MEMBER_POLICED") if flags & EndpointFlag.POLICED else 0
    own |= constant("MEMBER_LIMITED") if flags & EndpointFlag.LIMITED else 0
    return int(flags & ~(EndpointFlag.POLICED | EndpointFlag.LIMITED)) | own


def follow_members(state: State, local: Local) -> Iterator[Op]:
    """What services hold of a member of this droplet whose flags have changed: there it is an endpoint of its own."""
    for service in state.services.values():
        if any(local_of(state, service.vni, member) == local for member in service.members):
            yield from implied(state, service)


def _within_reach(state: State, members: list[Member]) -> list[Member]:
    """Those on droplets with which this one shares a family of the substrate; where there are none, all."""
    return [member for member in members if state.droplets[member.host].reached] or members


def _places(members: list[Member]) -> tuple[int, ...]:
    slots = {member.mac: member.slot for member in members}
    table = maglev.table(frozenset((member.mac, member.weight) for member in members))
    return tuple(slots[mac] if mac is not None else 0 for mac in table)


def _service_note(service: Service) -> dict[str, Any]:
    note: dict[str, Any] = {"vni": service.vni, "network_id": service.network_id, "near": service.near}
    attracted = constant("SERVICE_ATTRACTED") if service.attracted else 0
    public = {f"public{4 if len(one) == 4 else 6}": to_mapped(one) for one in service.public}
    note |= {f"addr{4 if len(one) == 4 else 6}": to_mapped(one) for one in service.addresses}
    attracted |= constant("SERVICE_VIP_OPTION") if service.vip_option else 0
    return note | {"colocated": int(service.colocated), "flags": service_flags(service) | attracted} | public


def _member_note(service: Service, rank: int, member: Member) -> dict[str, Any]:
    note: dict[str, Any] = {
        "service": service.slot,
        "weight": member.weight,
        "rank": rank,
        "state": int(member.state),
        "tunnel": int(member.tunnel),
        "mac": member.mac,
        "host": to_mapped(member.host),
    }
    return note | {f"addr{4 if len(one) == 4 else 6}": to_mapped(one) for one in member.addresses}


def read_services(maps: Any, state: State) -> Iterator[Service]:
    """The services that the notes tell of, as far as what they refer to is there."""
    members: dict[int, list[tuple[int, Member]]] = {}
    listening: dict[tuple[int, bytes], list[Listener]] = {}
    for key, value in maps.listeners.items():
        one = Listener(key["protocol"], _be16(key["port_be"]), _be16(value["target_be"]))
        listening.setdefault((key["vni"], from_mapped(key["addr"])), []).append(one)
    for slot, note in maps.member_notes.used():
        if note["service"]:
            member = Member(
                addresses=_addresses(note),
                mac=note["mac"],
                host=from_mapped(note["host"]),
                tunnel=Tunnel(note["tunnel"]),
                weight=note["weight"],
                state=MemberState(note["state"]),
                slot=slot,
            )
            members.setdefault(note["service"], []).append((note["rank"], member))
    inside: dict[int, list[tuple[bytes, int]]] = {}
    for key, _ in maps.public_inside.items():
        table, address = int.from_bytes(key["table_be"].to_bytes(4, sys.byteorder), "big"), from_mapped(key["addr"])
        inside.setdefault(table, []).append((address, key["prefix_bits"] - 32 - (96 if len(address) == 4 else 0)))
    for slot, note in maps.service_notes.used():
        if note["vni"] not in state.vpcs:
            continue
        ranked = [member for _, member in sorted(members.get(slot, []), key=lambda pair: pair[0])]
        known = tuple(member for member in ranked if member.host in state.droplets and member.addresses)
        addresses = _addresses(note)
        if addresses and not any((note["vni"], one) in state.at for one in addresses):
            colocated = bool(note["colocated"])
            listeners = tuple(sorted(listening.get((note["vni"], addresses[0]), ())))
            by_client = bool(note["flags"] & constant("SERVICE_BY_CLIENT"))
            if not listeners and note["flags"] & constant("SERVICE_LISTENED"):
                continue  # without them it would take everything: whoever planned it puts it again
            yield Service(
                note["vni"], note["network_id"], addresses, known, colocated, slot, note["near"],
                listeners=listeners, by_client=by_client, public=_addresses(note, "public"),
                attracted=bool(note["flags"] & constant("SERVICE_ATTRACTED")),
                inside=tuple(sorted(inside.get(slot, ()))),
                vip_option=bool(note["flags"] & constant("SERVICE_VIP_OPTION")),
            )  # fmt: skip


def _addresses(note: Mapping[str, Any], name: str = "addr") -> tuple[bytes, ...]:
    return tuple(from_mapped(note[f"{name}{family}"]) for family in (4, 6) if any(note[f"{name}{family}"]))


def described(key: ServiceKey, member: Member) -> str:
    """A member of a service, for people."""
    return f"member {mac_text(member.mac)} of scaled endpoint {text_of(key[1])}"
