# SPDX-License-Identifier: Apache-2.0
"""Tunnels that the kernel carries itself: whether it can, WireGuard's device, what it is told and what it tells.

Called by mizar.transit.vpn_engines, on any thread. Keys go to the kernel over netlink, and nowhere else.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import functools
import subprocess
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any

from pyroute2 import WireGuard
from pyroute2.netlink.exceptions import NetlinkError

from mizar.kernel import interfaces, namespaces
from mizar.kernel.interfaces import RTM_NEWLINK, set_link
from mizar.kernel.namespaces import Namespace
from mizar.kernel.netlink import CREATE, EXCL, Netlink
from mizar.model.errors import MizarError, TemporaryError, port_taken

_PROBE = "mzwgprobe"
_ESP = "ip xfrm state add src 192.0.2.1 dst 192.0.2.2 proto esp spi 0x1000 mode tunnel aead rfc4106(gcm(aes))"
_LONGEST_S = 60.0
"""The kernel may have to load modules."""
_NO_KEY = "0x" + "00" * 20


@functools.cache
def has_wireguard() -> bool:
    """Whether this kernel makes WireGuard's devices: one is made, in a namespace of its own."""
    with contextlib.suppress(MizarError), namespaces.anonymous() as place, Netlink(place) as netlink:
        _make(netlink, _PROBE)
        return True
    return False


@functools.cache
def has_esp() -> bool:
    """Whether this kernel does ESP: an association with a key of zeros is made, in a namespace of its own."""
    with contextlib.suppress(MizarError, OSError, subprocess.SubprocessError), namespaces.anonymous() as place:
        argv = [*_ESP.split(), _NO_KEY, "128"]

        def add() -> int:
            return subprocess.run(argv, capture_output=True, timeout=_LONGEST_S, check=False).returncode  # noqa: S603

        return place.run(add) == 0
    return False


def probe() -> None:
    """Finds out both, which takes a moment where modules have to be loaded, and is known from then on."""
    has_wireguard()
    has_esp()


def make_wireguard(name: str) -> None:
    """A device in this thread's namespace, where its socket stays wherever it is moved."""
    with Netlink() as netlink:
        _make(netlink, name)


def set_wireguard(
    namespace: Namespace,
    name: str,
    private_key: bytes,
    port: int,
    public_key: bytes,
    preshared_key: bytes,
    keepalive_s: int,
    allowed: Sequence[IPv4Network | IPv6Network],
    endpoint: tuple[IPv4Address | IPv6Address, int] | None,
) -> None:
    """Makes a device hold this peer and no other; what is as wanted goes on undisturbed. Raises TemporaryError."""
    peer: dict[str, object] = {
        "public_key": _text(public_key),
        "preshared_key": _text(preshared_key or bytes(32)),
        "persistent_keepalive": keepalive_s,
        "replace_allowed_ips": True,
        "allowed_ips": [str(one) for one in allowed],
    }
    if endpoint is not None:
        peer |= {"endpoint_addr": str(endpoint[0]), "endpoint_port": endpoint[1]}

    def tell() -> None:
        with WireGuard() as asking:
            for other in _peers(asking, name):
                if other["key"] != peer["public_key"]:
                    asking.set(name, peer={"public_key": other["key"], "remove": True})
            asking.set(name, private_key=_text(private_key), listen_port=port, peer=peer)

    _in(namespace, name, tell, port)


def look_wireguard(namespace: Namespace, name: str) -> tuple[int, int, int]:
    """When its peer last proved its key (seconds since 1970; 0: never), and bytes sent and received."""
    found = [(0, 0, 0)]

    def ask() -> None:
        with WireGuard() as asking:
            found.extend((one["handshake"], one["sent"], one["received"]) for one in _peers(asking, name))

    _in(namespace, name, ask)
    return found[-1]


def _make(netlink: Netlink, name: str) -> None:
    message = set_link(name)
    message["attrs"].append(("IFLA_LINKINFO", {"attrs": [("IFLA_INFO_KIND", "wireguard")]}))
    netlink.tell([(message, RTM_NEWLINK, CREATE | EXCL, f"make {name}")])
    interfaces.get(netlink, name)


def _peers(asking: WireGuard, name: str) -> list[dict[str, Any]]:
    found = []
    for answer in asking.info(name):
        for one in answer.get_attr("WGDEVICE_A_PEERS") or ():
            time = one.get_attr("WGPEER_A_LAST_HANDSHAKE_TIME")
            found.append(
                {
                    "key": one.get_attr("WGPEER_A_PUBLIC_KEY").decode(),
                    "handshake": int(time["tv_sec"]) if time else 0,
                    "sent": int(one.get_attr("WGPEER_A_TX_BYTES") or 0),
                    "received": int(one.get_attr("WGPEER_A_RX_BYTES") or 0),
                }
            )
    return found


def _in(namespace: Namespace, name: str, work: Callable[[], None], port: int = 0) -> None:
    """`port`: that the work sets. What goes wrong never repeats what was said: it holds keys."""
    try:
        namespace.run(work)
    except (NetlinkError, OSError) as error:
        code = error.code if isinstance(error, NetlinkError) else error.errno
        if code == errno.EADDRINUSE:
            raise port_taken(port) from None
        raise TemporaryError(f"the kernel's WireGuard refused {name}: error {code}") from None


def _text(key: bytes) -> str:
    return base64.b64encode(key).decode()
