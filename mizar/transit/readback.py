# SPDX-License-Identifier: Apache-2.0
"""From the maps back to a state: what a new daemon finds of the one before.

Called at the daemon's start and by GetState. The maps and the aliases of interfaces are all there is. Whatever was
half-made when a daemon died is left out of the state; `repairs` are the operations after which the maps hold the
state and nothing else. It only reads.
"""

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from mizar.kernel.layout import constant
from mizar.model.addresses import from_mapped, mapped_length
from mizar.transit import appliances, entries, limits, marks, network_acls, policies, policy_rows, proxies, services
from mizar.transit.endpoint_rows import EndpointRows
from mizar.transit.entries import Op, Step
from mizar.transit.execute import Maps
from mizar.transit.hopset import fill
from mizar.transit.limit_values import Limiter, LimiterKey, key_of
from mizar.transit.policy_values import NOT_BOUND, SETS_OF_A_RECORD, Binding, Judged, PolicySet
from mizar.transit.proxies import read_proxies
from mizar.transit.routes import routes_of, routes_put
from mizar.transit.state import Limits, State
from mizar.transit.values import (
    MAX_VNI,
    Droplet,
    Endpoint,
    EndpointFlag,
    Learned,
    Local,
    Network,
    NetworkFlag,
    Peering,
    Prefix,
    Route,
    Tunnel,
    Vpc,
    VpcFlag,
    Wanted,
)
from mizar.transit.workloads import Workload

_NO_OPTIONS = {"bytes": 0, "data": b""}
_STAMPS = frozenset({"heard", "answered", "used"})
_ARRAYS = frozenset({"endpoint_policies", "proxies", "services", "service_notes", "members", "member_notes"}) | {
    "endpoint_limits",
    "limiters",
}
_NOTHING: dict[str, Any] = {table: {} for table in _ARRAYS} | {"acl_vpcs": 0, "public_switch": 0}


@dataclass(frozen=True, slots=True)
class Found:
    """An interface of this droplet that bears the daemon's alias. `rooms`: MTUs of endpoints without options."""

    name: str
    ifindex: int
    mtu: int
    rooms: tuple[int, ...]
    uid: str
    workload: Workload
    engine: bytes = field(default=b"", repr=False)
    """What serves behind it, as a file keeps it."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What the maps hold, and what is wrong with them. `strays` are interfaces that no agent entry commits to."""

    state: State
    repairs: list[Step]
    strays: list[Found]


class _Reader:
    def __init__(self, maps: Any, own: bytes, room: Limits, own6: bytes) -> None:
        self.maps = maps
        self.state = State(own, room, own6)
        self.raw: dict[tuple[str, Any], Any] = {}
        self.addresses: dict[int, bytes] = {}  # of droplets, by slot
        self.networks: dict[int, Network] = {}  # by slot
        self.tables: dict[int, tuple[Route, ...]] = {}
        self.held: dict[int, Any] = {}  # limiters, by slot
        self.limiter_slots: dict[LimiterKey, int] = {}

    def items(self, table: str) -> Iterator[tuple[Any, Any]]:
        for key, value in getattr(self.maps, table).items():
            self.raw[table, hashable(key)] = (key, value)
            yield key, value

    def droplets(self) -> None:
        state = self.state
        found: dict[int, list[bytes]] = {}
        for key, sender in self.items("droplet_slots"):
            found.setdefault(sender["slot"], []).append(from_mapped(key["addr"]))
        for slot, addresses in found.items():
            entry = self.maps.droplets.get(slot)
            addresses.sort(key=len)
            whole = entry is not None and from_mapped(entry["addr"]) in addresses
            if not slot or not whole or len({len(one) for one in addresses}) < len(addresses):
                continue
            name, second = addresses[0], addresses[1] if len(addresses) > 1 else b""
            droplet = Droplet(name, slot=slot, mac=entry["next_hop_mac"], down=bool(entry["down"]), second=second)
            droplet = replace(droplet, mtu=entry["interface_mtu"], foreign=bool(entry["foreign"]))
            droplet = replace(droplet, reached=state.reached(droplet))
            if from_mapped(entry["addr"]) != (droplet.reached or name):  # this droplet speaks other families now
                droplet = replace(droplet, mac=bytes(6))
            state.droplets[name] = droplet
            self.addresses[slot] = name
            if second:
                state.seconds[second] = name
            if len(name) == 16:
                state.ipv6_alone[name] = None

    def hop_set(self, slot: int, vni: int, network_id: int | None) -> tuple[int, tuple[bytes, ...], tuple[int, ...]]:
        """Network id, members and places of a hop set; (0, (), ()) when it is not this VPC's."""
        found = self.maps.hop_sets.get(slot) if slot else None
        if found is None or found["vni"] != vni or network_id not in (None, found["network_id"]):
            return 0, (), ()
        places = tuple(found["droplet"])
        members = {self.addresses[place] for place in places if place in self.addresses}
        self.raw["hop_sets", slot] = (slot, found)
        return found["network_id"], tuple(sorted(members)), places

    def slots(self, members: Iterable[bytes]) -> list[int]:
        return [self.state.droplets[address].slot for address in members]

    def vpcs(self) -> None:
        state = self.state
        named = {number: marks.identity_of(key) for key, number in self.items("identities")}
        for vni, value in self.items("vpcs"):
            wire_vni, identity = named.get(vni, (0, b""))
            if value["wire_vni"] != (wire_vni or vni) or (vni > MAX_VNI) != bool(identity):
                continue
            _, dividers, places = self.hop_set(value["dividers"], vni, 0)
            state.vpcs[vni] = Vpc(
                vni=vni,
                dividers=dividers,
                slot=value["slot"],
                hops=value["dividers"] if dividers else 0,
                places=fill(self.slots(dividers), places),
                flags=VpcFlag.DIVIDED_HERE if state.own in dividers else VpcFlag.NONE,
                wire_vni=wire_vni,
                identity=identity,
            )
            for address in dividers:
                state.uses[address] += 1

    def group_sets(self) -> None:
        for key, value in self.items("group_sets"):
            if key["vni"] in self.state.vpcs:
                self.state.group_sets[key["vni"], key["number"]] = tuple(value["groups"][: value["count"]])

    def read_networks(self) -> None:
        state = self.state
        self.tables = routes_of(self.items("routes"), self.addresses)
        for key, value in self.items("networks"):
            vni = int.from_bytes(key["vni_be"].to_bytes(4, sys.byteorder), "big")
            if value["flags"] & NetworkFlag.PEERED:
                self.peering(vni, key, value)
                continue
            network_id, bouncers, places = self.hop_set(value["slot"], vni, None)
            if vni not in state.vpcs or not network_id:
                continue
            address = from_mapped(key["addr"])
            length = key["prefix_bits"] - 32 - mapped_length(address, 0)
            prefix = Prefix(address, length, from_mapped(value["gateway"]))
            network = state.networks.get((vni, network_id))
            if network is None:
                flags = NetworkFlag.BOUNCED_HERE if state.own in bouncers else NetworkFlag.NONE
                if state.vpcs[vni].flags & VpcFlag.DIVIDED_HERE:
                    flags |= NetworkFlag.ROUTED_HERE
                table = self.tables.get(value["slot"], ())
                flags |= NetworkFlag.HAS_ROUTES if table else NetworkFlag.NONE
                flags |= NetworkFlag(value["flags"]) & NetworkFlag.THROUGH_DIVIDER
                network = Network(vni, network_id, (prefix,), bouncers, value["slot"], (), flags, routes=table)
                through = bool(flags & NetworkFlag.THROUGH_DIVIDER)
                network = replace(network, places=fill(self.slots(bouncers), places), through_divider=through)
                state.members.setdefault(vni, {})[network_id] = None
                for member in (*bouncers, *(hop.host for hop in appliances.hops_of(network))):
                    state.uses[member] += 1
            elif network.hops != value["slot"] or any(len(p.address) == len(address) for p in network.prefixes):
                continue
            else:
                prefixes = tuple(sorted((*network.prefixes, prefix), key=lambda found: len(found.address)))
                network = replace(network, prefixes=prefixes)
            state.networks[vni, network_id] = self.networks[network.hops] = network
            state.prefixes[vni, address, length] = network.key
        self.networks = {network.hops: network for network in state.networks.values()}

    def peering(self, vni: int, key: Any, value: Any) -> None:
        """One prefix of a peering."""
        state, peer = self.state, value["peer"]
        if vni not in state.vpcs or peer not in state.vpcs:
            return
        address = from_mapped(key["addr"])
        prefix = address, key["prefix_bits"] - 32 - mapped_length(address, 0)
        before = state.peerings.get((vni, peer), Peering(vni, peer, ()))
        prefixes = tuple(sorted((*before.prefixes, prefix), key=lambda one: len(one[0])))
        state.peerings[vni, peer] = Peering(vni, peer, prefixes)

    def endpoints(self) -> None:
        self.rows = EndpointRows(self.maps.endpoints)
        for key, value in self.rows.learned():
            self.read_learned(key, value)
        groups: dict[tuple[int, int, bytes], Endpoint] = {}
        for found in self.rows.elsewhere(self.networks, self.addresses, self.state.own):
            name = (found.vni, found.network_id, found.mac)
            before = groups.setdefault(name, found)
            if before is not found and (before.host, before.tunnel) == (found.host, found.tunnel):
                both = tuple(sorted((*before.addresses, *found.addresses), key=len))
                if len({len(one) for one in both}) == len(both):
                    groups[name] = replace(before, addresses=both)
        for endpoint in groups.values():
            self.hold(endpoint)

    def read_learned(self, key: Any, value: Any) -> None:
        """One that its host denied, or that refers to what is not there, is left out, and with it its entry."""
        vni, host, elsewhere = key["vni"], self.addresses.get(value["droplet"]), constant("NETWORK_ELSEWHERE")
        network = self.networks.get(value["network"])
        whole = network.vni == vni if network else value["network"] == elsewhere
        if value["flags"] != entries.LEARNED or not whole or host in (None, self.state.own):
            return
        if vni in self.state.vpcs:
            number = network.id if network else 0
            found = Learned(vni, from_mapped(key["addr"]), number, value["mac"], host, Tunnel(value["tunnel"]))
            self.state.learned[found.key] = found

    def hold(self, endpoint: Endpoint) -> None:
        state = self.state
        for address in endpoint.addresses:
            state.at[endpoint.vni, address] = endpoint
        state.macs[endpoint.vni, endpoint.network_id, endpoint.mac] = endpoint
        self.use(endpoint)

    def use(self, endpoint: Endpoint) -> None:
        for what in (endpoint.host, (endpoint.vni, endpoint.network_id), ("tunnel", endpoint.tunnel)):
            self.state.uses[what] += 1

    def locals(self, interfaces: Iterable[Found]) -> list[Found]:
        """Take in the local endpoints; return the interfaces that are none."""
        state = self.state
        by_ifindex = {found.ifindex: found for found in interfaces}
        options = dict(self.items("agent_options"))
        strays = dict(by_ifindex)
        for ifindex, value in self.items("agents"):
            found = by_ifindex.get(ifindex)
            network = self.networks.get(value["network"])
            if found is None or network is None or network.vni != value["vni"] or state.own not in state.droplets:
                continue
            packed = (from_mapped(value[name]) for name in ("addr4", "addr6") if any(value[name]))
            addresses = tuple(address for address in packed if network.prefix_of(address))
            endpoint = Endpoint(network.vni, network.id, addresses, value["mac"], state.own, Tunnel(value["tunnel"]))
            name = (endpoint.vni, endpoint.network_id, endpoint.mac)
            standby = bool(value["flags"] & EndpointFlag.STANDBY)
            taken = name in state.macs or any((endpoint.vni, address) in state.at for address in addresses)
            if not addresses or (taken and not standby) or found.uid in state.locals:
                continue
            del strays[ifindex]
            raw = options.get(ifindex, _NO_OPTIONS)
            raw = raw["data"][: raw["bytes"]] if value["option_bytes"] else b""
            # What the interface has less than there is room for, beside what the options take, somebody asked for.
            bypass = bool(value["flags"] & EndpointFlag.BYPASS)  # whose interface is never asked to be smaller
            mtu = 0 if bypass or found.mtu + len(raw) in found.rooms else found.mtu
            marked = marks.without_identity(raw)
            wanted = Wanted(found.uid, endpoint, found.workload, mtu, marked, value["group_set"], standby, bypass)
            wanted = replace(wanted, engine=found.engine)
            if value["flags"] & EndpointFlag.POLICED:
                wanted = self.judged(wanted, value["slot"])
            if value["flags"] & EndpointFlag.LIMITED:
                wanted = self.limited(wanted, value["slot"])
            if value["flags"] & constant("ENDPOINT_FORWARDING"):
                sources = self.tables.get(appliances.table_of(value["slot"]), ())
                wanted = replace(wanted, forwarding=True, sources=sources)
            state.locals[found.uid] = Local(wanted, found.name, ifindex, value["slot"])
            for limiter, rate in limits.rates(state.locals[found.uid]):
                state.uses["limiter", limiter] += 1
                state.limiters[limiter] = Limiter(limiter, self.limiter_slots[limiter], rate)
            for limiter in limits.unshaped(state, state.locals[found.uid]):
                state.uses["unshaped", limiter] += 1
            if standby:
                self.use(endpoint)
                continue
            self.hold(endpoint)
            for address in addresses:
                state.uids[endpoint.vni, address] = found.uid
        return list(strays.values())

    def policy_sets(self) -> None:
        """Sets of VPCs that are known. Of two with one id, which a daemon that died in a change leaves, the one that
        records name."""
        records = dict(self.maps.endpoint_policies.used())
        for slot, record in records.items():
            self.raw["endpoint_policies", slot] = (slot, record)
        named = {record[way] for record in records.values() for way in SETS_OF_A_RECORD}
        named |= network_acls.sets_named(self.maps)
        rows = policy_rows.read_rows(self.maps)
        for number, note in sorted(self.items("policy_sets"), key=lambda one: one[0] in named):
            if note["vni"] in self.state.vpcs:
                found = PolicySet(note["vni"], note["id"], *rows.get(number, (b"", b"", b"")), number)
                self.state.policy_sets[found.key] = found

    def network_acls(self) -> None:
        for acl in network_acls.read_acls(self.items("network_acls"), self.state):
            self.state.network_acls[acl.key] = acl
        for slot, marked in self.maps.acl_vpcs.used():
            self.raw["acl_vpcs", slot] = (slot, marked)

    def judged(self, wanted: Wanted, slot: int) -> Wanted:
        """With what it is bound to, as far as that is there; what is not is put once more by who wants it."""
        record = self.maps.endpoint_policies.get(slot)
        ids = {one.number: one.id for one in self.state.policy_sets.values() if one.vni == wanted.endpoint.vni}
        if record is None or not record["generation"] or record["vni"] != wanted.endpoint.vni:
            return wanted
        flags = record["flags"]
        binding = Binding(
            ids.get(record["ingress"], 0),
            ids.get(record["egress"], 0),
            bool(flags & constant("POLICY_AUDIT_INGRESS")) and record["ingress"] in ids,
            bool(flags & constant("POLICY_AUDIT_EGRESS")) and record["egress"] in ids,
            ids.get(record["beside_ingress"], 0) if record["ingress"] in ids else 0,
            ids.get(record["beside_egress"], 0) if record["egress"] in ids else 0,
        )
        if binding != NOT_BOUND:
            self.state.judged[wanted.uid] = Judged(record["since"], record["generation"], record["grace_until"])
        return replace(wanted, policy=binding)

    def limiters(self) -> None:
        """All rates, and the records of endpoints that refer to them."""
        for slot, value in self.maps.limiters.used():
            self.raw["limiters", slot] = (slot, value)
            self.held[slot] = value
            self.limiter_slots[key_of(value)] = slot
        for slot, record in self.maps.endpoint_limits.used():
            self.raw["endpoint_limits", slot] = (slot, record)

    def limited(self, wanted: Wanted, slot: int) -> Wanted:
        """With its limits, as far as they are there."""
        record = self.raw.get(("endpoint_limits", slot), (slot, None))[1]
        vni, network_id = wanted.endpoint.vni, wanted.endpoint.network_id
        return replace(wanted, qos=limits.read(record, self.held, vni, network_id, slot)) if record else wanted

    def proxies(self) -> None:
        state = self.state
        for slot, proxy in read_proxies(self.maps, self.networks, state.own):
            self.raw["proxies", slot] = (slot, self.maps.proxies.get(slot))
            sides = proxy.sides if proxy else ()
            taken = any((side.vni, address) in state.at for side in sides for address in side.addresses)
            if proxy is None or taken or state.own not in state.droplets:
                continue
            state.proxies[proxy.key] = proxy
            for side in proxy.sides:
                self.hold(side)
                for address in side.addresses:
                    state.proxied[side.vni, address] = proxy.key

    def services(self) -> None:
        state = self.state
        for table in ("service_notes", "member_notes", "members"):
            for slot, value in getattr(self.maps, table).used():
                self.raw[table, slot] = (slot, value)
        for table in ("member_slots", "listeners", "public_addresses", "public_inside"):
            for key, value in self.items(table):
                self.raw[table, hashable(key)] = (key, value)
        if self.maps.public_switch.get(0):
            self.raw["public_switch", 0] = (0, 1)
        for service in services.read_services(self.maps, state):
            state.services[service.key] = service
            for address in service.all_addresses:
                state.serving[service.vni, address] = service.key
            for member in service.members:
                state.uses[member.host] += 1
                state.uses["member", service.vni, member.mac] += 1
            for slot in (service.slot, service.near):
                if slot:
                    self.raw["services", slot] = (slot, self.maps.services.get(slot))

    def repairs(self) -> list[Step]:
        """The difference between what the state implies and what was read."""
        wanted = {(op.table, hashable(op.key)): op for op in _implied_apart(self.state)}
        for at, op in wanted.items():
            if op.table == "endpoints" and isinstance(op.key, dict):
                self.raw[at] = (op.key, self.rows.take(op.key))
        puts = [op for at, op in wanted.items() if not same(self.raw.get(at, (None, None))[1], op.value)]
        puts += self.rows.differing(self.state)
        deletes = [
            Op(table, key, _NOTHING.get(table))
            for (table, hashable), (key, _) in self.raw.items()
            if (table, hashable) not in wanted and table != "hop_sets"
        ]
        return [*puts, *deletes, *self.rows.strays(), *policy_rows.strays(self.maps, self.state)]


def hashable(key: Any) -> Any:
    """A key of a map, for a dictionary."""
    return tuple(sorted(key.items())) if isinstance(key, dict) else key


def same(found: Any, wanted: Any) -> bool:
    """Whether an entry is as wanted; fields that are not named are zero, but for the data plane's own stamps."""
    if not isinstance(wanted, dict) or found is None:
        return bool(found == wanted)
    return all(
        value == wanted.get(name, value if name in _STAMPS or not any(_bits(value)) else None)
        for name, value in found.items()
    )


def _bits(value: Any) -> Any:
    return (value,) if isinstance(value, int) else value


def implied(state: State) -> Iterator[Op]:
    """The entries that a state means, but for those of `droplets`, which change as neighbours and probes do."""
    yield from _implied_apart(state)
    for endpoint in state.remotes():
        yield from entries.endpoint_put(state, endpoint)


def _implied_apart(state: State) -> Iterator[Op]:
    """The same without the endpoints of other droplets, which may be many."""
    for droplet in state.droplets.values():
        yield from entries.droplet_put(droplet, 0)[1:]
    for vpc in state.vpcs.values():
        if vpc.hops:
            yield entries.hop_set(vpc.hops, vpc.places, vpc.vni, 0)
        yield entries.vpc_put(vpc)
        yield from marks.identity_put(vpc)
    for (vni, number), groups in state.group_sets.items():
        yield marks.group_set_put(vni, number, groups)
    yield from policies.implied(state)
    yield from limits.implied(state)
    for network in state.networks.values():
        yield entries.hop_set(network.hops, network.places, network.vni, network.id)
        yield from entries.network_put(network, state.vpcs[network.vni])
        yield from routes_put(state, network)
    for peering in state.peerings.values():
        yield from entries.peering_put(peering, state.vpcs[peering.vni])
    for learned in state.learned.values():
        yield entries.learned_put(state, learned)
    for local in state.locals.values():
        yield from marks.options_put(state, local)
        yield entries.agent_put(state, local)
        if not local.wanted.standby:
            yield from entries.endpoint_put(state, local.endpoint, local)
    for proxy in state.proxies.values():
        yield from proxies.implied(state, proxy)
    for service in state.services.values():
        yield from services.implied(state, service)
    yield from appliances.implied(state)


def read(maps: Maps, own: bytes, room: Limits, interfaces: Iterable[Found], own6: bytes = b"") -> Reading:
    """Read everything. `own6`: as in State. Raises MizarError when a map cannot be read."""
    reader = _Reader(maps, own, room, own6)
    reader.droplets()
    reader.vpcs()
    reader.group_sets()
    reader.policy_sets()
    reader.limiters()
    reader.network_acls()
    reader.read_networks()
    reader.endpoints()
    strays = reader.locals(interfaces)
    reader.proxies()
    reader.services()
    reader.state.count_slots()
    return Reading(reader.state, reader.repairs(), strays)
