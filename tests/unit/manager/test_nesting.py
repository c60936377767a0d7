# SPDX-License-Identifier: Apache-2.0
"""Networks inside of networks: who gets which address, and what is refused with whose name."""

from __future__ import annotations

import pytest

from mizar.model.errors import InvalidError
from mizar.model.resources import Ref
from tests.unit.manager.world import World, endpoint, network, until

WIDE = ["10.0.0.0/20", "fd00:10::/52"]


async def test_a_network_may_lie_inside_of_another_and_each_allots_its_own_addresses(world: World) -> None:
    """What is allotted in the wide network is never the narrow one's, also where the narrow one comes first in it."""
    narrow = network("red", "narrow", cidrs=["10.0.0.0/30"])
    world.apply(*world.base("red"), network("red", "wide", cidrs=WIDE), narrow)
    world.apply(*(endpoint("red", f"w{n}", "d1", "wide") for n in range(3)), endpoint("red", "n", "d2", "narrow"))
    given = [world.status("Endpoint", f"w{n}", "red")["addresses"] for n in range(3)]
    assert [addresses[0] for addresses in given] == ["10.0.0.4", "10.0.0.5", "10.0.0.6"]
    assert given[0][1] == "fd00:10::2"
    assert world.status("Endpoint", "n", "red")["addresses"] == ["10.0.0.2"]
    await world.settled()


async def test_an_address_of_the_network_inside_is_refused_in_the_one_around(world: World) -> None:
    """Also when both networks and the endpoint come in one request; the error names the network that has it."""
    wide, within = network("red", "wide", cidrs=WIDE), endpoint("red", "e", "d1", "wide", addresses=["10.0.1.9"])
    message = r"10\.0\.1\.9 belongs to Network red/front, whose prefix 10\.0\.1\.0/24 is longer"
    with pytest.raises(InvalidError, match=message) as caught:
        world.apply(*world.base("red"), wide, within)
    assert caught.value.problems[0].field == "spec.addresses[0]"
    world.apply(*world.base("red"), wide)
    with pytest.raises(InvalidError, match=message):
        world.apply(within)


async def test_a_network_over_addresses_that_endpoints_have_is_refused_with_their_names(world: World) -> None:
    """Nothing is taken from an endpoint that lives; a network around them is no matter."""
    world.apply(*world.base("red"), network("red", "wide", cidrs=WIDE))
    world.apply(endpoint("red", "a", "d1", "wide", addresses=["10.0.4.9"]), endpoint("red", "b", "d1", "front"))
    with pytest.raises(InvalidError, match=r"10\.0\.4\.0/24, .* endpoints of another network: a \(10\.0\.4\.9\)"):
        world.apply(network("red", "late", 4))
    world.apply(network("red", "wider", cidrs=["10.0.0.0/18"]), network("red", "beside", 5))
    await world.settled()


async def test_equal_prefixes_stay_refused(world: World) -> None:
    """Between two networks with one prefix nothing could decide."""
    with pytest.raises(InvalidError, match="is network front's in the same VPC already"):
        world.apply(*world.base("red"), network("red", "again", 1))


async def test_the_prefix_of_a_network_that_is_gone_holds_nothing_back(world: World) -> None:
    """Once it is gone everywhere, the network around it has its addresses."""
    world.apply(*world.base("red"), network("red", "wide", cidrs=WIDE))
    await world.settled()
    world.manager.delete(Ref("Network", "red", "front"))
    await until(lambda: not world.exists("Network", "front", "red"))
    world.apply(endpoint("red", "e", "d1", "wide", addresses=["10.0.1.9"]))
