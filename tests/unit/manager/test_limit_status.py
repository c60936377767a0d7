# SPDX-License-Identifier: Apache-2.0
"""Limits of networks and VPCs hold on each droplet: their status says on how many, and what that is in all."""

from __future__ import annotations

from tests.unit.manager.world import World, endpoint, manifest


async def test_a_limit_says_on_how_many_droplets_it_holds(world: World) -> None:
    """As endpoints come and go; without a limit nothing is said, and a droplet with several counts once.
    Nothing limits on a tunnel end without a daemon: it is told apart."""
    base = world.base("red")
    own = {one["kind"]: one for one in base}
    world.apply(*base)
    assert "limits" not in world.status("VPC", "main", "red")
    own["VPC"]["spec"]["qos"] = {"egress": {"bitsPerSecond": "1G", "packetsPerSecond": 1000}}
    own["Network"]["spec"]["qos"] = {"ingress": {"bitsPerSecond": "8M"}}
    world.apply(own["VPC"], own["Network"])
    name = own["Network"]["metadata"]["name"]

    def told() -> list[str]:
        return [*world.status("VPC", "main", "red")["limits"], *world.status("Network", name, "red")["limits"]]

    each = "1000000000 bit/s, 1000 packets/s on"
    assert told() == [
        f"egress: {each} each droplet; no endpoint is on any yet",
        "ingress: 8000000 bit/s on each droplet; no endpoint is on any yet",
    ]
    world.apply(endpoint("red", "e1", "d1"), endpoint("red", "e2", "d1"))
    await world.settled()
    assert told() == [f"egress: {each} its droplet", "ingress: 8000000 bit/s on its droplet"]
    world.apply(endpoint("red", "e3", "d2"))
    await world.settled()
    assert told() == [
        f"egress: {each} each of 2 droplets, which is 2000000000 bit/s, 2000 packets/s in all",
        "ingress: 8000000 bit/s on each of 2 droplets, which is 16000000 bit/s in all",
    ]
    far = endpoint("red", "e4", "far", addresses=["10.0.1.99"])
    del far["spec"]["workload"]
    world.apply(manifest("Droplet", "far", address="172.31.0.99", daemon="none"), far)
    await world.settled()
    assert {one.partition(" in all")[2] for one in told()} == {"; none on 1 tunnel end without a daemon"}
