# SPDX-License-Identifier: Apache-2.0
"""What an apply takes, and that what it refuses leaves nothing behind."""

from __future__ import annotations

import pytest

from mizar.model.errors import ConflictError, ExhaustedError, InvalidError
from mizar.model.resources import Ref
from tests.unit.manager.world import World, endpoint, manifest, network, tenant, vpc


async def test_an_apply_in_any_order_creates_all(world: World) -> None:
    """Manifests may come in any order; results come in the order of the request."""
    manifests = [endpoint("red", "e1", "d1"), network("red"), vpc("red"), tenant("red"), world.droplet("d1")]
    results = world.apply(*manifests)
    assert [(str(result.ref), result.change) for result in results] == [
        ("Endpoint red/e1", "created"), ("Network red/front", "created"), ("VPC red/main", "created"),
        ("Tenant red", "created"), ("Droplet d1", "created"),
    ]  # fmt: skip
    assert {result.change for result in world.apply(*manifests)} == {"unchanged"}


async def test_a_refused_apply_tells_every_error_and_stores_nothing(world: World) -> None:
    """Every error of every manifest comes at once, each with its place, and nothing of the request is kept."""
    with pytest.raises(InvalidError) as caught:
        world.apply(
            tenant("red"),
            vpc("red"),
            network("red", cidrs=["10.9.0.0/24"]),
            network("red", "ok", 2),
            endpoint("red", "e1", "nowhere", "front"),
            endpoint("red", "e2", "nowhere", "missing"),
            vpc("blue"),
        )
    found = {(problem.index, problem.field) for problem in caught.value.problems}
    # e1's network was refused in this request: e1 is not blamed for that, only for its droplet.
    assert found == {
        (2, "spec.cidrs[0]"),
        (4, "spec.droplet"),
        (5, "spec.network"),
        (5, "spec.droplet"),
        (6, "metadata.tenant"),
    }
    assert world.phases() == {}
    assert list(world.store.load()) == []


async def test_a_dry_run_keeps_nothing(world: World) -> None:
    """A dry run answers as an apply would, and changes nothing."""
    assert {result.change for result in world.apply(*world.base("red"), dry_run=True)} == {"created"}
    assert world.phases() == {}


async def test_the_same_object_twice_is_refused(world: World) -> None:
    """Which of both would win is nothing to guess at."""
    with pytest.raises(InvalidError, match="twice"):
        world.apply(tenant("red"), tenant("red"))


async def test_a_taken_address_names_its_holder(world: World) -> None:
    """An address belongs to one endpoint of a VPC; the error says to which."""
    world.apply(*world.base("red"), endpoint("red", "e1", "d1", addresses=["10.0.1.9"]))
    with pytest.raises(ConflictError, match=r"10\.0\.1\.9 belongs to Endpoint red/e1") as caught:
        world.apply(endpoint("red", "e2", "d1", addresses=["10.0.1.9"]))
    assert caught.value.problems[0].field == "spec.addresses[0]"
    with pytest.raises(ConflictError, match="Endpoint red/e3"):
        world.apply(
            endpoint("red", "e3", "d1", addresses=["10.0.1.10"]), endpoint("red", "e4", "d1", addresses=["10.0.1.10"])
        )
    assert not world.exists("Endpoint", "e3", "red")


async def test_equal_addresses_of_two_tenants_are_no_conflict(world: World) -> None:
    """Each VPC has an address space of its own."""
    world.apply(*world.base("red", "blue"))
    for owner in ("red", "blue"):
        world.apply(endpoint(owner, "e1", "d1", addresses=["10.0.1.9"], mac="02:00:00:00:00:09"))
    assert world.status("VPC", "main", "red")["vni"] != world.status("VPC", "main", "blue")["vni"]


async def test_a_taken_vni_names_its_holder_to_those_who_may_know(world: World) -> None:
    """A tenant learns that the number is taken, and not by whom."""
    world.apply(tenant("red"), tenant("blue"), vpc("red", vni=77))
    with pytest.raises(ConflictError, match="VNI 77 belongs to VPC red/main"):
        world.apply(vpc("blue", vni=77))
    with pytest.raises(ConflictError, match="VNI 77 belongs to somebody else") as caught:
        world.apply(vpc("blue", vni=77), visible=lambda ref: ref.tenant == "blue")
    assert "red" not in str(caught.value)


async def test_a_taken_droplet_address_is_a_conflict(world: World) -> None:
    """Two droplets with one address would be one another's next hop."""
    world.apply(world.droplet("d1"))
    with pytest.raises(ConflictError, match=r"172\.31\.0\.11 belongs to Droplet d1"):
        world.apply(world.droplet("d2", address="172.31.0.11"))


async def test_a_name_with_another_immutable_spec_is_refused(world: World) -> None:
    """What cannot change is named, with its field."""
    world.apply(*world.base("red"))
    with pytest.raises(InvalidError) as caught:
        world.apply(vpc("red", cidrs=["10.1.0.0/16"]))
    assert [problem.field for problem in caught.value.problems] == ["spec.cidrs"]


async def test_a_full_network_is_exhausted(world: World) -> None:
    """A /29 has five addresses beside the network's, the gateway's and the broadcast's."""
    world.apply(*world.base("red"), network("red", "tiny", 2, cidrs=["10.0.2.0/29"]))
    for number in range(5):
        world.apply(endpoint("red", f"t{number}", "d1", "tiny"))
    with pytest.raises(ExhaustedError):
        world.apply(endpoint("red", "t5", "d1", "tiny"))


async def test_addresses_are_given_one_after_the_other_and_rest(world: World) -> None:
    """The gateway's is skipped, and the cursor survives a restart of the manager."""
    world.apply(*world.base("red"), endpoint("red", "e1", "d1"), endpoint("red", "e2", "d1"))
    await world.restart()
    world.apply(endpoint("red", "e3", "d1"))
    assert [world.status("Endpoint", f"e{n}", "red")["addresses"][0] for n in (1, 2, 3)] == [
        "10.0.1.2", "10.0.1.3", "10.0.1.4",
    ]  # fmt: skip


async def test_a_droplet_with_endpoints_cannot_lose_its_daemon(world: World) -> None:
    """Somebody has to keep the endpoints' interfaces."""
    world.apply(*world.base("red"), endpoint("red", "e1", "d1"))
    with pytest.raises(InvalidError, match="while the droplet has endpoints"):
        world.apply(world.droplet("d1", daemon="none"))


async def test_a_changed_label_is_a_change(world: World) -> None:
    """Labels may change, and the generation grows."""
    world.apply(tenant("red"))
    labelled = tenant("red")
    labelled["metadata"]["labels"] = {"tier": "gold"}
    assert world.apply(labelled)[0].change == "changed"
    shown = world.manager.get(Ref("Tenant", "", "red"))
    assert shown["metadata"]["labels"] == {"tier": "gold"}
    assert shown["metadata"]["generation"] == 2


async def test_a_lab_is_not_stored(world: World) -> None:
    """A Lab is for `mizar lab` alone."""
    with pytest.raises(InvalidError, match="does not take"):
        world.apply(manifest("Lab", "demo", droplets=2))


async def test_tcp_daemons_need_certificates(world: World) -> None:
    """Without certificates a server cannot speak to a daemon over the network; it says so and stores nothing."""
    with pytest.raises(InvalidError, match="--pki"):
        world.apply(world.droplet("d1", daemon="192.0.2.1:7000"))
    assert world.phases() == {}
