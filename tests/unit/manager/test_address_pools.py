# SPDX-License-Identifier: Apache-2.0
"""Pools of public addresses: what may be in one, and that nothing in use is taken away."""

from __future__ import annotations

from typing import Any

import pytest

from mizar.model.errors import InvalidError, MizarError
from mizar.model.manifest import parse_resource
from tests.unit.manager.test_substrate import listed
from tests.unit.manager.world import World, manifest

PUBLIC = ["203.0.113.0/28", "2001:db8:1::/124"]


def pool(name: str = "edge", prefixes: tuple[str, ...] = tuple(PUBLIC), **spec: Any) -> dict[str, Any]:
    """For everybody, on droplet d1."""
    return manifest("AddressPool", name, **{"prefixes": list(prefixes), "tenants": "all", "droplets": ["d1"], **spec})


async def test_a_pool_tells_what_is_free(world: World) -> None:
    """It is done at once: no droplet is told of it."""
    world.apply(*world.base("red"), pool(), pool("red", ("198.51.100.0/31",), tenants=["red"], droplets=["d1", "d2"]))
    await world.settled()
    status = world.status("AddressPool", "edge")
    assert (status["claims"], status["free"]) == ([], 32)
    assert world.status("AddressPool", "red")["free"] == 2


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"prefixes": []}, "at least 1"),
        ({"prefixes": ["203.0.113.1/28"]}, "host bits"),
        ({"prefixes": ["198.18.0.0/15"]}, "expected an IPv4 prefix of /16 or longer"),
        ({"prefixes": ["2001:db8::/64"]}, "expected an IPv6 prefix of /112 or longer"),
        ({"prefixes": ["203.0.113.0/28", "203.0.113.8/29"]}, "share no address"),
        ({"prefixes": ["127.0.0.0/28"]}, "unicast"),
        ({"prefixes": ["224.0.1.0/28"]}, "unicast"),
        ({"prefixes": ["169.254.1.0/28"]}, "that are routed"),
        ({"prefixes": ["fe80::/124"]}, "unicast"),
        ({"tenants": "some"}, "expected a list of tenants or all"),
        ({"tenants": ["all", "red"]}, "found both"),
        ({"tenants": ["red", "red"]}, "found red again"),
        ({"droplets": []}, "at least 1"),
        ({"ports": 1}, "unknown"),
    ],
)
def test_a_wrong_pool_is_refused_at_its_field(spec: dict[str, Any], message: str) -> None:
    """Before anybody looks at other objects."""
    with pytest.raises(InvalidError, match=message) as refused:
        parse_resource(pool(**spec), 0)
    assert (refused.value.problems[0].field or "").startswith(f"spec.{next(iter(spec))}")


async def test_nobody_elses_addresses_are_in_a_pool(world: World) -> None:
    """Another pool's, a droplet's, those of a VPC to whose endpoints hosts have routes; whichever comes first."""
    world.apply(*world.base("red"), pool())
    taken = [
        (pool("other", ("203.0.113.8/29",)), "overlaps 203.0.113.0/28 of AddressPool edge"),
        (pool("other", ("172.31.0.0/24",)), "holds 172.31.0.11 of Droplet d1"),
        (pool("other", ("198.51.100.0/28",), droplets=["d9"]), "there is no droplet d9 with a daemon"),
        (pool("other", ("198.51.100.0/28",), tenants=["pink"]), "there is no Tenant pink"),
        (manifest("Droplet", "d9", address="203.0.113.5", daemon="none"), "is an address of AddressPool edge"),
    ]
    for wrong, message in taken:
        with pytest.raises(MizarError, match=message):
            world.apply(wrong)
    world.apply(listed("red"))
    with pytest.raises(InvalidError, match=r"overlaps 10\.0\.0\.0/16 of VPC red/main"):
        world.apply(pool("other", ("10.0.7.0/24",)))
    world.apply(listed(), pool("other", ("10.0.7.0/24",)))
    with pytest.raises(InvalidError, match=r"10\.0\.0\.0/16 of VPC red/main overlaps 10\.0\.7\.0/24"):
        world.apply(listed("red"))
