# SPDX-License-Identifier: Apache-2.0
"""The droplet ME with real interfaces: what a test run of a single program cannot show.

Three network namespaces without names, so that nothing is left behind: the droplet, the wire (a bare veth whose far end
the test reads and writes) and the endpoint a, with the addresses of the plan.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from pyroute2 import IPRoute

from mizar.kernel import attach, interfaces, namespaces
from mizar.kernel.namespaces import Namespace

from .plan import FRONT, ME, ROUTER_MAC, A, EndpointPlan
from .testbed import Testbed

LIMIT_S = 10
ETH_P_ALL = 0x0003


class LiveDroplet:
    """Uplink u0 to w0 on the wire, veth h0 to e0 of the endpoint, all three programs attached."""

    def __init__(self) -> None:
        self.droplet, self.wire, self.workload = (namespaces.anonymous() for _ in range(3))
        self.sockets: list[socket.socket] = []
        self.links: list[int] = []
        uplink = self.veth("u0", "w0", self.wire, mac=ME.mac)
        host = self.veth("h0", "e0", self.workload, mac=ROUTER_MAC, peer_mac=A.mac)
        self.droplet.run(lambda: interfaces.set_gro("u0", True))
        self.droplet.run(lambda: interfaces.set_tx_checksum("u0", False))  # a veth would send partial ones
        self.wire.run(lambda: interfaces.set_gro("w0", True))
        self.workload.run(self.configure_endpoint)
        self.testbed = Testbed(uplink_ifindex=uplink)
        self.endpoint: EndpointPlan = replace(A, ifindex=host)
        programs = self.testbed.programs
        self.attach(self.droplet, programs.deliver.fd, uplink, "tcx")
        self.attach(self.droplet, programs.transit.fd, uplink, "driver")
        self.attach(self.droplet, programs.agent.fd, host, "tcx")
        # A veth wakes its far end for XDP_TX only if that has an XDP program too. It also takes segmentation offload
        # from the uplink, as a plain NIC would lack it. It passes everything: nothing there is addressed to ME.
        self.attach(self.wire, programs.transit.fd, self.wire_ifindex(), "driver")

    def close(self) -> None:
        """Ends everything; the interfaces go with their namespaces."""
        for one in self.sockets:
            one.close()
        for link in self.links:
            os.close(link)
        self.testbed.close()
        for namespace in (self.droplet, self.wire, self.workload):
            namespace.close()

    def veth(self, name: str, peer: str, namespace: Namespace, **macs: str) -> int:
        """A veth pair from the droplet into another namespace, both ends up; returns the index of the near end."""

        def up(end: str, mac: str | None) -> int:
            with IPRoute() as netlink:
                (index,) = netlink.link_lookup(ifname=end)
                if mac:
                    netlink.link("set", index=index, address=mac)
                netlink.link("set", index=index, state="up")
                return int(index)

        def make() -> None:
            with IPRoute() as netlink:
                netlink.link("add", ifname=name, kind="veth", peer={"ifname": peer, "net_ns_fd": namespace.fd})

        self.droplet.run(make)
        namespace.run(lambda: up(peer, macs.get("peer_mac")))
        return self.droplet.run(lambda: up(name, macs.get("mac")))

    def remove(self, index: int) -> None:
        """Deletes an interface of the droplet."""

        def delete() -> None:
            with IPRoute() as netlink:
                netlink.link("del", index=index)

        self.droplet.run(delete)

    def configure_endpoint(self) -> None:
        """As an endpoint finds itself: its addresses, and the virtual router as its only way out."""
        interfaces.set_gro("e0", True)
        with IPRoute() as netlink:
            (index,) = netlink.link_lookup(ifname="e0")
            for family in (4, 6):
                length = FRONT.prefix(family)[1]
                netlink.addr("add", index=index, address=A.address(family), prefixlen=length, flags=0x02)  # no DAD
                netlink.route("add", dst="default", gateway=FRONT.gateway(family), family=socket_family(family))

    def attach(self, namespace: Namespace, program: int, ifindex: int, mode: Any) -> None:
        """Attaches a program until close()."""
        self.links.append(namespace.run(lambda: attach.create_link(program, ifindex, mode)))

    def wire_ifindex(self) -> int:
        """Of w0, in its namespace."""
        return self.wire.run(lambda: socket.if_nametoindex("w0"))

    def open(self, namespace: Namespace, make: Callable[[], socket.socket]) -> socket.socket:
        """A socket of another namespace, closed with everything else."""
        made = namespace.run(make)
        made.settimeout(LIMIT_S)
        self.sockets.append(made)
        return made

    def raw(self, namespace: Namespace, interface: str) -> socket.socket:
        """A socket that sees and sends whole frames."""

        def make() -> socket.socket:
            one = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
            one.bind((interface, ETH_P_ALL))
            return one

        return self.open(namespace, make)

    def udp(self, namespace: Namespace, family: int, port: int = 0) -> socket.socket:
        """A UDP socket, bound to a port of every address."""

        def make() -> socket.socket:
            one = socket.socket(socket_family(family), socket.SOCK_DGRAM)
            one.bind(("", port))
            return one

        return self.open(namespace, make)


def socket_family(family: int) -> socket.AddressFamily:
    """4 or 6, as sockets and netlink call it."""
    return socket.AF_INET if family == 4 else socket.AF_INET6


def receive(raw: socket.socket, wanted: Callable[[bytes], bool]) -> bytes:
    """The next frame that is `wanted`; others (the kernel's own chatter) are skipped. Raises TimeoutError."""
    while True:
        frame = raw.recv(65_535)
        if wanted(frame):
            return frame
