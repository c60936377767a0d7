# SPDX-License-Identifier: Apache-2.0
"""A veth pair with both ends on the host: the agent's side, and one that somebody else's bridge takes as its port.

Owns making and adjusting it; links lists and deletes it. It must never touch an interface that it did not make.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass

from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

from mizar.kernel import interfaces
from mizar.kernel.endpoint_link import GROUP
from mizar.kernel.interfaces import RTM_NEWLINK, RTM_SETLINK, Interface, no_link_local, set_link
from mizar.kernel.links import Change, Links
from mizar.kernel.netlink import CREATE, EXCL
from mizar.model.errors import ConflictError, NotFoundError


@dataclass(frozen=True)
class HostPair:
    """What the pair should be. `offloads`: whether who takes `port_name` understands partial checksums."""

    instance: str
    uid: str
    host_name: str
    port_name: str
    alias: str
    """As alias_of() makes it; on the host side."""
    mtu: int
    offloads: bool


def ensure(links: Links, pair: HostPair, guard: Callable[[Interface], None]) -> tuple[Interface, Change]:
    """Makes the pair as wanted, or adjusts what is there; returns the agent's side and what had to be done.

    `guard` is called with it before it is up; what it raises is raised. Raises ConflictError when a name is taken. A
    pair that could not be made whole is gone afterwards.
    """
    owned = links.held(pair.host_name, pair.instance, pair.uid)
    if owned is not None:
        host, port = owned.interface, interfaces.find(links.netlink, pair.port_name)
        if port is not None and (port.index, port.peer_index) == (host.peer_index, host.index):
            guard(host)
            same = host.alias == pair.alias and host.up and port.up and host.mtu == port.mtu == pair.mtu
            if not same:
                _configure(links, pair)
            return interfaces.get(links.netlink, host.index), "unchanged" if same else "changed"
        links.delete_interface(host)
    _create(links, pair)
    try:
        guard(interfaces.get(links.netlink, pair.host_name))
        _configure(links, pair)
    except BaseException:
        with contextlib.suppress(NotFoundError):
            links.delete(pair.host_name)
        raise
    return interfaces.get(links.netlink, pair.host_name), "created"


def _create(links: Links, pair: HostPair) -> None:
    peer = {"attrs": [("IFLA_IFNAME", pair.port_name), ("IFLA_MTU", pair.mtu)]}
    info = [("IFLA_INFO_KIND", "veth"), ("IFLA_INFO_DATA", {"attrs": [("VETH_INFO_PEER", peer)]})]
    message = ifinfmsg()
    message["attrs"] = [
        ("IFLA_IFNAME", pair.host_name),
        ("IFLA_MTU", pair.mtu),
        ("IFLA_GROUP", GROUP),
        ("IFLA_LINKINFO", {"attrs": info}),
    ]
    what = f"make the link {pair.host_name}, whose other end is {pair.port_name}"
    try:
        links.netlink.tell([(message, RTM_NEWLINK, CREATE | EXCL, what)])
    except ConflictError as error:
        raise ConflictError(f"{what}: a name is taken already") from error


def _configure(links: Links, pair: HostPair) -> None:
    links.run(lambda: interfaces.set_tx_checksum(pair.host_name, pair.offloads))
    orders = []
    for name, alias in ((pair.host_name, pair.alias), (pair.port_name, None)):
        what = f"configure {name}"
        orders += [
            (set_link(name, alias=alias, mtu=pair.mtu), RTM_SETLINK, 0, what),
            (no_link_local(name), RTM_SETLINK, 0, f"{what}: no IPv6 link-local address"),
            (set_link(name, up=True), RTM_SETLINK, 0, f"{what}: up"),
        ]
    links.netlink.tell(orders)
