# SPDX-License-Identifier: Apache-2.0
"""What carries a tunnel: which program, in which namespace, what it is told, and how it is.

Made by mizar.transit.vpns, which keeps the process; called on its threads. It must never log or tell a key.
"""

import contextlib
import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Protocol

from mizar.functions.ipsec import charon
from mizar.functions.ipsec.values import IpsecTunnel
from mizar.functions.ipsec.values import judge as judge_ipsec
from mizar.functions.wireguard import program as wireguard
from mizar.functions.wireguard import uapi
from mizar.functions.wireguard.values import Judge, Seen, Tunnel
from mizar.kernel import tunnel_kernel, tunnel_link, tunnel_outer
from mizar.kernel.interfaces import Interface
from mizar.kernel.namespaces import Namespace
from mizar.kernel.tun import SIOCSIFMTU
from mizar.model.errors import MizarError, TemporaryError
from mizar.transit.processes import Program, program_at, user_of
from mizar.transit.told import own_file, own_folder
from mizar.transit.vpn_values import Vpn
from mizar.transit.workloads import InNamespace

LEAST_MTU = 1280
AGAIN_S = 10.0
"""Between two attempts to join what the other side of a tunnel by IPsec has refused."""
_HERE = "path:/proc/self/ns/net"
"""The droplet's namespace."""


@dataclass(frozen=True, slots=True)
class Found:
    """How a tunnel is: `up`, `connecting` or `down`, and why it is not up."""

    state: str
    detail: str = ""
    handshake_unix_s: int = 0
    sent_bytes: int = 0
    received_bytes: int = 0


class Droplet(Protocol):
    """What an engine asks of the droplet."""

    uplink: Callable[[], Interface]
    own: dict[int, IPv4Address | IPv6Address]
    """Its addresses, by the version of IP."""


class Engine(Protocol):
    """What carries one tunnel."""

    name: str

    def program(self, place: InNamespace) -> Program | None:
        """What to run; None: the kernel does all. Raises TemporaryError where it cannot be run."""

    def hand(self) -> Mapping[str, int]:
        """What the program is given as it starts."""

    def settle(self, place: InNamespace, namespace: Namespace) -> bool:
        """All around the process is as it should be; False while its device is not there."""

    def configure(self) -> None:
        """Tell what carries it. Raises TemporaryError while that does not answer."""

    def look(self) -> Found:
        """Ask it."""

    def clear(self) -> None:
        """The process has ended: nothing else of it stays."""


def device_of(uid: str) -> str:
    """The name of a tunnel's device: the same for the same uid."""
    return "mzvpn" + hashlib.sha256(uid.encode()).hexdigest()[:9]


def engine_of(droplet: Droplet, folder: Path, vpn: Vpn) -> Engine:
    """That of a tunnel."""
    if isinstance(vpn.tunnel, IpsecTunnel):
        return IpsecEngine(droplet, folder, vpn, vpn.tunnel)
    engine = KernelWireguard if tunnel_kernel.has_wireguard() else WireguardEngine
    return engine(droplet, vpn, vpn.tunnel)


def _remove_device(device: str, spec: str) -> None:
    """Wherever it is."""
    with contextlib.ExitStack() as stack:
        namespace = None
        with contextlib.suppress(MizarError):
            namespace = stack.enter_context(Namespace.open_spec(spec)) if spec else None
        tunnel_link.remove(device, namespace)


class KernelWireguard:
    """The kernel's own: its socket is in the droplet's namespace, where the device is made, and its device is moved."""

    name = "wireguard (kernel)"

    def __init__(self, droplet: Droplet, vpn: Vpn, tunnel: Tunnel) -> None:
        self._droplet = droplet
        self._tunnel = tunnel
        self._device = device_of(vpn.uid)
        self._judge = Judge(tunnel, vpn.down_after_s, time.monotonic())
        self._spec = ""

    def program(self, place: InNamespace) -> Program | None:
        """None."""
        self._spec = place.spec
        return None

    def hand(self) -> Mapping[str, int]:
        """Nothing."""
        return {}

    def settle(self, place: InNamespace, namespace: Namespace) -> bool:
        """Device, keys and routes."""
        mtu = max(LEAST_MTU, self._droplet.uplink().mtu - self._tunnel.overhead)
        wanted = (self._device, namespace, mtu, self._tunnel.remote, place.interface)
        if not tunnel_link.settle(*wanted):
            tunnel_kernel.make_wireguard(self._device)
            tunnel_link.settle(*wanted)
            self.configure()
        return True

    def configure(self) -> None:
        """Over netlink."""
        one = self._tunnel
        with Namespace.open_spec(self._spec) as namespace:
            tunnel_kernel.set_wireguard(
                namespace, self._device, one.private_key, one.port, one.peer_public_key, one.preshared_key,
                one.keepalive_s, one.remote, one.peer,
            )  # fmt: skip

    def look(self) -> Found:
        """The same."""
        with Namespace.open_spec(self._spec) as namespace:
            seen = Seen(*tunnel_kernel.look_wireguard(namespace, self._device))
        state, detail = self._judge.take(seen, time.monotonic())
        return Found(state, detail, seen.handshake_unix_s, seen.sent_bytes, seen.received_bytes)

    def clear(self) -> None:
        """The device."""
        _remove_device(self._device, self._spec)


class WireguardEngine:
    """wireguard-go in the droplet's namespace, where its socket is; its device is moved to the endpoint's.

    It has no privilege at all: its device is made for it, and sized from outside.
    """

    name = wireguard.NAME

    def __init__(self, droplet: Droplet, vpn: Vpn, tunnel: Tunnel) -> None:
        self._droplet = droplet
        self._tunnel = tunnel
        self._device = device_of(vpn.uid)
        self._user = user_of(vpn.uid)
        self._judge = Judge(tunnel, vpn.down_after_s, time.monotonic())
        self._spec = ""

    def program(self, place: InNamespace) -> Program:
        """In the foreground: whoever starts it keeps it."""
        self._spec = place.spec
        argv = (program_at(wireguard.NAME, wireguard.PACKAGE), "-f", self._device)
        return Program(argv, _HERE, self._user, pretended=(SIOCSIFMTU,))

    def hand(self) -> Mapping[str, int]:
        """Device and socket."""
        return wireguard.handed(self._device, self._user, program_at(wireguard.NAME, wireguard.PACKAGE))

    def settle(self, place: InNamespace, namespace: Namespace) -> bool:
        """Device and routes; the device moves once the program has found it."""
        uapi.look(self._device)
        mtu = max(LEAST_MTU, self._droplet.uplink().mtu - self._tunnel.overhead)
        return tunnel_link.settle(self._device, namespace, mtu, self._tunnel.remote, place.interface)

    def configure(self) -> None:
        """By its socket."""
        uapi.configure(self._device, self._tunnel)

    def look(self) -> Found:
        """The same."""
        seen = uapi.look(self._device)
        state, detail = self._judge.take(seen, time.monotonic())
        return Found(state, detail, seen.handshake_unix_s, seen.sent_bytes, seen.received_bytes)

    def clear(self) -> None:
        """Device and socket."""
        _remove_device(self._device, self._spec)
        uapi.path_of(self._device).unlink(missing_ok=True)


class IpsecEngine:
    """charon in the endpoint's namespace, with the kernel's ESP where it has any, and its own elsewhere.

    A pair of interfaces leads out for its one port.
    """

    def __init__(self, droplet: Droplet, folder: Path, vpn: Vpn, tunnel: IpsecTunnel) -> None:
        self._droplet = droplet
        self._folder = folder / "own"
        self._user = user_of(vpn.uid)
        self._vpn = vpn
        self._tunnel = tunnel
        self._up_s = self._again_s = time.monotonic()
        self._kernel = tunnel_kernel.has_esp()
        self.name = "strongswan (kernel ESP)" if self._kernel else "strongswan (user-space ESP)"
        self._own = ""
        self._made_for: object = None

    def program(self, place: InNamespace) -> Program:
        """With its own configuration, which names no key. Another port is another process."""
        path = program_at(charon.PROGRAM, charon.PACKAGE)
        if not self._kernel and not charon.PLUGIN.exists():
            raise TemporaryError(f"{charon.PLUGIN.name} is not there: install the package {charon.PLUGIN_PACKAGE}")
        own = self._folder
        own_folder(own, 0o700, self._user, self._user)
        file = own / f"strongswan-{self._tunnel.port}.conf"
        content = charon.configuration(own, self._tunnel, self._vpn.uid, self._kernel)
        if not file.exists() or file.read_text() != content:
            own_file(file, content, self._user)
        argv = (program_at("env", "coreutils"), f"STRONGSWAN_CONF={file}", path)
        return Program(argv, place.spec, self._user, ("net_admin",), folder=str(own))

    def hand(self) -> Mapping[str, int]:
        """Nothing."""
        return {}

    def settle(self, place: InNamespace, namespace: Namespace) -> bool:
        """The way out, and forwarding."""
        peer = self._tunnel.peer[0]
        own = self._droplet.own.get(peer.version)
        if own is None:
            raise TemporaryError(f"the droplet has no IPv{peer.version} address, by which {peer} could be reached")
        uplink = self._droplet.uplink().name
        made_for = (namespace.identity, uplink, own)
        if made_for != self._made_for or not tunnel_outer.is_there(self._vpn.uid, namespace, peer.version):
            self._own = tunnel_outer.ensure(self._vpn.uid, namespace, uplink, own, peer, self._tunnel.port)
            self._made_for = made_for
        return tunnel_link.prepare(namespace, place.interface)

    def configure(self) -> None:
        """By vici."""
        charon.configure(self._folder, self._tunnel, self._own)

    def look(self) -> Found:
        """The same."""
        now = time.monotonic()
        if again := now - self._again_s >= AGAIN_S:
            self._again_s = now
        seen = charon.look(self._folder, self._tunnel, again)
        state, detail = judge_ipsec(self._tunnel, seen, now - self._up_s, self._vpn.down_after_s)
        if state == "up":
            self._up_s = now
        since = int(time.time()) - seen.established_s if seen.established_s else 0
        return Found(state, detail, since, seen.sent_bytes, seen.received_bytes)

    def clear(self) -> None:
        """The way out."""
        tunnel_outer.remove(self._vpn.uid, self._droplet.uplink().name)
