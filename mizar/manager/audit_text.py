# SPDX-License-Identifier: Apache-2.0
"""Findings of an audit in words: which object, which VPC, which entry, and in what two entries differ.

Used by mizar.manager.audit alone. Pure: it looks objects up, and must never change them.
"""

from __future__ import annotations

from dataclasses import fields
from ipaddress import ip_address
from typing import Any

from mizar._built import transit_pb2 as pb
from mizar.manager.registry import Item, Registry
from mizar.model.addresses import mac_text
from mizar.planner.entries import (
    DropletEntry,
    EndpointEntry,
    Entry,
    GroupSetEntry,
    LocalEntry,
    NetworkAclEntry,
    NetworkEntry,
    PeeringEntry,
    PolicySetEntry,
    ProxyEntry,
    ServiceEntry,
    VpcEntry,
    VpnEntry,
)

_TABLES: dict[type[Entry], str] = {
    DropletEntry: "droplets",
    VpcEntry: "vpcs",
    NetworkEntry: "networks",
    PeeringEntry: "peerings",
    GroupSetEntry: "group_sets",
    PolicySetEntry: "policy_verdicts",
    NetworkAclEntry: "network_acls",
    EndpointEntry: "endpoints",
    LocalEntry: "local_endpoints",
    ProxyEntry: "proxies",
    ServiceEntry: "services",
    VpnEntry: "vpns",
}


class Names:
    """The names of what findings are about; "" where it is nobody's."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    @staticmethod
    def of_item(item: Item | None) -> str:
        """Kind and name."""
        return str(item.ref) if item is not None else ""

    def of_finding(self, one: pb.Finding) -> tuple[str, str]:
        """The object and the VPC that a daemon's finding is about."""
        vpc = self._registry.holder("vni", str(one.vni)) if one.vni else None
        item = self._registry.by_uid(one.uid) if one.uid else None
        address = str(ip_address(one.address)) if len(one.address) in (4, 16) else ""
        if item is None and vpc is not None and address:
            item = self._registry.holder(f"address/{vpc.uid}", address)
        if item is None and vpc is not None and one.network_id:
            item = self._registry.holder(f"network/{vpc.uid}", str(one.network_id))
        if item is None and not one.vni and address:
            item = self._registry.holder("droplet", address)
        return self.of_item(item or vpc), _short(vpc)

    def vpc_of(self, entry: Entry) -> str:
        """The VPC that an entry belongs to."""
        vni = entry.endpoint.vni if isinstance(entry, LocalEntry) else getattr(entry, "vni", 0)
        return _short(self._registry.holder("vni", str(vni)) if vni else None)


def _short(vpc: Item | None) -> str:
    return f"{vpc.ref.tenant}/{vpc.ref.name}" if vpc is not None else ""


def entry_table(entry: Entry) -> str:
    """As in contracts/dataplane.h, where there is one."""
    return _TABLES[type(entry)]


def entry_key(entry: Entry) -> str:
    """What names it on a droplet, for people."""
    match entry:
        case DropletEntry():
            return str(ip_address(entry.address))
        case VpcEntry():
            return f"VPC {entry.vni}"
        case NetworkEntry():
            return f"network {entry.id} of VPC {entry.vni}"
        case PeeringEntry():
            return f"VPC {entry.vni} with VPC {entry.peer}"
        case GroupSetEntry():
            return f"set {entry.number} of VPC {entry.vni}"
        case PolicySetEntry():
            return f"rules {entry.id:016x} of VPC {entry.vni}"
        case VpnEntry():
            return f"VPN {entry.name or entry.uid}"
        case NetworkAclEntry():
            return f"network {entry.network_id} of VPC {entry.vni}"
        case LocalEntry():
            return f"{_addresses(entry.endpoint.addresses)} of VPC {entry.endpoint.vni}"
        case EndpointEntry() | ProxyEntry() | ServiceEntry():
            return f"{_addresses(entry.addresses)} of VPC {entry.vni}"


def entry_text(entry: Entry | None, other: Entry | None) -> str:
    """An entry; with another one, only that in which they differ."""
    if entry is None:
        return ""
    if isinstance(entry, PolicySetEntry):
        return f"rows with the digest {entry.content.hex()}"
    if isinstance(entry, VpnEntry):
        return f"revision {entry.revision}"
    parts = {one.name: getattr(entry, one.name) for one in fields(entry)}
    shown = {
        name: part
        for name, part in parts.items()
        if (getattr(other, name, None) != part if other is not None else bool(part))
    }
    return ", ".join(f"{name} {_text(name, part)}" for name, part in shown.items())


def _text(name: str, part: Any) -> str:
    if isinstance(part, bytes):
        if name == "mac":
            return mac_text(part)
        return str(ip_address(part)) if len(part) in (4, 16) and name != "identity" else part.hex() or "none"
    if isinstance(part, tuple):
        return "[" + " ".join(_text(name, one) for one in part) + "]"
    if hasattr(part, "__dataclass_fields__"):
        inner = ((one.name, getattr(part, one.name)) for one in fields(part))
        return "(" + ", ".join(f"{each} {_text(each, value)}" for each, value in inner if value) + ")"
    return str(part)


def _addresses(addresses: tuple[bytes, ...]) -> str:
    return " ".join(str(ip_address(one)) for one in addresses)
