# SPDX-License-Identifier: Apache-2.0
"""What a plan of tc filters stands on: tunnel devices, and for each tunnel end an address, a route and a neighbour.

Called by `flower`. What it makes is known again: devices by their alias, routes by their protocol, addresses by their
label. It must never change what somebody else has made.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from functools import partial

from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.ndmsg import ndmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from mizar.kernel import vxlan
from mizar.kernel.interfaces import RTM_DELLINK, RTM_NEWLINK, RTM_SETLINK, find, get, set_link
from mizar.kernel.netlink import CREATE, EXCL, REPLACE, Message, Netlink, Order
from mizar.kernel.topology_facts import Vxlan
from mizar.model.errors import ConflictError, InvalidError, NotFoundError
from mizar.pipeline.tc.rules import Exit, Plan, Vtep

_NEWADDR, _DELADDR, _NEWROUTE, _DELROUTE, _NEWNEIGH, _DELNEIGH = 20, 21, 24, 25, 28, 29
_ALIAS = "mizar pipeline"
_LABEL = "lo:mizar"
_PROTOCOL = 77  # of routes; rt_protos of no one else
_LINK_SCOPE, _MAIN, _UNICAST, _PERMANENT = 253, 254, 1, 0x80


class Links:
    """The devices and ways of one plan."""

    def __init__(self, netlink: Netlink, plan: Plan) -> None:
        self._netlink, self._plan = netlink, plan

    def check(self) -> None:
        """Raises NotFoundError for a device that has to be there, ConflictError for one that is somebody else's."""
        made = {one.name for one in self._plan.vteps}
        for name in dict.fromkeys((*self._plan.ingress, *(one.device for one in self._plan.exits))):
            if name not in made:
                get(self._netlink, name)
        for name in made:
            found = find(self._netlink, name)
            if found is not None and found.alias != _ALIAS:
                raise ConflictError(f"there is an interface {name} that is not the pipeline's")

    def make(self) -> list[Callable[[], None]]:
        """Makes what is not there; how to undo what was new."""
        undo: list[Callable[[], None]] = []
        for one in self._plan.vteps:
            if find(self._netlink, one.name) is None:
                self._netlink.tell([(_device(one), RTM_NEWLINK, CREATE | EXCL, f"make the device {one.name}")])
                undo.append(partial(self._delete, one.name))
                self._netlink.tell([(set_link(one.name, alias=_ALIAS, up=True), RTM_SETLINK, 0, f"start {one.name}")])
        loopback = get(self._netlink, "lo").index
        for way in self._plan.exits:
            index = get(self._netlink, way.device).index
            self._netlink.tell(_orders(way, index, loopback))
        return undo

    def remove(self) -> None:
        """Takes away what `make` has made."""
        for one in self._plan.vteps:
            found = find(self._netlink, one.name)
            if found is not None and found.alias == _ALIAS:
                self._delete(one.name)
        loopback = get(self._netlink, "lo").index
        for way in self._plan.exits:
            device = find(self._netlink, way.device)
            if device is None:
                continue
            for message, kind, _, what in _orders(way, device.index, loopback):
                try:
                    self._netlink.tell([(message, kind + 1, 0, what.replace("set", "take away"))])
                except (NotFoundError, InvalidError):
                    continue

    def _delete(self, name: str) -> None:
        message = ifinfmsg()
        message["attrs"] = [("IFLA_IFNAME", name)]
        self._netlink.tell([(message, RTM_DELLINK, 0, f"delete the device {name}")])


def _device(one: Vtep) -> Message:
    if one.kind == "vxlan":
        return vxlan.new(one.name, Vxlan(id=0, external=True, vnifilter=False, local="", port=one.port, learning=False))
    message = ifinfmsg()
    data = {"attrs": [("IFLA_GENEVE_PORT", one.port), ("IFLA_GENEVE_COLLECT_METADATA", None)]}
    info = {"attrs": [("IFLA_INFO_KIND", "geneve"), ("IFLA_INFO_DATA", data)]}
    message["attrs"] = [("IFLA_IFNAME", one.name), ("IFLA_LINKINFO", info)]
    return message


def _orders(way: Exit, index: int, loopback: int) -> list[Order]:
    """An address, a route and a neighbour; each with the type of the order that makes it."""
    address, route, neighbour = ifaddrmsg(), rtmsg(), ndmsg()
    address["family"], address["prefixlen"], address["index"] = socket.AF_INET, 32, loopback
    address["attrs"] = [("IFA_LOCAL", str(way.source)), ("IFA_ADDRESS", str(way.source)), ("IFA_LABEL", _LABEL)]
    route["family"], route["dst_len"], route["table"], route["proto"] = socket.AF_INET, 32, _MAIN, _PROTOCOL
    route["scope"], route["type"] = _LINK_SCOPE, _UNICAST
    route["attrs"] = [("RTA_DST", str(way.destination)), ("RTA_OIF", index), ("RTA_PREFSRC", str(way.source))]
    neighbour["family"], neighbour["ifindex"], neighbour["state"] = socket.AF_INET, index, _PERMANENT
    mac = way.mac.to_bytes(6, "big").hex(":")
    neighbour["attrs"] = [("NDA_DST", str(way.destination)), ("NDA_LLADDR", mac)]
    flags, place = CREATE | REPLACE, f"{way.destination} behind {way.device}"
    return [
        (address, _NEWADDR, flags, f"set the address {way.source}"),
        (route, _NEWROUTE, flags, f"set the route to {place}"),
        (neighbour, _NEWNEIGH, flags, f"set the neighbour {place}"),
    ]
