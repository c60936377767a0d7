# SPDX-License-Identifier: Apache-2.0
"""A tunnel's device in the namespace of the endpoint that carries it: moved there, sized, up, with its routes.

Called by mizar.transit.vpns, on any thread. The device is made in the droplet's namespace by whoever encrypts, whose
outer socket stays there. It must never touch a route that does not bear the device and the number below.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Interface, IPv6Network, ip_network
from pathlib import Path

from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from mizar.kernel import interfaces
from mizar.kernel.interfaces import RTM_DELLINK, RTM_SETLINK, Interface, set_link
from mizar.kernel.namespaces import Namespace
from mizar.kernel.netlink import CREATE, REPLACE, Message, Netlink
from mizar.model.errors import MizarError, NotFoundError

Prefix = IPv4Network | IPv6Network
_NEWROUTE, _DELROUTE, _GETROUTE = 24, 25, 26
_FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
_MAIN_TABLE, _UNICAST, _SCOPE_LINK = 254, 1, 253
_PROTOCOL = 78
"""By which `ip route` tells these routes; free in /etc/iproute2/rt_protos."""
_FORWARDING = ("ipv4/ip_forward", "ipv6/conf/all/forwarding")


def settle(name: str, namespace: Namespace, mtu: int, remote: Iterable[Prefix], interface: str) -> bool:
    """The device is in the namespace, up, and leads to `remote` alone; False while nobody has made it.

    `interface` is the endpoint's own, to which its kernel forwards.
    """
    with Netlink(namespace) as inside:
        device = interfaces.find(inside, name)
        if device is None:
            with Netlink() as outside:
                if interfaces.find(outside, name) is None:
                    return False
                _move(outside, name, namespace)
            device = interfaces.get(inside, name)
        if not device.up or device.mtu != mtu:
            inside.tell([(set_link(name, up=True, mtu=mtu), RTM_SETLINK, 0, f"raise {name}")])
        _routes(inside, device, set(remote))
        _solicits(inside, interface)
    namespace.run(_forward)
    return True


def prepare(namespace: Namespace, interface: str) -> bool:
    """For tunnels whose engine runs in the namespace itself: it forwards, and asks for the router."""
    with Netlink(namespace) as inside:
        _solicits(inside, interface)
    namespace.run(_forward)
    return True


def remove(name: str, namespace: Namespace | None) -> None:
    """The device ends, wherever it is."""
    for place in (namespace, None):
        with contextlib.suppress(MizarError), Netlink(place) as netlink:
            if (device := interfaces.find(netlink, name)) is not None:
                message = ifinfmsg()
                message["index"] = device.index
                netlink.tell([(message, RTM_DELLINK, 0, f"remove {name}")])


def _move(netlink: Netlink, name: str, namespace: Namespace) -> None:
    message = ifinfmsg()
    message["index"] = interfaces.get(netlink, name).index
    message["attrs"] = [("IFLA_NET_NS_FD", namespace.fd)]
    netlink.tell([(message, RTM_SETLINK, 0, f"move {name} into {namespace.spec}")])


def _forward() -> None:
    for switch in _FORWARDING:
        with contextlib.suppress(OSError):
            path = Path("/proc/sys/net", switch)
            if path.read_text().strip() == "0":
                path.write_text("1")


def _solicits(netlink: Netlink, interface: str) -> None:
    """For packets of others the kernel solicits the router from a link-local address, and not at all without one."""
    own = interfaces.find(netlink, interface)
    if own is None or len(own.mac) != 6:
        return
    held = interfaces.addresses(netlink, own.index)
    if any(one.version == 6 for one in held) and not any(one.ip.is_link_local for one in held if one.version == 6):
        mac = own.mac
        tail = bytes((mac[0] ^ 2, mac[1], mac[2], 0xFF, 0xFE, mac[3], mac[4], mac[5]))  # RFC 4291 A
        address = IPv6Interface((bytes.fromhex("fe80000000000000") + tail, 64))
        netlink.tell([interfaces.address_order(own, address)])


def _routes(netlink: Netlink, device: Interface, wanted: set[Prefix]) -> None:
    held = set()
    for family in _FAMILY.values():
        question = rtmsg()
        question["family"] = family
        for answer in netlink.ask(question, _GETROUTE, "list the routes", dump=True):
            if answer.get_attr("RTA_OIF") == device.index and answer["proto"] == _PROTOCOL:
                start = answer.get_attr("RTA_DST") or ("0.0.0.0" if family == socket.AF_INET else "::")  # noqa: S104
                held.add(ip_network(f"{start}/{answer['dst_len']}"))
    for prefix in sorted(wanted - held, key=str):
        what = f"route {prefix} over {device.name}"
        netlink.tell([(_route(device, prefix), _NEWROUTE, CREATE | REPLACE, what)])
    for prefix in sorted(held - wanted, key=str):
        with contextlib.suppress(NotFoundError):
            netlink.tell([(_route(device, prefix), _DELROUTE, 0, f"route {prefix} over {device.name} no more")])


def _route(device: Interface, prefix: Prefix) -> Message:
    message = rtmsg()
    message["family"], message["dst_len"] = _FAMILY[prefix.version], prefix.prefixlen
    message["table"], message["proto"], message["type"] = _MAIN_TABLE, _PROTOCOL, _UNICAST
    message["scope"] = _SCOPE_LINK if prefix.version == 4 else 0
    message["attrs"] = [("RTA_OIF", device.index)]
    if prefix.prefixlen:
        message["attrs"].append(("RTA_DST", str(prefix.network_address)))
    return message
