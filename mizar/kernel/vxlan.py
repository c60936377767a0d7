# SPDX-License-Identifier: Apache-2.0
"""VXLAN devices over netlink: what they are made with, and the VNIs that pass a device with a VNI filter.

Called by topology_links. Declares what pyroute2 0.9 lacks: IFLA_VXLAN_VNIFILTER and the messages RTM_*TUNNEL
(linux/if_link.h, since 5.18). It must never make or delete a device.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator
from ipaddress import ip_address
from typing import Any

from pyroute2.netlink import NLA_F_NESTED, nla, nlmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

from mizar.kernel.netlink import CREATE, Message, Netlink, Order
from mizar.kernel.topology_facts import VniRange, Vxlan, ranges

_RANGES = 1000
"""In one message."""

_RTM_NEWTUNNEL, _RTM_DELTUNNEL, _RTM_GETTUNNEL = 120, 121, 122
_KNOWN: Any = ifinfmsg.ifinfo.data_map["vxlan"]


# Classes of their own: pyroute2 keeps a table with each class, which classes made from it would inherit as it is.
class _VxlanData(nla):  # type: ignore[misc]
    prefix = "IFLA_"
    nla_map = (*_KNOWN.nla_map, ("IFLA_VXLAN_VNIFILTER", "uint8"))
    port_range = _KNOWN.port_range


class _Info(nla):  # type: ignore[misc]
    nla_map = ((1, "IFLA_INFO_KIND", "asciiz"), (2, "IFLA_INFO_DATA", "vxlan_data"))
    vxlan_data = _VxlanData


class _LinkMessage(nlmsg):  # type: ignore[misc]
    """A link message with what a VXLAN device is made with."""

    fields = ifinfmsg.fields
    nla_map = ((3, "IFLA_IFNAME", "asciiz"), (18, "IFLA_LINKINFO", "link_info"), (27, "IFLA_GROUP", "uint32"))
    link_info = _Info


class _TunnelMessage(nlmsg):  # type: ignore[misc]
    """struct tunnel_msg of linux/if_link.h."""

    fields = (("family", "B"), ("flags", "B"), ("reserved", "H"), ("ifindex", "I"))
    nla_map = (("VXLAN_VNIFILTER_UNSPEC", "none"), ("VXLAN_VNIFILTER_ENTRY", "entry"))

    class entry(nla):  # type: ignore[misc]  # noqa: N801 - named in nla_map
        nla_flags = NLA_F_NESTED
        nla_map = (
            ("VXLAN_VNIFILTER_ENTRY_UNSPEC", "none"),
            ("VXLAN_VNIFILTER_ENTRY_START", "uint32"),
            ("VXLAN_VNIFILTER_ENTRY_END", "uint32"),
        )


def new(name: str, vxlan: Vxlan, group: int = 0) -> Message:
    """An order (RTM_NEWLINK) for a new device."""
    data: list[tuple[str, object]] = [("IFLA_VXLAN_PORT", vxlan.port), ("IFLA_VXLAN_LEARNING", int(vxlan.learning))]
    if vxlan.external:
        data.append(("IFLA_VXLAN_COLLECT_METADATA", 1))
        if vxlan.vnifilter:
            data.append(("IFLA_VXLAN_VNIFILTER", 1))
    else:
        data.append(("IFLA_VXLAN_ID", vxlan.id))
    if vxlan.local:
        version = ip_address(vxlan.local).version
        data.append(("IFLA_VXLAN_LOCAL6" if version == 6 else "IFLA_VXLAN_LOCAL", vxlan.local))
    info = {"attrs": [("IFLA_INFO_KIND", "vxlan"), ("IFLA_INFO_DATA", {"attrs": data})]}
    message = _LinkMessage()
    message["attrs"] = [("IFLA_IFNAME", name), ("IFLA_GROUP", group), ("IFLA_LINKINFO", info)]
    return message


def read(message: Message) -> Vxlan:
    """What a device was made with, from its link message."""
    whole = _LinkMessage(message.data, offset=message.offset)
    whole.decode()
    data = whole.get_attr("IFLA_LINKINFO").get_attr("IFLA_INFO_DATA")
    return Vxlan(
        id=data.get_attr("IFLA_VXLAN_ID") or 0,
        external=bool(data.get_attr("IFLA_VXLAN_COLLECT_METADATA")),
        vnifilter=bool(data.get_attr("IFLA_VXLAN_VNIFILTER")),
        local=data.get_attr("IFLA_VXLAN_LOCAL") or data.get_attr("IFLA_VXLAN_LOCAL6") or "",
        port=data.get_attr("IFLA_VXLAN_PORT") or 0,
        learning=bool(data.get_attr("IFLA_VXLAN_LEARNING")),
    )


def vnis(netlink: Netlink, index: int) -> frozenset[int]:
    """VNIs that pass the filter of a device."""
    found: set[int] = set()
    question = _message(index, ())
    for answer in netlink.ask(question, _RTM_GETTUNNEL, f"list the VNIs of interface {index}", dump=True):
        message = _TunnelMessage(answer.data, offset=answer.offset)
        message.decode()
        if message["ifindex"] != index:
            continue
        for entry in message.get_attrs("VXLAN_VNIFILTER_ENTRY"):
            first = entry.get_attr("VXLAN_VNIFILTER_ENTRY_START")
            found.update(range(first, (entry.get_attr("VXLAN_VNIFILTER_ENTRY_END") or first) + 1))
    return frozenset(found)


def vni_orders(index: int, name: str, add: frozenset[int], remove: frozenset[int]) -> list[Order]:
    """Orders that change the filter of a device."""
    orders: list[Order] = []
    for part in _parts(remove):
        orders.append((_message(index, part), _RTM_DELTUNNEL, 0, f"take VNIs from the filter of {name}"))
    for part in _parts(add):
        orders.append((_message(index, part), _RTM_NEWTUNNEL, CREATE, f"add VNIs to the filter of {name}"))
    return orders


def _parts(vnis: frozenset[int]) -> Iterator[list[VniRange]]:
    """Ranges in messages of bounded length."""
    found = ranges(vnis)
    yield from (found[at : at + _RANGES] for at in range(0, len(found), _RANGES))


def _message(index: int, entries: Iterable[VniRange]) -> Message:
    message = _TunnelMessage()
    message["family"], message["ifindex"] = socket.AF_BRIDGE, index
    message["attrs"] = [
        (
            "VXLAN_VNIFILTER_ENTRY",
            {"attrs": [("VXLAN_VNIFILTER_ENTRY_START", first), ("VXLAN_VNIFILTER_ENTRY_END", last)]},
        )
        for first, last in entries
    ]
    return message
