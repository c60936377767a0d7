# SPDX-License-Identifier: Apache-2.0
"""From desired state to the droplets' tables, and what is told on the way. Daemons are fakes behind real gRPC."""

from __future__ import annotations

from collections import Counter
from ipaddress import ip_address

from mizar.model.resources import Ref
from tests.unit.manager.world import World, endpoint, manifest, network, until, vpc


async def test_each_droplet_learns_what_it_needs(world: World) -> None:
    """The host holds the endpoint, the bouncer its address, the divider the network, and nobody else anything."""
    world.apply(*world.base("red"), endpoint("red", "e1", "d1"))
    await world.settled()
    front, main = world.status("Network", "front", "red"), world.status("VPC", "main", "red")
    members = {"d1", *front["bouncers"], *main["dividers"]}
    for name, daemon in world.daemons.items():
        tables = daemon.tables
        assert {ip_address(a) for a in tables.droplets} == {ip_address(d.address) for d in world.daemons.values()}
        assert bool(tables.networks) == bool(tables.vpcs) == (name in members)
        assert len(tables.locals) == (name == "d1")
        assert len(tables.endpoints) == (name in front["bouncers"] and name != "d1")
    status = world.status("Endpoint", "e1", "red")
    uid = world.manager.get(Ref("Endpoint", "red", "e1"))["metadata"]["uid"]
    assert status["addresses"] == ["10.0.1.2", "fd00:10:0:1::2"]
    assert (status["host"], status["hostInterface"]) == ("d1", f"mz{uid[:8]}")
    assert world.status("Droplet", "d1") | {"message": ""} == {
        "phase": "Provisioned", "reason": "", "message": "", "observedGeneration": 1, "address": "172.31.0.11",
        "connected": True, "health": "up", "downBy": [], "version": "fake", "xdpMode": "driver",
        "limitsMode": "",
        "limitsReason": "",
        "vpnPorts": "",
        "processLimits": "",
        "uplinkOffloads": "",
    }  # fmt: skip


async def test_steps_come_in_an_order_that_daemons_accept(world: World) -> None:
    """No batch is refused for its order, although the fakes refuse whatever refers to something unknown."""
    refused: list[str] = []
    original = world.manager._fleet.outcome

    def spy(step, trouble, host_interface):  # type: ignore[no-untyped-def]
        if trouble is not None:
            refused.append(trouble.message)
        original(step, trouble, host_interface)

    world.manager._fleet.outcome = spy  # type: ignore[method-assign]
    world.apply(*world.base("red", "blue"))
    for number in range(12):
        world.apply(endpoint("red", f"e{number}", f"d{number % 4 + 1}"))
    world.apply(network("blue", bouncers=4), vpc("blue", dividers=3), network("red", bouncers=3))
    await world.settled()
    world.apply(network("blue", bouncers=1), vpc("blue", dividers=1), network("red", bouncers=1))
    world.manager.delete(Ref("Tenant", "", "blue"), cascade=True)
    await until(lambda: not world.exists("Tenant", "blue"))
    await world.settled()
    assert refused == []


async def test_an_endpoint_waits_for_its_droplets(world: World) -> None:
    """Init with a reason while a droplet has not acknowledged, Provisioned after."""
    world.apply(*world.base("red"))
    await world.settled()
    world.daemons["d1"].paused.clear()
    world.apply(endpoint("red", "e1", "d1"))
    await until(lambda: "Attach" in world.daemons["d1"].calls or "Apply" in world.daemons["d1"].calls)
    status = world.status("Endpoint", "e1", "red")
    assert (status["phase"], status["reason"]) == ("Init", "Waiting")
    assert "d1" in status["message"]
    world.daemons["d1"].paused.set()
    await world.settled()


async def test_a_permanent_refusal_fails_the_object_with_its_reason(world: World) -> None:
    """Failed with the daemon's words; applying the same manifest again tries again."""
    world.apply(*world.base("red"))
    refusing = True
    world.daemons["d1"].refuse_attach = lambda _: ("no such namespace", True) if refusing else None
    broken, fine = endpoint("red", "e1", "d1"), endpoint("red", "e2", "d2")
    world.apply(broken, fine)
    await until(lambda: world.phase("Endpoint", "e1", "red") == "Failed")
    assert world.status("Endpoint", "e1", "red")["message"] == "droplet d1: no such namespace"
    await until(lambda: world.phase("Endpoint", "e2", "red") == "Provisioned")
    refusing = False
    assert world.apply(broken)[0].change == "unchanged"
    await world.settled()


async def test_a_passing_trouble_is_tried_again(world: World) -> None:
    """Temporary refusals heal themselves; meanwhile the object tells why it is not there yet."""
    world.apply(*world.base("red"))
    tries: list[str] = []
    messages: list[str] = []

    def refuse(local):  # type: ignore[no-untyped-def]
        tries.append(local.uid)
        messages.append(world.status("Endpoint", "e1", "red")["message"])
        return ("the namespace is not there yet", False) if len(tries) < 4 else None

    world.daemons["d1"].refuse_attach = refuse
    world.apply(endpoint("red", "e1", "d1"))
    await until(lambda: len(tries) >= 4)
    await world.settled()
    assert "the namespace is not there yet (it is tried again)" in messages[-1]


async def test_a_change_that_a_daemon_refuses_does_not_hold_up_the_batch(world: World) -> None:
    """A refused batch is taken apart: the change that is to blame fails, the others go through."""
    world.apply(*world.base("red"), network("red", "other", 2))
    await world.settled()
    bad = {ip_address("10.0.1.77").packed}
    for daemon in world.daemons.values():
        daemon.refuse_change = lambda change: "bad luck" if bad & set(change.put_endpoint.addresses) else None
    bouncers = world.status("Network", "front", "red")["bouncers"]
    host = next(name for name in world.daemons if name not in bouncers)
    many = [endpoint("red", f"e{n}", host) for n in range(20)]
    world.apply(*many, endpoint("red", "bad", host, addresses=["10.0.1.77"]))
    await until(lambda: world.phase("Endpoint", "bad", "red") == "Failed")
    await until(lambda: all(world.phase("Endpoint", f"e{n}", "red") == "Provisioned" for n in range(20)))
    assert "bad luck" in world.status("Endpoint", "bad", "red")["message"]


async def test_an_unreachable_droplet_is_named_and_holds_up_nobody_else(world: World) -> None:
    """What needs it stays Init and says so; what does not is provisioned; when it comes back all is."""
    world.apply(*world.base("red"))
    await world.settled()
    members = {*world.status("Network", "front", "red")["bouncers"], *world.status("VPC", "main", "red")["dividers"]}
    dead, alive = [name for name in world.daemons if name not in members][:2]
    await world.daemons[dead].stop()
    await until(lambda: not world.status("Droplet", dead)["connected"])
    assert world.status("Droplet", dead)["reason"] == "Unreachable"
    world.apply(endpoint("red", "stuck", dead), endpoint("red", "fine", alive))
    await until(lambda: world.phase("Endpoint", "fine", "red") == "Provisioned")
    status = world.status("Endpoint", "stuck", "red")
    assert (status["phase"], status["reason"]) == ("Init", "Unreachable")
    assert f"droplet {dead} is unreachable" in status["message"]
    await world.daemons[dead].start()
    await world.settled()
    assert len(world.daemons[dead].tables.locals) == 1


async def test_a_daemon_that_lost_everything_gets_everything_again(world: World) -> None:
    """A droplet whose host was rebooted is filled from what is desired."""
    world.apply(*world.base("red"), *(endpoint("red", f"e{n}", "d1") for n in range(5)))
    await world.settled()
    before = world.daemons["d1"].tables
    await world.daemons["d1"].stop()
    world.daemons["d1"].tables = type(before)()
    await world.daemons["d1"].start()
    await until(lambda: world.daemons["d1"].tables == before)
    await world.settled()


async def test_a_new_daemon_with_intact_tables_is_asked_and_not_changed(world: World) -> None:
    """A restart of a daemon costs a comparison, and no change."""
    world.apply(*world.base("red"), endpoint("red", "e1", "d1"))
    await world.settled()
    await world.daemons["d1"].stop()
    await until(lambda: not world.status("Droplet", "d1")["connected"])
    world.daemons["d1"].calls.clear()
    await world.daemons["d1"].start()
    await world.settled()
    assert world.daemons["d1"].calls == ["GetState"]


async def test_strangers_in_the_tables_are_removed(world: World) -> None:
    """What a droplet holds and should not is taken away when it connects."""
    world.apply(*world.base("red"), endpoint("red", "e1", "d1"))
    await world.settled()
    daemon = world.daemons["d1"]
    before = daemon.tables.copy()
    await daemon.stop()
    stray = next(iter(daemon.tables.locals.values()))
    other = type(stray)()
    other.CopyFrom(stray)
    other.uid = "stray"
    daemon.tables.locals["stray"] = other
    await daemon.start()
    await until(lambda: daemon.tables == before)


async def test_a_lost_endpoint_is_made_again(world: World) -> None:
    """When a namespace vanishes the daemon says so, the object tells it, and it is attached again when it can be."""
    world.apply(*world.base("red"), endpoint("red", "e1", "d1"))
    await world.settled()
    daemon = world.daemons["d1"]
    gone = True
    daemon.refuse_attach = lambda _: ("its namespace has vanished", False) if gone else None
    daemon.lose(next(iter(daemon.tables.locals)), "its namespace has vanished")
    await until(lambda: world.phase("Endpoint", "e1", "red") == "Failed")
    assert world.status("Endpoint", "e1", "red")["reason"] == "Retrying"
    assert "its namespace has vanished" in world.status("Endpoint", "e1", "red")["message"]
    gone = False
    await world.settled()
    assert len(daemon.tables.locals) == 1


async def test_an_endpoint_found_broken_at_connect_is_attached_again(world: World) -> None:
    """What GetState calls not whole counts as missing."""
    world.apply(*world.base("red"), endpoint("red", "e1", "d1"))
    await world.settled()
    daemon = world.daemons["d1"]
    await daemon.stop()
    daemon.problems = {next(iter(daemon.tables.locals)): "its interface is gone"}
    daemon.calls.clear()
    await daemon.start()
    await until(lambda: "Attach" in daemon.calls)
    await world.settled()


async def test_a_daemon_at_the_wrong_address_is_not_programmed(world: World) -> None:
    """A droplet's manifest that names another droplet's daemon is told so, and nothing is sent to it."""
    world.apply(world.droplet("d1", daemon=world.daemons["d2"].target))
    await until(lambda: "has address 172.31.0.12" in world.status("Droplet", "d1")["message"])
    assert world.daemons["d2"].tables.empty


async def test_a_droplet_may_move_to_another_socket(world: World) -> None:
    """A changed `daemon` makes the manager connect there."""
    world.apply(world.droplet("d1", daemon=f"unix://{world.directory}/nobody.sock"))
    await until(lambda: "unreachable" in world.status("Droplet", "d1")["message"])
    world.apply(world.droplet("d1"))
    await world.settled()


async def test_endpoints_behind_a_droplet_without_daemon(world: World) -> None:
    """A foreign tunnel end needs no acknowledgement: its endpoints are known to bouncers, and it is never a member."""
    foreign = manifest("Droplet", "peer", address="172.31.0.99", daemon="none")
    world.apply(*world.base("red"), foreign, endpoint("red", "far", "peer", workload=None))
    await world.settled()
    (bouncer,) = world.status("Network", "front", "red")["bouncers"]
    assert bouncer != "peer"
    (known,) = world.daemons[bouncer].tables.endpoints.values()
    assert known.host == ip_address("172.31.0.99").packed
    assert "peer" not in world.status("VPC", "main", "red")["dividers"]


async def test_a_networks_tunnel_protocol_reaches_its_endpoints(world: World) -> None:
    """Endpoints that name no protocol of their own take the network's, also when it changes."""
    world.apply(*world.base("red"), endpoint("red", "e1", "d1"), endpoint("red", "e2", "d1", tunnelProtocol="geneve"))
    await world.settled()
    world.apply(network("red", tunnelProtocol="vxlan"))
    await world.settled()
    tunnels = sorted(local.endpoint.tunnel for local in world.daemons["d1"].tables.locals.values())
    assert tunnels == [1, 2]


async def test_members_spread_and_stay(world: World) -> None:
    """A droplet that comes takes only its share; members survive a restart of the manager."""
    numbers = range(1, 9)
    world.apply(*world.base("red"), *(network("red", f"n{n}", n + 10) for n in numbers))
    await world.settled()
    before = {n: world.status("Network", f"n{n}", "red")["bouncers"] for n in numbers}
    # Nine groups: no droplet has more than its share and a quarter, which is three.
    assert max(Counter(name for names in before.values() for name in names).values()) <= 3
    await world.restart()
    assert {n: world.status("Network", f"n{n}", "red")["bouncers"] for n in numbers} == before
    await world.settled()


async def test_watchers_hear_of_what_they_may(world: World) -> None:
    """A watcher of one tenant hears nothing of another, and of each object its newest state."""
    with world.manager.watchers.join(lambda ref: ref.tenant == "red") as watcher:
        world.apply(*world.base("red", "blue"), endpoint("red", "e1", "d1"), endpoint("blue", "e1", "d1"))
        await world.settled()
        seen = {}
        while news := await watcher.take(0.05):
            seen.update({item.ref: world.manager.show(item)["status"]["phase"] for item, _ in news})
    assert {ref.tenant for ref in seen} == {"red"}
    assert seen[Ref("Endpoint", "red", "e1")] == "Provisioned"


async def test_every_droplet_is_told_how_long_packets_to_another_may_be(world: World) -> None:
    """The MTU that a daemon tells of its interface reaches all others, when it connects and when it changes."""
    world.apply(*world.base("red"))
    daemons = world.daemons
    await until(lambda: all({one.mtu for one in each.tables.droplets.values()} == {1500} for each in daemons.values()))
    await daemons["d1"].stop()
    daemons["d1"].mtu = 9000
    await daemons["d1"].start()
    address = ip_address(daemons["d1"].address).packed
    await until(lambda: all(each.tables.droplets[address].mtu == 9000 for each in daemons.values()))
