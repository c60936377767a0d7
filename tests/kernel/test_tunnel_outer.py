# SPDX-License-Identifier: Apache-2.0
"""The way out of a namespace for one UDP port: nobody else passes, whatever becomes of the host's rules."""

from __future__ import annotations

import socket
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface
from pathlib import Path

import pytest

from mizar.kernel import interfaces, namespaces, nftables, tunnel_outer
from mizar.kernel.interfaces import RTM_NEWLINK, RTM_SETLINK, set_link
from mizar.kernel.namespaces import Namespace
from mizar.kernel.netlink import CREATE, EXCL, Netlink
from mizar.model.errors import InvalidError, TemporaryError

pytestmark = pytest.mark.root
OWN, PEER, UPLINK = IPv4Address("192.0.2.1"), IPv4Address("192.0.2.9"), "up0"


@pytest.fixture(autouse=True)
def uplink(host: Namespace) -> None:
    """An interface that does not forward, with the droplet's address."""
    message = set_link(UPLINK)
    message["attrs"].append(("IFLA_LINKINFO", {"attrs": [("IFLA_INFO_KIND", "veth")]}))
    with Netlink(host) as netlink:
        netlink.tell([(message, RTM_NEWLINK, CREATE | EXCL, "make it")])
        netlink.tell([(set_link(UPLINK, up=True), RTM_SETLINK, 0, "raise it")])
        netlink.tell([interfaces.address_order(interfaces.get(netlink, UPLINK), IPv4Interface((OWN, 24)))])
    host.run(lambda: Path(f"/proc/sys/net/ipv4/conf/{UPLINK}/forwarding").write_text("0"))


def ensure(host: Namespace, uid: str, workload: Namespace, peer: IPv4Address = PEER, port: int = 4500) -> IPv4Address:
    return IPv4Address(host.run(lambda: tunnel_outer.ensure(uid, workload, UPLINK, OWN, peer, port)))


def forwards(host: Namespace) -> bool:
    return host.run(lambda: Path(f"/proc/sys/net/ipv4/conf/{UPLINK}/forwarding").read_text().strip() == "1")


def has(host: Namespace, table: str) -> bool:
    try:
        nftables.apply(f"list table ip {table}\n", host)
    except InvalidError:
        return False
    return True


def test_rules_that_somebody_took_away_are_missed_and_made_anew(host: Namespace, workload: Namespace) -> None:
    """As by `systemctl restart nftables`: the host would forward for everybody, and lie open to the namespace."""
    ensure(host, "u1", workload)

    def there() -> bool:
        return host.run(lambda: tunnel_outer.is_there("u1", workload, 4))

    assert (there(), forwards(host), has(host, "mizar_forward")) == (True, True, True)
    nftables.apply("flush ruleset\n", host)
    assert not there()
    ensure(host, "u1", workload)
    assert (there(), has(host, "mizar_forward"), has(host, tunnel_outer.name_of("u1"))) == (True, True, True)
    nftables.apply("delete table ip mizar_forward\n", host)
    assert not there()
    nftables.apply("flush ruleset\n", host)
    host.run(lambda: tunnel_outer.remove("u1", UPLINK))
    assert not forwards(host)


def test_the_last_one_leaves_the_host_as_it_was(host: Namespace, workload: Namespace) -> None:
    """A host that forwards of its own accord goes on, and gets no guard."""
    with namespaces.anonymous() as second:
        ensure(host, "u1", workload)
        ensure(host, "u2", second, port=4501)
        host.run(lambda: tunnel_outer.remove("u1", UPLINK))
        assert (forwards(host), has(host, "mizar_forward")) == (True, True)
        host.run(lambda: tunnel_outer.remove("u2", UPLINK))
        assert (forwards(host), has(host, "mizar_forward")) == (False, False)
        host.run(lambda: Path(f"/proc/sys/net/ipv4/conf/{UPLINK}/forwarding").write_text("1"))
        ensure(host, "u1", workload)
        assert not has(host, "mizar_forward")
        host.run(lambda: tunnel_outer.remove("u1", UPLINK))
        assert forwards(host)


def test_the_same_by_ipv6(host: Namespace, workload: Namespace) -> None:
    """Beside one by IPv4 in the same namespace: each has its ends, its rules and the host's forwarding for itself."""
    own, peer = IPv6Address("fd31::1"), IPv6Address("fd31::9")
    switch = Path(f"/proc/sys/net/ipv6/conf/{UPLINK}/force_forwarding")
    if not host.run(switch.exists):
        with pytest.raises(TemporaryError, match=r"before 6\.17"):
            host.run(lambda: tunnel_outer.ensure("u6", workload, UPLINK, own, peer, 4501))
        return
    with Netlink(host) as netlink:
        netlink.tell([interfaces.address_order(interfaces.get(netlink, UPLINK), IPv6Interface((own, 64)))])
    ensure(host, "u1", workload)
    far = host.run(lambda: tunnel_outer.ensure("u6", workload, UPLINK, own, peer, 4501))
    assert IPv6Address(far).is_private
    assert host.run(lambda: tunnel_outer.is_there("u6", workload, 6))
    assert host.run(lambda: tunnel_outer.is_there("u1", workload, 4))
    assert host.run(lambda: switch.read_text().strip()) == "1"
    nftables.apply("list table ip6 mizar_forward\n", host)
    for uid in ("u1", "u6"):
        host.run(lambda uid=uid: tunnel_outer.remove(uid, UPLINK))  # type: ignore[misc]
    assert host.run(lambda: switch.read_text().strip()) == "0"
    with pytest.raises(InvalidError):
        nftables.apply("list table ip6 mizar_forward\n", host)
    assert not forwards(host)


def test_one_way_out_is_no_way_into_another(host: Namespace, workload: Namespace) -> None:
    """Whoever names the other's inner address as its peer reaches nobody."""
    with namespaces.anonymous() as victim:
        inner = ensure(host, "victim", victim)
        own = ensure(host, "u1", workload, peer=inner, port=4501)

        def bound(address: IPv4Address, port: int) -> socket.socket:
            made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            made.bind((str(address), port))
            made.settimeout(0.5)
            return made

        with victim.run(lambda: bound(inner, 4500)) as hearing, workload.run(lambda: bound(own, 4501)) as sending:
            for _ in range(3):
                sending.sendto(b"hello", (str(inner), 4500))
            with pytest.raises(TimeoutError):
                hearing.recv(64)


def test_a_way_out_by_ipv6_is_none_by_ipv4(host: Namespace, workload: Namespace) -> None:
    """Whoever is in the namespace gives its end an address, and reaches neither the host nor anybody behind it."""
    own, peer = IPv6Address("fd31::1"), IPv6Address("fd31::9")
    if not host.run(Path(f"/proc/sys/net/ipv6/conf/{UPLINK}/force_forwarding").exists):
        pytest.skip("the kernel (before 6.17) has no force_forwarding")
    with Netlink(host) as netlink:
        netlink.tell([interfaces.address_order(interfaces.get(netlink, UPLINK), IPv6Interface((own, 64)))])
    host.run(lambda: tunnel_outer.ensure("u6", workload, UPLINK, own, peer, 4501))
    with Netlink(workload) as netlink:
        end = interfaces.get(netlink, tunnel_outer.inner_of("u6"))
        netlink.tell([interfaces.address_order(end, IPv4Interface("192.0.2.77/24"))])

    def bound(address: str) -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.bind((address, 9999))
        made.settimeout(0.5)
        return made

    with host.run(lambda: bound(str(OWN))) as hearing, workload.run(lambda: bound("192.0.2.77")) as sending:
        for _ in range(3):
            sending.sendto(b"hello", (str(OWN), 9999))
        with pytest.raises(TimeoutError):
            hearing.recv(64)
    switch = Path("/proc/sys/net/ipv4/conf", tunnel_outer.name_of("u6"), "forwarding")
    assert host.run(switch.read_text).strip() == "0"
