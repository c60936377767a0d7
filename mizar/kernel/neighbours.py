# SPDX-License-Identifier: Apache-2.0
"""Which MAC address leads to another droplet.

Owns the question of the route (on the substrate or through a router) and the kernel's neighbour entry of the next
hop, which the kernel itself keeps fresh: Transit XDP never asks for an address, it reads the answer from `droplets`.
Called by the daemon, which writes that table. It must never answer an ARP question itself.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

from pyroute2.netlink.rtnl.ndmsg import ndmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from mizar.kernel.namespaces import Namespace
from mizar.kernel.netlink import CREATE, REPLACE, Message, Netlink
from mizar.model.errors import InvalidError, NotFoundError, TemporaryError

Address = IPv4Address | IPv6Address

_RTM_GETROUTE = 26
_RTM_NEWNEIGH, _RTM_DELNEIGH, _RTM_GETNEIGH = 28, 29, 30
_GROUP_NEIGHBOUR = 4  # RTMGRP_NEIGH
_FAMILY = {4: 2, 6: 10}  # AF_INET, AF_INET6
_UNICAST, _LOCAL = 1, 2  # RTN_UNICAST, RTN_LOCAL
_NTF_USE, _NTF_EXT_MANAGED = 1, 1  # ndm_flags; NDA_FLAGS_EXT (kernel 5.16)
_NUD_NONE, _NUD_INCOMPLETE, _NUD_FAILED = 0x00, 0x01, 0x20
_NUD_USELESS = _NUD_INCOMPLETE | _NUD_FAILED


@dataclass(frozen=True)
class NextHop:
    """Where packets to a droplet go first: the droplet itself when it is on the link, else a router."""

    ifindex: int
    address: Address


@dataclass(frozen=True)
class Neighbour:
    """What the kernel knows about a next hop. `mac` is None while (or when) nobody answers."""

    next_hop: NextHop
    mac: bytes | None


class Neighbours:
    """Next hops in one network namespace; usable from any thread."""

    def __init__(self, namespace: Namespace | None = None) -> None:
        """In `namespace`, or in the one of the calling thread."""
        self._namespace = namespace
        self._netlink = Netlink(namespace)

    def close(self) -> None:
        """Closes the socket."""
        self._netlink.close()

    def next_hop(self, address: Address, ifindex: int = 0) -> NextHop:
        """The next hop to `address` (over interface `ifindex` when given). Raises TemporaryError when there is no
        route now, InvalidError when the address is this host's own or no unicast address."""
        question = rtmsg()
        question["family"], question["dst_len"] = _FAMILY[address.version], address.max_prefixlen
        question["attrs"] = [("RTA_DST", str(address))] + ([("RTA_OIF", ifindex)] if ifindex else [])
        try:
            route = self._netlink.ask(question, _RTM_GETROUTE, f"find the route to {address}")[0]
        except NotFoundError as error:
            raise TemporaryError(f"there is no route to {address}") from error
        if route["type"] == _LOCAL:
            raise InvalidError(f"{address} is an address of this host")
        if route["type"] != _UNICAST:
            raise TemporaryError(f"the route to {address} leads nowhere (type {route['type']})")
        via = route.get_attr("RTA_GATEWAY")
        if via is None and (other_family := route.get_attr("RTA_VIA")) is not None:
            via = other_family["addr"]
        return NextHop(int(route.get_attr("RTA_OIF")), ip_address(via) if via is not None else address)

    def install(self, next_hop: NextHop) -> bool:
        """Makes the kernel resolve the next hop, and keep it resolved. Returns False where it can only be asked once
        (kernels before 5.16): call again every minute then."""
        what = f"have {next_hop.address} resolved on interface {next_hop.ifindex}"
        managed = _message(next_hop, 0, [("NDA_FLAGS_EXT", _NTF_EXT_MANAGED)])
        self._netlink.tell([(managed, _RTM_NEWNEIGH, CREATE | REPLACE, what)])
        entry = self._netlink.ask(_message(next_hop, 0, []), _RTM_GETNEIGH, what)[0]
        if (entry.get_attr("NDA_FLAGS_EXT") or 0) & _NTF_EXT_MANAGED:
            return True
        # A kernel that does not know the attribute ignores it, and has made an entry that nobody resolves.
        once = _message(next_hop, _NTF_USE, [])
        self._netlink.tell([(once, _RTM_NEWNEIGH, CREATE | REPLACE, what)])
        return False

    def read(self, next_hop: NextHop) -> Neighbour:
        """What is known about the next hop now."""
        question = _message(next_hop, 0, [])
        try:
            return _neighbour_of(self._netlink.ask(question, _RTM_GETNEIGH, f"read neighbour {next_hop.address}")[0])
        except NotFoundError:
            return Neighbour(next_hop, None)

    def remove(self, next_hop: NextHop) -> bool:
        """Ends what install() began; False when there was no entry."""
        order = _message(next_hop, 0, [])
        try:
            self._netlink.tell([(order, _RTM_DELNEIGH, 0, f"forget the neighbour {next_hop.address}")])
        except NotFoundError:
            return False
        return True

    def watch(self) -> AsyncIterator[Neighbour]:
        """Neighbours (all of the namespace) as they become known, change or are lost, from this call on. Raises
        TemporaryError when some changes were lost: watch again and read() all again."""
        return _events(Netlink(self._namespace, groups=_GROUP_NEIGHBOUR))


async def _events(netlink: Netlink) -> AsyncIterator[Neighbour]:
    with netlink:
        async for message in netlink.events():
            if message["header"]["type"] in (_RTM_NEWNEIGH, _RTM_DELNEIGH) and message["family"] in (2, 10):
                neighbour = _neighbour_of(message)
                gone = message["header"]["type"] == _RTM_DELNEIGH
                yield Neighbour(neighbour.next_hop, None) if gone else neighbour


def _message(next_hop: NextHop, flags: int, attributes: list[tuple[str, int]]) -> Message:
    message = ndmsg()
    message["family"], message["ifindex"] = _FAMILY[next_hop.address.version], next_hop.ifindex
    message["state"], message["flags"] = _NUD_NONE, flags
    message["attrs"] = [("NDA_DST", str(next_hop.address)), *attributes]
    return message


def _neighbour_of(message: Message) -> Neighbour:
    mac = message.get_attr("NDA_LLADDR")
    known = mac is not None and message["state"] != _NUD_NONE and not message["state"] & _NUD_USELESS
    next_hop = NextHop(message["ifindex"], ip_address(message.get_attr("NDA_DST")))
    return Neighbour(next_hop, bytes.fromhex(mac.replace(":", "")) if known else None)
