# SPDX-License-Identifier: Apache-2.0
"""Appliances, endpoints that forward: their entries in `endpoints`, by MAC, and what they may send from.

The base of `batch.Plan`; the rest is called by `readback`. An appliance is known here because it lives here, or because
a network's table leads to it; its entry follows from both and is made anew whenever either changes. Pure.
"""

from collections.abc import Iterable, Iterator

from mizar.kernel.layout import constant
from mizar.model.errors import ConflictError
from mizar.transit import routes
from mizar.transit.entries import Op
from mizar.transit.services import ServicePlan
from mizar.transit.state import State
from mizar.transit.values import Endpoint, Local, Network, NextHop, Wanted

_BY_MAC = bytes.fromhex("ff024d5a000000000000")
"""No destination begins so: it is a multicast address."""

At = tuple[int, bytes]
"""VNI and MAC."""


class AppliancePlan(ServicePlan):
    """Appliances of this droplet, and those that routes lead to."""

    def put_local(self, wanted: Wanted, host_interface: str, ifindex: int) -> Local:
        """As of any endpoint; routes lead to its interface from now on."""
        old = self.state.locals.get(wanted.uid)
        local = super().put_local(wanted, host_interface, ifindex)
        self._follow_local(old, local)
        return local

    def delete_local(self, uid: str) -> Local | None:
        """As of any endpoint; routes lead to it no more."""
        local = super().delete_local(uid)
        if local is not None:
            self._follow_local(local, None)
        return local

    def put_endpoint(self, new: Endpoint) -> bool:
        """As of any endpoint; an appliance that lived here has moved."""
        changed = super().put_endpoint(new)
        if any(one.endpoint.mac == new.mac and one.endpoint.vni == new.vni for one in _forwarding(self.state)):
            self.follow_appliances([(new.vni, new.mac)])
        return changed

    def check_local(self, wanted: Wanted) -> None:
        """Raises what would keep an endpoint from being put here."""
        super().check_local(wanted)
        mine, uid = wanted.endpoint, wanted.uid
        for other in _forwarding(self.state) if wanted.forwarding else ():
            if (other.endpoint.vni, other.endpoint.mac) == (mine.vni, mine.mac) and other.wanted.uid != uid:
                raise ConflictError(f"{other.endpoint.described()} forwards too: appliances are known by their MAC")

    def follow_routes(self, old: Network | None, new: Network | None) -> None:
        """The table of a network has changed, or the network has come or gone. Its appliances' hosts are in use."""
        for network, by in ((old, -1), (new, 1)):
            for hop in _hops(network):
                self.journal.count(self.state.uses, hop.host, by)
        either = new or old
        assert either is not None
        found = {(either.vni, hop.mac) for network in (old, new) for hop in _hops(network)}
        if old is None or new is None:  # those that are in it may have been in no network that is known here
            found |= {
                (either.vni, hop.mac)
                for network in self.state.networks_of(either.vni)
                for hop in _hops(network)
                if hop.network_id == either.id
            }
        self.follow_appliances(sorted(found))

    def follow_appliances(self, found: Iterable[At]) -> None:
        """What is known of them may have changed."""
        self.ops += [op for at in found for op in entry_of(self.state, at)]

    def _follow_local(self, old: Local | None, new: Local | None) -> None:
        wanted = [one for one in (old, new) if one is not None]
        if not any(one.wanted.forwarding for one in wanted):
            return
        keep = new.wanted.sources if new else ()
        if old and (new is None or old.slot == new.slot):
            self.ops += routes.delete(_table(old), old.wanted.sources, keep)
        self.ops += routes.put(self.state, _table(new), keep) if new else []
        self.follow_appliances({(one.endpoint.vni, one.endpoint.mac) for one in wanted})


def entry_of(state: State, at: At) -> list[Op]:
    """What an appliance's entry is to be: one that lives here, or one that a route leads to, or none."""
    vni, mac = at
    local = next(
        (x for x in _forwarding(state) if (x.endpoint.vni, x.endpoint.mac) == at and not x.wanted.standby), None
    )
    hops = (hop for network in state.networks_of(vni) for hop in _hops(network) if hop.mac == mac)
    hop = min((hop for hop in hops if hop.host != state.own), default=None)
    key = {"vni": vni, "addr": _BY_MAC + mac}
    if local is None and hop is None:
        return [Op("endpoints", key, None)]
    host, tunnel, number = (
        (state.own, local.endpoint.tunnel, local.endpoint.network_id)
        if local
        else (hop.host, hop.tunnel, hop.network_id)  # type: ignore[union-attr]
    )
    network = state.networks.get((vni, number))
    value = {
        "droplet": state.droplets[host].slot,
        "ifindex": local.ifindex if local else 0,
        "slot": local.slot if local else 0,
        "vpc_slot": state.vpcs[vni].slot,
        "network": network.hops if network else constant("NETWORK_ELSEWHERE"),
        "mac": mac,
        "tunnel": int(tunnel),
        "flags": int(local.flags) if local else 0,
    }
    return [Op("endpoints", key, value)]


def implied(state: State) -> Iterator[Op]:
    """All entries of appliances, and of their sources."""
    found = {(local.endpoint.vni, local.endpoint.mac) for local in _forwarding(state) if not local.wanted.standby}
    found |= {(network.vni, hop.mac) for network in state.networks.values() for hop in _hops(network)}
    for at in sorted(found):
        yield from (op for op in entry_of(state, at) if op.value is not None)
    for local in _forwarding(state):
        yield from routes.put(state, _table(local), local.wanted.sources)


def is_by_mac(address: bytes) -> bool:
    """Whether a key of `endpoints` is an appliance's MAC."""
    return address.startswith(_BY_MAC)


def table_of(slot: int) -> int:
    """Where `routes` has the sources of the endpoint with this slot."""
    return constant("TABLE_SOURCES") | slot


def hops_of(network: Network) -> Iterator[NextHop]:
    """The appliances that a network's table leads to."""
    return _hops(network)


def _table(local: Local) -> int:
    return table_of(local.slot)


def _forwarding(state: State) -> Iterator[Local]:
    return (local for local in state.locals.values() if local.wanted.forwarding)


def _hops(network: Network | None) -> Iterator[NextHop]:
    return (route.via for route in (network.routes if network else ()) if route.via is not None)
