# SPDX-License-Identifier: Apache-2.0
"""Looks at the link of an endpoint: what is not as it should be, on the host and in the workload's namespace.

Called by the daemon's audit. It must never change anything; links and workload do that, and have the same opinion of
what a whole link is. What a workload adds to its own interface is the workload's business.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mizar.kernel import interfaces, libbpf
from mizar.kernel.endpoint_link import EndpointLink
from mizar.kernel.interfaces import Interface
from mizar.kernel.namespaces import Namespace
from mizar.kernel.netlink import Netlink
from mizar.kernel.workload import default_gateways


@dataclass(frozen=True, slots=True)
class Fault:
    """`what` of the link; `found` is empty when it is not there."""

    what: str
    wanted: str
    found: str


def host_faults(netlink: Netlink, name: str, index: int, mtu: int) -> Iterator[Fault]:
    """Of the host side, whatever the kind of workload."""
    host = interfaces.find(netlink, name)
    if host is None:
        yield Fault(name, f"interface {index}", "")
        return
    if host.index != index:
        yield Fault(name, f"interface {index}", f"interface {host.index}")
    yield from _state(name, host, mtu)


def inner_faults(netlink: Netlink, link: EndpointLink, namespace: Namespace) -> Iterator[Fault]:
    """Of the workload's end."""
    host = interfaces.find(netlink, link.host_name)
    with Netlink(namespace) as inside:
        inner = interfaces.find(inside, link.name_inside)
        if inner is None or (host is not None and inner.index != host.peer_index):
            yield Fault(link.name_inside, f"the other end of {link.host_name}", "another interface" if inner else "")
            return
        if inner.mac != link.mac:
            yield Fault(f"{inner.name} MAC", link.mac.hex(":"), inner.mac.hex(":"))
        if link.self_configured or link.standby:
            return
        yield from _state(inner.name, inner, link.mtu)
        have = interfaces.addresses(inside, inner.index)
        for address in link.addresses:
            if address not in have:
                yield Fault(f"{inner.name} address", str(address), "")
        routes = default_gateways(inside, inner.index)
        for gateway in link.gateways:
            if str(gateway) not in routes:
                yield Fault(f"{inner.name} default route", str(gateway), "")


def _state(name: str, interface: Interface, mtu: int) -> Iterator[Fault]:
    if mtu and interface.mtu != mtu:
        yield Fault(f"{name} MTU", str(mtu), str(interface.mtu))
    if not interface.up:
        yield Fault(name, "up", "down")


def map_pin_fault(fd: int, pin: Path) -> str | None:
    """What is wrong with the pin of a map; None: nothing, "": it is not there."""
    other = libbpf.open_pin(pin)
    if other is None:
        return ""
    try:
        return None if libbpf.info("map", other).id == libbpf.info("map", fd).id else "another map"
    finally:
        os.close(other)
