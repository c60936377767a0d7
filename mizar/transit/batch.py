# SPDX-License-Identifier: Apache-2.0
"""Planning of changes: what a batch means for the maps, decided in memory before the kernel is touched.

Called by `core` and `local` with valid values. A `Plan` changes the state through a journal
and collects the operations in an order in which a reader in the data plane never meets a reference to nothing; the
caller executes them and commits, or rolls back. It must never do I/O.
"""

from collections.abc import Iterable
from dataclasses import replace

from mizar.model.addresses import text_of
from mizar.model.errors import ConflictError, ExhaustedError, NotFoundError
from mizar.transit import entries, marks, routes
from mizar.transit.appliances import AppliancePlan, hops_of
from mizar.transit.entries import Op
from mizar.transit.errors import InUseError
from mizar.transit.hopset import fill
from mizar.transit.limits import LimitPlan
from mizar.transit.peerings import PeeringPlan
from mizar.transit.policies import PolicyPlan
from mizar.transit.policy_values import DeleteNetworkAcl, DeletePolicySet, PutNetworkAcl, PutPolicySet
from mizar.transit.service_values import DeleteService, PutService
from mizar.transit.values import (
    NO_PLACES,
    Change,
    DeleteDroplet,
    DeleteEndpoint,
    DeleteGroupSet,
    DeleteNetwork,
    DeletePeering,
    DeleteProxy,
    DeleteVpc,
    Droplet,
    Endpoint,
    Network,
    NetworkFlag,
    PutDroplet,
    PutEndpoint,
    PutGroupSet,
    PutNetwork,
    PutPeering,
    PutProxy,
    PutVpc,
    Vpc,
    VpcFlag,
)


class Plan(LimitPlan, PolicyPlan, AppliancePlan, PeeringPlan):
    """One batch in the making. `ops` is what to execute; then `journal.commit()`, or `journal.roll_back()`."""

    def add(self, change: Change) -> bool:
        """Plan one change; False when it is there already. Raises when the state does not allow it."""
        match change:
            case PutDroplet(droplet):
                return self._put_droplet(droplet)
            case DeleteDroplet(address):
                return self._delete_droplet(address)
            case PutVpc(vpc):
                return self._put_vpc(vpc)
            case DeleteVpc(vni):
                return self._delete_vpc(vni)
            case PutNetwork(network):
                return self._put_network(network)
            case DeleteNetwork(vni, number):
                return self._delete_network(vni, number)
            case PutEndpoint(endpoint):
                self.end_proxies(endpoint)
                return self.put_endpoint(endpoint)
            case DeleteEndpoint(vni, addresses):
                return self.delete_endpoint(vni, addresses)
            case PutProxy(proxy):
                return self.put_proxy(proxy)
            case DeleteProxy(vni, address):
                return self.delete_proxy(vni, address)
            case PutService(service):
                return self.put_service(service)
            case DeleteService(vni, address):
                return self.delete_service(vni, address)
            case PutGroupSet(vni, number, groups):
                return self._put_group_set(vni, number, groups)
            case DeleteGroupSet(vni, number):
                return self._delete_group_set(vni, number)
            case PutPolicySet(rules):
                return self.put_policy_set(rules)
            case DeletePolicySet(vni, number):
                return self.delete_policy_set((vni, number))
            case PutNetworkAcl(acl):
                return self.put_network_acl(acl)
            case DeleteNetworkAcl(vni, number):
                return self.delete_network_acl(vni, number)
            case PutPeering(peering):
                return self.put_peering(peering)
            case DeletePeering(vni, peer):
                return self.delete_peering(vni, peer)

    # ---- droplets

    def _put_droplet(self, new: Droplet) -> bool:
        state = self.state
        old = state.droplets.get(new.address)
        if old and old.second == new.second:
            known = replace(old, name=new.name, mtu=new.mtu or old.mtu, foreign=new.foreign)
            self.journal.put(state.droplets, new.address, known)
            if (known.mtu, known.foreign) == (old.mtu, old.foreign):
                return False
            self.ops += entries.droplet_put(known, state.own_mtu)[:1]
            if known.foreign != old.foreign:
                self.refresh_reach(known.address)
            return True
        self._check_addresses(new)
        slot = old.slot if old else self.journal.take(state.droplet_slots)
        mtu = new.mtu or (old.mtu if old else 0)
        droplet = replace(old or new, name=new.name, second=new.second, slot=slot, mtu=mtu, foreign=new.foreign)
        droplet = replace(droplet, reached=state.reached(droplet))
        if old:
            self._forget_second(old)
            droplet = replace(droplet, mac=old.mac if old.reached == droplet.reached else bytes(6))
        self.journal.put(state.droplets, new.address, droplet)
        if new.second:
            self.journal.put(state.seconds, new.second, new.address)
        if len(new.address) == 16:
            self.journal.put(state.ipv6_alone, new.address, None)
        self.ops += entries.droplet_put(droplet, state.own_mtu)
        if old and (old.reached, old.foreign) != (droplet.reached, droplet.foreign):
            self.refresh_reach(droplet.address)
        return True

    def _check_addresses(self, new: Droplet) -> None:
        state = self.state
        for address in new.addresses:
            holder = state.seconds.get(address, address if address in state.droplets else new.address)
            if holder != new.address:
                raise ConflictError(f"{text_of(address)} is an address of {state.droplets[holder]} already")

    def _forget_second(self, old: Droplet) -> None:
        if old.second:
            self.journal.drop(self.state.seconds, old.second)
            self.ops.append(entries.sender_delete(old.second))

    def _delete_droplet(self, address: bytes) -> bool:
        state = self.state
        droplet = state.droplets.get(address)
        if droplet is None:
            return False
        if state.uses[address]:
            raise InUseError(f"{droplet} is still in use by {self._user_of(address)}; change or delete that first")
        self.unlearn_where(lambda learned: learned.host == address)
        self.journal.drop(state.droplets, address)
        if droplet.second:
            self.journal.drop(state.seconds, droplet.second)
        if address in state.ipv6_alone:
            self.journal.drop(state.ipv6_alone, address)
        self.journal.give_back(state.droplet_slots, droplet.slot)
        self.ops += entries.droplet_delete(droplet)
        return True

    def _user_of(self, address: bytes) -> Vpc | Network | Endpoint | str:
        state = self.state
        for vpc in state.vpcs.values():
            if address in vpc.dividers:
                return vpc
        for network in state.networks.values():
            if address in network.bouncers:
                return network
        for network in state.networks.values():
            if any(hop.host == address for hop in hops_of(network)):
                return f"a route of {network}"
        return next((endpoint for endpoint in state.at.values() if endpoint.host == address), "another object")

    # ---- VPCs

    def _put_vpc(self, new: Vpc) -> bool:
        state, journal = self.state, self.journal
        old = state.vpcs.get(new.vni)
        self._check_identity(new, old)
        if old and old.dividers == new.dividers:
            return False
        members = [self.slot_of(address, "the divider") for address in new.dividers]
        if old:
            slot, hops, before = old.slot, old.hops, old
        else:
            slot, hops, before = journal.take(state.vpc_slots), 0, replace(new, dividers=())
            self.ops.append(Op("vpc_counters", slot, None))
            # Until the daemon has counted (service_flows), the share that a VPC alone would not fill.
            budget = state.limits.flows // (len(state.vpcs) + 1)
            self.ops += [Op("flow_counts", slot, {}), Op("flow_budgets", slot, {"until": budget})]
            budget = state.limits.policy_flows // (len(state.vpcs) + 1)
            self.ops += [Op("policy_counts", slot, {}), Op("policy_budgets", slot, {"until": budget})]
        if members and not hops:
            hops = journal.take(state.hop_slots)
        vpc = replace(
            new,
            slot=slot,
            hops=hops if members else 0,
            places=fill(members, before.places),
            flags=VpcFlag.DIVIDED_HERE if state.own in new.dividers else VpcFlag.NONE,
        )
        self._count(before.dividers, -1)
        self._count(vpc.dividers, 1)
        journal.put(state.vpcs, vpc.vni, vpc)
        if old is None:
            self.ops += marks.identity_put(vpc)
        if members:
            self.ops.append(entries.hop_set(hops, vpc.places, vpc.vni, 0))
        # A new divider knows its networks before it claims to divide; one that resigns stops claiming first.
        if vpc.flags > before.flags:
            self._refresh_roles(vpc)
        self.ops.append(entries.vpc_put(vpc))
        if vpc.flags < before.flags:
            self._refresh_roles(vpc)
        if hops and not members:
            self.ops.append(entries.hop_set_clear(hops))
            journal.give_back(state.hop_slots, hops)
        return True

    def _delete_vpc(self, vni: int) -> bool:
        state, journal = self.state, self.journal
        vpc = state.vpcs.get(vni)
        if vpc is None:
            return False
        if state.members.get(vni):
            raise InUseError(f"{vpc} still has {next(state.networks_of(vni))}; delete its networks first")
        self.refuse_peered(vpc)
        self.refuse_ruled(vni)
        if any(of == vni for of, _ in state.group_sets):
            raise InUseError(f"{vpc} still has sets of groups; delete those first")
        self.ops += marks.identity_delete(vpc)
        self.unlearn_where(lambda learned: learned.vni == vni)
        self._count(vpc.dividers, -1)
        journal.drop(state.vpcs, vni)
        journal.give_back(state.vpc_slots, vpc.slot)
        self.ops.append(Op("vpcs", vni, None))
        if vpc.hops:
            self.ops.append(entries.hop_set_clear(vpc.hops))
            journal.give_back(state.hop_slots, vpc.hops)
        return True

    def _check_identity(self, new: Vpc, old: Vpc | None) -> None:
        if old and (old.wire_vni, old.identity) != (new.wire_vni, new.identity):
            raise ConflictError(f"VNI and identity of {new} cannot change; delete it first")
        if old is None and new.identity:
            for other in self.state.vpcs.values():
                if (other.wire_vni, other.identity) == (new.wire_vni, new.identity):
                    raise ConflictError(f"{other} has the same VNI and identity; delete that first")

    # ---- sets of groups

    def _put_group_set(self, vni: int, number: int, groups: tuple[int, ...]) -> bool:
        state = self.state
        if vni not in state.vpcs:
            raise NotFoundError(f"VPC {vni} is not known; put it first")
        if state.group_sets.get((vni, number)) == groups:
            return False
        if (vni, number) not in state.group_sets and len(state.group_sets) >= state.limits.group_sets:
            raise ExhaustedError(f"there are {len(state.group_sets)} sets of groups already; delete some")
        self.journal.put(state.group_sets, (vni, number), groups)
        self.ops.append(marks.group_set_put(vni, number, groups))
        return True

    def _delete_group_set(self, vni: int, number: int) -> bool:
        if (vni, number) not in self.state.group_sets:
            return False
        self.journal.drop(self.state.group_sets, (vni, number))
        self.ops.append(marks.group_set_delete(vni, number))
        return True

    def _refresh_roles(self, vpc: Vpc) -> None:
        """Give the networks of a VPC, and the agents in them, their flags anew."""
        for network in list(self.state.networks_of(vpc.vni)):
            refreshed = replace(network, flags=self._role(network, vpc))
            self.journal.put(self.state.networks, network.key, refreshed)
            self.ops += entries.network_put(refreshed, vpc)
            self._refresh_agents(refreshed)

    def _refresh_agents(self, network: Network) -> None:
        if self.state.uses[network.key]:
            locals_ = self.state.locals.values()
            members = [one for one in locals_ if (one.endpoint.vni, one.endpoint.network_id) == network.key]
            self.ops += [entries.agent_put(self.state, local) for local in members]
            self.refresh_proxies(network)

    def _role(self, network: Network, vpc: Vpc) -> NetworkFlag:
        flags = NetworkFlag.HAS_ROUTES if network.routes else NetworkFlag.NONE
        if self.state.own in network.bouncers:
            flags |= NetworkFlag.BOUNCED_HERE
        if vpc.flags & VpcFlag.DIVIDED_HERE:
            flags |= NetworkFlag.ROUTED_HERE
        if network.through_divider:
            flags |= NetworkFlag.THROUGH_DIVIDER
        return flags

    def _count(self, addresses: Iterable[bytes], by: int) -> None:
        for address in addresses:
            self.journal.count(self.state.uses, address, by)

    # ---- networks

    def _put_network(self, new: Network) -> bool:
        state, journal = self.state, self.journal
        vpc = state.vpcs.get(new.vni)
        if vpc is None:
            raise NotFoundError(f"VPC {new.vni} is not known; put it first")
        old = state.networks.get(new.key)
        if old and replace(new, hops=old.hops, places=old.places, flags=old.flags) == old:
            return False
        members = [self.slot_of(address, "the bouncer") for address in new.bouncers]
        for hop in hops_of(new):
            self.slot_of(hop.host, "the host of an appliance")
        self._check_prefixes(new, old)
        if old is None and len(state.networks) >= state.limits.networks:
            raise ExhaustedError(
                f"there are {len(state.networks)} networks already; start the daemon with a larger --max-networks"
            )
        if old is None or old.prefixes != new.prefixes:
            self._unlearn_inside(new)
        network = replace(
            new,
            hops=old.hops if old else journal.take(state.hop_slots),
            places=fill(members, old.places if old else NO_PLACES),
            flags=self._role(new, vpc),
        )
        if old is None:
            journal.put(state.members, new.vni, {**state.members.get(new.vni, {}), new.id: None})
        self._count(old.bouncers if old else (), -1)
        self._count(network.bouncers, 1)
        journal.put(state.networks, network.key, network)
        for prefix in network.prefixes:
            journal.put(state.prefixes, (network.vni, prefix.address, prefix.length), network.key)
        self.ops.append(entries.hop_set(network.hops, network.places, network.vni, network.id))
        self.follow_routes(old, network)
        self.ops += routes.routes_put(state, network)
        if old is None or (old.prefixes, old.flags) != (network.prefixes, network.flags):
            self.ops += entries.network_put(network, vpc)
            self._refresh_agents(network)
        if old:
            self.ops += routes.routes_delete(old, keep=network)
            self._drop_prefixes(old, keep=network)
        return True

    def _check_prefixes(self, new: Network, old: Network | None) -> None:
        state = self.state
        for prefix in new.prefixes:
            owner = state.prefixes.get((new.vni, prefix.address, prefix.length))
            if owner not in (None, new.key):
                raise ConflictError(f"{prefix} belongs to network {owner[1]} of the VPC already; choose another prefix")
            self.refuse_crossing(new.vni, prefix.address, prefix.length)
            holder = state.at.get((new.vni, prefix.gateway))
            if holder:
                raise ConflictError(f"the gateway {text_of(prefix.gateway)} is the address of {holder}; choose another")
        if old and old.prefixes != new.prefixes and state.uses[new.key]:
            for endpoint in state.at.values():
                if (endpoint.vni, endpoint.network_id) == new.key and not all(map(new.prefix_of, endpoint.addresses)):
                    raise InUseError(f"{endpoint} lies outside of the new prefixes; move or delete it first")

    def _drop_prefixes(self, old: Network, keep: Network | None) -> None:
        kept = {(prefix.address, prefix.length) for prefix in keep.prefixes} if keep else set()
        for prefix in old.prefixes:
            if (prefix.address, prefix.length) not in kept:
                self.journal.drop(self.state.prefixes, (old.vni, prefix.address, prefix.length))
                self.ops.append(entries.network_delete(old.vni, prefix))

    def _unlearn_inside(self, network: Network) -> None:
        """Their entries say which network they are in, as far as it is known here."""
        self.unlearn_where(lambda one: one.vni == network.vni and network.prefix_of(one.address) is not None)

    def _delete_network(self, vni: int, number: int) -> bool:
        state, journal = self.state, self.journal
        network = state.networks.get((vni, number))
        if network is None:
            return False
        if state.uses[network.key]:
            user = next(x for x in state.at.values() if (x.vni, x.network_id) == network.key)
            raise InUseError(f"{network} still has {user}; delete its endpoints first")
        self._unlearn_inside(network)
        self._count(network.bouncers, -1)
        self.ops += routes.routes_delete(network)
        self._drop_prefixes(network, keep=None)
        journal.drop(state.networks, network.key)
        rest = {other: None for other in state.members[vni] if other != number}
        if rest:
            journal.put(state.members, vni, rest)
        else:
            journal.drop(state.members, vni)
        self.follow_routes(network, None)
        self.ops.append(entries.hop_set_clear(network.hops))
        journal.give_back(state.hop_slots, network.hops)
        return True
