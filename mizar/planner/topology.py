# SPDX-License-Identifier: Apache-2.0
"""What each droplet must hold: the in-memory model of all objects, fed with facts, answering with changes.

Called by the manager, which owns one and feeds it in the order of the store's changes. Pure: no I/O, no clock, no
choice of members (that is `placement`). Incremental: putting or removing an endpoint costs O(bouncers of its
network), whatever the size of the VPC; a change of a network's bouncers touches that network's endpoints alone.
Who holds what is told in `holdings`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from ipaddress import ip_network

from mizar.model.addresses import Prefix
from mizar.model.errors import ConflictError, NotFoundError
from mizar.planner.entries import (
    NOT_POLICED,
    DropletEntry,
    MemberEntry,
    NetworkEntry,
    PeeringEntry,
    PolicySetEntry,
    PrefixEntry,
    ServiceEntry,
    VpcEntry,
    VpnEntry,
)
from mizar.planner.facts import (
    DropletFact,
    EndpointFact,
    Fact,
    NetworkFact,
    PeeringFact,
    ServiceFact,
    VpcFact,
)
from mizar.planner.holdings import Holdings
from mizar.planner.plan import Change
from mizar.planner.records import AclEntry, DropletRecord, EndpointRecord, NetworkRecord, VpcRecord


class Topology(Holdings):
    """All facts, and from them every droplet's tables.

    Every put is idempotent: putting the same fact again gives no changes. A method that raises changes nothing:
    NotFoundError when a fact refers to one that is not there, ConflictError when one that goes is still referred to
    or something that cannot change would, InvalidError when a droplet without a daemon would be a member.
    """

    # ---- droplets

    def put_droplet(self, fact: DropletFact) -> list[Change]:
        """A droplet comes; or one that is not in use gets or loses its daemon. All learn it, and it learns all."""
        present = self._droplets.get(fact.name)
        addresses = [address for address in (fact.address, fact.second) if address]
        for address in addresses:
            if self._names.get(address, fact.name) != fact.name:
                raise ConflictError(f"droplet {self._names[address]} has an address of droplet {fact.name}")
        if present is not None:
            if (present.fact.address, present.fact.second) != (fact.address, fact.second):
                raise ConflictError(f"the address of droplet {fact.name} cannot change")
            if present.fact.daemon == fact.daemon:
                return self._put_mtu(present, fact)
            _refuse_in_use(present)
            old, present.entry = present.entry, replace(present.entry, foreign=not fact.daemon)
            present.fact = fact
            changes = [self._change(name, old, present.entry) for name in self._droplets if name != fact.name]
            changes.extend(self._change(fact.name, None, other.entry) for other in self._droplets.values())
            return self._told(changes)
        record = self._welcome(fact)
        changes = [self._change(name, None, record.entry) for name in self._droplets if name != fact.name]
        changes.extend(self._change(fact.name, None, other.entry) for other in self._droplets.values())
        return self._told(changes)

    def _welcome(self, fact: DropletFact) -> DropletRecord:
        self._names |= dict.fromkeys((address for address in (fact.address, fact.second) if address), fact.name)
        entry = DropletEntry(fact.address, fact.name, fact.mtu, fact.second, not fact.daemon)
        record = self._droplets[fact.name] = DropletRecord(fact, entry)
        return record

    def _put_mtu(self, present: DropletRecord, fact: DropletFact) -> list[Change]:
        if fact.mtu in (0, present.fact.mtu):
            return []
        old, present.entry = present.entry, replace(present.entry, mtu=fact.mtu)
        present.fact = fact
        return self._told(self._change(name, old, present.entry) for name in self._droplets)

    def remove_droplet(self, name: str) -> list[Change]:
        """A droplet goes, that is no member of anything and hosts nothing: it and all others forget each other."""
        record = self._droplet(name)
        _refuse_in_use(record)
        changes = []
        for vpc in self._vpcs.values():
            if any(name in names for names in vpc.attracting.values()):
                before = vpc.holders()
                vpc.attracting = {uid: names - {name} for uid, names in vpc.attracting.items()}
                changes += self._shift(vpc.entry, before, vpc.entry, vpc.holders())
        changes += [self._change(other, record.entry, None) for other in self._droplets if other != name]
        changes.extend(self._change(name, other.entry, None) for other in self._droplets.values())
        changes = self._told(changes)
        del self._droplets[name]
        self._names = {address: other for address, other in self._names.items() if other != name}
        return changes

    # ---- VPCs

    def put_vpc(self, fact: VpcFact) -> list[Change]:
        """A VPC comes, or its dividers change."""
        entry = VpcEntry(fact.vni, self._addresses(fact.dividers), fact.wire_vni, fact.identity)
        vpc = self._vpcs.get(fact.vni)
        if vpc is None:
            vpc = self._vpcs[fact.vni] = VpcRecord(replace(fact, dividers=()), replace(entry, dividers=()))
        old, old_entry = vpc.fact.dividers, vpc.entry
        moving = set(old) ^ set(fact.dividers)
        if not moving:
            return []
        before = vpc.holders()
        peers_before = [_holders(peer, moving) for peer, _ in vpc.peers.values()]
        networks_before = [_holders(network, moving) for network in vpc.networks.values()]
        vpc.fact, vpc.entry = fact, entry
        for name in moving:
            if name in old:
                del self._droplets[name].divides[fact.vni]
            else:
                self._droplets[name].divides[fact.vni] = vpc
        changes = self._shift(old_entry, before, entry, vpc.holders())
        for (peer, crossing), held in zip(vpc.peers.values(), peers_before, strict=True):
            changes.extend(self._shift(peer.entry, held, peer.entry, _holders(peer, moving)))
            changes.extend(self._shift(crossing, old, crossing, fact.dividers))
        for network, held in zip(vpc.networks.values(), networks_before, strict=True):
            changes.extend(self._shift(network.entry, held, network.entry, _holders(network, moving)))
        return self._told(changes)

    def remove_vpc(self, vni: int) -> list[Change]:
        """A VPC without networks goes."""
        vpc = self._vpc(vni)
        if vpc.networks:
            raise ConflictError(f"VPC {vni} still has networks {', '.join(map(str, sorted(vpc.networks)))}")
        if vpc.peers:
            raise ConflictError(f"VPC {vni} is still peered with {', '.join(map(str, sorted(vpc.peers)))}")
        for name in vpc.fact.dividers:
            del self._droplets[name].divides[vni]
        del self._vpcs[vni]
        return self._told(self._change(name, vpc.entry, None) for name in vpc.fact.dividers)

    # ---- peerings

    def put_peering(self, fact: PeeringFact) -> list[Change]:
        """Two VPCs agree: the dividers of each learn the other, and which addresses they cross to it for."""
        one, other = self._vpc(fact.one.vni), self._vpc(fact.other.vni)
        if fact.other.vni in one.peers:
            return []
        held = one.holders(), other.holders()
        one.peers[fact.other.vni] = other, PeeringEntry(fact.one.vni, fact.other.vni, fact.other.prefixes)
        other.peers[fact.one.vni] = one, PeeringEntry(fact.other.vni, fact.one.vni, fact.one.prefixes)
        changes: list[Change] = []
        for vpc, peer, before in ((one, fact.other.vni, held[0]), (other, fact.one.vni, held[1])):
            crossing = vpc.peers[peer][1]
            changes.extend(self._shift(vpc.entry, before, vpc.entry, vpc.holders()))
            changes.extend(self._shift(crossing, (), crossing, vpc.fact.dividers))
        return self._told(changes)

    def remove_peering(self, vnis: tuple[int, int]) -> list[Change]:
        """One of both does not agree any more. Raises NotFoundError when they are not peered."""
        one, other = map(self._vpc, vnis)
        if vnis[1] not in one.peers:
            raise NotFoundError(f"VPCs {vnis[0]} and {vnis[1]} are not peered")
        held = one.holders(), other.holders()
        crossings = one.peers.pop(vnis[1])[1], other.peers.pop(vnis[0])[1]
        changes: list[Change] = []
        for vpc, crossing, before in zip((one, other), crossings, held, strict=True):
            changes.extend(self._shift(crossing, vpc.fact.dividers, crossing, ()))
            changes.extend(self._shift(vpc.entry, before, vpc.entry, vpc.holders()))
        return self._told(changes)

    # ---- networks

    def put_network(self, fact: NetworkFact) -> list[Change]:
        """A network comes, or its bouncers or routes change."""
        vpc = self._vpc(fact.vni)
        entry = NetworkEntry(
            fact.vni, fact.id, fact.prefixes, self._addresses(fact.bouncers), fact.dhcp, fact.routes,
            fact.through_divider,
        )  # fmt: skip
        network = vpc.networks.get(fact.id)
        if network is None:
            before: set[str] = set()
            network = NetworkRecord(NetworkFact(fact.vni, fact.id, fact.prefixes, ()), entry, vpc)
            vpc.networks[fact.id] = network
            self._nest(network)
        elif network.fact.prefixes != fact.prefixes:
            raise ConflictError(f"the prefixes of network {fact.id} of VPC {fact.vni} cannot change")
        else:
            before = network.holders()
        old, old_entry = network.fact.bouncers, network.entry
        moving = set(old) ^ set(fact.bouncers)
        vpc_before = _holders(vpc, moving)
        inside_before = [_holders(inner, moving) for inner in network.inside]
        network.fact, network.entry = fact, entry
        for name in moving:
            if name in old:
                vpc.leave(name)
                del self._droplets[name].bounces[network.key]
            else:
                vpc.use(name)
                self._droplets[name].bounces[network.key] = network
        changes = self._shift(vpc.entry, vpc_before, vpc.entry, _holders(vpc, moving))
        changes.extend(self._shift(old_entry, before, entry, network.holders()))
        for inner, held in zip(network.inside, inside_before, strict=True):
            changes.extend(self._shift(inner.entry, held, inner.entry, _holders(inner, moving)))
        for name in moving:
            for endpoint in network.endpoints.values():
                if endpoint.fact.host != name:
                    remote = endpoint.entry
                    changes.append(
                        self._change(name, remote, None) if name in old else self._change(name, None, remote)
                    )
        return self._told(changes)

    def remove_network(self, vni: int, network_id: int) -> list[Change]:
        """A network without endpoints goes."""
        vpc, network = self._vpc(vni), self._network(vni, network_id)
        if network.endpoints:
            raise ConflictError(f"network {network_id} of VPC {vni} still has {len(network.endpoints)} endpoints")
        bouncers = network.fact.bouncers
        changes = self._shift(network.entry, network.holders(), network.entry, ())
        inside_before = [_holders(inner, bouncers) for inner in network.inside]
        self._unnest(network)
        for inner, held in zip(network.inside, inside_before, strict=True):
            changes.extend(self._shift(inner.entry, held, inner.entry, _holders(inner, bouncers)))
        for name in bouncers:
            vpc.leave(name)
            del self._droplets[name].bounces[network.key]
        changes.extend(self._shift(vpc.entry, bouncers, vpc.entry, _holders(vpc, bouncers)))
        del vpc.networks[network_id]
        return self._told(changes)

    def _nest(self, network: NetworkRecord) -> None:
        """A new network finds its place among those around it and inside of it."""
        table = network.vpc.prefixes
        for prefix in map(_prefix, network.fact.prefixes):
            for _, outer in table.around(prefix):
                if outer not in network.around:
                    network.around.append(outer)
                    outer.inside.append(network)
            for _, inner in table.inside(prefix):
                if inner not in network.inside:
                    network.inside.append(inner)
                    inner.around.append(network)
            table.put(prefix, network)

    def _unnest(self, network: NetworkRecord) -> None:
        for prefix in map(_prefix, network.fact.prefixes):
            network.vpc.prefixes.remove(prefix)
        for outer in network.around:
            outer.inside.remove(network)
        for inner in network.inside:
            inner.around.remove(network)

    # ---- endpoints

    def put_endpoint(self, fact: EndpointFact) -> list[Change]:
        """An endpoint comes; its tunnel protocol, MAC or workload changes; or it moves to where it is prepared."""
        host, network = self._droplet(fact.host), self._network(fact.vni, fact.network_id)
        entry = fact.entry(host.fact.address)
        standby = self._droplet(fact.standby).fact.address if fact.standby else b""
        endpoint = EndpointRecord(fact, entry, network, standby)
        present = self._endpoints.get(fact.uid)
        if present is not None:
            _refuse_other_identity(present.fact, fact)
        return self._replace(present, endpoint)

    def remove_endpoint(self, uid: str) -> list[Change]:
        """An endpoint goes."""
        endpoint = self._endpoints.get(uid)
        if endpoint is None:
            raise NotFoundError(f"no endpoint {uid}")
        return self._replace(endpoint, None)

    def _replace(self, old: EndpointRecord | None, new: EndpointRecord | None) -> list[Change]:
        """One of the two is None when the endpoint comes or goes."""
        either = new or old
        assert either is not None
        uid, network = either.fact.uid, either.network
        vpc, bouncers = network.vpc, network.fact.bouncers
        before, after = (set(record.places) if record else set() for record in (old, new))
        moving = before ^ after
        if not before and network.hosts.keys() >= after:
            moving = set()  # those that it comes to know the network and the VPC already
        held = _holders(vpc, moving), _holders(network, moving)
        for name in after - before:
            if name not in network.hosts:
                vpc.use(name)
            network.hosts[name] += 1
        for name in before - after:
            network.hosts[name] -= 1
            if not network.hosts[name]:
                del network.hosts[name]
                vpc.leave(name)
            del self._droplets[name].hosts[uid]
        if new:
            network.endpoints[uid] = self._endpoints[uid] = new
            for name in after:
                self._droplets[name].hosts[uid] = new
        else:
            del network.endpoints[uid], self._endpoints[uid]
        changes: list[Change] = []
        if moving:
            changes += self._shift(vpc.entry, held[0], vpc.entry, _holders(vpc, moving))
            changes += self._shift(network.entry, held[1], network.entry, _holders(network, moving))
        was_set, is_set = (record.fact.group_set_entry if record else None for record in (old, new))
        changes.extend(self._change(*shift) for shift in vpc.group_sets.replace(was_set, is_set, before, after))
        was_bound, is_bound = (record.fact.policy if record else NOT_POLICED for record in (old, new))
        changes.extend(self._change(*shift) for shift in vpc.policies.replace(was_bound, is_bound, before, after))
        for name in bouncers:
            was, is_now = (record.entry_at(name) if record else None for record in (old, new))
            if was != is_now:
                changes.append(self._change(name, was, is_now))
        for name in sorted(before | after):
            was_local, is_local = (record.at(name) if record else None for record in (old, new))
            if was_local != is_local:
                changes.append(self._change(name, was_local, is_local))
        return self._told(changes)

    # ---- sets of rules

    def put_policy_set(self, entry: PolicySetEntry) -> list[Change]:
        """A set of rules comes, before any endpoint is bound to it, or what is in it changes."""
        return self._told(self._change(*shift) for shift in self._vpc(entry.vni).policies.put(entry))

    def remove_policy_set(self, vni: int, number: int) -> None:
        """A set goes, that no endpoint is bound to any more: no droplet holds it."""
        if vni in self._vpcs:
            self._vpcs[vni].policies.remove(number)

    # ---- network ACLs

    def put_acls(self, vni: int, entries: Iterable[AclEntry]) -> list[Change]:
        """All that network ACLs of a VPC ask for now; what is missing goes."""
        vpc = self._vpc(vni)
        old, vpc.acls = vpc.acls, {entry.key: entry for entry in entries}
        new, holders = vpc.acls, vpc.holders()
        shifts = [(old.get(key), entry) for key, entry in new.items()]
        shifts += [(entry, None) for key, entry in old.items() if key not in new]  # type: ignore[misc]
        return self._told(
            self._change(name, was, is_now) for was, is_now in shifts if was != is_now for name in sorted(holders)
        )

    # ---- scaled endpoints

    def put_service(self, fact: ServiceFact) -> list[Change]:
        """A scaled endpoint comes, or its members change, or what is known of them. Members that are not there are
        left out."""
        vpc = self._vpc(fact.vni)
        found = [(member, self._endpoints.get(member.uid)) for member in fact.members]
        members = tuple(
            MemberEntry(
                record.entry.addresses,
                record.entry.mac,
                record.entry.host,
                record.entry.tunnel,
                member.weight,
                member.state,
            )
            for member, record in found
            if record is not None
        )
        public = fact.public
        new = ServiceEntry(
            fact.vni, fact.network_id, fact.addresses, members, fact.colocated, fact.health,
            fact.listeners, fact.by_client,
            public.addresses if public else (), False, public.inside if public else (),
            public is not None and public.in_option,
        )  # fmt: skip
        names = frozenset(name for name in (public.droplets if public else ()) if name in self._droplets)
        if vpc.services.get(fact.uid) == new and vpc.attracting.get(fact.uid, frozenset()) == names:
            return []
        before = vpc.holders()
        held = {name: vpc.service_at(fact.uid, name) for name in before if fact.uid in vpc.services}
        vpc.services[fact.uid] = new
        if names or fact.uid in vpc.attracting:
            vpc.attracting[fact.uid] = names
        after = vpc.holders()
        changes = self._shift(vpc.entry, before, vpc.entry, after)
        for name in before & after:
            was, is_now = held.get(name), vpc.service_at(fact.uid, name)
            changes += [self._change(name, was, is_now)] if was != is_now else []
        return self._told(changes)

    def remove_service(self, vni: int, uid: str) -> list[Change]:
        """A scaled endpoint goes."""
        vpc = self._vpc(vni)
        if uid not in vpc.services:
            raise NotFoundError(f"no scaled endpoint {uid}")
        before = vpc.holders()
        changes = [self._change(name, vpc.service_at(uid, name), None) for name in before]
        del vpc.services[uid]
        vpc.attracting.pop(uid, None)
        return self._told(changes + self._shift(vpc.entry, before, vpc.entry, vpc.holders()))

    # ---- VPN connections

    def put_vpn(self, uid: str, place: tuple[str, VpnEntry] | None) -> list[Change]:
        """A connection comes, changes, moves with its endpoint, or (None) goes. `place`: its droplet and entry."""
        old = self._vpns.pop(uid, None)
        if place is not None:
            self._vpns[uid] = place
        if old is not None and place is not None and old[0] == place[0]:
            return self._told([self._change(place[0], old[1], place[1])] if old[1] != place[1] else [])
        changes = [self._change(old[0], old[1], None)] if old and old[0] in self._droplets else []
        return self._told(changes + ([self._change(place[0], None, place[1])] if place else []))

    # ---- the start

    def load(self, facts: Iterable[Fact]) -> None:
        """Takes facts in the order of dependence without giving changes: for the start of a manager.

        A new droplet would change all others: that is not worked out here, or the time would grow with their square.
        """
        for fact in facts:
            if isinstance(fact, DropletFact):
                self._load_droplet(fact)
            elif isinstance(fact, VpcFact):
                self.put_vpc(fact)
            elif isinstance(fact, NetworkFact):
                self.put_network(fact)
            elif isinstance(fact, PeeringFact):
                self.put_peering(fact)
            elif isinstance(fact, ServiceFact):
                self.put_service(fact)
            else:
                self.put_endpoint(fact)

    def _load_droplet(self, fact: DropletFact) -> None:
        addresses = [address for address in (fact.address, fact.second) if address]
        if fact.name in self._droplets or any(address in self._names for address in addresses):
            self.put_droplet(fact)
        else:
            self._welcome(fact)


def _prefix(entry: PrefixEntry) -> Prefix:
    return ip_network((entry.address, entry.length))


def _refuse_other_identity(old: EndpointFact, new: EndpointFact) -> None:
    if new.host not in (old.host, old.standby) and not new.carried:
        raise ConflictError(f"endpoint {new.uid} cannot move to droplet {new.host}, which is not prepared")
    if (old.vni, old.network_id, old.addresses, old.workload is None) != (
        new.vni, new.network_id, new.addresses, new.workload is None,
    ):  # fmt: skip
        raise ConflictError(f"network and addresses of endpoint {new.uid} cannot change")


def _refuse_in_use(droplet: DropletRecord) -> None:
    uses = droplet.uses()
    if uses:
        more = f" and {len(uses) - 3} more" if len(uses) > 3 else ""
        raise ConflictError(f"droplet {droplet.fact.name} is in use: it {', '.join(uses[:3])}{more}")


def _holders(record: VpcRecord | NetworkRecord, names: Iterable[str]) -> set[str]:
    return {name for name in names if record.held_by(name)}
