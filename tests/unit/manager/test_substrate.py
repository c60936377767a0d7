# SPDX-License-Identifier: Apache-2.0
"""Routes into the substrate: what the operator's list allows, what is refused, and what becomes of it when it goes."""

from __future__ import annotations

from typing import Any

import pytest

from mizar.model.errors import InvalidError
from mizar.model.resources import Ref
from tests.unit.manager.test_routes import tables
from tests.unit.manager.world import World, endpoint, manifest, network, tenant, until, vpc

SERVICES = "192.0.2.0/24"
OUT = [{"to": SERVICES, "via": "substrate"}]


def listed(*names: str, prefixes: tuple[str, ...] = (SERVICES,), name: str = "services") -> dict[str, Any]:
    """A SubstrateRoute for the VPCs `main` of tenants."""
    return manifest(
        "SubstrateRoute", name, prefixes=list(prefixes), vpcs=[{"tenant": t, "name": "main"} for t in names]
    )


def actions(world: World) -> set[str]:
    """What droplets do with packets for the services."""
    return {entry.split()[1] for table in tables(world) for entry in table if entry.startswith(SERVICES)}


async def test_a_route_lasts_as_long_as_it_is_allowed(world: World) -> None:
    """Refused before; taken when the list is there; nowhere when it goes, which the network's status tells; again when
    it comes back. Who lists or ends it waits until droplets have followed."""
    world.apply(*world.base("red"), endpoint("red", "e", "d1"))
    with pytest.raises(InvalidError, match=r"no SubstrateRoute allows 192\.0\.2\.0/24 to VPC red/main"):
        world.apply(network("red", routes=OUT))
    world.apply(listed("red"), network("red", routes=OUT))
    await until(lambda: actions(world) == {"3"})
    await world.settled()
    assert world.status("Network", "front", "red")["routesRefused"] == []
    world.manager.delete(Ref("SubstrateRoute", "", "services"))
    await until(lambda: not world.exists("SubstrateRoute", "services"))
    assert actions(world) == {"2"}
    status = world.status("Network", "front", "red")
    assert status["routesRefused"] == [SERVICES]
    assert "no SubstrateRoute allows" in status["message"]
    world.apply(network("red", routes=OUT, bouncers=1))  # what is there may stay
    world.apply(listed("red"))
    await until(lambda: actions(world) == {"3"})
    world.apply(listed())
    await until(lambda: actions(world) == {"2"})
    await world.settled()


async def test_a_restart_changes_nothing(world: World) -> None:
    """What is allowed is worked out again from what the store has."""
    world.apply(*world.base("red"), endpoint("red", "e", "d1"), listed("red"), network("red", name="out", number=2))
    world.apply(network("red", routes=OUT))
    await until(lambda: actions(world) == {"3"})
    await world.restart()
    await world.settled()
    assert actions(world) == {"3"}


async def test_a_route_may_lead_to_a_part_of_what_is_allowed_and_to_no_more(world: World) -> None:
    """Nor into the VPC itself, whatever the list says."""
    world.apply(*world.base("red"), listed("red", prefixes=(SERVICES, "0.0.0.0/0")))
    world.apply(network("red", routes=[{"to": "192.0.2.128/25", "via": "substrate"}]))
    with pytest.raises(InvalidError, match=r"10\.0\.9\.0/24 lies in 10\.0\.0\.0/16 of the VPC itself"):
        world.apply(network("red", routes=[{"to": "10.0.9.0/24", "via": "substrate"}]))
    with pytest.raises(InvalidError, match="no SubstrateRoute allows 2001:db8::/64"):
        world.apply(network("red", routes=[{"to": "2001:db8::/64", "via": "substrate"}]))


async def test_listed_vpcs_have_addresses_of_their_own(world: World) -> None:
    """Of no other that is listed, in one list or two, whichever comes first; of no droplet; of no listed prefix."""
    world.apply(*world.base("red", "blue"))
    with pytest.raises(InvalidError, match=r"10\.0\.0\.0/16 of VPC red/main overlaps 10\.0\.0\.0/16 of VPC blue/main"):
        world.apply(listed("red", "blue"))
    world.apply(listed("red"))
    with pytest.raises(InvalidError, match="which is listed too"):
        world.apply(listed("blue", name="more"))
    with pytest.raises(InvalidError, match=r"10\.0\.7\.0/24 lies in 10\.0\.0\.0/16 of VPC red/main"):
        world.apply(listed("red", prefixes=("10.0.7.0/24",)))
    world.apply(listed("red", "green"), tenant("green"))
    with pytest.raises(InvalidError, match=r"spec\.cidrs"):
        world.apply(vpc("green"))
    with pytest.raises(InvalidError, match=r"lies in 10\.0\.0\.0/16 of VPC red/main"):
        world.apply(manifest("Droplet", "d9", address="10.0.0.9", daemon="none"))


async def test_a_tenant_is_not_told_whose_addresses_are_in_its_way(world: World) -> None:
    """Its own name for the reason is enough to ask the operator."""
    world.apply(*world.base("red"), listed("red", "green"), tenant("green"))
    with pytest.raises(InvalidError) as refused:
        world.apply(vpc("green"), visible=lambda ref: ref.tenant == "green")
    assert "red" not in str(refused.value)
