# SPDX-License-Identifier: Apache-2.0
"""Proxied endpoints that this droplet carries: planning of their entries, and finding them again in the maps.

`ProxyPlan` is a part of `batch.Plan`; `read_proxies` a part of `readback`. Each side of a proxy is an endpoint of this
droplet behind an interface that no kernel has (contracts/dataplane.h, proxies). It must never do I/O but read.
"""

import secrets
from collections.abc import Iterator, Mapping
from typing import Any

from mizar.kernel.layout import constant
from mizar.model.addresses import SERVICE_MAC, from_mapped, to_mapped
from mizar.model.errors import InvalidError
from mizar.transit import entries, marks
from mizar.transit.endpoints import EndpointPlan
from mizar.transit.entries import Op
from mizar.transit.state import State
from mizar.transit.values import Endpoint, Local, Network, Proxy, Tunnel, Wanted
from mizar.transit.workloads import InNamespace, NamespaceBy

_NOBODY = InNamespace(NamespaceBy.NAME, "", "")


class ProxyPlan(EndpointPlan):
    """A plan in the making."""

    def put_proxy(self, new: Proxy) -> bool:
        """Plan a proxied endpoint, new or changed; False when it is there already.

        A change is another instance: flows of the one before are void.
        """
        state, journal = self.state, self.journal
        if {new.client.host, new.source.host} != {state.own}:
            raise InvalidError("both sides of a proxied endpoint are on the droplet that carries it")
        old = state.proxies.get(new.key)
        if old is not None and old.same(new):
            return False
        for side in new.sides:
            self.end_proxies(side)
        proxy = new.placed(journal.take(state.proxy_slots), secrets.randbelow(0xFFFFFFFF) + 1)
        for side in proxy.sides:
            replaced = self.check(side, None)
            kept = {(side.vni, address) for address in side.addresses}
            for other in replaced:
                self._forget(other)
                gone = [address for address in other.addresses if (other.vni, address) not in kept]
                self.ops += [entries.endpoint_delete(other.vni, address) for address in gone]
            self._remember(side)
            for address in side.addresses:
                journal.put(state.proxied, (side.vni, address), proxy.key)
        journal.put(state.proxies, proxy.key, proxy)
        self.ops += [Op("proxy_usage", proxy.slot, {}), Op("proxy_ended", proxy.slot, 0)]
        self.ops += implied(state, proxy)
        return True

    def end_proxies(self, endpoint: Endpoint) -> None:
        """Plan the end of proxies that have any of the endpoint's addresses: it lives elsewhere from now on."""
        for address in endpoint.addresses:
            key = self.state.proxied.get((endpoint.vni, address))
            if key is not None:
                self.delete_proxy(*key)

    def delete_proxy(self, vni: int, address: bytes) -> bool:
        """Plan the end of a proxied endpoint, by an address of it; False when it is not carried here."""
        state, journal = self.state, self.journal
        key = state.proxied.get((vni, address))
        if key is None:
            return False
        proxy = state.proxies[key]
        for side in proxy.sides:
            self._forget(side)
            for one in side.addresses:
                journal.drop(state.proxied, (side.vni, one))
                self.ops.append(entries.endpoint_delete(side.vni, one))
        for local in _locals(proxy):
            self.ops.append(entries.agent_delete(local.ifindex))
            if marks.options_put(state, local):
                self.ops.append(marks.options_delete(local.ifindex))
        self.ops.append(Op("proxies", proxy.slot, {}))
        journal.drop(state.proxies, key)
        journal.give_back(state.proxy_slots, proxy.slot)
        return True

    def refresh_proxies(self, network: Network) -> None:
        """The agents of a network's proxies get the network's flags anew."""
        for proxy in self.state.proxies.values():
            self.ops += [
                _agent(self.state, local)
                for local in _locals(proxy)
                if (local.endpoint.vni, local.endpoint.network_id) == network.key
            ]


def implied(state: State, proxy: Proxy) -> list[Op]:
    """All entries of a proxy: what it does first, then who may send for it, then what leads to it."""
    client, source = proxy.sides
    value: dict[str, Any] = {
        "instance": proxy.instance,
        "budget": state.limits.proxy_flows,
        "client_vni": client.vni,
        "source_vni": source.vni,
        "client_vpc_slot": state.vpcs[client.vni].slot,
        "source_vpc_slot": state.vpcs[source.vni].slot,
    }
    for name, addresses in (
        ("client", client.addresses),
        ("source", source.addresses),
        ("target", proxy.targets),
    ):
        value |= {f"{name}{4 if len(address) == 4 else 6}": to_mapped(address) for address in addresses}
    locals_ = _locals(proxy)
    return [
        Op("proxies", proxy.slot, value),
        *(op for local in locals_ for op in marks.options_put(state, local)),
        *(_agent(state, local) for local in locals_),
        *(op for local in locals_ for op in entries.endpoint_put(state, local.endpoint, local)),
    ]


def _agent(state: State, local: Local) -> Op:
    op = entries.agent_put(state, local)
    return Op(op.table, op.key, {**op.value, "mac": SERVICE_MAC})


def _locals(proxy: Proxy) -> tuple[Local, Local]:
    """Its sides, as endpoints of this droplet; nobody counts for them alone."""
    first = constant("PROXY_INTERFACE") | proxy.slot << 1
    client, source = (
        Local(Wanted("", side, _NOBODY, 0), "", first | number, 0) for number, side in enumerate(proxy.sides)
    )
    return client, source


def read_proxies(maps: Any, networks: Mapping[int, Network], own: bytes) -> Iterator[tuple[int, Proxy | None]]:
    """Every slot of `proxies` in use, and the proxy there; None where its entries do not agree.

    `networks`: by their slot in hop_sets.
    """
    for slot, value in maps.proxies.used():
        if not value["instance"]:
            continue
        sides = [_side(maps, networks, own, slot, value, name) for name in ("client", "source")]
        targets = tuple(from_mapped(value[name]) for name in ("target4", "target6") if any(value[name]))
        client, source = sides
        known = client is not None and source is not None and targets and slot
        yield slot, Proxy(client, source, targets, slot, value["instance"]) if known else None  # type: ignore[arg-type]


def _side(maps: Any, networks: Mapping[int, Network], own: bytes, slot: int, value: Any, name: str) -> Endpoint | None:
    vni = value[f"{name}_vni"]
    addresses = tuple(from_mapped(value[f"{name}{family}"]) for family in (4, 6) if any(value[f"{name}{family}"]))
    found = [maps.endpoints.get({"vni": vni, "addr": to_mapped(address)}) for address in addresses]
    interface = constant("PROXY_INTERFACE") | slot << 1 | (name == "source")
    if not found or any(one is None or one != found[0] or one["ifindex"] != interface for one in found):
        return None
    entry = found[0]
    network = networks.get(entry["network"])
    if network is None or network.vni != vni or not all(map(network.prefix_of, addresses)):
        return None
    return Endpoint(vni, network.id, addresses, entry["mac"], own, Tunnel(entry["tunnel"]))
