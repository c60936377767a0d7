# SPDX-License-Identifier: Apache-2.0
"""A gateway's host, two tenants with the same address, and the world outside, each in a namespace of its own.

Tenants are VNI 5 and 6, outside is VNI 100; all three are kernel VXLAN devices behind one wire to the host. Addresses:
the wire is 192.0.2.0/24 (host .9, everybody else .2), tenants 10.0.0.0/24 and fd00:10::/64, outside 203.0.113.0/24 and
2001:db8::/64, and behind a router there 198.51.100.0/24 and 2001:db8:1::/64 (RFC 5737, RFC 3849).
"""

from __future__ import annotations

import itertools
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from ipaddress import ip_address, ip_interface
from typing import TypeVar

from mizar.kernel import interfaces, namespaces
from mizar.kernel.namespaces import Namespace
from mizar.lab.probes import readable
from mizar.pipeline.description import TunnelEnd
from mizar.pipeline.kernel_path import KernelPath, KernelPort, KernelRoute
from mizar.pipeline.nat import Forward, Masquerade, NatRules, Static
from mizar.pipeline.ranges import Ranges
from tests.peers.foreign import command

T = TypeVar("T")
_numbers = itertools.count()
HOST, PEER = "192.0.2.9", "192.0.2.2"
TENANT4, TENANT6, WORLD4, WORLD6 = "10.0.0.5", "fd00:10::5", "203.0.113.254", "2001:db8::fe"
FAR4, FAR6 = "198.51.100.9", "2001:db8:1::9"
POOL4, POOL6, STATIC4, FORWARD4 = "203.0.113.10", "2001:db8::10", "203.0.113.9", "203.0.113.11"
BLUE, GREEN, OUTSIDE = 0x01000005, 0x01000006, 0x01000064
GATEWAY_MAC, ROUTER_MAC = 0x02005E005301, 0x02005E005302
PORT = 7000
LIMIT_S = 30.0


@dataclass(frozen=True)
class Rig:
    """The namespaces: `host` and, by name, blue, green and world."""

    prefix: str
    host: Namespace
    ends: dict[str, Namespace]

    def on_host(self, call: Callable[[], T]) -> T:
        """Calls something on the gateway's host."""
        return self.host.run(call)


def tunnels() -> dict[str, TunnelEnd]:
    """One tunnel end: everybody is behind it."""
    end = TunnelEnd(
        name="fabric",
        source=ip_address(HOST),  # type: ignore[arg-type]
        destination=ip_address(PEER),  # type: ignore[arg-type]
        source_mac=0x020000000209,
        destination_mac=0x020000000202,
    )
    return {"fabric": end}


def kernel_path(prefix: str) -> KernelPath:
    """Ports for both tenants and outside."""
    tenant = (ip_interface("10.0.0.1/24"), ip_interface("fd00:10::1/64"))
    outer = (ip_interface("203.0.113.2/24"), ip_interface("2001:db8::2/64"))
    ports = [KernelPort(meta=meta, to="fabric", mac=GATEWAY_MAC, addresses=tenant) for meta in (BLUE, GREEN)]
    default = tuple(
        KernelRoute(to=ip_interface(one).network, via=ip_address(via))
        for one, via in (("0.0.0.0/0", WORLD4), ("::/0", WORLD6))
    )
    ports.append(KernelPort(meta=OUTSIDE, to="fabric", mac=ROUTER_MAC, addresses=outer, routes=default))
    return KernelPath(namespace=f"{prefix}-nat", ports=tuple(ports))


def nat() -> NatRules:
    """Both tenants behind one address of each family, and one forward and one static to blue's."""
    insides = Ranges.of(32, [BLUE, GREEN])
    return NatRules(
        masquerade=(
            Masquerade(inside=insides, outside=OUTSIDE, addresses=(ip_address(POOL4),)),
            Masquerade(inside=insides, outside=OUTSIDE, addresses=(ip_address(POOL6),)),
        ),
        forward=(
            Forward(
                outside=OUTSIDE,
                outside_address=ip_address(FORWARD4),
                outside_ports=(8080, 8089),
                inside=BLUE,
                inside_address=ip_address(TENANT4),
                inside_ports=(PORT, PORT + 9),
            ),
        ),
        static=(
            Static(
                inside=GREEN, inside_address=ip_address(TENANT4), outside=OUTSIDE, outside_address=ip_address(STATIC4)
            ),
        ),
    )


@contextmanager
def rig(remote: str = HOST) -> Iterator[Rig]:
    """Everything but the gateway itself; `remote` is where tenants and the world send their tunnels' packets."""
    prefix = f"gwt{os.getpid()}-{next(_numbers)}"
    with ExitStack() as stack:
        opened = {}
        for name in ("host", "peers", "blue", "green", "world"):
            opened[name] = stack.enter_context(namespaces.scratch(f"{prefix}-{name}"))
            command("ip", "link", "set", "lo", "up", namespace=f"{prefix}-{name}")
        queues = ["numtxqueues", "1", "numrxqueues", "1"]
        peer = ["peer", "name", "wire", *queues, "netns", f"{prefix}-peers"]
        command("ip", "link", "add", "wire", *queues, "type", "veth", *peer, namespace=f"{prefix}-host")
        for name, address, mac in (("host", HOST, "02:00:00:00:02:09"), ("peers", PEER, "02:00:00:00:02:02")):
            own = f"{prefix}-{name}"
            command("ip", "-n", own, "link", "set", "wire", "address", mac)
            command("ip", "-n", own, "addr", "add", f"{address}/24", "dev", "wire")
            command("ip", "-n", own, "link", "set", "wire", "up")
            opened[name].run(lambda: interfaces.set_tx_checksum("wire", on=False))
            opened[name].run(lambda: interfaces.set_gro("wire", on=True))
        for name, vni in (("blue", 5), ("green", 6), ("world", 100)):
            own = f"{prefix}-{name}"
            kind = ["type", "vxlan", "id", str(vni), "local", PEER, "remote", remote, "dstport", "4789", "nolearning"]
            command("ip", "-n", f"{prefix}-peers", "link", "add", f"vx{vni}", "netns", own, "mtu", "1400", *kind)
            addresses = (f"{WORLD4}/24", f"{WORLD6}/64") if name == "world" else (f"{TENANT4}/24", f"{TENANT6}/64")
            for address in addresses:
                nodad = ["nodad"] if ":" in address else []
                command("ip", "-n", own, "addr", "add", address, "dev", f"vx{vni}", *nodad)
            # Frames keep their MACs on the hot path: each side has the one that the other takes the gateway for.
            mac = (GATEWAY_MAC if name == "world" else ROUTER_MAC).to_bytes(6, "big").hex(":")
            command("ip", "-n", own, "link", "set", f"vx{vni}", "address", mac, "up")
            if name != "world":
                command("ip", "-n", own, "route", "add", "default", "via", "10.0.0.1")
                command("ip", "-n", own, "route", "add", "default", "via", "fd00:10::1")
        opened["beyond"] = stack.enter_context(namespaces.scratch(f"{prefix}-beyond"))
        put_behind(f"{prefix}-world", f"{prefix}-beyond")
        yield Rig(prefix, opened["host"], {name: opened[name] for name in ("blue", "green", "world", "beyond")})


def put_behind(world: str, beyond: str) -> None:
    """A host behind a router of the world, over a link with a smaller MTU."""
    for switch in ("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"):
        command("sh", "-c", f"echo 1 > /proc/sys/{switch}", namespace=world)
    command(
        "ip", "-n", world, "link", "add", "far", "mtu", "1300", "type", "veth", "peer", "name", "near", "netns", beyond
    )
    ends = ((world, "far", ("198.51.100.1/24", "2001:db8:1::1/64")), (beyond, "near", (f"{FAR4}/24", f"{FAR6}/64")))
    for namespace, interface, addresses in ends:
        for address in addresses:
            nodad = ["nodad"] if ":" in address else []
            command("ip", "-n", namespace, "addr", "add", address, "dev", interface, *nodad)
        command("ip", "-n", namespace, "link", "set", interface, "up")
    command("ip", "-n", beyond, "route", "add", "default", "via", "198.51.100.1")
    command("ip", "-n", beyond, "route", "add", "default", "via", "2001:db8:1::1")


class UdpEcho:
    """Answers datagrams with who it heard them from, as text."""

    def __init__(self, namespace: Namespace, address: str, port: int = PORT) -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._socket = namespace.run(lambda: socket.socket(family, socket.SOCK_DGRAM))
        self._socket.bind((address, port))
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def _work(self) -> None:
        while True:
            try:
                data, sender = self._socket.recvfrom(2048)
            except OSError:
                return
            if not data:
                return
            self._socket.sendto(f"{sender[0]} {sender[1]}".encode(), sender)

    def __enter__(self) -> UdpEcho:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):  # it is not connected; the thread wakes all the same, which closing does not do
            self._socket.shutdown(socket.SHUT_RD)
        self._thread.join(LIMIT_S)
        self._socket.close()


def heard_from(namespace: Namespace, address: str, port: int = PORT, source_port: int = 0) -> tuple[str, int]:
    """Who an echo says that we are: sent again until it answers."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with namespace.run(lambda: socket.socket(family, socket.SOCK_DGRAM)) as sock:
        sock.bind(("", source_port))
        for _ in range(int(LIMIT_S / 0.25)):
            sock.sendto(b"who", (address, port))
            if readable([sock.fileno()], 0.25):
                name, _, number = sock.recv(100).decode().partition(" ")
                return name, int(number)
    raise AssertionError(f"no answer from {address} port {port}")
