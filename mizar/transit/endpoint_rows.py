# SPDX-License-Identifier: Apache-2.0
"""Entries of `endpoints` as bytes: there may be hundreds of thousands, nearly all of endpoints of other droplets.

Used by `readback`. Such an endpoint has an address and a MAC of its own; the rest of its entry it shares with all of
its network that live on the same host, and that is understood, and made, once for them all. It only reads.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from mizar.kernel.layout import U32, Fields, parse, struct, struct_codec
from mizar.model.addresses import from_mapped, to_mapped
from mizar.transit import appliances, entries
from mizar.transit.entries import Op
from mizar.transit.state import State
from mizar.transit.values import Endpoint, Network, Tunnel

_ADDRESS = 4
"""Where it begins in struct endpoint_key."""
_PLACE, _MAC, _KIND, _FLAGS, _STAMP = slice(0, 20), slice(20, 26), slice(26, 28), 27, 28
"""Of struct endpoint. The stamp is the data plane's own."""


class _Shared(NamedTuple):
    """What endpoints of one network on one host have in common."""

    network: Network
    host: bytes
    tunnel: Tunnel
    holds: Callable[[bytes], bool]
    """Whether an address, 4 or 16 bytes, is of the network."""


class EndpointRows:
    """All entries as they were read. Whoever compares one takes it away; `strays` are those that are left."""

    def __init__(self, table: Any) -> None:
        self._held: dict[bytes, bytes] = dict(table.raw_items())

    def learned(self) -> Iterator[tuple[Fields, Fields]]:
        """Entries for the direct path, as key and value."""
        for key, value in self._held.items():
            if value[_FLAGS] & entries.LEARNED and not appliances.is_by_mac(key[_ADDRESS:]):
                yield parse("endpoint_key", key), parse("endpoint", value)

    def elsewhere(self, networks: Mapping[int, Network], hosts: Mapping[int, bytes], own: bytes) -> Iterator[Endpoint]:
        """What each entry says of an endpoint of another droplet, with this one address; those that refer to nothing
        are left out. `networks` and `hosts`: by slot."""
        known: dict[tuple[bytes, bytes, bytes], _Shared | None] = {}
        for key, value in self._held.items():
            place = key[:_ADDRESS], value[_PLACE], value[_KIND]
            if place not in known:
                known[place] = _shared(parse("endpoint_key", key), parse("endpoint", value), networks, hosts, own)
            shared = known[place]
            if shared is None or appliances.is_by_mac(key[_ADDRESS:]):
                continue
            address = from_mapped(key[_ADDRESS:])
            if shared.holds(address):
                network = shared.network
                yield Endpoint(network.vni, network.id, (address,), value[_MAC], shared.host, shared.tunnel)

    def take(self, key: Fields) -> Fields | None:
        """One entry, for who compares it; None when there is none."""
        value = self._held.pop(struct("endpoint_key", **key), None)
        return None if value is None else parse("endpoint", value)

    def differing(self, state: State) -> Iterator[Op]:
        """What writes those entries of other droplets' endpoints that are not as they should be; all are taken."""
        known: dict[tuple[bytes, int, int, Tunnel], tuple[bytes, bytes, bytes]] = {}
        for endpoint in state.remotes():
            place = endpoint.host, endpoint.vni, endpoint.network_id, endpoint.tunnel
            if place not in known:
                value = struct_codec("endpoint").pack(entries.endpoint_put(state, endpoint)[0].value)
                known[place] = U32.pack(endpoint.vni), value[_PLACE], value[_KIND]
            vni, before, behind = known[place]
            wanted = before + endpoint.mac + behind
            for number, address in enumerate(endpoint.addresses):
                found = self._held.pop(vni + to_mapped(address), b"")
                if found[:_STAMP] != wanted:
                    yield entries.endpoint_put(state, endpoint)[number]

    def strays(self) -> Iterator[Op]:
        """What removes the entries that nobody took."""
        return (Op("endpoints", parse("endpoint_key", key), None) for key in self._held)


def _shared(
    key: Fields, value: Fields, networks: Mapping[int, Network], hosts: Mapping[int, bytes], own: bytes
) -> _Shared | None:
    network, host = networks.get(value["network"]), hosts.get(value["droplet"])
    if value["flags"] & entries.LEARNED or value["ifindex"] or value["tunnel"] not in list(Tunnel):
        return None
    if network is None or network.vni != key["vni"] or host is None or host == own:
        return None
    return _Shared(network, host, Tunnel(value["tunnel"]), _holds(network))


def _holds(network: Network) -> Callable[[bytes], bool]:
    """As Network.prefix_of, for many addresses."""
    known: dict[int, tuple[int, int]] = {}
    for prefix in network.prefixes:  # one of each family at most
        shift = 8 * len(prefix.address) - prefix.length
        known[len(prefix.address)] = shift, int.from_bytes(prefix.address, "big") >> shift

    def holds(address: bytes) -> bool:
        shift, number = known.get(len(address), (0, -1))
        return int.from_bytes(address, "big") >> shift == number

    return holds
