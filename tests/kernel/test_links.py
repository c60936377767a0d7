# SPDX-License-Identifier: Apache-2.0
"""An endpoint's link: made whole or not at all, adjusted in place, never at the cost of somebody else's interface."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface
from pathlib import Path

import pytest

from mizar.kernel import interfaces, namespaces
from mizar.kernel.endpoint_link import EndpointLink
from mizar.kernel.interfaces import Interface
from mizar.kernel.links import Links
from mizar.kernel.namespaces import Namespace
from mizar.kernel.netlink import Netlink
from mizar.kernel.workload import default_gateways
from mizar.model.errors import ConflictError, InvalidError

pytestmark = pytest.mark.root

LINK = EndpointLink(
    instance="d1",
    uid="u1",
    host_name="mz1",
    inner_name="eth0",
    mac=bytes.fromhex("020000000001"),
    mtu=1450,
    addresses=(IPv4Interface("10.0.1.5/24"), IPv6Interface("fd00:10:0:1::5/64")),
    gateways=(IPv4Address("10.0.1.1"), IPv6Address("fd00:10:0:1::1")),
    queues=2,
)

LINKS = 30


@pytest.fixture
def inside(workload: Namespace) -> Iterator[Netlink]:
    with Netlink(workload) as netlink:
        yield netlink


def inner(inside: Netlink, name: str = "eth0") -> Interface:
    return interfaces.get(inside, name)


def test_a_link_is_made_whole(links: Links, host: Namespace, workload: Namespace, inside: Netlink) -> None:
    """Addresses, MAC, MTU, routes, GRO at both ends, no link-local addresses, loopback up."""
    made, change = links.ensure_endpoint(LINK, workload)
    assert change == "created"
    assert (made.name, made.mtu, made.up, made.kind) == ("mz1", 1450, True, "veth")
    end = inner(inside)
    assert (end.mac, end.mtu, end.up) == (LINK.mac, 1450, True)
    assert set(interfaces.addresses(inside, end.index)) == set(LINK.addresses)
    assert default_gateways(inside, end.index) == {"10.0.1.1", "fd00:10:0:1::1"}
    assert interfaces.get(inside, "lo").up
    assert interfaces.addresses(links.netlink, made.index) == []
    assert host.run(lambda: interfaces.gro("mz1"))
    assert workload.run(lambda: interfaces.gro("eth0"))
    assert workload.run(lambda: interfaces.encapsulated_segmentation("eth0")) == set()
    assert "tx-udp_tnl-segmentation" in host.run(lambda: interfaces.encapsulated_segmentation("mz1"))


def test_a_new_link_carries_from_the_first_frame(links: Links, host: Namespace, workload: Namespace) -> None:
    """What is sent towards the workload when its link has just been made arrives: it may be the answer to its first
    ARP, which is asked for again only after a second. Of links that wait for the kernel's worker, one in ten loses it.
    """
    kind = 0x88B5  # for experiments
    frame = LINK.mac + bytes(6) + kind.to_bytes(2, "big") + bytes(46)
    sending = host.run(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW))
    inside = workload.run(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(kind)))
    arrived = 0
    with sending, inside:
        inside.settimeout(1)
        for _ in range(LINKS):
            links.ensure_endpoint(LINK, workload)
            sending.sendto(frame, (LINK.host_name, kind))
            with suppress(TimeoutError):
                inside.recv(64)
                arrived += 1
            links.delete(LINK.host_name)
    assert arrived == LINKS


def test_the_guard_stands_before_the_link_is_up(links: Links, workload: Namespace) -> None:
    """No frame of the endpoint passes before it; a guard that fails leaves no link."""
    seen: list[bool] = []
    links.ensure_endpoint(LINK, workload, lambda host: seen.append(host.up))
    links.ensure_endpoint(LINK, workload, lambda host: seen.append(host.up))
    assert seen == [False, True]
    links.delete(LINK.host_name)

    def refuse(_host: Interface) -> None:
        raise InvalidError("no")

    with pytest.raises(InvalidError):
        links.ensure_endpoint(LINK, workload, refuse)
    assert interfaces.find(links.netlink, LINK.host_name) is None


def test_repeating_changes_nothing(links: Links, workload: Namespace) -> None:
    """The same wish again is no work, and the same interface."""
    made, _ = links.ensure_endpoint(LINK, workload)
    assert links.ensure_endpoint(LINK, workload) == (made, "unchanged")


@pytest.mark.parametrize(
    "wish",
    [
        replace(LINK, mac=bytes.fromhex("020000000002")),
        replace(LINK, mtu=1400),
        replace(LINK, addresses=(IPv4Interface("10.0.1.6/24"), LINK.addresses[1])),
        replace(LINK, addresses=LINK.addresses[:1], gateways=LINK.gateways[:1]),
        replace(LINK, gateways=(IPv4Address("10.0.1.254"), LINK.gateways[1])),
        replace(LINK, addresses=(IPv4Interface("10.9.0.1/16"),), gateways=(IPv4Address("10.9.255.254"),)),
    ],
)
def test_a_changed_wish_adjusts_the_link(
    links: Links, workload: Namespace, inside: Netlink, wish: EndpointLink
) -> None:
    """Without making a new one: what runs in the namespace keeps its sockets."""
    made, _ = links.ensure_endpoint(LINK, workload)
    adjusted, change = links.ensure_endpoint(wish, workload)
    assert (adjusted.index, change) == (made.index, "changed")
    end = inner(inside)
    assert (end.mac, end.mtu, adjusted.mtu) == (wish.mac, wish.mtu, wish.mtu)
    assert set(interfaces.addresses(inside, end.index)) == set(wish.addresses)
    assert default_gateways(inside, end.index) == {str(gateway) for gateway in wish.gateways}
    assert links.ensure_endpoint(wish, workload)[1] == "unchanged"


def test_a_taken_name_in_the_namespace_is_a_conflict(links: Links, workload: Namespace) -> None:
    """Nothing is left of the attempt, and the interface that has the name is as before."""
    links.ensure_endpoint(LINK, workload)
    with pytest.raises(ConflictError, match="the name eth0 is taken"):
        links.ensure_endpoint(replace(LINK, uid="u2", host_name="mz2", addresses=(), gateways=()), workload)
    assert [link.uid for link in links.owned()] == ["u1"]
    assert links.ensure_endpoint(LINK, workload)[1] == "unchanged"


def test_a_taken_default_route_is_a_conflict_and_undone(links: Links, workload: Namespace) -> None:
    """A second interface does not take the default route from the first."""
    links.ensure_endpoint(LINK, workload)
    with pytest.raises(ConflictError, match="default route"):
        links.ensure_endpoint(replace(LINK, uid="u2", host_name="mz2", inner_name="eth1"), workload)
    assert [link.uid for link in links.owned()] == ["u1"]


def test_a_taken_name_on_the_host_is_a_conflict(links: Links, workload: Namespace) -> None:
    """Neither another endpoint's link nor a stranger's interface is touched."""
    links.ensure_endpoint(LINK, workload)
    with pytest.raises(ConflictError, match="endpoint u1"):
        links.ensure_endpoint(replace(LINK, uid="u2"), workload)
    with pytest.raises(ConflictError, match="not Mizar's"):
        links.ensure_endpoint(replace(LINK, uid="u2", host_name="lo"), workload)
    with pytest.raises(ConflictError, match="not made by Mizar"):
        links.delete("lo")


def test_a_workload_that_moved_gets_a_new_link(links: Links, workload: Namespace) -> None:
    """The same endpoint in another namespace: the old link goes."""
    links.ensure_endpoint(LINK, workload)
    with namespaces.anonymous() as other, Netlink(workload) as before, Netlink(other) as after:
        assert links.ensure_endpoint(LINK, other)[1] == "created"
        assert interfaces.find(before, "eth0") is None
        assert interfaces.find(after, "eth0") is not None


def test_a_half_made_link_is_made_anew(links: Links, workload: Namespace, inside: Netlink) -> None:
    """A daemon that died between two steps leaves a mark by which the next one finishes the work."""
    links._create(LINK, workload)
    assert [(link.interface.name, link.uid) for link in links.owned()] == [("mz1", "")]
    assert links.ensure_endpoint(LINK, workload)[1] == "created"
    assert set(interfaces.addresses(inside, inner(inside).index)) == set(LINK.addresses)


def test_deleting_takes_both_ends(links: Links, workload: Namespace, inside: Netlink) -> None:
    """And is no error the second time."""
    links.ensure_endpoint(LINK, workload)
    assert links.delete("mz1")
    assert interfaces.find(inside, "eth0") is None
    assert not links.delete("mz1")


def test_a_namespace_without_ipv6_gets_it_on_this_interface(links: Links, workload: Namespace, inside: Netlink) -> None:
    """Container runtimes switch IPv6 off; an endpoint with an IPv6 address has one all the same."""
    switch = Path("/proc/sys/net/ipv6/conf")
    workload.run(lambda: [(switch / name / "disable_ipv6").write_text("1") for name in ("all", "default")])
    links.ensure_endpoint(LINK, workload)
    assert set(interfaces.addresses(inside, inner(inside).index)) == set(LINK.addresses)
    assert workload.run(lambda: (switch / "lo" / "disable_ipv6").read_text().strip()) == "1"


def test_an_impossible_wish_leaves_nothing(links: Links, workload: Namespace, inside: Netlink) -> None:
    """An MTU that IPv6 refuses fails late in the work; both ends are gone afterwards."""
    with pytest.raises(InvalidError):
        links.ensure_endpoint(replace(LINK, mtu=100), workload)
    assert links.owned() == []
    assert interfaces.find(inside, "eth0") is None


def test_offloads_can_be_set_and_read(links: Links, host: Namespace, workload: Namespace) -> None:
    """GRO and the checksum offload of a veth."""
    links.ensure_endpoint(LINK, workload)

    def off() -> tuple[bool, bool]:
        interfaces.set_gro("mz1", False)
        interfaces.set_tx_checksum("mz1", False)
        return interfaces.gro("mz1"), interfaces.tx_checksum("mz1")

    assert host.run(off) == (False, False)


async def test_changes_are_told(links: Links, host: Namespace, workload: Namespace) -> None:
    """A watcher sees a link come and go, from the moment of the call on."""
    events = interfaces.watch(host)
    links.ensure_endpoint(LINK, workload)
    links.delete("mz1")
    async with asyncio.timeout(5):
        seen = []
        async for event in events:
            seen.append((event.interface.name, event.gone))
            if event.gone:
                break
    assert seen[0] == ("mz1", False)
    assert seen[-1] == ("mz1", True)
