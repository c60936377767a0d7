# SPDX-License-Identifier: Apache-2.0
"""All facts as records, and who holds what of them. Changed by the topology alone, which inherits it.

Who holds what, on droplets that have a daemon:
    droplets    everybody, all of them
    VPC         its dividers, the bouncers of its networks, the hosts of its endpoints, the dividers of its peers
    peering     the dividers of the VPC that packets cross from
    network     its bouncers, the dividers of its VPC, the hosts of its endpoints, the bouncers of networks around it
    endpoint    the bouncers of its network, except its own host
    local       its host
    proxy       the droplet that carries the proxied endpoint; it holds what the host of both of its sides holds
    group set   the hosts of the VPC's endpoints
    VPN         the host of the endpoint that carries it
    policy set  the hosts of the endpoints that are bound to it
    network ACL whoever knows the VPC, with its sets of rules: any of them may be where a packet crosses
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from mizar.model.errors import InvalidError, NotFoundError
from mizar.planner.entries import Entry, LocalEntry, VpcEntry, VpnEntry
from mizar.planner.plan import Change
from mizar.planner.records import DropletRecord, EndpointRecord, NetworkRecord, VpcRecord


class Holdings:
    """What is known, by its names and numbers, and what each droplet must hold of it."""

    def __init__(self) -> None:
        self._droplets: dict[str, DropletRecord] = {}
        self._names: dict[bytes, str] = {}
        self._vpcs: dict[int, VpcRecord] = {}
        self._endpoints: dict[str, EndpointRecord] = {}
        self._vpns: dict[str, tuple[str, VpnEntry]] = {}

    # ---- what is asked

    def knows(self, uid: str) -> bool:
        """Whether an endpoint is there."""
        return uid in self._endpoints

    def holders(self, vni: int) -> set[str]:
        """The droplets that know a VPC."""
        return self._vpcs[vni].holders() if vni in self._vpcs else set()

    def desired_for(self, droplet: str) -> Iterator[Entry]:
        """All that a droplet must hold, in the order of dependence. Raises NotFoundError."""
        me = self._droplet(droplet)
        if not me.fact.daemon:
            return
        yield from (other.entry for other in self._droplets.values())
        networks = dict(me.bounces)
        for network in me.bounces.values():
            networks.update((inner.key, inner) for inner in network.inside)
        networks.update((e.network.key, e.network) for e in me.hosts.values())
        for vpc in me.divides.values():
            networks.update((network.key, network) for network in vpc.networks.values())
        vpcs = me.divides | {vni: network.vpc for (vni, _), network in networks.items()}
        for vpc in me.divides.values():
            vpcs |= {vni: peer for vni, (peer, _) in vpc.peers.items()}
        vpcs |= {vni: vpc for vni, vpc in self._vpcs.items() if any(droplet in n for n in vpc.attracting.values())}
        yield from (vpc.entry for vpc in vpcs.values())
        yield from (crossing for vpc in me.divides.values() for _, crossing in vpc.peers.values())
        yield from (network.entry for network in networks.values())
        for vpc in vpcs.values():
            yield from vpc.group_sets.users if droplet in vpc.group_sets.hosts else ()
            yield from vpc.policies.at(droplet)
            yield from vpc.acls.values()
        for network in me.bounces.values():
            yield from (e.entry for e in network.endpoints.values() if e.fact.host != droplet)
        yield from (local for e in me.hosts.values() if (local := e.at(droplet)))
        yield from (vpc.service_at(uid, droplet) for vpc in vpcs.values() for uid in vpc.services)
        yield from (entry for name, entry in self._vpns.values() if name == droplet)

    def local(self, droplet: str, uid: str) -> LocalEntry | None:
        """What a droplet must hold of one endpoint as its own."""
        endpoint = self._endpoints.get(uid)
        found = endpoint.at(droplet) if endpoint else None
        return found if isinstance(found, LocalEntry) else None

    def vpc_holders(self, vni: int) -> set[str]:
        """Names of the droplets with a daemon that know a VPC; none for one that is not there."""
        vpc = self._vpcs.get(vni)
        return {name for name in vpc.holders() if self._droplets[name].fact.daemon} if vpc else set()

    def network_holders(self, vni: int, network_id: int) -> set[str]:
        """The same of a network."""
        vpc = self._vpcs.get(vni)
        network = vpc.networks.get(network_id) if vpc else None
        return {name for name in network.holders() if self._droplets[name].fact.daemon} if network else set()

    # ---- what changes are made of

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

    def _change(self, name: str, before: Entry | None, after: Entry | None) -> Change:
        return Change(name, self._droplets[name].fact.address, before, after)

    def _shift(self, old: Entry, before: Collection[str], new: Entry, after: Collection[str]) -> list[Change]:
        """The changes between `old` being held by exactly `before` and `new` by exactly `after`."""
        changes = [self._change(name, old, None) for name in before if name not in after]
        for name in after:
            if name not in before:
                changes.append(self._change(name, None, new))
            elif old != new:
                changes.append(self._change(name, old, new))
        if isinstance(new, VpcEntry) and new.vni in self._vpcs:  # as do its scaled endpoints and its ACLs
            for acl in self._vpcs[new.vni].acls.values():
                changes.extend(self._change(name, acl, None) for name in before if name not in after)
                changes.extend(self._change(name, None, acl) for name in after if name not in before)
            vpc = self._vpcs[new.vni]
            for uid in vpc.services:
                changes.extend(self._change(n, vpc.service_at(uid, n), None) for n in before if n not in after)
                changes.extend(self._change(n, None, vpc.service_at(uid, n)) for n in after if n not in before)
        return changes

    def _told(self, changes: Iterable[Change]) -> list[Change]:
        """The changes of droplets that can be told."""
        return [change for change in changes if self._droplets[change.droplet].fact.daemon]
