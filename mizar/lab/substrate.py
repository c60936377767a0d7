# SPDX-License-Identifier: Apache-2.0
"""The network under a lab: a namespace with a bridge, and for each droplet a namespace with `eth0` on it.

Called by mizar.lab.lab. Everything is made when missing and adjusted when there, so that a lab which was interrupted
at any point is completed by the same calls. Ends of the veths at the bridge run NAPI (GRO on) and have as many queues
as the other end: without the first a packet that XDP sends back is lost, without the second XDP is refused.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from ipaddress import IPv4Interface

from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

from mizar.kernel import interfaces, namespaces
from mizar.kernel.interfaces import RTM_NEWADDR, RTM_NEWLINK, RTM_SETLINK
from mizar.kernel.namespaces import Namespace
from mizar.kernel.netlink import CREATE, EXCL, REPLACE, Message, Netlink
from mizar.lab.plan import HostPlan, LabPlan
from mizar.model.errors import InvalidError

INTERFACE = "eth0"
_BRIDGE = "bridge"
_QUEUES = min(8, os.cpu_count() or 1)
_AF_INET, _IFF_UP, _ADDR_GEN_NONE = 2, 1, 1  # IN6_ADDR_GEN_MODE_NONE: the substrate speaks IPv4 only


def ensure(plan: LabPlan) -> None:
    """Makes or completes the substrate, the droplets' namespaces and those of endpoints that name no workload."""
    with ensure_namespace(plan.lab.substrate_namespace) as substrate, Netlink(substrate) as netlink:
        _ensure_bridge(netlink, plan.substrate.mtu)
        for host in plan.hosts:
            with ensure_namespace(host.namespace) as namespace:
                _ensure_wire(netlink, substrate, namespace, host, plan.substrate.mtu)
    for name in plan.endpoint_namespaces:
        ensure_namespace(name).close()


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
        netlink.tell([(_link("lo", up=True), RTM_SETLINK, 0, f"raise lo in {name}")])
    return namespace


def _ensure_bridge(netlink: Netlink, mtu: int) -> None:
    if interfaces.find(netlink, _BRIDGE) is None:
        message = _link(_BRIDGE)
        message["attrs"].append(("IFLA_LINKINFO", {"attrs": [("IFLA_INFO_KIND", "bridge")]}))
        netlink.tell([(message, RTM_NEWLINK, CREATE | EXCL, "make the substrate's bridge")])
    netlink.tell([(_link(_BRIDGE, mtu=mtu, up=True), RTM_SETLINK, 0, "configure the substrate's bridge")])


def _ensure_wire(netlink: Netlink, substrate: Namespace, namespace: Namespace, host: HostPlan, mtu: int) -> None:
    """A veth between the bridge (named like the droplet) and the droplet's namespace (eth0)."""
    bridge = interfaces.get(netlink, _BRIDGE)
    if interfaces.find(netlink, host.name) is None:
        peer = [("IFLA_IFNAME", INTERFACE), ("IFLA_NET_NS_FD", namespace.fd), *_queues()]
        pair = [("IFLA_INFO_KIND", "veth"), ("IFLA_INFO_DATA", {"attrs": [("VETH_INFO_PEER", {"attrs": peer})]})]
        message = _link(host.name)
        message["attrs"] += [*_queues(), ("IFLA_LINKINFO", {"attrs": pair})]
        netlink.tell([(message, RTM_NEWLINK, CREATE | EXCL, f"make the wire of {host.name}")])
    outer = _link(host.name, mtu=mtu, up=True)
    outer["attrs"].append(("IFLA_MASTER", bridge.index))
    netlink.tell([(outer, RTM_SETLINK, 0, f"plug {host.name} into the substrate")])
    substrate.run(_gro_on(host.name))
    with Netlink(namespace) as inside:
        wanted = IPv4Interface(f"{host.address}/{host.prefix_length}")
        inside.tell([(_link(INTERFACE, mtu=mtu, up=True), RTM_SETLINK, 0, f"raise {INTERFACE} of {host.name}")])
        index = interfaces.get(inside, INTERFACE).index
        if wanted not in interfaces.addresses(inside, index):
            message = _address(index, wanted)
            inside.tell([(message, RTM_NEWADDR, CREATE | REPLACE, f"give {host.name} its address {wanted}")])


def _gro_on(name: str) -> Callable[[], None]:
    return lambda: interfaces.set_gro(name, True)


def _queues() -> list[tuple[str, int]]:
    return [("IFLA_NUM_TX_QUEUES", _QUEUES), ("IFLA_NUM_RX_QUEUES", _QUEUES)]


def _link(name: str, mtu: int = 0, up: bool = False) -> Message:
    message = ifinfmsg()
    message["attrs"] = [("IFLA_IFNAME", name)]
    if mtu:
        no_link_local = {"attrs": [("AF_INET6", {"attrs": [("IFLA_INET6_ADDR_GEN_MODE", _ADDR_GEN_NONE)]})]}
        message["attrs"] += [("IFLA_MTU", mtu), ("IFLA_AF_SPEC", no_link_local)]
    if up:
        message["flags"] = message["change"] = _IFF_UP
    return message


def _address(index: int, address: IPv4Interface) -> Message:
    message = ifaddrmsg()
    message.update({"family": _AF_INET, "prefixlen": address.network.prefixlen, "index": index})
    written = str(address.ip)
    broadcast = str(address.network.broadcast_address)
    message["attrs"] = [("IFA_LOCAL", written), ("IFA_ADDRESS", written), ("IFA_BROADCAST", broadcast)]
    return message
