# SPDX-License-Identifier: Apache-2.0
"""What interfaces are and can do: facts, addresses, offloads, changes as they happen.

Called by the daemon (its own interface), by links, attach and features. It must never create or delete one: that is
for links (endpoints) and the lab (substrate).
"""

from __future__ import annotations

import array
import fcntl
import socket
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv6Interface, ip_interface

from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

from mizar.kernel import libbpf
from mizar.kernel.namespaces import Namespace
from mizar.kernel.netlink import CREATE, REPLACE, Message, Netlink, Order
from mizar.model.errors import NotFoundError

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK, RTM_SETLINK = 16, 17, 18, 19
_RTM_NEWADDR, _RTM_DELADDR, _RTM_GETADDR = 20, 21, 22
_GROUP_LINK = 1  # RTMGRP_LINK
_GROUP_IPV4_ADDRESS, _GROUP_IPV4_ROUTE = 0x10, 0x40  # RTMGRP_IPV4_*
_SKIP_STATS = 8  # RTEXT_FILTER_SKIP_STATS
_IFF_UP = 1
_IFA_F_NODAD = 2
_FAMILY = {4: 2, 6: 10}  # AF_INET, AF_INET6
_ADDR_GEN_NONE = 1  # IN6_ADDR_GEN_MODE_NONE

_XDP_MODES: dict[str | None, str] = {
    "xdp": "driver",
    "xdpgeneric": "generic",
    "xdpoffload": "hardware",
}  # as pyroute2 calls them
_SIOCETHTOOL = 0x8946
_GET_GRO, _SET_GRO, _GET_TX_CHECKSUM, _SET_TX_CHECKSUM = 0x2B, 0x2C, 0x16, 0x17  # ETHTOOL_[GS]GRO, [GS]TXCSUM
_GET_LINK = 0x0A  # ETHTOOL_GLINK
_GET_STRINGS, _GET_FEATURES, _SET_FEATURES, _COUNT_STRINGS = 0x1B, 0x3A, 0x3B, 0x37
_FEATURE_STRINGS, _STRING_BYTES = 4, 32  # ETH_SS_FEATURES, ETH_GSTRING_LEN
_ENCAPSULATED = ("tx-gre-", "tx-ipxip", "tx-udp_tnl-", "tx-esp-")
_UDP_SEGMENTATION = "tx-udp-segmentation"


@dataclass(frozen=True)
class Interface:
    """Facts of an interface at the moment they were read."""

    index: int
    name: str
    mac: bytes
    """6 bytes; empty for an interface without Ethernet addresses."""
    mtu: int
    up: bool
    """Administratively up."""
    kind: str
    """The driver's name in netlink: veth, bridge, vxlan; empty for hardware."""
    alias: str
    group: int
    peer_index: int
    """Of the other end of a veth, in its own namespace; 0 for others."""
    peer_nsid: int | None
    """The id that this namespace gives to the one of the other end; None when both are in the same."""
    xdp_mode: str
    """What runs there now: driver, generic, or empty for nothing."""
    xdp_program: int
    """Id of that program, 0 for none."""


def interface_of(message: Message) -> Interface:
    """Facts of a link message of netlink."""
    info = message.get_attr("IFLA_LINKINFO")
    xdp = message.get_attr("IFLA_XDP")
    mac = message.get_attr("IFLA_ADDRESS") or ""
    return Interface(
        index=message["index"],
        name=message.get_attr("IFLA_IFNAME"),
        mac=bytes.fromhex(mac.replace(":", "")) if mac.count(":") == 5 else b"",
        mtu=message.get_attr("IFLA_MTU") or 0,
        up=bool(message["flags"] & _IFF_UP),
        kind=(info.get_attr("IFLA_INFO_KIND") if info else None) or "",
        alias=message.get_attr("IFLA_IFALIAS") or "",
        group=message.get_attr("IFLA_GROUP") or 0,
        peer_index=message.get_attr("IFLA_LINK") or 0,
        peer_nsid=message.get_attr("IFLA_LINK_NETNSID"),
        xdp_mode=_XDP_MODES.get(xdp.get_attr("IFLA_XDP_ATTACHED") if xdp else None, ""),
        xdp_program=(xdp.get_attr("IFLA_XDP_PROG_ID") if xdp else 0) or 0,
    )


def find(netlink: Netlink, name_or_index: str | int) -> Interface | None:
    """One interface of the socket's namespace, None when it is not there."""
    message = ifinfmsg()
    message["attrs"] = [("IFLA_EXT_MASK", _SKIP_STATS)]
    if isinstance(name_or_index, int):
        message["index"] = name_or_index
    else:
        message["attrs"].append(("IFLA_IFNAME", name_or_index))
    try:
        return interface_of(netlink.ask(message, RTM_GETLINK, f"find the interface {name_or_index}")[0])
    except NotFoundError:
        return None


def get(netlink: Netlink, name_or_index: str | int) -> Interface:
    """One interface of the socket's namespace. Raises NotFoundError."""
    found = find(netlink, name_or_index)
    if found is None:
        raise NotFoundError(f"there is no interface {name_or_index}")
    return found


def listed(netlink: Netlink, kind: str = "") -> list[Interface]:
    """All interfaces, or all of one kind."""
    message = ifinfmsg()
    message["attrs"] = [("IFLA_EXT_MASK", _SKIP_STATS)]
    if kind:
        message["attrs"].append(("IFLA_LINKINFO", {"attrs": [("IFLA_INFO_KIND", kind)]}))
    return [interface_of(answer) for answer in netlink.ask(message, RTM_GETLINK, "list the interfaces", dump=True)]


def addresses(netlink: Netlink, index: int) -> list[IPv4Interface | IPv6Interface]:
    """Addresses of an interface with their prefix lengths, link-local ones included."""
    message = ifaddrmsg()
    message["index"] = index
    found = []
    for answer in netlink.ask(message, _RTM_GETADDR, f"list the addresses of interface {index}", dump=True):
        address = answer.get_attr("IFA_LOCAL") or answer.get_attr("IFA_ADDRESS")
        if answer["index"] == index:
            found.append(ip_interface(f"{address}/{answer['prefixlen']}"))
    return found


def set_link(
    name: str, *, alias: str | None = None, mtu: int | None = None, mac: bytes | None = None, up: bool | None = None
) -> Message:
    """An order (RTM_SETLINK) that changes what is given of an interface."""
    message = ifinfmsg()
    given = {"IFLA_IFALIAS": alias, "IFLA_MTU": mtu, "IFLA_ADDRESS": mac.hex(":") if mac is not None else None}
    message["attrs"] = [("IFLA_IFNAME", name), *((key, value) for key, value in given.items() if value is not None)]
    if up is not None:
        message["flags"], message["change"] = (_IFF_UP if up else 0), _IFF_UP
    return message


def no_link_local(name: str) -> Message:
    """An order (RTM_SETLINK) that keeps the kernel from making an IPv6 link-local address when it comes up."""
    message = set_link(name)
    mode = {"attrs": [("IFLA_INET6_ADDR_GEN_MODE", _ADDR_GEN_NONE)]}
    message["attrs"].append(("IFLA_AF_SPEC", {"attrs": [("AF_INET6", mode)]}))
    return message


def address_order(interface: Interface, address: IPv4Interface | IPv6Interface, *, remove: bool = False) -> Order:
    """An order that gives an address to an interface (IPv6: usable at once, nobody is asked about duplicates), or
    takes it away. Giving it again changes nothing."""
    message = ifaddrmsg()
    message["index"], message["family"] = interface.index, _FAMILY[address.version]
    message["prefixlen"] = address.network.prefixlen
    message["flags"] = _IFA_F_NODAD if address.version == 6 else 0
    message["attrs"] = [("IFA_ADDRESS", str(address.ip)), ("IFA_LOCAL", str(address.ip))]
    if remove:
        return message, _RTM_DELADDR, 0, f"remove the address {address} of {interface.name}"
    return message, _RTM_NEWADDR, CREATE | REPLACE, f"add the address {address} to {interface.name}"


def set_gro(name: str, on: bool) -> None:
    """Turns GRO on or off, for an interface of the calling thread's namespace. On a veth this also decides whether
    it runs NAPI, without which a redirect into it delivers nothing."""
    _ethtool(name, _SET_GRO, int(on), "set GRO")


def gro(name: str) -> bool:
    """Whether GRO is on, for an interface of the calling thread's namespace."""
    return bool(_ethtool(name, _GET_GRO, 0, "read GRO"))


def set_tx_checksum(name: str, on: bool) -> None:
    """Turns checksum offload of sent packets on or off. Off on a veth, because XDP on the other side of a wire that
    is one loses partial checksums when it forwards."""
    _ethtool(name, _SET_TX_CHECKSUM, int(on), "set TX checksum offload")


def tx_checksum(name: str) -> bool:
    """Whether checksum offload of sent packets is on."""
    return bool(_ethtool(name, _GET_TX_CHECKSUM, 0, "read TX checksum offload"))


def carries(name: str) -> bool:
    """Whether there is a carrier; when it is told to be there, the interface sends from then on.

    An interface that gets its carrier while it is up drops what it is given to send until a worker of the kernel has
    come to it, milliseconds later (net/core/link_watch.c). To be asked makes it catch up, from Linux 6.8 on
    (net/ethtool/ioctl.c, ethtool_op_get_link).
    """
    return bool(_ethtool(name, _GET_LINK, 0, "read the carrier"))


def encapsulated_segmentation(name: str) -> set[str]:
    """The kinds of segmentation offload of packets inside of a tunnel that are on, by ethtool's names."""
    return {feature for feature in _active(name) if feature.startswith(_ENCAPSULATED)}


def end_encapsulated_segmentation(name: str) -> None:
    """The kernel cuts superpackets of tunnels before they leave this interface. Those that go into another tunnel
    behind it need that: the kernel has no way to wrap one twice."""
    _end_features(name, _ENCAPSULATED, "end segmentation offload for tunnels")


def udp_segmentation(name: str) -> bool:
    """Whether superpackets of UDP leave this interface as they are."""
    return _UDP_SEGMENTATION in _active(name)


def end_udp_segmentation(name: str) -> None:
    """The kernel cuts superpackets of UDP before they leave this interface. Out of a tunnel that a tc program took
    off they would keep its mark, and the kernel, looking for a tunnel's headers, can neither cut nor deliver them."""
    _end_features(name, _UDP_SEGMENTATION, "end segmentation offload for UDP")


def _end_features(name: str, kinds: str | tuple[str, ...], what: str) -> None:
    blocks, features = _features(name)
    request = array.array("I", [_SET_FEATURES, blocks] + 2 * blocks * [0])  # struct ethtool_sfeatures
    for feature, (bit, active) in features.items():
        if active and feature.startswith(kinds):
            request[2 + 2 * (bit // 32)] |= 1 << bit % 32  # valid; not requested
    _ioctl(name, request, what)


def _active(name: str) -> set[str]:
    _, features = _features(name)
    return {feature for feature, (_, active) in features.items() if active}


def _features(name: str) -> tuple[int, dict[str, tuple[int, bool]]]:
    """How many words of features there are; number and state of each."""
    what = "read the features"
    count = array.array("I", [_COUNT_STRINGS, 0, 1 << _FEATURE_STRINGS, 0, 0])  # struct ethtool_sset_info
    _ioctl(name, count, what)
    number = count[4]
    strings = array.array("I", [_GET_STRINGS, _FEATURE_STRINGS, number] + number * (_STRING_BYTES // 4) * [0])
    _ioctl(name, strings, what)
    text = strings[3:].tobytes()
    names = [text[i : i + _STRING_BYTES].split(b"\0")[0].decode() for i in range(0, len(text), _STRING_BYTES)]
    blocks = (number + 31) // 32
    state = array.array("I", [_GET_FEATURES, blocks] + 4 * blocks * [0])  # available, requested, active, never_changed
    _ioctl(name, state, what)
    active = [state[2 + 4 * block + 2] for block in range(blocks)]
    return blocks, {one: (bit, bool(active[bit // 32] >> bit % 32 & 1)) for bit, one in enumerate(names)}


def _ethtool(name: str, command: int, value: int, what: str) -> int:
    request = array.array("I", [command, value])  # struct ethtool_value
    _ioctl(name, request, what)
    return request[1]


def _ioctl(name: str, request: array.array[int], what: str) -> None:
    address, _ = request.buffer_info()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        try:
            fcntl.ioctl(sock, _SIOCETHTOOL, struct.pack("16sP16x", name.encode(), address))
        except OSError as error:
            raise libbpf.error_of(error.errno or 0, f"{what} of {name}") from error


@dataclass(frozen=True)
class InterfaceEvent:
    """An interface appeared or changed, or (gone) vanished."""

    interface: Interface
    gone: bool


def watch(namespace: Namespace | None = None) -> AsyncIterator[InterfaceEvent]:
    """Changes of interfaces from this call on. Raises TemporaryError when some were lost: watch and read all again."""
    return _events(Netlink(namespace, groups=_GROUP_LINK))


def watch_ways(namespace: Namespace | None = None) -> AsyncIterator[None]:
    """Something about IPv4 addresses or routes changed, from this call on: look again. Errors as watch()."""
    return _ways(Netlink(namespace, groups=_GROUP_IPV4_ADDRESS | _GROUP_IPV4_ROUTE))


async def _ways(netlink: Netlink) -> AsyncIterator[None]:
    with netlink:
        async for _ in netlink.events():
            yield


async def _events(netlink: Netlink) -> AsyncIterator[InterfaceEvent]:
    with netlink:
        async for message in netlink.events():
            if message["header"]["type"] in (RTM_NEWLINK, RTM_DELLINK) and message["family"] == 0:
                yield InterfaceEvent(interface_of(message), message["header"]["type"] == RTM_DELLINK)
