# SPDX-License-Identifier: Apache-2.0
"""Planning of endpoints: who may take which address and MAC, and what that means for the maps.

The base of `batch.Plan`; called by `local` too, for the endpoints of this droplet. It must never do I/O.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from mizar.model.addresses import mac_text, text_of
from mizar.model.errors import ConflictError, ExhaustedError, InvalidError, NotFoundError
from mizar.transit import entries, marks
from mizar.transit.entries import Op, Step
from mizar.transit.errors import InUseError
from mizar.transit.state import Journal, State
from mizar.transit.values import Endpoint, Learned, Local, Network, Wanted


class EndpointPlan:
    """A plan in the making. `ops` is what to execute; then `journal.commit()`, or `journal.roll_back()`."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.ops: list[Step] = []
        self.journal = Journal()

    def slot_of(self, address: bytes, what: str) -> int:
        """The slot of a known droplet; `what` it is to the object at hand, for the error when it is not known."""
        droplet = self.state.droplets.get(address)
        if droplet is None:
            raise NotFoundError(f"{what} {text_of(address)} is no known droplet; put the droplet first")
        return droplet.slot

    def put_endpoint(self, new: Endpoint) -> bool:
        """Plan an endpoint of another droplet; False when it is there already."""
        if new.host == self.state.own:
            raise InvalidError("its host is this droplet; endpoints of this droplet are made by Attach")
        return self._place(new, local=None)

    def delete_endpoint(self, vni: int, addresses: Sequence[bytes]) -> bool:
        """Plan the end of addresses of another droplet's endpoint; False when none of them is there."""
        state = self.state
        there = [address for address in addresses if (vni, address) not in state.proxied]  # it came here meanwhile
        gone = {state.at[vni, address]: None for address in there if (vni, address) in state.at}
        for endpoint in gone:
            uid = state.uids.get((vni, endpoint.addresses[0]))
            if uid:
                raise InUseError(f"{endpoint} is local endpoint {uid}; end it by Detach")
        for endpoint in gone:
            rest = tuple(address for address in endpoint.addresses if address not in addresses)
            self._forget(endpoint)
            if rest:
                self._remember(replace(endpoint, addresses=rest))
        self.ops += [entries.endpoint_delete(vni, a) for e in gone for a in e.addresses if a in addresses]
        return bool(gone)

    def check(self, new: Endpoint, uid: str | None) -> dict[Endpoint, None]:
        """Which endpoints a new one replaces: those of the same addresses, or of the same MAC.

        Raises when it refers to what is not there, or takes what is another's.
        """
        state = self.state
        network = self._network(new)
        self.slot_of(new.host, "the host")
        replaced: dict[Endpoint, None] = {}
        if uid in state.locals and not state.locals[uid].wanted.standby:
            replaced[state.locals[uid].endpoint] = None
        for address in new.addresses:
            self._check_inside(address, network)
            holder = state.at.get((new.vni, address))
            if holder and holder not in replaced:
                self._check_replaceable(holder, new, address)
                replaced[holder] = None
        owner = state.macs.get((new.vni, new.network_id, new.mac))
        if owner and owner not in replaced:
            raise ConflictError(f"MAC {mac_text(new.mac)} is taken by {owner} in the same network; choose another")
        grown = len(state.at) + len(new.addresses) - sum(len(old.addresses) for old in replaced)
        if grown > max(state.limits.endpoints, len(state.at)):
            raise ExhaustedError(
                f"the table of endpoints holds {len(state.at)} addresses and is full; "
                "delete some, or start the daemon with a larger --max-endpoints"
            )
        return replaced

    def _check_inside(self, address: bytes, network: Network) -> None:
        prefix = network.prefix_of(address)
        if prefix is None:
            raise NotFoundError(f"{network} has no prefix that holds {text_of(address)}; put the network first")
        if (network.vni, address) in self.state.serving:
            raise ConflictError(f"{text_of(address)} is the address of a scaled endpoint; choose another address")
        if address == prefix.gateway:
            raise ConflictError(f"{text_of(address)} is the gateway of {network}; choose another address")

    def _check_replaceable(self, holder: Endpoint, new: Endpoint, address: bytes) -> None:
        uid = self.state.uids.get((new.vni, address)) or (
            "of a proxied endpoint" if self._carried(new, address) else ""
        )
        same = (holder.network_id, holder.mac) == (new.network_id, new.mac)
        if uid and same and set(holder.addresses) == set(new.addresses) and new.host != self.state.own:
            return  # it has moved there
        if uid or not (same or set(holder.addresses) <= set(new.addresses)):
            whose = f"local endpoint {uid}" if uid else holder.described()
            raise ConflictError(f"{text_of(address)} is taken by {whose}; delete that first, or choose another address")

    def _carried(self, new: Endpoint, address: bytes) -> bool:
        return (new.vni, address) in self.state.proxied

    def _place(self, new: Endpoint, local: Local | None) -> bool:
        state = self.state
        replaced = self.check(new, local.wanted.uid if local else None)
        known = list(replaced) == [new] and (local is not None) == ((new.vni, new.addresses[0]) in self.state.uids)
        for old in replaced:
            self._forget(old)
            if local is None and (uid := state.uids.get((old.vni, old.addresses[0]))):
                self._stand_by(state.locals[uid])
        self._remember(new)
        if local is None and known:
            return False
        self.ops += entries.endpoint_put(self.state, new, local)
        kept = {(new.vni, address) for address in new.addresses}
        for old in replaced:
            self.ops += [entries.endpoint_delete(old.vni, a) for a in old.addresses if (old.vni, a) not in kept]
        return True

    def _stand_by(self, local: Local) -> None:
        """A local endpoint has moved to another droplet; its interface stays until it is detached."""
        self._drop_uids(local)
        waiting = replace(local, wanted=replace(local.wanted, standby=True))
        self.journal.put(self.state.locals, local.wanted.uid, waiting)
        self._use(local.endpoint, 1)
        self.ops.append(entries.agent_put(self.state, waiting))

    # ---- what was learned

    def learn(self, new: Learned) -> bool:
        """Plan an entry for the direct path; False when something here is surer, or what it refers to is not known."""
        state = self.state
        host = state.droplets.get(new.host)
        known = new.vni in state.vpcs and host is not None and host.reached and new.host != state.own
        if not known or new.key in state.at:
            return False
        self.journal.put(state.learned, new.key, new)
        self.ops.append(entries.learned_put(state, new))
        return True

    def unlearn(self, keys: Iterable[tuple[int, bytes]]) -> None:
        """Plan the end of entries for the direct path; those that are not there are skipped."""
        for key in keys:
            if key in self.state.learned:
                self.journal.drop(self.state.learned, key)
                self.ops.append(entries.endpoint_delete(*key))

    def unlearn_where(self, wanted: Callable[[Learned], bool]) -> None:
        """Plan the end of all those that refer to what changes or goes."""
        self.unlearn([key for key, learned in self.state.learned.items() if wanted(learned)])

    def _remember(self, endpoint: Endpoint) -> None:
        state, journal = self.state, self.journal
        for address in endpoint.addresses:
            if (endpoint.vni, address) in state.learned:  # its entry is written over
                journal.drop(state.learned, (endpoint.vni, address))
            journal.put(state.at, (endpoint.vni, address), endpoint)
        journal.put(state.macs, (endpoint.vni, endpoint.network_id, endpoint.mac), endpoint)
        self._use(endpoint, 1)

    def _forget(self, endpoint: Endpoint) -> None:
        state, journal = self.state, self.journal
        for address in endpoint.addresses:
            journal.drop(state.at, (endpoint.vni, address))
        journal.drop(state.macs, (endpoint.vni, endpoint.network_id, endpoint.mac))
        self._use(endpoint, -1)

    def _use(self, endpoint: Endpoint, by: int) -> None:
        """Who refers to its host, network and tunnel."""
        self.journal.count(self.state.uses, endpoint.host, by)
        self.journal.count(self.state.uses, (endpoint.vni, endpoint.network_id), by)
        self.journal.count(self.state.uses, ("tunnel", endpoint.tunnel), by)

    # ---- endpoints of this droplet

    def put_local(self, wanted: Wanted, host_interface: str, ifindex: int) -> Local:
        """Plan the entries of an endpoint whose interface exists. The agent's comes first: it is the commitment."""
        state, journal = self.state, self.journal
        self.check_local(wanted)
        old = state.locals.get(wanted.uid)
        slot = old.slot if old else journal.take(state.endpoint_slots)
        if old is None:
            self.ops.append(Op("endpoint_counters", slot, None))
        local = Local(wanted, host_interface, ifindex, slot)
        options = marks.options_put(state, local)
        self.ops += options
        self.ops.append(entries.agent_put(state, local))
        if old and old.ifindex != ifindex:
            self.ops.append(entries.agent_delete(old.ifindex))
        if old and marks.options_put(state, old) and (old.ifindex != ifindex or not options):
            self.ops.append(marks.options_delete(old.ifindex))
        if old and old.wanted.standby:
            self._use(old.endpoint, -1)
        if wanted.standby:
            self._use(wanted.endpoint, 1)
        else:
            self._place(wanted.endpoint, local)
            if old and not old.wanted.standby:
                self._drop_uids(old)
            for address in wanted.endpoint.addresses:
                journal.put(state.uids, (wanted.endpoint.vni, address), wanted.uid)
        journal.put(state.locals, wanted.uid, local)
        return local

    def check_local(self, wanted: Wanted) -> None:
        """Raise what would keep an endpoint from being put here, to live or to stand by."""
        old = self.state.locals.get(wanted.uid)
        if not wanted.standby:
            self.check(wanted.endpoint, wanted.uid)
        elif old and not old.wanted.standby:
            raise ConflictError(f"local endpoint {wanted.uid} lives here; put it with another host, or detach it")
        else:
            network = self._network(wanted.endpoint)
            for address in wanted.endpoint.addresses:
                self._check_inside(address, network)

    def _network(self, endpoint: Endpoint) -> Network:
        network = self.state.networks.get((endpoint.vni, endpoint.network_id))
        if network is None:
            raise NotFoundError(f"network {endpoint.network_id} of VPC {endpoint.vni} is not known; put it first")
        return network

    def delete_local(self, uid: str) -> Local | None:
        """Plan the end of the entries of a local endpoint; the agent's goes first, as the end of the commitment."""
        state, journal = self.state, self.journal
        local = state.locals.get(uid)
        if local is None:
            return None
        journal.drop(state.locals, uid)
        journal.give_back(state.endpoint_slots, local.slot)
        self.ops.append(entries.agent_delete(local.ifindex))
        if marks.options_put(state, local):
            self.ops.append(marks.options_delete(local.ifindex))
        if local.wanted.standby:
            self._use(local.endpoint, -1)
            return local
        self._forget(local.endpoint)
        self._drop_uids(local)
        self.ops += [entries.endpoint_delete(local.endpoint.vni, address) for address in local.endpoint.addresses]
        return local

    def _drop_uids(self, local: Local) -> None:
        for address in local.endpoint.addresses:
            self.journal.drop(self.state.uids, (local.endpoint.vni, address))
