# SPDX-License-Identifier: Apache-2.0
"""What each droplet must hold: the in-memory model of all objects, fed with facts, answering with steps.

Called by the manager, which owns one and feeds it in the order of the store's changes. Pure: no I/O, no clock, no
choice of members (that is `placement`). Incremental: putting or removing an endpoint costs O(bouncers of its
network), whatever the size of the VPC; a change of a network's bouncers touches that network's endpoints alone.

Who holds what, on droplets that have a daemon:
    droplets    everybody, all of them
    VPC         its dividers, the bouncers of its networks, the hosts of its endpoints
    network     its bouncers, the dividers of its VPC, the hosts of its endpoints
    endpoint    the bouncers of its network, except its own host
    local       its host
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from mizar.model.errors import ConflictError, InvalidError, NotFoundError
from mizar.planner.entries import DropletEntry, EndpointEntry, Entry, LocalEntry, NetworkEntry, VpcEntry
from mizar.planner.facts import DropletFact, EndpointFact, Fact, NetworkFact, VpcFact
from mizar.planner.plan import Action, Step, Wave, in_order
from mizar.planner.records import DropletRecord, EndpointRecord, NetworkRecord, VpcRecord


class Topology:
    """All facts, and from them every droplet's tables.

    Every put is idempotent: putting the same fact again gives no steps. A method that raises changes nothing:
    NotFoundError when a fact refers to one that is not there, ConflictError when one that goes is still referred to
    or something that cannot change would, InvalidError when a droplet without a daemon would be a member.
    """

    def __init__(self) -> None:
        self._droplets: dict[str, DropletRecord] = {}
        self._names: dict[bytes, str] = {}
        self._vpcs: dict[int, VpcRecord] = {}
        self._endpoints: dict[str, EndpointRecord] = {}

    # ---- droplets

    def put_droplet(self, fact: DropletFact) -> list[Step]:
        """A droplet comes; or one that is not in use gets or loses its daemon. All learn it, and it learns all."""
        present = self._droplets.get(fact.name)
        if self._names.get(fact.address, fact.name) != fact.name:
            raise ConflictError(f"droplet {self._names[fact.address]} has the address of droplet {fact.name}")
        if present is None:
            entry = DropletEntry(fact.address, fact.name)
            others = [name for name, droplet in self._droplets.items() if droplet.fact.daemon]
            self._droplets[fact.name] = DropletRecord(fact, entry)
            self._names[fact.address] = fact.name
            steps = [_add(name, entry) for name in others]
        elif present.fact.address != fact.address:
            raise ConflictError(f"the address of droplet {fact.name} cannot change")
        else:
            if present.fact.daemon == fact.daemon:
                return []
            _refuse_in_use(present)
            present.fact, steps = fact, []
        if fact.daemon:
            steps.extend(_add(fact.name, entry) for entry in self.desired_for(fact.name))
        return steps

    def remove_droplet(self, name: str) -> list[Step]:
        """A droplet goes, that is no member of anything and hosts nothing: it and all others forget each other."""
        droplet = self._droplet(name)
        _refuse_in_use(droplet)
        steps = [_delete(other, droplet.entry) for other in self._droplets if other != name]
        steps.extend(_delete(name, other.entry) for other in self._droplets.values())
        steps = self._told(steps)
        del self._droplets[name]
        del self._names[droplet.fact.address]
        return steps

    # ---- VPCs

    def put_vpc(self, fact: VpcFact) -> list[Step]:
        """A VPC comes, or its dividers change."""
        entry = VpcEntry(fact.vni, self._addresses(fact.dividers))
        vpc = self._vpcs.get(fact.vni)
        fresh = vpc is None
        if vpc is None:
            vpc = self._vpcs[fact.vni] = VpcRecord(VpcFact(fact.vni, ()), VpcEntry(fact.vni, ()))
        old = vpc.fact.dividers
        come = [name for name in fact.dividers if name not in old]
        gone = [name for name in old if name not in fact.dividers]
        if not come and not gone:
            return []
        touched: list[VpcRecord | NetworkRecord] = [vpc, *vpc.networks.values()]
        before = [_holders(record, (*come, *gone)) for record in touched]
        told = _holders(vpc, (*vpc.users, *old)) | set(() if fresh else come)
        first = entry if fresh else vpc.entry
        vpc.fact, vpc.entry = fact, entry
        for name in come:
            self._droplets[name].divides[fact.vni] = vpc
        for name in gone:
            del self._droplets[name].divides[fact.vni]
        steps = list(_change(entry, told, come, gone))
        for record, held in zip(touched, before, strict=True):
            steps.extend(_hold(first if record is vpc else record.entry, held, _holders(record, (*come, *gone))))
        return self._told(steps)

    def remove_vpc(self, vni: int) -> list[Step]:
        """A VPC without networks goes."""
        vpc = self._vpc(vni)
        if vpc.networks:
            raise ConflictError(f"VPC {vni} still has networks {', '.join(map(str, sorted(vpc.networks)))}")
        for name in vpc.fact.dividers:
            del self._droplets[name].divides[vni]
        del self._vpcs[vni]
        return self._told(_delete(name, vpc.entry) for name in vpc.fact.dividers)

    # ---- networks

    def put_network(self, fact: NetworkFact) -> list[Step]:
        """A network comes, or its bouncers change."""
        vpc = self._vpc(fact.vni)
        entry = NetworkEntry(fact.vni, fact.id, fact.prefixes, self._addresses(fact.bouncers))
        network = vpc.networks.get(fact.id)
        fresh = network is None
        if network is None:
            network = NetworkRecord(NetworkFact(fact.vni, fact.id, fact.prefixes, ()), entry, vpc)
            vpc.networks[fact.id] = network
        elif network.fact.prefixes != fact.prefixes:
            raise ConflictError(f"the prefixes of network {fact.id} of VPC {fact.vni} cannot change")
        old = network.fact.bouncers
        come = [name for name in fact.bouncers if name not in old]
        gone = [name for name in old if name not in fact.bouncers]
        if not fresh and not come and not gone:
            return []
        moving = {*come, *gone, *(vpc.fact.dividers if fresh else ())}
        before = set() if fresh else _holders(network, moving)
        vpc_before = _holders(vpc, moving)
        told = set() if fresh else _holders(network, {*network.hosts, *vpc.fact.dividers, *old}) | set(come)
        first = entry if fresh else network.entry
        network.fact, network.entry = fact, entry
        for name in come:
            vpc.use(name)
            self._droplets[name].bounces[network.key] = network
        for name in gone:
            vpc.leave(name)
            del self._droplets[name].bounces[network.key]
        steps = list(_hold(vpc.entry, vpc_before, _holders(vpc, moving)))
        steps.extend(_change(entry, told, come, gone))
        steps.extend(_hold(first, before, _holders(network, moving)))
        for endpoint in network.endpoints.values():
            remote = endpoint.entry
            steps.extend(_add(name, remote) for name in come if name != endpoint.fact.host)
            steps.extend(_delete(name, remote) for name in gone if name != endpoint.fact.host)
        return self._told(steps)

    def remove_network(self, vni: int, network_id: int) -> list[Step]:
        """A network without endpoints goes."""
        vpc, network = self._vpc(vni), self._network(vni, network_id)
        if network.endpoints:
            raise ConflictError(f"network {network_id} of VPC {vni} still has {len(network.endpoints)} endpoints")
        steps = [_delete(name, network.entry) for name in {*network.fact.bouncers, *vpc.fact.dividers}]
        for name in network.fact.bouncers:
            vpc.leave(name)
            del self._droplets[name].bounces[vni, network_id]
            if not vpc.held_by(name):
                steps.append(_delete(name, vpc.entry))
        del vpc.networks[network_id]
        return self._told(steps)

    # ---- endpoints

    def put_endpoint(self, fact: EndpointFact) -> list[Step]:
        """An endpoint comes, or its tunnel protocol, MAC or workload changes."""
        host = self._droplet(fact.host)
        network = self._network(fact.vni, fact.network_id)
        entry = EndpointEntry(fact.vni, fact.network_id, fact.addresses, fact.mac, host.fact.address, fact.tunnel)
        local = LocalEntry(fact.uid, entry, fact.workload) if fact.workload else None
        present = self._endpoints.get(fact.uid)
        if present is not None:
            return self._change_endpoint(present, fact, entry, local)
        endpoint = EndpointRecord(fact, entry, local, network)
        vpc = network.vpc
        steps = []
        if not vpc.held_by(fact.host):
            steps.append(_add(fact.host, vpc.entry))
        if not network.held_by(fact.host):
            steps.append(_add(fact.host, network.entry))
        if not network.hosts[fact.host]:
            vpc.use(fact.host)
        network.hosts[fact.host] += 1
        network.endpoints[fact.uid] = self._endpoints[fact.uid] = host.hosts[fact.uid] = endpoint
        steps.extend(_add(name, entry) for name in network.fact.bouncers if name != fact.host)
        if local:
            steps.append(_add(fact.host, local))
        return self._told(steps)

    def _change_endpoint(
        self, present: EndpointRecord, fact: EndpointFact, entry: EndpointEntry, local: LocalEntry | None
    ) -> list[Step]:
        old = present.fact
        if (old.vni, old.network_id, old.addresses, old.host, old.workload is None) != (
            fact.vni, fact.network_id, fact.addresses, fact.host, fact.workload is None,
        ):  # fmt: skip
            raise ConflictError(f"network, addresses and droplet of endpoint {fact.uid} cannot change")
        steps: list[Step] = []
        if entry != present.entry:
            bouncers = present.network.fact.bouncers
            steps.extend(Step(name, Wave.POINT, entry, Action.CHANGE) for name in bouncers if name != fact.host)
        if local and local != present.local:
            steps.append(Step(fact.host, Wave.POINT, local, Action.CHANGE))
        present.fact, present.entry, present.local = fact, entry, local
        return self._told(steps)

    def remove_endpoint(self, uid: str) -> list[Step]:
        """An endpoint goes."""
        endpoint = self._endpoints.pop(uid, None)
        if endpoint is None:
            raise NotFoundError(f"no endpoint {uid}")
        host, network = endpoint.fact.host, endpoint.network
        vpc = network.vpc
        del self._droplets[host].hosts[uid], network.endpoints[uid]
        steps = [_delete(name, endpoint.entry) for name in network.fact.bouncers if name != host]
        if endpoint.local:
            steps.append(_delete(host, endpoint.local))
        network.hosts[host] -= 1
        if not network.hosts[host]:
            del network.hosts[host]
            vpc.leave(host)
            if not network.held_by(host):
                steps.append(_delete(host, network.entry))
            if not vpc.held_by(host):
                steps.append(_delete(host, vpc.entry))
        return self._told(steps)

    # ---- all of it

    def desired_for(self, droplet: str) -> Iterator[Entry]:
        """All that a droplet must hold, in the order of dependence. Raises NotFoundError."""
        me = self._droplet(droplet)
        if not me.fact.daemon:
            return
        yield from (other.entry for other in self._droplets.values())
        networks = dict(me.bounces)
        networks.update((e.network.key, e.network) for e in me.hosts.values())
        for vpc in me.divides.values():
            networks.update((network.key, network) for network in vpc.networks.values())
        vpcs = me.divides | {vni: network.vpc for (vni, _), network in networks.items()}
        yield from (vpc.entry for vpc in vpcs.values())
        yield from (network.entry for network in networks.values())
        for network in me.bounces.values():
            yield from (e.entry for e in network.endpoints.values() if e.fact.host != droplet)
        yield from (e.local for e in me.hosts.values() if e.local)

    def load(self, facts: Iterable[Fact]) -> None:
        """Takes facts in the order of dependence without giving steps: for the start of a manager."""
        for fact in facts:
            if isinstance(fact, DropletFact):
                self.put_droplet(fact)
            elif isinstance(fact, VpcFact):
                self.put_vpc(fact)
            elif isinstance(fact, NetworkFact):
                self.put_network(fact)
            else:
                self.put_endpoint(fact)

    def _droplet(self, name: str) -> DropletRecord:
        if name not in self._droplets:
            raise NotFoundError(f"no droplet {name}")
        return self._droplets[name]

    def _vpc(self, vni: int) -> VpcRecord:
        if vni not in self._vpcs:
            raise NotFoundError(f"no VPC {vni}")
        return self._vpcs[vni]

    def _network(self, vni: int, network_id: int) -> NetworkRecord:
        if network_id not in self._vpc(vni).networks:
            raise NotFoundError(f"no network {network_id} in VPC {vni}")
        return self._vpcs[vni].networks[network_id]

    def _addresses(self, members: Collection[str]) -> tuple[bytes, ...]:
        droplets = [self._droplet(name) for name in members]
        foreign = [droplet.fact.name for droplet in droplets if not droplet.fact.daemon]
        if foreign:
            raise InvalidError(f"droplets without a daemon cannot be members of a hop set: {', '.join(foreign)}")
        return tuple(sorted(droplet.fact.address for droplet in droplets))

    def _told(self, steps: Iterable[Step]) -> list[Step]:
        """The steps of droplets that can be told, in order."""
        return in_order(step for step in steps if self._droplets[step.droplet].fact.daemon)


def _refuse_in_use(droplet: DropletRecord) -> None:
    uses = droplet.uses()
    if uses:
        more = f" and {len(uses) - 3} more" if len(uses) > 3 else ""
        raise ConflictError(f"droplet {droplet.fact.name} is in use: it {', '.join(uses[:3])}{more}")


def _holders(record: VpcRecord | NetworkRecord, names: Iterable[str]) -> set[str]:
    return {name for name in names if record.held_by(name)}


def _add(droplet: str, entry: Entry) -> Step:
    return Step(droplet, Wave.LEARN, entry)


def _delete(droplet: str, entry: Entry) -> Step:
    return Step(droplet, Wave.FORGET, entry, Action.DELETE)


def _hold(entry: Entry, before: Collection[str], after: Collection[str]) -> Iterator[Step]:
    """Steps after which exactly `after` hold an entry that exactly `before` held."""
    yield from (_add(name, entry) for name in after if name not in before)
    yield from (_delete(name, entry) for name in before if name not in after)


def _change(entry: Entry, holders: Iterable[str], come: Collection[str], gone: Collection[str]) -> Iterator[Step]:
    """Tells holders of an entry of its new members: those that come before the rest, those that are gone after it."""
    for name in holders:
        wave = Wave.JOIN if name in come else Wave.LEAVE if name in gone else Wave.POINT
        yield Step(name, wave, entry, Action.CHANGE)
