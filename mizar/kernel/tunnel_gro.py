# SPDX-License-Identifier: Apache-2.0
"""Idle VXLAN devices for the kernel's GRO: it merges tunnel packets only where a tunnel's socket has their port.

Called by `merging`, where Transit runs at tc ingress, behind GRO. No VNI passes these devices: what Transit leaves to
the host ends at them, and they carry nothing. GRO compares the eight bytes of the tunnel's header, the inner Ethernet
header and all behind it, so Geneve packets without options are merged as well; others come singly. Owns making and
deleting them; whose a device is, its group tells.
"""

from __future__ import annotations

import hashlib
from collections.abc import Container

from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

from mizar.kernel import interfaces, vxlan
from mizar.kernel.interfaces import RTM_DELLINK, RTM_NEWLINK, RTM_SETLINK, no_link_local, set_link
from mizar.kernel.netlink import CREATE, EXCL, Netlink
from mizar.kernel.topology_facts import Vxlan
from mizar.model.errors import MizarError

GENEVE_PORT, VXLAN_PORT = PORTS = 6081, 4789

_GROUP = 0x4D5D


def names(instance: str) -> tuple[str, ...]:
    """One device for each port."""
    tail = hashlib.sha256(instance.encode()).hexdigest()[:8]
    return tuple(f"mzgro{number}{tail}" for number in range(len(PORTS)))


def ensure(netlink: Netlink, instance: str, ports: Container[int]) -> dict[int, str]:
    """Makes the devices of these ports that are missing, and deletes the others; returns the ports that have none, and
    why. A tunnel of the host that has the port does the same while it is there."""
    failed = {}
    for name, port in zip(names(instance), PORTS, strict=True):
        if port not in ports:
            _remove(netlink, name)
            continue
        found = interfaces.find(netlink, name)
        if found is not None and found.group != _GROUP:
            failed[port] = f"the interface {name} was not made by Mizar and is left alone"
            continue
        if found is not None and found.up:
            continue
        try:
            if found is None:
                wanted = Vxlan(id=0, external=True, vnifilter=True, local="", port=port, learning=False)
                what = f"make {name}, for GRO of UDP port {port}"
                netlink.tell([(vxlan.new(name, wanted, _GROUP), RTM_NEWLINK, CREATE | EXCL, what)])
            what = f"set {name} up"
            netlink.tell([
                (no_link_local(name), RTM_SETLINK, 0, what), (set_link(name, up=True), RTM_SETLINK, 0, what)
            ])  # fmt: skip
        except MizarError as error:
            failed[port] = str(error)
            _remove(netlink, name)
    return failed


def remove(netlink: Netlink, instance: str) -> None:
    """Deletes the devices that are there."""
    for name in names(instance):
        _remove(netlink, name)


def _remove(netlink: Netlink, name: str) -> None:
    found = interfaces.find(netlink, name)
    if found is None or found.group != _GROUP:
        return
    message = ifinfmsg()
    message["index"] = found.index
    netlink.tell([(message, RTM_DELLINK, 0, f"delete {name}")])
