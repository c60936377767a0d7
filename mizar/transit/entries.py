# SPDX-License-Identifier: Apache-2.0
"""How values become entries of the maps: the one place where this room fills structs of contracts/dataplane.h.

Called by `batch` while it plans. Pure: it makes operations and never executes them.
"""

import sys
from dataclasses import dataclass
from typing import Any

from mizar.kernel.layout import constant
from mizar.model.addresses import mapped_length, to_mapped
from mizar.transit.state import State
from mizar.transit.values import (
    NO_PLACES,
    BarePrefix,
    Droplet,
    Endpoint,
    Learned,
    Local,
    Network,
    NetworkFlag,
    Peering,
    Prefix,
    Vpc,
)

_HOST_ORDER = sys.byteorder
LEARNED, GONE = 8, 4
"""enum endpoint_flag."""

IDENTITY_BYTES = 20
"""Of the option that tells which VPC it is (contracts/wire.md)."""
OPTION_FLAG_IDENTITY = 1

Key = int | dict[str, Any]


@dataclass(frozen=True, slots=True)
class Op:
    """One step in one map, in the terms of `kernel.tables`: `value` None deletes, or starts a counter from zero."""

    table: str
    key: Key
    value: Any


@dataclass(frozen=True, slots=True)
class Rows:
    """Entries of one map as bytes, many at once: key, and what is there before and after, None for nothing."""

    table: str
    changes: tuple[tuple[bytes, bytes | None, bytes | None], ...]

    @property
    def reverse(self) -> "Rows":
        """What takes it back."""
        return Rows(self.table, tuple((key, after, before) for key, before, after in self.changes))


Step = Op | Rows
"""What a plan is made of."""


def droplet_put(droplet: Droplet, own_mtu: int) -> list[Op]:
    """Where the droplet is reached, then its addresses among the known senders. `own_mtu` 0: not known."""
    addr = to_mapped(droplet.reached or droplet.address)
    value = {
        "addr": addr,
        "next_hop_mac": droplet.mac,
        "down": int(droplet.down),
        "foreign": int(droplet.foreign),
        "mtu": min((mtu for mtu in (own_mtu, droplet.mtu) if mtu), default=0),
        "interface_mtu": droplet.mtu,
    }
    return [
        Op("droplets", droplet.slot, value),
        *(Op("droplet_slots", {"addr": to_mapped(one)}, {"slot": droplet.slot}) for one in droplet.addresses),
    ]


def droplet_delete(droplet: Droplet) -> list[Op]:
    """No sender any more, then no next hop."""
    return [*map(sender_delete, droplet.addresses), Op("droplets", droplet.slot, {})]


def sender_delete(address: bytes) -> Op:
    """No sender any more."""
    return Op("droplet_slots", {"addr": to_mapped(address)}, None)


def hop_set(slot: int, places: tuple[int, ...], vni: int, network_id: int) -> Op:
    """All places of a hop set, and whose it is."""
    return Op("hop_sets", slot, {"droplet": places, "vni": vni, "network_id": network_id})


def hop_set_clear(slot: int) -> Op:
    """A hop set that is nobody's."""
    return hop_set(slot, NO_PLACES, 0, 0)


def vpc_put(vpc: Vpc) -> Op:
    """The VPC's entry."""
    return Op(
        "vpcs",
        vpc.vni,
        {"slot": vpc.slot, "dividers": vpc.hops, "flags": int(vpc.flags), "wire_vni": vpc.wire_vni or vpc.vni},
    )


def number_of(number_be: int) -> int:
    """A number that a trie keeps in network order."""
    return int.from_bytes(number_be.to_bytes(4, _HOST_ORDER), "big")


def network_key(vni: int, address: bytes, length: int) -> dict[str, Any]:
    """The key of a prefix of a VPC."""
    bits = 32 + mapped_length(address, length)
    vni_be = int.from_bytes(vni.to_bytes(4, "big"), _HOST_ORDER)
    return {"prefix_bits": bits, "vni_be": vni_be, "addr": to_mapped(address)}


def network_put(network: Network, vpc: Vpc) -> list[Op]:
    """One entry per prefix."""
    return [
        Op(
            "networks",
            network_key(network.vni, prefix.address, prefix.length),
            {
                "slot": network.hops,
                "vpc_slot": vpc.slot,
                "flags": int(network.flags),
                "gateway": to_mapped(prefix.gateway),
            },
        )
        for prefix in network.prefixes
    ]


def network_delete(vni: int, prefix: Prefix) -> Op:
    """The end of one prefix."""
    return Op("networks", network_key(vni, prefix.address, prefix.length), None)


def peering_put(peering: Peering, vpc: Vpc) -> list[Op]:
    """One entry per prefix."""
    value = {"vpc_slot": vpc.slot, "flags": int(NetworkFlag.PEERED), "peer": peering.peer}
    return [Op("networks", network_key(peering.vni, *prefix), value) for prefix in peering.prefixes]


def peering_delete(vni: int, prefix: BarePrefix) -> Op:
    """The end of one prefix."""
    return Op("networks", network_key(vni, *prefix), None)


def _endpoint_key(vni: int, address: bytes) -> dict[str, Any]:
    return {"vni": vni, "addr": to_mapped(address)}


def endpoint_put(state: State, endpoint: Endpoint, local: Local | None = None) -> list[Op]:
    """One entry per address; those of a local endpoint lead to its interface."""
    value = {
        "droplet": state.droplets[endpoint.host].slot,
        "ifindex": local.ifindex if local else 0,
        "slot": local.slot if local else 0,
        "vpc_slot": state.vpcs[endpoint.vni].slot,
        "network": state.networks[endpoint.vni, endpoint.network_id].hops,
        "mac": endpoint.mac,
        "tunnel": int(endpoint.tunnel),
        "flags": int(local.flags) if local else 0,
    }
    return [Op("endpoints", _endpoint_key(endpoint.vni, address), value) for address in endpoint.addresses]


def learned_put(state: State, learned: Learned) -> Op:
    """An endpoint for the direct path. What no agent here shares a network with is elsewhere: one virtual hop."""
    network = state.networks.get((learned.vni, learned.network_id))
    value = {
        "droplet": state.droplets[learned.host].slot,
        "vpc_slot": state.vpcs[learned.vni].slot,
        "network": network.hops if network else constant("NETWORK_ELSEWHERE"),
        "mac": learned.mac,
        "tunnel": int(learned.tunnel),
        "flags": LEARNED,
    }
    return Op("endpoints", _endpoint_key(learned.vni, learned.address), value)


def endpoint_delete(vni: int, address: bytes) -> Op:
    """The end of one address."""
    return Op("endpoints", _endpoint_key(vni, address), None)


def agent_put(state: State, local: Local, flags: NetworkFlag | None = None) -> Op:
    """What the agent of a local endpoint lets it send, and answers for it."""
    endpoint = local.endpoint
    network, vpc = state.networks[endpoint.vni, endpoint.network_id], state.vpcs[endpoint.vni]
    value: dict[str, Any] = {
        "vni": endpoint.vni,
        "wire_vni": vpc.wire_vni or vpc.vni,
        "group_set": local.wanted.group_set,
        "option_bytes": len(local.wanted.options) + (IDENTITY_BYTES if vpc.identity else 0),
        "option_flags": OPTION_FLAG_IDENTITY if vpc.identity else 0,
        "slot": local.slot,
        "vpc_slot": vpc.slot,
        "network": network.hops,
        "network_flags": int(network.flags if flags is None else flags),
        "mac": endpoint.mac,
        "tunnel": int(endpoint.tunnel),
        "flags": int(local.flags)
        | (constant("ENDPOINT_MEMBER") if _is_member(state, endpoint) else 0)
        | (constant("ENDPOINT_FORWARDING") if local.wanted.forwarding else 0),
    }
    for address in endpoint.addresses:
        prefix = network.prefix_of(address)
        assert prefix is not None, "planning refuses an address outside of its network"
        family = 4 if len(address) == 4 else 6
        value[f"addr{family}"] = to_mapped(address)
        value[f"gateway{family}"] = to_mapped(prefix.gateway)
        value[f"prefix{family}"] = prefix.length
    return Op("agents", local.ifindex, value)


def _is_member(state: State, endpoint: Endpoint) -> bool:
    return state.uses["member", endpoint.vni, endpoint.mac] > 0


def agent_delete(ifindex: int) -> Op:
    """The agent knows the interface no more, and drops what comes from it."""
    return Op("agents", ifindex, None)
