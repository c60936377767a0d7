# SPDX-License-Identifier: Apache-2.0
"""Route tables of networks: which packets the agent refuses, and which go as without a table."""

from __future__ import annotations

import pytest

from .frames import datagram
from .plan import BACK, FAMILIES, FRONT, NETWORK_HAS_ROUTES, ROUTE_BLACKHOLE, ROUTE_VPC, A, Address, B, S
from .testbed import TC_REDIRECT, TC_SHOT, Testbed

ALL: dict[int, Address] = {4: "0.0.0.0", 6: "::"}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_longest_prefix_decides(droplet: Testbed, family: int) -> None:
    """Nothing anywhere, but for the network's own prefix; and one address of it is refused again."""
    droplet.as_host()
    droplet.agent(A, network_flags=NETWORK_HAS_ROUTES)
    assert droplet.send(datagram(family, A, S.address(family))).retval == TC_REDIRECT
    droplet.route(FRONT, ALL[family], 0, ROUTE_BLACKHOLE)
    assert droplet.send(datagram(family, A, S.address(family))).retval == TC_SHOT
    assert droplet.send(datagram(family, A, B.address(family))).retval == TC_SHOT
    droplet.route(FRONT, *FRONT.prefix(family), ROUTE_VPC)
    assert droplet.send(datagram(family, A, S.address(family))).retval == TC_SHOT
    assert droplet.send(datagram(family, A, B.address(family))).retval == TC_REDIRECT
    droplet.route(FRONT, B.address(family), 32 if family == 4 else 128, ROUTE_BLACKHOLE)
    assert droplet.send(datagram(family, A, B.address(family))).retval == TC_SHOT
    assert droplet.counted()["drop", "ROUTE_BLACKHOLE"]["packets"] == 4


@pytest.mark.parametrize("family", FAMILIES)
def test_a_table_is_its_networks_and_its_familys(droplet: Testbed, family: int) -> None:
    """The default route of IPv6 is none of IPv4, though all addresses are written in the same way; another network's
    table, and one that the agent is not told of, says nothing."""
    droplet.as_host()
    droplet.agent(A, network_flags=NETWORK_HAS_ROUTES)
    droplet.route(FRONT, ALL[10 - family], 0, ROUTE_BLACKHOLE)
    droplet.route(BACK, ALL[family], 0, ROUTE_BLACKHOLE)
    assert droplet.send(datagram(family, A, S.address(family))).retval == TC_REDIRECT
    droplet.route(FRONT, ALL[family], 0, ROUTE_BLACKHOLE)
    droplet.agent(A)
    assert droplet.send(datagram(family, A, S.address(family))).retval == TC_REDIRECT
