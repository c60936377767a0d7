# SPDX-License-Identifier: Apache-2.0
"""What each droplet would be told, as sentences. Called by preview.py. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import ip_address

from mizar.manager.registry import Registry
from mizar.planner.entries import (
    DropletEntry,
    Entry,
    GroupSetEntry,
    LocalEntry,
    NetworkAclEntry,
    NetworkEntry,
    PeeringEntry,
    PolicySetEntry,
    VpcEntry,
    VpnEntry,
)
from mizar.planner.plan import Action, Change, Plan

ACTIONS = {Action.ADD: "add", Action.CHANGE: "change", Action.DELETE: "delete"}


@dataclass(frozen=True, slots=True)
class DropletSteps:
    """The steps of one droplet, in order: how many add, change and delete an entry, and each of them in words."""

    droplet: str
    counts: Counter[str]
    steps: tuple[tuple[str, str, str], ...]
    """Wave, action, entry."""


def droplet_steps(registry: Registry, changes: Iterable[Change]) -> Iterator[DropletSteps]:
    """All droplets that have anything to do, by name."""
    found: dict[str, list[tuple[str, str, str]]] = {}
    for wave, per_droplet in Plan(changes).waves():
        for name, steps in per_droplet.items():
            rows = [(wave.name.lower(), ACTIONS[step.action], entry_text(registry, step.entry)) for step in steps]
            found.setdefault(name, []).extend(rows)
    for name, rows in sorted(found.items()):
        yield DropletSteps(name, Counter(action for _, action, _ in rows), tuple(rows))


def entry_text(registry: Registry, entry: Entry) -> str:
    """An entry by the name of its object, as far as there is one."""
    match entry:
        case DropletEntry():
            return f"droplet {entry.name}"
        case VpnEntry():
            return f"VPN connection {entry.name.partition(' ')[2]}"
        case LocalEntry():
            item = registry.by_uid(entry.uid)
            what = "endpoint that lives here, and its interface" if not entry.standby else "endpoint that stands by"
            return f"{what}: {_name(item.resource.tenant, item.resource.name) if item else entry.uid}"
    holder = registry.holder("vni", str(entry.vni))
    vpc = _name(holder.resource.tenant, holder.resource.name) if holder else f"VPC {entry.vni}"
    match entry:
        case VpcEntry():
            return f"VPC {vpc}, {len(entry.dividers)} dividers"
        case NetworkEntry():
            item = registry.holder(f"network/{holder.uid}", str(entry.id)) if holder else None
            name = _name(item.resource.tenant, item.resource.name) if item else f"{entry.id} of {vpc}"
            return f"network {name}, {len(entry.bouncers)} bouncers"
        case PeeringEntry():
            peer = registry.holder("vni", str(entry.peer))
            return f"peering {vpc} → {_name(peer.resource.tenant, peer.resource.name) if peer else entry.peer}"
        case GroupSetEntry():
            return f"set of groups {entry.number} of {vpc}"
        case PolicySetEntry():
            return f"rules {entry.id:016x} of {vpc}"
        case NetworkAclEntry():
            item = registry.holder(f"network/{holder.uid}", str(entry.network_id)) if holder else None
            name = _name(item.resource.tenant, item.resource.name) if item else f"{entry.network_id} of {vpc}"
            return f"ACL of network {name}"
    address = str(ip_address(entry.addresses[0])) if entry.addresses else ""
    item = registry.holder(f"address/{holder.uid}", address) if holder else None
    name = _name(item.resource.tenant, item.resource.name) if item else f"{address} of {vpc}"
    kinds = {
        "EndpointEntry": "where it lives: endpoint",
        "ProxyEntry": "proxied endpoint",
        "ServiceEntry": "scaled endpoint",
    }
    return f"{kinds[type(entry).__name__]} {name}"


def _name(tenant: str, name: str) -> str:
    return f"{tenant}/{name}" if tenant else name
