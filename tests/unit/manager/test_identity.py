# SPDX-License-Identifier: Apache-2.0
"""VPCs that share VNIs: which may, by what droplets know them, and what they cannot have."""

from __future__ import annotations

import pytest

from mizar.manager.manager import Manager
from mizar.model.errors import ConflictError, InvalidError
from mizar.model.resources import Ref
from tests.unit.manager.world import QUICK, World, endpoint, network, tenant, vpc

SHARED = 2**24


async def test_one_vni_for_two(world: World) -> None:
    """The first has the VNI for itself, the second bears its identity; droplets get both, and keep them apart."""
    world.apply(*world.base(), tenant("red"), vpc("red", vni=77), network("red"))
    world.apply(tenant("blue"), vpc("blue", vni=77, identity="required"), network("blue"))
    world.apply(
        endpoint("red", "e1", "d1", addresses=["10.0.1.9"]), endpoint("blue", "e1", "d1", addresses=["10.0.1.9"])
    )
    await world.settled()
    red, blue = world.status("VPC", "main", "red"), world.status("VPC", "main", "blue")
    assert (red["vni"], red["number"], blue["vni"], blue["number"]) == (77, 77, 77, SHARED)
    held = {one.vni: (one.wire_vni, one.identity.hex()) for one in world.daemons["d1"].tables.vpcs.values()}
    assert held == {77: (0, ""), SHARED: (77, blue["identity"].replace(":", ""))}
    assert {one.endpoint.vni for one in world.daemons["d1"].tables.locals.values()} == {77, SHARED}


async def test_of_one_vni_one_vpc_is_without_identity(world: World) -> None:
    """Whoever comes first: those with an identity leave the VNI itself free."""
    world.apply(tenant("red"), tenant("blue"), tenant("green"))
    world.apply(vpc("red", vni=77, identity="required"), vpc("blue", vni=77, identity="required"))
    world.apply(vpc("green", vni=77))
    numbers = [world.status("VPC", "main", owner)["number"] for owner in ("red", "blue", "green")]
    assert numbers == [SHARED, SHARED + 1, 77]
    with pytest.raises(ConflictError, match=r"VNI 77 belongs to VPC green/main; spec\.identity"):
        world.apply(vpc("red", "more", vni=77))
    with pytest.raises(InvalidError, match=r"cannot change from required to auto"):
        world.apply(vpc("red", vni=77))
    world.apply(vpc("red", vni=77, identity="required"))


async def test_more_vpcs_than_vnis(world: World) -> None:
    """Of two VNIs: the third and fourth VPC share them. One that is free again is given out again, alone."""
    await world.manager.stop()
    world.manager = Manager(world.store, timing=QUICK, vnis=range(10, 12))
    await world.manager.start()
    world.apply(tenant("red"), *(vpc("red", f"v{number}") for number in range(4)))
    found = [world.status("VPC", f"v{number}", "red") for number in range(4)]
    assert [(one["vni"], one["number"]) for one in found] == [(10, 10), (11, 11), (10, SHARED), (11, SHARED + 1)]
    world.manager.delete(Ref("VPC", "red", "v0"))
    await world.settled()
    world.apply(vpc("red", "v4"))
    assert world.status("VPC", "v4", "red")["number"] == 10


async def test_a_restart_remembers_who_shares(world: World) -> None:
    """The number is part of what was kept."""
    world.apply(*world.base("red"), tenant("blue"), vpc("blue", vni=77, identity="required"), network("blue"))
    await world.settled()
    before = world.status("VPC", "main", "blue")
    await world.restart()
    await world.settled()
    assert world.status("VPC", "main", "blue") == before
    world.apply(vpc("blue", "more", vni=77, identity="required"))
    assert world.status("VPC", "more", "blue")["number"] == SHARED + 1


@pytest.mark.parametrize("where", ["network", "endpoint"])
async def test_vxlan_has_no_room_for_an_identity(world: World, where: str) -> None:
    """Neither for a whole network nor for one endpoint, new or changed."""
    world.apply(*world.base(), tenant("red"), vpc("red", vni=77, identity="required"), network("red"))
    world.apply(endpoint("red", "e1", "d1"))
    changed = {
        "network": network("red", tunnelProtocol="vxlan"),
        "endpoint": endpoint("red", "e1", "d1", tunnelProtocol="vxlan"),
    }
    what = changed[where]
    for manifest in (what, {**what, "metadata": {**what["metadata"], "name": "new"}}):
        if where == "network" and manifest is not what:
            manifest = network("red", "new", 2, tunnelProtocol="vxlan")
        with pytest.raises(InvalidError, match="expected geneve: VPC red/main shares VNI 77") as caught:
            world.apply(manifest)
        assert caught.value.problems[0].field == "spec.tunnelProtocol"


async def test_a_droplet_without_daemon_cannot_tell_identities(world: World) -> None:
    """Its packets would be another VPC's."""
    foreign = world.droplet("d2", daemon="none")
    world.apply(world.droplet("d1"), foreign, tenant("red"), vpc("red", identity="required"), network("red"))
    with pytest.raises(InvalidError, match="droplet d2 has no daemon"):
        world.apply(endpoint("red", "e1", "d2", workload=None))
