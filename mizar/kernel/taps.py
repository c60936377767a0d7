# SPDX-License-Identifier: Apache-2.0
"""The tap of an endpoint: a persistent device that a virtual machine opens (drivers/net/tun.c of the kernel).

Owns making and adjusting it; links lists and deletes it like any other. It becomes persistent only when it is marked
and guarded: what dies in between takes an unfinished one along. It must never touch an interface that it did not make.
"""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Callable
from pathlib import Path

from mizar.kernel import interfaces, libbpf
from mizar.kernel.endpoint_link import GROUP, TapLink
from mizar.kernel.interfaces import RTM_SETLINK, Interface, no_link_local, set_link
from mizar.kernel.links import Change, Links

_DEVICE = Path("/dev/net/tun")
_TUNSETIFF, _TUNSETPERSIST, _TUNSETOWNER = 0x400454CA, 0x400454CB, 0x400454CC  # linux/if_tun.h
_IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR, _IFF_MULTI_QUEUE, _IFF_TUN_EXCL = 0x2, 0x1000, 0x4000, 0x100, 0x8000


def ensure(links: Links, link: TapLink, guard: Callable[[Interface], None]) -> tuple[Interface, Change]:
    """Makes the tap as wanted, or adjusts what is there; returns it and what had to be done.

    `guard` is called with the tap before it is up, so that no frame passes unseen; what it raises is raised. Raises
    ConflictError when the name belongs to another endpoint or to somebody else, NotFoundError when the kernel has no
    taps. A tap that could not be made whole is gone afterwards.
    """
    owned = links.held(link.host_name, link.instance, link.uid)
    if owned is not None:
        present = owned.interface
        if present.alias == link.alias and present.kind == "tun":
            guard(present)
            if (present.mtu, present.up) == (link.mtu, True):
                return present, "unchanged"
            _configure(links, link)
            return interfaces.get(links.netlink, present.index), "changed"
        links.delete_interface(present)
    fd = links.run(_open)  # the device will be in the namespace of the thread that opens
    try:
        _create(fd, link)
        guard(interfaces.get(links.netlink, link.host_name))
        _configure(links, link)
        fcntl.ioctl(fd, _TUNSETPERSIST, 1)
    finally:
        os.close(fd)
    return interfaces.get(links.netlink, link.host_name), "created"


def _open() -> int:
    try:
        return os.open(_DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise libbpf.error_of(error.errno or 0, f"open {_DEVICE}, from which taps are made") from error


def _create(fd: int, link: TapLink) -> None:
    flags = _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR | _IFF_TUN_EXCL | (_IFF_MULTI_QUEUE if link.multi_queue else 0)
    try:
        fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", link.host_name.encode(), flags))
        fcntl.ioctl(fd, _TUNSETOWNER, link.owner)
    except OSError as error:
        raise libbpf.error_of(error.errno or 0, f"make the tap {link.host_name}") from error


def _configure(links: Links, link: TapLink) -> None:
    what = f"configure {link.host_name}"
    facts = set_link(link.host_name, alias=link.alias, mtu=link.mtu)
    facts["attrs"].append(("IFLA_GROUP", GROUP))
    links.netlink.tell(
        [
            (facts, RTM_SETLINK, 0, what),
            (no_link_local(link.host_name), RTM_SETLINK, 0, f"{what}: no IPv6 link-local address"),
            (set_link(link.host_name, up=True), RTM_SETLINK, 0, f"{what}: up"),
        ]
    )
