# SPDX-License-Identifier: Apache-2.0
"""A host that is made to forward lets nothing else pass, whoever else needs it and whatever becomes of its rules."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path

import pytest

from mizar.kernel import interfaces, nat_guard, nat_way, nftables, tunnel_outer
from mizar.kernel.interfaces import RTM_DELLINK, RTM_NEWLINK, RTM_SETLINK, set_link
from mizar.kernel.namespaces import Namespace
from mizar.kernel.netlink import CREATE, EXCL, Netlink
from mizar.model.errors import InvalidError

pytestmark = pytest.mark.root
OWN, PEER, UPLINK = IPv4Address("192.0.2.1"), IPv4Address("192.0.2.9"), "up0"
GATEWAY, TUNNEL = "g1", "u1"
END = nat_way.name_of(GATEWAY)


def make(host: Namespace, name: str) -> None:
    message = set_link(name)
    message["attrs"].append(("IFLA_LINKINFO", {"attrs": [("IFLA_INFO_KIND", "veth")]}))
    with Netlink(host) as netlink:
        netlink.tell([(message, RTM_NEWLINK, CREATE | EXCL, "make it")])
        netlink.tell([(set_link(name, up=True), RTM_SETLINK, 0, "raise it")])


@pytest.fixture(autouse=True)
def uplink(host: Namespace) -> None:
    """An interface that does not forward, with the droplet's address."""
    make(host, UPLINK)
    with Netlink(host) as netlink:
        netlink.tell([interfaces.address_order(interfaces.get(netlink, UPLINK), IPv4Interface((OWN, 24)))])
    host.run(lambda: Path(f"/proc/sys/net/ipv4/conf/{UPLINK}/forwarding").write_text("0"))


def gateway_comes(host: Namespace) -> None:
    with Netlink(host) as netlink:
        there = interfaces.find(netlink, END) is not None
    if not there:
        make(host, END)
    host.run(lambda: nat_guard.open_host(UPLINK, END))


def gateway_goes(host: Namespace) -> None:
    host.run(lambda: nat_guard.release_host(UPLINK, END))
    with Netlink(host) as netlink:
        netlink.tell([(set_link(END), RTM_DELLINK, 0, "remove it")])
    host.run(nat_guard.close_host)


def tunnel_comes(host: Namespace, workload: Namespace) -> None:
    host.run(lambda: tunnel_outer.ensure(TUNNEL, workload, UPLINK, OWN, PEER, 4500))


def tunnel_goes(host: Namespace) -> None:
    host.run(lambda: tunnel_outer.remove(TUNNEL, UPLINK))


def state(host: Namespace) -> tuple[bool, bool]:
    """Whether the uplink forwards, and whether what else it would forward is dropped."""
    try:
        nftables.apply("list table ip mizar_forward\n", host)
        guarded = True
    except InvalidError:
        guarded = False
    return forwards(host), guarded


def of_discovery(host: Namespace) -> tuple[str, str]:
    """Whether the uplink answers for others, and takes advertisements."""
    conf = Path("/proc/sys/net/ipv6/conf", UPLINK)
    return host.run(lambda: ((conf / "proxy_ndp").read_text().strip(), (conf / "accept_ra").read_text().strip()))


def test_discovery_is_as_it_was_after_the_last_gateway(host: Namespace) -> None:
    """Both switches stayed as a gateway had made them."""
    assert of_discovery(host) == ("0", "1")
    gateway_comes(host)
    assert of_discovery(host) == ("1", "2")
    gateway_comes(host)
    gateway_goes(host)
    assert of_discovery(host) == ("0", "1")


def test_discovery_that_was_the_hosts_own_stays(host: Namespace) -> None:
    conf = Path("/proc/sys/net/ipv6/conf", UPLINK)
    host.run(lambda: [(conf / name).write_text(value) for name, value in (("proxy_ndp", "1"), ("accept_ra", "0"))])
    gateway_comes(host)
    gateway_goes(host)
    assert of_discovery(host) == ("1", "0")


def forwards(host: Namespace, switch: str = "ipv4/conf/up0/forwarding") -> bool:
    path = Path("/proc/sys/net", switch)
    return host.run(lambda: path.exists() and path.read_text().strip() == "1")


def test_a_gateway_that_goes_leaves_a_tunnel_its_forwarding_and_the_guard(host: Namespace, workload: Namespace) -> None:
    """Be the tunnel the second, who found the switch on; with it the rest goes."""
    gateway_comes(host)
    tunnel_comes(host, workload)
    gateway_goes(host)
    assert state(host) == (True, True)
    tunnel_goes(host)
    assert state(host) == (False, False)


def test_a_tunnel_that_goes_leaves_a_gateway_its_forwarding_and_the_guard(host: Namespace, workload: Namespace) -> None:
    """Be the gateway the second, who found the switch on; with it the rest goes, of IPv6 too."""
    tunnel_comes(host, workload)
    gateway_comes(host)
    tunnel_goes(host)
    assert state(host) == (True, True)
    gateway_goes(host)
    assert state(host) == (False, False)
    for switch in ("forwarding", "force_forwarding"):
        assert not forwards(host, f"ipv6/conf/{UPLINK}/{switch}")
    assert not forwards(host, "ipv6/conf/all/forwarding")


def test_a_gateway_misses_rules_that_somebody_took_away(host: Namespace) -> None:
    """As by `systemctl restart nftables`: the host would forward for everybody, and for ever."""
    gateway_comes(host)
    nftables.apply("flush ruleset\n", host)
    gateway_comes(host)
    assert state(host) == (True, True)
    nftables.apply("list table ip6 mizar_forward\n", host)
    nftables.apply("flush ruleset\n", host)
    gateway_goes(host)
    assert state(host) == (False, False)


def test_the_end_that_vanished_with_its_namespace_leaves_nothing_on(host: Namespace) -> None:
    """What it had on, the guard tells."""
    gateway_comes(host)
    with Netlink(host) as netlink:
        netlink.tell([(set_link(END), RTM_DELLINK, 0, "remove it")])
    host.run(lambda: nat_guard.release_host(UPLINK, END))
    host.run(nat_guard.close_host)
    assert state(host) == (False, False)


def test_a_host_that_forwards_of_its_own_accord_goes_on(host: Namespace, workload: Namespace) -> None:
    """And gets no guard."""
    host.run(lambda: Path(f"/proc/sys/net/ipv4/conf/{UPLINK}/forwarding").write_text("1"))
    gateway_comes(host)
    tunnel_comes(host, workload)
    assert state(host) == (True, False)
    gateway_goes(host)
    tunnel_goes(host)
    assert state(host) == (True, False)
