# SPDX-License-Identifier: Apache-2.0
"""Next hops: found by the route, resolved and kept by the kernel, told when they change."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface

import pytest

from mizar.kernel import interfaces
from mizar.kernel.links import Links
from mizar.kernel.namespaces import Namespace
from mizar.kernel.neighbours import Neighbour, Neighbours, NextHop
from mizar.kernel.netlink import Netlink
from mizar.model.errors import InvalidError, TemporaryError

from .test_links import LINK

pytestmark = pytest.mark.root

# `workload` is the droplet that looks for others: 192.0.2.1 (RFC 5737), its router 192.0.2.2 on the other end.
ME = replace(LINK, addresses=(IPv4Interface("192.0.2.1/30"),), gateways=(IPv4Address("192.0.2.2"),))
ROUTER = IPv4Address("192.0.2.2")


@pytest.fixture
def hop(links: Links, workload: Namespace) -> NextHop:
    """The router as next hop."""
    host_side, _ = links.ensure_endpoint(ME, workload)
    links.netlink.tell([interfaces.address_order(host_side, IPv4Interface("192.0.2.2/30"))])
    with Netlink(workload) as inside:
        return NextHop(interfaces.get(inside, "eth0").index, ROUTER)


@pytest.fixture
def neighbours(workload: Namespace) -> Iterator[Neighbours]:
    found = Neighbours(workload)
    yield found
    found.close()


def test_the_route_decides(neighbours: Neighbours, hop: NextHop) -> None:
    """On the link: the address itself. Elsewhere: the router."""
    assert neighbours.next_hop(ROUTER) == hop
    assert neighbours.next_hop(IPv4Address("203.0.113.9")) == hop
    assert neighbours.next_hop(IPv4Address("203.0.113.9"), hop.ifindex) == hop


def test_addresses_that_lead_nowhere(links: Links, host: Namespace, neighbours: Neighbours, hop: NextHop) -> None:
    """One's own address will never do; a missing route may come."""
    with pytest.raises(InvalidError, match="address of this host"):
        neighbours.next_hop(IPv4Address("192.0.2.1"))
    lonely = Neighbours(host)
    with pytest.raises(TemporaryError, match=r"route to 203\.0\.113\.9"):
        lonely.next_hop(IPv4Address("203.0.113.9"))
    lonely.close()


async def test_the_kernel_resolves_and_tells(neighbours: Neighbours, hop: NextHop, links: Links) -> None:
    """Nobody sends a packet there, and yet the MAC becomes known; a repeated install changes nothing."""
    mac = next(link.interface.mac for link in links.owned())
    changes = neighbours.watch()
    assert neighbours.read(hop) == Neighbour(hop, None)
    assert neighbours.install(hop)
    async with asyncio.timeout(10):
        async for change in changes:
            if change.next_hop == hop and change.mac is not None:
                break
    assert change.mac == mac
    assert neighbours.read(hop) == Neighbour(hop, mac)
    assert neighbours.install(hop)
    assert neighbours.read(hop).mac == mac


async def test_a_silent_next_hop_is_unknown(neighbours: Neighbours, hop: NextHop) -> None:
    """Nobody has 192.0.2.3's place on a /30; the entry exists and has no MAC."""
    silent = NextHop(hop.ifindex, IPv4Address("192.0.2.77"))
    neighbours.install(silent)
    assert neighbours.read(silent).mac is None


async def test_a_removed_entry_is_told_as_lost(neighbours: Neighbours, hop: NextHop) -> None:
    """Once; the second time there is none."""
    neighbours.install(hop)
    changes = neighbours.watch()
    assert neighbours.remove(hop)
    async with asyncio.timeout(10):
        async for change in changes:
            if change == Neighbour(hop, None):
                break
    assert not neighbours.remove(hop)
    assert neighbours.read(hop).mac is None
