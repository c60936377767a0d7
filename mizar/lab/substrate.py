# SPDX-License-Identifier: Apache-2.0
"""The network under a lab: a namespace with a bridge, and for each droplet a namespace with `eth0` on it.

Called by mizar.lab.lab. Everything is made when missing and adjusted when there, so that a lab which was interrupted
at any point is completed by the same calls.

A veth is not quite a wire: XDP is refused unless both ends have equally many queues.
"""

from __future__ import annotations

import os
from ipaddress import IPv6Interface
from pathlib import Path

from mizar.kernel import interfaces, namespaces
from mizar.kernel.interfaces import RTM_NEWLINK, RTM_SETLINK
from mizar.kernel.namespaces import Namespace
from mizar.kernel.netlink import CREATE, EXCL, Message, Netlink, Order
from mizar.lab.plan import HostPlan, LabPlan
from mizar.model.errors import InvalidError

INTERFACE = "eth0"
_BRIDGE = "bridge"
_ROUTER = {"ipv4/ip_forward": "1", "ipv6/conf/all/forwarding": "1", "ipv4/conf/all/send_redirects": "0"}
_QUEUES = min(8, os.cpu_count() or 1)


def ensure(plan: LabPlan) -> None:
    """Makes or completes the substrate, the droplets' namespaces and those of endpoints that name no workload."""
    with ensure_namespace(plan.lab.substrate_namespace) as substrate, Netlink(substrate) as netlink:
        _ensure_bridge(netlink, plan.substrate.mtu)
        for host in plan.hosts:
            with ensure_namespace(host.namespace) as namespace:
                _ensure_wire(netlink, namespace, host, plan.substrate.mtu)
    for name in plan.endpoint_namespaces:
        with ensure_namespace(name) as namespace:
            if name in plan.forwarding:
                namespace.run(_forward)


def _forward() -> None:
    """In the namespace of an appliance: its kernel is a router, with one way on, so it tells nobody of better ones."""
    for switch, value in _ROUTER.items():
        Path("/proc/sys/net", switch).write_text(value)


def remove(prefix: str) -> int:
    """Takes away all namespaces whose names begin so; returns how many. What is in them goes with them."""
    doomed = [name for name in namespaces.names() if name.startswith(prefix)]
    for name in doomed:
        namespaces.remove(name)
    return len(doomed)


def ensure_namespace(name: str) -> Namespace:
    """The named namespace with `lo` up, made when missing. A name that was left half made is made again."""
    if name in namespaces.names():
        try:
            namespace = Namespace.by_name(name)
        except InvalidError:  # a file without a namespace: its maker was killed in between
            namespaces.remove(name)
            namespace = namespaces.create(name)
    else:
        namespace = namespaces.create(name)
    with Netlink(namespace) as netlink:
        netlink.tell([(interfaces.set_link("lo", up=True), RTM_SETLINK, 0, f"raise lo in {name}")])
    return namespace


def _ensure_bridge(netlink: Netlink, mtu: int) -> None:
    if interfaces.find(netlink, _BRIDGE) is None:
        message = interfaces.set_link(_BRIDGE)
        message["attrs"].append(("IFLA_LINKINFO", {"attrs": [("IFLA_INFO_KIND", "bridge")]}))
        netlink.tell([(message, RTM_NEWLINK, CREATE | EXCL, "make the substrate's bridge")])
    netlink.tell(_raise(interfaces.set_link(_BRIDGE, mtu=mtu), _BRIDGE, "configure the substrate's bridge"))


def _ensure_wire(netlink: Netlink, namespace: Namespace, host: HostPlan, mtu: int) -> None:
    """A veth between the bridge (named like the droplet) and the droplet's namespace (eth0)."""
    bridge = interfaces.get(netlink, _BRIDGE)
    if interfaces.find(netlink, host.name) is None:
        peer = [("IFLA_IFNAME", INTERFACE), ("IFLA_NET_NS_FD", namespace.fd), *_queues()]
        pair = [("IFLA_INFO_KIND", "veth"), ("IFLA_INFO_DATA", {"attrs": [("VETH_INFO_PEER", {"attrs": peer})]})]
        message = interfaces.set_link(host.name)
        message["attrs"] += [*_queues(), ("IFLA_LINKINFO", {"attrs": pair})]
        netlink.tell([(message, RTM_NEWLINK, CREATE | EXCL, f"make the wire of {host.name}")])
    outer = interfaces.set_link(host.name, mtu=mtu)
    outer["attrs"].append(("IFLA_MASTER", bridge.index))
    netlink.tell(_raise(outer, host.name, f"plug {host.name} into the substrate"))
    with Netlink(namespace) as inside:
        what = f"raise {INTERFACE} of {host.name}"
        inside.tell(_raise(interfaces.set_link(INTERFACE, mtu=mtu), INTERFACE, what))
        found = interfaces.get(inside, INTERFACE)
        inside.tell([interfaces.address_order(found, address) for address in (*host.addresses, *_link_local(host))])


def _link_local(host: HostPlan) -> list[IPv6Interface]:
    """The kernel solicits neighbours from such an address alone. Given by us, it is usable at once."""
    numbers = [int(one.ip) & 0xFFFF for one in host.addresses if one.version == 6]
    return [IPv6Interface(f"fe80::{number:x}/64") for number in numbers]


def _raise(message: Message, name: str, what: str) -> list[Order]:
    """The change, then the interface up; without IPv6 link-local addresses: droplets have those that the plan says."""
    return [
        (message, RTM_SETLINK, 0, what),
        (interfaces.no_link_local(name), RTM_SETLINK, 0, what),
        (interfaces.set_link(name, up=True), RTM_SETLINK, 0, what),
    ]


def _queues() -> list[tuple[str, int]]:
    return [("IFLA_NUM_TX_QUEUES", _QUEUES), ("IFLA_NUM_RX_QUEUES", _QUEUES)]
