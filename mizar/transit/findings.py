# SPDX-License-Identifier: Apache-2.0
"""What an audit finds, as frozen values, and whom an entry of a map is about.

Made by `audit` and by those that look at interfaces and programs; told by `replies`. Pure: it reads the state that it
is given, and never the kernel.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from mizar.kernel.layout import constant
from mizar.model.addresses import from_mapped, mac_text, mapped_length, text_of
from mizar.transit.state import State
from mizar.transit.values import Local


class Kind(IntEnum):
    """As in contracts/transit.proto."""

    MISSING = 1
    FOREIGN = 2
    ALTERED = 3


@dataclass(frozen=True, slots=True)
class Owner:
    """Whom it is about, as far as that is known: an endpoint, a network, a VPC, or (an address alone) a droplet."""

    vni: int = 0
    network_id: int = 0
    address: bytes = b""
    uid: str = ""


NOBODY = Owner()


@dataclass(frozen=True, slots=True)
class Finding:
    """`wanted` is empty for what is foreign, `found` for what is missing. `repair`: what was done; `error`: why not."""

    kind: Kind
    table: str
    key: str
    wanted: str
    found: str
    owner: Owner = NOBODY
    repair: str = ""
    error: str = ""


def kind_of(wanted: object, found: object) -> Kind:
    """Of a difference; one of both may be None or empty."""
    return Kind.MISSING if not found else Kind.FOREIGN if not wanted else Kind.ALTERED


def owner_of_local(local: Local) -> Owner:
    """An endpoint of this droplet."""
    endpoint = local.endpoint
    return Owner(endpoint.vni, endpoint.network_id, endpoint.addresses[0], local.wanted.uid)


class Owners:
    """Finds whom entries are about. `state` is what the daemon was told."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._by_ifindex = {local.ifindex: local for local in state.locals.values()}
        self._networks = {network.hops: network for network in state.networks.values()}
        self._droplets = {droplet.slot: droplet for droplet in state.droplets.values()}
        self._proxies = {proxy.slot: proxy for proxy in state.proxies.values()}
        self._services = {slot: one for one in state.services.values() for slot in (one.slot, one.near) if slot}
        self._members = {member.slot: one for one in state.services.values() for member in one.members}

    def of(self, table: str, key: Any, value: Any) -> Owner:
        """Of an entry; `value` is what it is, or what it ought to be."""
        match table:
            case "vpcs":
                return Owner(key)
            case "identities":
                return Owner(value)
            case "group_sets":
                return Owner(key["vni"])
            case "network_acls":
                return Owner(_swapped(key["vni_be"]), value.get("network", 0))
            case "acl_vpcs":
                return next((Owner(vpc.vni) for vpc in self._state.vpcs.values() if vpc.slot == key), NOBODY)
            case "policy_sets":
                return Owner(value["vni"])
            case "limiters":
                return Owner(value.get("vni", 0))
            case "endpoint_policies" | "endpoint_limits":
                return self._of_slot(key, value)
            case "networks":
                return self._network(key, value)
            case "routes":
                return self._of_hops(_swapped(key["table_be"]) >> 1)
            case "hop_sets":
                return Owner(value.get("vni", 0), value.get("network_id", 0))
            case "endpoints":
                return Owner(key["vni"], 0, from_mapped(key["addr"]), self._uid(key))
            case "agents" | "agent_options":
                return self._agent(key)
            case "substrate_endpoints":
                return Owner(value, 0, from_mapped(key["addr"]))
            case "droplet_slots":
                return Owner(address=self._state.seconds.get(from_mapped(key["addr"]), from_mapped(key["addr"])))
            case "droplets":
                droplet = self._droplets.get(key)
                return Owner(address=droplet.address) if droplet else NOBODY
            case "proxies":
                return self._proxy(key)
            case "services" | "service_notes":
                return self._service(self._services.get(key))
            case "members" | "member_notes":
                return self._service(self._members.get(key))
            case "public_addresses":
                return Owner(value["vni"], 0, from_mapped(key["addr"]))
            case "public_inside":
                return self._service(self._services.get(_swapped(key["table_be"])))
            case "listeners":
                return Owner(key["vni"], 0, from_mapped(key["addr"]))
            case "member_slots":
                return self._service(self._services.get(key["service"]))
        return NOBODY

    def _of_slot(self, slot: int, value: Any) -> Owner:
        found = next((local for local in self._state.locals.values() if local.slot == slot), None)
        return owner_of_local(found) if found else Owner(value.get("vni", 0))

    def _uid(self, key: Any) -> str:
        return self._state.uids.get((key["vni"], from_mapped(key["addr"])), "")

    def _network(self, key: Any, value: Any) -> Owner:
        vni = _swapped(key["vni_be"])
        found = self._networks.get(value.get("slot", 0))
        return Owner(vni, found.id if found and found.vni == vni else 0)

    def _of_hops(self, slot: int) -> Owner:
        network = self._networks.get(slot)
        return Owner(network.vni, network.id) if network else NOBODY

    def _agent(self, ifindex: int) -> Owner:
        local = self._by_ifindex.get(ifindex)
        first = constant("PROXY_INTERFACE")
        return owner_of_local(local) if local else self._proxy((ifindex - first) >> 1) if ifindex >= first else NOBODY

    def _proxy(self, slot: int) -> Owner:
        proxy = self._proxies.get(slot)
        return Owner(proxy.client.vni, proxy.client.network_id, proxy.client.addresses[0]) if proxy else NOBODY

    @staticmethod
    def _service(service: Any) -> Owner:
        return Owner(service.vni, service.network_id, service.addresses[0]) if service else NOBODY


def _swapped(number_be: int) -> int:
    """A number that a trie keeps in network order."""
    return int.from_bytes(number_be.to_bytes(4, sys.byteorder), "big")


def key_text(table: str, key: Any) -> str:
    """A key, for people."""
    if table in ("agents", "agent_options"):
        return f"interface {key}"
    if table == "vpcs":
        return f"VPC {key}"
    if isinstance(key, int):
        return f"slot {key}"
    if table in ("networks", "routes", "network_acls"):
        address = from_mapped(key["addr"])
        prefix = f"{text_of(address)}/{key['prefix_bits'] - 32 - mapped_length(address, 0)}"
        number = _swapped(key["table_be" if table == "routes" else "vni_be"])
        return f"{prefix} of {'table' if table == 'routes' else 'VPC'} {number}"
    if "addr" in key:
        of_vpc = f" of VPC {key['vni']}" if "vni" in key else ""
        return f"{text_of(from_mapped(key['addr']))}{of_vpc}"
    return value_text(key)


def value_text(value: Any, other: Any = None) -> str:
    """A value, for people: what is not zero of it; with another, only that in which they differ."""
    if not isinstance(value, Mapping):
        return "" if value is None else str(value)
    names = [name for name, part in value.items() if other is None and _any(part)]
    if other is not None:
        names = [name for name in {**value, **other} if _differs(value.get(name), other.get(name))]
    return ", ".join(f"{name} {_part_text(value.get(name, 0), (other or {}).get(name))}" for name in names)


def _any(part: Any) -> bool:
    return bool(part) if isinstance(part, int) else any(part)


def _differs(one: Any, other: Any) -> bool:
    """A part that is not named is zero."""
    if one is None or other is None:
        return _any(one or other or 0)
    return bool(tuple(one) != tuple(other)) if isinstance(one, Sequence | bytes) else bool(one != other)


_MANY = 16


def _part_text(part: Any, other: Any) -> str:
    if isinstance(part, bytes):
        if len(part) == 16:
            return text_of(from_mapped(part)) if any(part) else "none"
        return mac_text(part) if len(part) == 6 else part.rstrip(b"\0").hex()
    if isinstance(part, Sequence) and len(part) > _MANY:
        others = sum(one != that for one, that in zip(part, other, strict=False)) if other else 0
        return f"of {len(part)}" + (f", {others} of them others" if others else "")
    return str(part)
