# SPDX-License-Identifier: Apache-2.0
"""Peerings of two tenants: what agrees, what is refused, and who is told of what."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

import pytest

from mizar.model.errors import ConflictError, InvalidError
from mizar.model.resources import Ref
from tests.unit.manager.world import World, manifest, tenant, until, vpc


def half(owner: str, peer: str, name: str = "", own: str = "main", other: str = "main") -> dict[str, Any]:
    """One half; called after its peer."""
    return manifest("VPCPeering", name or f"to-{peer}", owner, vpc=own, peer={"tenant": peer, "vpc": other})


def space(owner: str, number: int, name: str = "main") -> dict[str, Any]:
    """A VPC with addresses of its own: 10.N.0.0/16 and fd00:N::/48."""
    return vpc(owner, name, cidrs=[f"10.{number}.0.0/16", f"fd00:{number}::/48"])


def peer_prefixes(world: World) -> dict[tuple[int, int], set[str]]:
    """What all droplets together know of peerings: (VNI, peer's VNI) → prefixes."""
    found: dict[tuple[int, int], set[str]] = {}
    for daemon in world.daemons.values():
        for key, one in daemon.tables.peerings.items():
            found[key] = {str(ip_network((prefix.address, prefix.length))) for prefix in one.prefixes}
    return found


async def two(world: World) -> tuple[int, int]:
    """Tenants red and blue with a VPC each, and all droplets; returns the VNIs."""
    world.apply(*world.base(), tenant("red"), tenant("blue"), space("red", 1), space("blue", 2))
    await world.settled()
    return world.status("VPC", "main", "red")["vni"], world.status("VPC", "main", "blue")["vni"]


async def test_both_must_agree_and_either_ends_it(world: World) -> None:
    """One half alone tells no droplet anything, and says what it waits for; either one's end ends it everywhere."""
    red, blue = await two(world)
    world.apply(half("red", "blue"))
    await world.settled()
    status = world.status("VPCPeering", "to-blue", "red")
    assert (status["phase"], status["state"]) == ("Provisioned", "Pending")
    assert status["message"] == "waits for tenant blue to make a VPCPeering of its VPC main with red/main"
    assert peer_prefixes(world) == {}
    world.apply(half("blue", "red"))
    await until(lambda: world.phase("VPCPeering", "to-red", "blue") == "Provisioned")
    assert [world.status("VPCPeering", *one)["state"] for one in (("to-blue", "red"), ("to-red", "blue"))] == [
        "Active", "Active",
    ]  # fmt: skip
    assert peer_prefixes(world) == {
        (red, blue): {"10.2.0.0/16", "fd00:2::/48"},
        (blue, red): {"10.1.0.0/16", "fd00:1::/48"},
    }
    world.manager.delete(Ref("VPCPeering", "red", "to-blue"))
    await until(lambda: not world.exists("VPCPeering", "to-blue", "red"))
    assert peer_prefixes(world) == {}
    assert world.status("VPCPeering", "to-red", "blue")["state"] == "Pending"


async def test_a_vpc_that_goes_takes_its_half_along(world: World) -> None:
    """The other half waits again, for a VPC of that name and its half."""
    await two(world)
    world.apply(half("red", "blue"), half("blue", "red"))
    await until(lambda: len(peer_prefixes(world)) == 2)
    with pytest.raises(ConflictError, match="still holds VPCPeering blue/to-red"):
        world.manager.delete(Ref("VPC", "blue", "main"))
    world.manager.delete(Ref("Tenant", "", "blue"), cascade=True)
    await until(lambda: not world.exists("Tenant", "blue"))
    assert peer_prefixes(world) == {}
    assert world.status("VPCPeering", "to-blue", "red")["state"] == "Pending"


async def test_two_vpcs_of_one_tenant_that_go_together(world: World) -> None:
    """Both halves end at once, and nothing stays behind."""
    world.apply(*world.base(), tenant("red"), space("red", 1), space("red", 2, "side"))
    world.apply(half("red", "red", "one", other="side"), half("red", "red", "two", own="side"))
    await until(lambda: len(peer_prefixes(world)) == 2)
    world.manager.delete(Ref("Tenant", "", "red"), cascade=True)
    await until(lambda: not world.exists("Tenant", "red"))
    assert peer_prefixes(world) == {}


async def test_overlapping_addresses_are_refused_when_both_agree(world: World) -> None:
    """A stranger's addresses are told to nobody before its owner has offered them."""
    world.apply(*world.base(), tenant("red"), tenant("blue"), space("red", 1), space("blue", 1))
    red, blue = (lambda ref: ref.tenant == "red"), (lambda ref: ref.tenant == "blue")
    world.apply(half("red", "blue"), visible=red)
    with pytest.raises(InvalidError, match=r"10\.1\.0\.0/16 of VPC blue/main overlaps 10\.1\.0\.0/16 of VPC red/main"):
        world.apply(half("blue", "red"), visible=blue)
    world.apply(half("red", "green"), visible=red)  # nobody knows of such a tenant, and nothing is said
    with pytest.raises(InvalidError, match="overlaps"):
        world.apply(half("blue", "red"), half("red", "blue", "again"))


async def test_peers_of_one_vpc_must_not_overlap_one_another(world: World) -> None:
    """An address crosses to one peer: the second that would have it is refused, whoever completes it."""
    names = ("hub", "one", "two")
    world.apply(*world.base(), *map(tenant, names), space("hub", 1), space("one", 2), space("two", 2))
    world.apply(half("hub", "one"), half("one", "hub"), half("two", "hub"))
    with pytest.raises(ConflictError, match=r"10\.2\.0\.0/16 of VPC two/main overlaps 10\.2\.0\.0/16 of VPC one/main"):
        world.apply(half("hub", "two"))
    world.manager.delete(Ref("VPCPeering", "two", "to-hub"))
    await until(lambda: not world.exists("VPCPeering", "to-hub", "two"))
    world.apply(half("hub", "two"))
    with pytest.raises(ConflictError, match="overlaps addresses of another VPC that VPC hub/main is peered with"):
        world.apply(half("two", "hub"), visible=lambda ref: ref.tenant == "two")


async def test_what_makes_no_sense_is_refused(world: World) -> None:
    """A VPC with itself; the same pair twice; a VPC that the tenant does not have; another VPC for a half that is."""
    await two(world)
    with pytest.raises(InvalidError, match="with itself"):
        world.apply(half("red", "red"))
    world.apply(half("red", "blue"))
    with pytest.raises(ConflictError, match="the peering with VPC blue/main belongs to VPCPeering red/to-blue"):
        world.apply(half("red", "blue", "again"))
    with pytest.raises(InvalidError, match="there is no VPC red/none"):
        world.apply(half("red", "blue", "more", own="none"))
    with pytest.raises(InvalidError, match="cannot change"):
        world.apply(half("red", "green", "to-blue"))


async def test_a_peering_outlives_the_manager(world: World) -> None:
    """Read back from the store: active halves are, and an end that was not carried out yet is."""
    await two(world)
    world.apply(half("red", "blue"), half("blue", "red"))
    await until(lambda: len(peer_prefixes(world)) == 2)
    await world.restart()
    await world.settled()
    assert world.status("VPCPeering", "to-red", "blue")["state"] == "Active"
    assert len(peer_prefixes(world)) == 2
    for daemon in world.daemons.values():
        daemon.paused.clear()
    world.manager.delete(Ref("VPCPeering", "red", "to-blue"))
    await world.restart()
    for daemon in world.daemons.values():
        daemon.paused.set()
    await until(lambda: not world.exists("VPCPeering", "to-blue", "red"))
    assert peer_prefixes(world) == {}


async def test_a_vpc_that_is_known_by_its_identity_is_refused(world: World) -> None:
    """Its packets bear an option, for which a divider of the peer may have no room."""
    shared = space("red", 1)
    shared["spec"] |= {"identity": "required", "vni": 77}
    with pytest.raises(InvalidError, match="shares VNI 77, and is known by its identity"):
        world.apply(*world.base(), tenant("red"), shared, half("red", "blue"))
