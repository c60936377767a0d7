# SPDX-License-Identifier: Apache-2.0
"""The rules of a NAT gateway's namespace: at the port of its pair nobody is let in but the other instance."""

from __future__ import annotations

import socket
from ipaddress import ip_address, ip_network

import pytest

from mizar.kernel import nat_guard
from mizar.kernel.interfaces import RTM_SETLINK, set_link
from mizar.kernel.namespaces import Namespace
from mizar.kernel.nat_guard import Limits
from mizar.kernel.netlink import Netlink

pytestmark = pytest.mark.root
OWN, OTHER, STRANGER = "127.0.0.1", "127.0.0.2", "127.0.0.3"
PORT, SILENT_S = 7799, 0.3


def connects(namespace: Namespace, source: str, port: int, limit_s: float) -> bool:
    with namespace.run(lambda: socket.socket(socket.AF_INET6 if ":" in source else socket.AF_INET)) as client:
        client.settimeout(limit_s)
        client.bind((source, 0))
        try:
            client.connect(("::1" if ":" in source else OWN, port))
        except TimeoutError:
            return False
        return True


def test_the_port_of_a_pair_is_for_the_other_instance_alone(host: Namespace) -> None:
    """Of neither family is anybody else; without another instance, or at another port, nothing is kept from it."""
    with Netlink(host) as netlink:
        netlink.tell([(set_link("lo", up=True), RTM_SETLINK, 0, "raise lo")])
    inside, limits = (ip_network("10.0.0.0/16"),), Limits((), (), ())
    with (
        host.run(lambda: socket.create_server(("::", PORT), family=socket.AF_INET6, dualstack_ipv6=True)),
        host.run(lambda: socket.create_server(("::", PORT + 1), family=socket.AF_INET6, dualstack_ipv6=True)),
    ):
        nat_guard.keep(host, nat_guard.rules("eth0", inside, limits))
        assert connects(host, STRANGER, PORT, 30.0)
        nat_guard.keep(host, nat_guard.rules("eth0", inside, limits, (PORT, ip_address(OTHER))))
        assert connects(host, OTHER, PORT, 30.0)
        assert connects(host, STRANGER, PORT + 1, 30.0)
        assert not connects(host, STRANGER, PORT, SILENT_S)
        assert not connects(host, "::1", PORT, SILENT_S)
        nat_guard.keep(host, nat_guard.rules("eth0", inside, limits, (PORT, ip_address("::1"))))
        assert connects(host, "::1", PORT, 30.0)
        assert not connects(host, OTHER, PORT, SILENT_S)
