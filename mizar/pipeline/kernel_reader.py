# SPDX-License-Identifier: Apache-2.0
"""The `kernel:` section of the YAML form ⇄ its values. docs/gateway.md is the reference.

Called by the reader and the writer.
"""

from __future__ import annotations

from ipaddress import IPv4Interface, IPv4Network, IPv6Interface, IPv6Network, ip_interface, ip_network
from typing import Any

from mizar.model.document import Path
from mizar.pipeline.fields import Notes, Taker, mac, number, shown, text
from mizar.pipeline.kernel_path import KernelPath, KernelPort, KernelRoute
from mizar.pipeline.nat_text import any_address

Plain = dict[str, Any]


def _interface(value: Any) -> IPv4Interface | IPv6Interface:
    try:
        return ip_interface(text(value) if "/" in text(value) else "")
    except ValueError as error:
        raise ValueError(f"expected an address with its prefix length, found {shown(value)}") from error


def _interfaces(value: Any) -> tuple[IPv4Interface | IPv6Interface, ...]:
    return tuple(_interface(one) for one in (value if isinstance(value, list) else [value]))


def _network(value: Any) -> IPv4Network | IPv6Network:
    try:
        return ip_network(text(value))
    except ValueError as error:
        raise ValueError(f"expected a prefix without host bits, found {shown(value)}") from error


_ROUTE: dict[str, Taker] = {"to": _network, "via": any_address}
_PORT: dict[str, Taker] = {
    "meta": number,
    "to": text,
    "mac": mac,
    "addresses": _interfaces,
    "routes": lambda value: value,
}


def read_kernel(notes: Notes, path: Path, value: Any) -> KernelPath | None:
    """The section, or None with everything that is wrong in it noted."""
    before = len(notes.problems)
    found = notes.mapping(path, value, ("namespace", "mtu", "ports"), ("namespace", "ports"))
    more: Plain = {}
    if "namespace" in found:
        more["namespace"] = notes.attempt((*path, "namespace"), lambda: text(found["namespace"]))
    if "mtu" in found:
        more["mtu"] = notes.attempt((*path, "mtu"), lambda: number(found["mtu"]))
    places = notes.items((*path, "ports"), found.get("ports", []), "ports")
    ports = tuple(_port(notes, place, one) for place, one in places)
    if len(notes.problems) > before:
        return None
    kept = tuple(port for port in ports if port is not None)
    return notes.attempt(path, lambda: KernelPath(ports=kept, where=notes.where(path), **more))


def _port(notes: Notes, path: Path, value: Any) -> KernelPort | None:
    taken = notes.fields(path, value, _PORT, ("meta", "to", "mac", "addresses"))
    if taken is None:
        return None
    routes = []
    for place, one in notes.items((*path, "routes"), taken.pop("routes", []), "routes"):
        fields = notes.fields(place, one, _ROUTE, ("to",))
        if fields is not None:
            routes.append(notes.attempt(place, lambda fields=fields: KernelRoute(**fields)))  # type: ignore[misc]
    kept = tuple(route for route in routes if route is not None)
    return notes.attempt(path, lambda: KernelPort(routes=kept, where=notes.where(path), **taken))


def plain_kernel(path: KernelPath) -> Plain:
    """The section as what JSON and YAML are made of; `read_kernel` reads it back to an equal value."""
    return {"namespace": path.namespace, "mtu": path.mtu, "ports": [_plain_port(port) for port in path.ports]}


def _plain_port(port: KernelPort) -> Plain:
    found: Plain = {
        "meta": f"{port.meta:#x}",
        "to": port.to,
        "mac": port.mac.to_bytes(6, "big").hex(":"),
        "addresses": [str(one) for one in port.addresses],
    }
    if port.routes:
        found["routes"] = [{"to": str(one.to)} | ({"via": str(one.via)} if one.via else {}) for one in port.routes]
    return found
