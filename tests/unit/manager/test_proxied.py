# SPDX-License-Identifier: Apache-2.0
"""Proxied endpoints in the manager: grants, loops, sources, carriers; fake daemons hold what real ones would."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_asyncio

from mizar.model.errors import ConflictError, InvalidError
from mizar.model.resources import Ref
from tests.unit.manager.world import World, endpoint, manifest, network, until, vpc

GRANT = [{"tenant": "blue"}]


def proxied(owner: str, name: str, target: str, tenant: str | None = None, **spec: Any) -> dict[str, Any]:
    to = {"endpoint": target} | ({"tenant": tenant} if tenant else {})
    return manifest("Endpoint", name, owner, **{"type": "proxied", "network": "front", "target": to, **spec})


def sources(world: World) -> list[Any]:
    items = world.manager._registry.of_kind("Endpoint")
    return [item for item in items if item.resource.spec.type == "source" and not item.deleting]


def carried(world: World, name: str) -> list[tuple[int, bytes]]:
    return [(proxy.client.vni, proxy.client.addresses[0]) for proxy in world.daemons[name].tables.proxies.values()]


@pytest_asyncio.fixture
async def linked(world: World) -> World:
    """blue/link leads to red/db."""
    world.apply(*world.base("blue", "red"))
    world.apply(endpoint("red", "db", "d1", grants=GRANT), proxied("blue", "link", "db", "red"))
    await world.settled()
    return world


async def test_both_sides_are_made_and_told(linked: World) -> None:
    """One droplet carries it; the source lies in the target's network and is the target's tenant's to see."""
    status = linked.status("Endpoint", "link", "blue")
    (source,) = sources(linked)
    assert status["target"] == "red/db"
    assert tuple(status["sourceAddresses"]) == source.resource.status.addresses
    assert source.resource.tenant == "red"
    assert source.resource.status.host == status["host"]
    assert [name for name in linked.daemons if carried(linked, name)] == [status["host"]]


async def test_a_grant_that_goes_and_comes(linked: World) -> None:
    """Out of service without it, in service with it; the source goes and comes with it."""
    linked.apply(endpoint("red", "db", "d1"))
    assert linked.phase("Endpoint", "link", "blue") == "Failed"
    assert linked.status("Endpoint", "link", "blue")["reason"] == "NoTarget"
    await until(lambda: not any(carried(linked, name) for name in linked.daemons))
    assert sources(linked) == []
    linked.apply(endpoint("red", "db", "d1", grants=[{"tenant": "blue", "vpc": "main"}]))
    await linked.settled()
    assert len(sources(linked)) == 1
    linked.apply(endpoint("red", "db", "d1", grants=[{"tenant": "blue", "vpc": "other"}]))
    assert linked.phase("Endpoint", "link", "blue") == "Failed"


async def test_the_target_goes_and_comes(linked: World) -> None:
    """Deleting the target is no matter of those who lead to it; one of its name that grants it takes its place."""
    linked.manager.delete(Ref("Endpoint", "red", "db"))
    assert linked.status("Endpoint", "link", "blue")["reason"] == "NoTarget"
    await until(lambda: not linked.exists("Endpoint", "db", "red"))
    linked.apply(endpoint("red", "db", "d2", grants=GRANT))
    await linked.settled()
    assert linked.status("Endpoint", "link", "blue")["target"] == "red/db"


async def test_what_is_not_granted_does_not_exist(linked: World) -> None:
    """The same words for a target without a grant, for none, and for a source."""
    linked.apply(endpoint("red", "secret", "d1"))
    words = []
    for name in ("secret", "nothing", sources(linked)[0].resource.name):
        with pytest.raises(InvalidError) as caught:
            linked.apply(proxied("blue", "other", name, "red"))
        words.append([(p.field, p.message.replace(name, "X")) for p in caught.value.problems])
    assert words[0] == words[1] == words[2]
    assert not linked.exists("Endpoint", "other", "blue")


async def test_loops_are_refused_with_their_chain(linked: World) -> None:
    """Also when the last link closes it, across tenants, in one request, or to itself."""
    linked.apply(proxied("blue", "a", "link", grants=[{"tenant": "red"}]))
    linked.apply(endpoint("red", "x", "d1", grants=GRANT), proxied("red", "b", "a", "blue", grants=GRANT))
    with pytest.raises(InvalidError, match="a loop: blue/a → red/b → blue/a"):
        linked.apply(proxied("blue", "a", "b", "red", grants=[{"tenant": "red"}]))
    with pytest.raises(InvalidError, match="a loop: blue/c → blue/d → blue/c"):
        linked.apply(proxied("blue", "c", "d"), proxied("blue", "d", "c"))
    with pytest.raises(InvalidError, match="a loop: blue/e → itself"):
        linked.apply(proxied("blue", "e", "e"))
    with pytest.raises(InvalidError, match="a loop: blue/a → an endpoint of another tenant → blue/a"):
        linked.apply(
            proxied("blue", "a", "b", "red", grants=[{"tenant": "red"}]), visible=lambda ref: ref.tenant == "blue"
        )
    assert not linked.exists("Endpoint", "c", "blue")
    await linked.settled()


async def test_a_target_is_changed_in_place(linked: World) -> None:
    """Another network: another source, the old one's address is given back; the same droplet carries it."""
    before = linked.status("Endpoint", "link", "blue")
    linked.apply(network("red", "back", 2), endpoint("red", "new", "d2", inside="back", grants=GRANT))
    linked.apply(proxied("blue", "link", "new", "red"))
    await linked.settled()
    after = linked.status("Endpoint", "link", "blue")
    assert after["target"] == "red/new"
    assert after["sourceAddresses"][0].startswith("10.0.2.")
    assert after["host"] == before["host"]
    (proxy,) = linked.daemons[after["host"]].tables.proxies.values()
    assert bytes(proxy.targets[0])[:3] == bytes((10, 0, 2))
    await until(lambda: len([i for i in linked.manager._registry.of_kind("Endpoint") if i.deleting]) == 0)


async def test_sources_are_the_servers(linked: World) -> None:
    """Not made, changed or deleted by anybody; what was printed can be applied again."""
    (source,) = sources(linked)
    with pytest.raises(ConflictError, match="revoke the grant"):
        linked.manager.delete(source.ref)
    printed = {key: value for key, value in linked.manager.get(source.ref).items() if key != "status"}
    assert [result.change for result in linked.apply(printed)] == ["unchanged"]
    printed["metadata"] = {"name": "mine", "tenant": "red"}
    with pytest.raises(InvalidError, match="the server's"):
        linked.apply(printed)


async def test_a_network_goes_with_its_targets_and_sources(linked: World) -> None:
    """Cascading: the provider takes all away, and the consumer's endpoint stays, out of service."""
    with pytest.raises(ConflictError, match="still holds"):
        linked.manager.delete(Ref("Network", "red", "front"))
    linked.manager.delete(Ref("Tenant", "", "red"), cascade=True)
    await until(lambda: not linked.exists("Tenant", "red"))
    assert linked.status("Endpoint", "link", "blue")["reason"] == "NoTarget"
    linked.manager.delete(Ref("Endpoint", "blue", "link"))
    await until(lambda: not linked.exists("Endpoint", "link", "blue"))


async def test_deletion_ends_both_sides(linked: World) -> None:
    """The source goes with the proxied endpoint, and droplets forget both."""
    linked.manager.delete(Ref("Endpoint", "blue", "link"))
    await until(lambda: not linked.exists("Endpoint", "link", "blue") and sources(linked) == [])
    await until(lambda: not any(daemon.tables.proxies for daemon in linked.daemons.values()))


async def test_a_carrier_that_stays_away_is_replaced(linked: World) -> None:
    """Another droplet carries both sides, with the same addresses; the first one, when it comes back, forgets them."""
    before = linked.status("Endpoint", "link", "blue")
    daemon = linked.daemons[before["host"]]
    await daemon.stop()
    await until(lambda: linked.status("Endpoint", "link", "blue")["host"] != before["host"])
    after = linked.status("Endpoint", "link", "blue")
    assert after["sourceAddresses"] == before["sourceAddresses"]
    await until(lambda: carried(linked, after["host"]))
    assert sources(linked)[0].resource.status.host == after["host"]
    await daemon.start()
    await linked.settled()
    await until(lambda: not daemon.tables.proxies)
    assert linked.status("Endpoint", "link", "blue")["host"] == after["host"]


async def test_a_droplet_that_is_deleted_carries_no_more(linked: World) -> None:
    """Its proxied endpoints are somewhere else first."""
    linked.apply(
        endpoint("red", "away", "d3", grants=GRANT), *(proxied("blue", f"p{n}", "away", "red") for n in range(6))
    )
    await linked.settled()
    linked.manager.delete(Ref("Droplet", "", "d2"))
    await until(lambda: not linked.exists("Droplet", "d2"))
    hosts = {linked.status("Endpoint", name, "blue")["host"] for name in ("link", *(f"p{n}" for n in range(6)))}
    assert "d2" not in hosts
    await linked.settled()


async def test_a_new_manager_goes_on(linked: World) -> None:
    """Everything is in the store: nothing moves, and the link follows its grants as before."""
    before = linked.status("Endpoint", "link", "blue")
    await linked.restart()
    await linked.settled()
    after = linked.status("Endpoint", "link", "blue")
    assert {key: after[key] for key in ("host", "target", "sourceAddresses", "addresses")} == {
        key: before[key] for key in ("host", "target", "sourceAddresses", "addresses")
    }
    linked.apply(endpoint("red", "db", "d1"))
    assert linked.status("Endpoint", "link", "blue")["reason"] == "NoTarget"


async def test_families_that_both_ends_have(world: World) -> None:
    """A target with IPv4 alone gets a source with IPv4 alone; one with nothing in common is refused."""
    world.apply(*world.base("blue", "red"))
    world.apply(
        vpc("red", "old", cidrs=["10.0.0.0/16"]),
        network("red", "old", 1, vpc="old", cidrs=["10.0.1.0/24"]),
        endpoint("red", "db", "d1", inside="old", grants=GRANT),
        proxied("blue", "link", "db", "red"),
    )
    await world.settled()
    assert len(world.status("Endpoint", "link", "blue")["sourceAddresses"]) == 1
    assert len(world.status("Endpoint", "link", "blue")["addresses"]) == 2
    with pytest.raises(InvalidError, match="no address of a family"):
        world.apply(proxied("blue", "six", "db", "red", addresses=["fd00:10:0:1::77"]))
