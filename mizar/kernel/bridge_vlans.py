# SPDX-License-Identifier: Apache-2.0
"""VLANs of the ports of a VLAN-filtering bridge, and the VNIs that they stand for on an external VXLAN device.

Called by topology_links. A port's VLANs are pairs (VLAN, VNI). With VNI 0 the port is an access port: frames come and
go untagged. With another, the VLAN is that VNI on the other side of the device (`vlan_tunnel`, linux/if_bridge.h). It
must never touch the bridge itself.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator

from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

from mizar.kernel.interfaces import RTM_DELLINK, RTM_GETLINK, RTM_NEWLINK, RTM_SETLINK
from mizar.kernel.netlink import Message, Netlink, Order

Vlans = frozenset[tuple[int, int]]

_ACCESS = 1 << 1 | 1 << 2  # BRIDGE_VLAN_INFO_PVID, _UNTAGGED
_RTEXT_FILTER_BRVLAN = 2


def read(netlink: Netlink, index: int) -> Vlans:
    """The VLANs of a port; none on a kernel without VLAN filtering."""
    message = ifinfmsg()
    message["family"] = socket.AF_BRIDGE
    message["attrs"] = [("IFLA_EXT_MASK", _RTEXT_FILTER_BRVLAN)]
    vlans: set[int] = set()
    tunnels: dict[int, int] = {}
    for answer in netlink.ask(message, RTM_GETLINK, "list the VLANs of ports", dump=True):
        spec = answer.get_attr("IFLA_AF_SPEC")
        if answer["index"] != index or spec is None:
            continue
        vlans.update(info["vid"] for info in spec.get_attrs("IFLA_BRIDGE_VLAN_INFO"))
        for tunnel in spec.get_attrs("IFLA_BRIDGE_VLAN_TUNNEL_INFO"):
            vlan = tunnel.get_attr("IFLA_BRIDGE_VLAN_TUNNEL_VID")
            tunnels[vlan] = tunnel.get_attr("IFLA_BRIDGE_VLAN_TUNNEL_ID")
    return frozenset((vlan, tunnels.get(vlan, 0)) for vlan in vlans)


def orders(index: int, name: str, before: Vlans, after: Vlans) -> list[Order]:
    """Orders that change the VLANs of a port."""
    found: list[Order] = []
    if before - after:
        what = f"take VLANs from {name}"
        found.append((_message(index, _entries(before - after)), RTM_DELLINK, 0, what))
    if any(vni for _, vni in after):
        found.append((_tunnelling(index), RTM_NEWLINK, 0, f"let VLANs of {name} stand for VNIs"))
    if after - before:
        found.append((_message(index, _entries(after - before)), RTM_SETLINK, 0, f"give VLANs to {name}"))
    return found


def _entries(vlans: Iterable[tuple[int, int]]) -> Iterator[tuple[str, object]]:
    for vlan, vni in sorted(vlans):
        yield "IFLA_BRIDGE_VLAN_INFO", {"vid": vlan, "flags": 0 if vni else _ACCESS}
        if vni:
            tunnel = [("IFLA_BRIDGE_VLAN_TUNNEL_ID", vni), ("IFLA_BRIDGE_VLAN_TUNNEL_VID", vlan)]
            yield "IFLA_BRIDGE_VLAN_TUNNEL_INFO", {"attrs": tunnel}


def _message(index: int, entries: Iterable[tuple[str, object]]) -> Message:
    message = ifinfmsg()
    message["family"], message["index"] = socket.AF_BRIDGE, index
    message["attrs"] = [("IFLA_AF_SPEC", {"attrs": list(entries)})]
    return message


def _tunnelling(index: int) -> Message:
    message = ifinfmsg()
    message["index"] = index
    port = [("IFLA_INFO_SLAVE_KIND", "bridge"), ("IFLA_INFO_SLAVE_DATA", {"attrs": [("IFLA_BRPORT_VLAN_TUNNEL", 1)]})]
    message["attrs"] = [("IFLA_LINKINFO", {"attrs": port})]
    return message
