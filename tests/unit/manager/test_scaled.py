# SPDX-License-Identifier: Apache-2.0
"""Scaled endpoints in the manager: members that are refused, and what their droplets find out about them."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import pytest
import pytest_asyncio

from mizar._built import transit_pb2 as pb
from mizar.model.addresses import parse_mac
from mizar.model.errors import InvalidError
from mizar.model.resources import Ref
from tests.unit.manager.world import World, endpoint, manifest, network, until, vpc

HEALTH = {"type": "tcp", "port": 80}
MANY = ((1, "a"), (2, "b"), (3, "c"))


def scaled(*members: Any, **spec: Any) -> dict[str, Any]:
    named = [{"endpoint": one} if isinstance(one, str) else one for one in members]
    return manifest("Endpoint", "web", "blue", **{"type": "scaled", "network": "front", "members": named, **spec})


def states(world: World, droplet: str = "d3") -> dict[str, str]:
    """What a droplet holds: state by the last byte of each member's IPv4 address."""
    (service,) = world.daemons[droplet].tables.services.values()
    names = {parse_mac(world.status("Endpoint", name, "blue")["mac"]): name for name in ("a", "b")}
    return {names[member.mac]: pb.Member.State.Name(member.state) for member in service.members}


def told(world: World) -> dict[str, str]:
    return {row["endpoint"]: row["state"] for row in world.status("Endpoint", "web", "blue")["members"]}


def say(world: World, droplet: str, name: str, state: pb.Member.State.ValueType, reason: str = "") -> None:
    """A droplet tells what it found out about a member."""
    (service,) = world.daemons[droplet].tables.services.values()
    mac = parse_mac(world.status("Endpoint", name, "blue")["mac"])
    found = pb.MemberHealth(vni=service.vni, service=service.addresses[0], mac=mac, state=state, reason=reason)
    world.daemons[droplet].say_checked(found)


@pytest_asyncio.fixture
async def served(world: World) -> World:
    """a on d1 and b on d2 serve blue/web; a client on d3."""
    world.apply(*world.base("blue"))
    world.apply(endpoint("blue", "a", "d1"), endpoint("blue", "b", "d2"), endpoint("blue", "client", "d3"))
    world.apply(scaled("a", "b", health=HEALTH))
    await world.settled()
    return world


async def test_members_that_are_refused(world: World) -> None:
    """Each for its own reason, and nothing is changed."""
    world.apply(*world.base("blue"), vpc("blue", "other"), network("blue", "far", 9, vpc="other"))
    world.apply(endpoint("blue", "a", "d1"), endpoint("blue", "abroad", "d1", "far"))
    world.apply(
        endpoint("blue", "vm", "d1", workload={"tap": {}}), endpoint("blue", "v4", "d1", addresses=["10.0.1.9"])
    )
    legacy = manifest("Endpoint", "legacy", "blue", network="front", droplet="far")
    world.apply(manifest("Droplet", "far", "", address="192.0.2.99", daemon="none"), legacy)
    world.apply(manifest("Endpoint", "other", "blue", type="scaled", network="front", members=[{"endpoint": "a"}]))
    for member, why in {
        "nobody": "there is no",
        "web": "a member of itself",
        "other": "of type scaled",
        "abroad": "in another VPC",
        "vm": "cannot be checked",
        "legacy": "no daemon, which would write the member's address",
        "v4": "lacks an address of a family",
    }.items():
        with pytest.raises(InvalidError, match=why):
            world.apply(scaled("a", member, health=HEALTH))
    with pytest.raises(InvalidError, match="a member already"):
        world.apply(scaled("a", "a"))
    assert not world.exists("Endpoint", "web", "blue")
    with pytest.raises(InvalidError, match="no daemon, which would write"):
        world.apply(scaled("a", "legacy"))
    world.apply(scaled("a", "vm"))  # nobody has to ask it


async def test_a_selected_member_for_which_nobody_translates_takes_nothing(world: World) -> None:
    """It may be there before the scaled endpoint, and the others serve."""
    world.apply(*world.base("blue"), manifest("Droplet", "far", "", address="192.0.2.99", daemon="none"))
    legacy = manifest("Endpoint", "legacy", "blue", network="front", droplet="far")
    legacy["metadata"]["labels"] = {"app": "web"}
    world.apply(endpoint("blue", "a", "d1"), legacy, scaled("a", selector={"app": "web"}))
    await world.settled()
    rows = world.status("Endpoint", "web", "blue")["members"]
    assert [(row["endpoint"], row["state"]) for row in rows] == [("a", "healthy"), ("legacy", "unknown")]
    assert "no daemon" in rows[1]["reason"]


async def test_a_member_that_bypasses_decapsulation_may_answer_for_it(world: World) -> None:
    """It may send from the addresses of the scaled endpoints that it is a member of, and from no other's; no longer
    when it is none, or the scaled endpoint is gone."""

    def may(name: str) -> tuple[bool, list[str]]:
        (held,) = world.daemons[name].tables.locals.values()
        return held.forwarding, [str(ip_address(one.address)) for one in held.sources]

    world.apply(*world.base("blue"), *(endpoint("blue", name, f"d{n}", bypassDecapsulation=n < 3) for n, name in MANY))
    world.apply(scaled("a", "b", "c", addresses=["10.0.1.100"]))
    await world.settled()
    assert [row["state"] for row in world.status("Endpoint", "web", "blue")["members"]] == ["healthy"] * 3
    assert [may(name) for name in ("d1", "d2", "d3")] == [(True, ["10.0.1.100"])] * 2 + [(False, [])]
    world.apply(scaled("b", "c", addresses=["10.0.1.100"]))
    await world.settled()
    assert [may(name) for name in ("d1", "d2", "d3")] == [(False, []), (True, ["10.0.1.100"]), (False, [])]
    world.manager.delete(Ref("Endpoint", "blue", "web"))
    await until(lambda: may("d2") == (False, []))


async def test_new_members_take_flows_once_they_answer(served: World) -> None:
    """Unknown until their droplets tell; the check is told to all."""
    assert states(served) == {"a": "UNKNOWN", "b": "UNKNOWN"}
    assert told(served) == {"a": "unknown", "b": "unknown"}
    (service,) = served.daemons["d1"].tables.services.values()
    assert (service.health.kind, service.health.port, service.health.unhealthy_after) == (pb.HealthCheck.TCP, 80, 3)
    say(served, "d1", "a", pb.Member.HEALTHY)
    say(served, "d2", "b", pb.Member.HEALTHY)
    await until(lambda: states(served) == {"a": "HEALTHY", "b": "HEALTHY"})
    assert served.status("Endpoint", "web", "blue")["ready"] == "2/2"


async def test_down_and_draining(served: World) -> None:
    """A member that is down is so for all, with the reason; one that drains gets nothing new when it is well."""
    for droplet, name in (("d1", "a"), ("d2", "b")):
        say(served, droplet, name, pb.Member.HEALTHY)
    say(served, "d1", "a", pb.Member.DOWN, "connection refused")
    await until(lambda: states(served) == {"a": "DOWN", "b": "HEALTHY"})
    row = served.status("Endpoint", "web", "blue")["members"][0]
    assert (row["state"], row["reason"]) == ("down", "connection refused")
    served.apply(scaled("a", {"endpoint": "b", "drain": True}, health=HEALTH))
    await until(lambda: states(served) == {"a": "DOWN", "b": "DRAINING"})
    assert served.status("Endpoint", "web", "blue")["ready"] == "0/2"


async def test_only_the_host_of_a_member_is_believed(served: World) -> None:
    """Another droplet may say what it likes."""
    say(served, "d1", "a", pb.Member.HEALTHY)
    await until(lambda: told(served)["a"] == "healthy")
    say(served, "d3", "a", pb.Member.DOWN)
    say(served, "d2", "b", pb.Member.HEALTHY)
    await until(lambda: told(served)["b"] == "healthy")
    assert told(served)["a"] == "healthy"


async def test_restarts_do_not_flap(served: World) -> None:
    """A new manager knows nothing at first, and leaves states as they are; it learns them with its connections."""
    say(served, "d1", "a", pb.Member.HEALTHY)
    say(served, "d2", "b", pb.Member.DOWN, "refused")
    await until(lambda: states(served) == {"a": "HEALTHY", "b": "DOWN"})
    seen: set[str] = set()
    for daemon in served.daemons.values():
        daemon.refuse_change = lambda change: seen.update(str(one.state) for one in change.put_service.members)
    await served.restart()
    await until(lambda: told(served) == {"a": "healthy", "b": "down"})
    await served.settled()
    assert states(served) == {"a": "HEALTHY", "b": "DOWN"}
    await served.daemons["d1"].stop()
    served.daemons["d1"].checked.clear()
    await served.daemons["d1"].start()
    await served.settled()
    assert states(served) == {"a": "HEALTHY", "b": "DOWN"}
    assert seen <= {str(pb.Member.HEALTHY), str(pb.Member.DOWN), str(pb.Member.STATE_UNSPECIFIED)}


async def test_a_hanging_droplet_delays_no_other(served: World) -> None:
    """A round waits for d4; that a member is down is told to d3 all the same."""
    say(served, "d1", "a", pb.Member.HEALTHY)
    await until(lambda: states(served)["a"] == "HEALTHY")
    served.daemons["d4"].paused.clear()
    served.apply(endpoint("blue", "late", "d4"))
    await until(lambda: served.manager._fleet._busy)
    say(served, "d1", "a", pb.Member.DOWN)
    await until(lambda: states(served)["a"] == "DOWN")
    served.daemons["d4"].paused.set()
    await served.settled()
    assert states(served)["a"] == "DOWN"


async def test_a_check_that_ends(served: World) -> None:
    """Without it, whoever is attached is healthy; and a member that is deleted is forgotten."""
    say(served, "d1", "a", pb.Member.DOWN, "refused")
    await until(lambda: states(served)["a"] == "DOWN")
    served.apply(scaled("a", "b"))
    await until(lambda: states(served) == {"a": "HEALTHY", "b": "HEALTHY"})
    served.manager.delete(Ref("Endpoint", "blue", "a"))
    await until(lambda: told(served) == {"a": "absent", "b": "healthy"})
