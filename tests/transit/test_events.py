# SPDX-License-Identifier: Apache-2.0
"""What watchers hear: endpoints, links, and drops while somebody asks for them."""

from collections.abc import Iterator
from typing import Any

from pyroute2 import IPRoute

from mizar._built import transit_pb2 as pb
from mizar.kernel.bpffs import Pins
from tests.transit.rig import FRONT, Droplet, Rig, endpoint, local, until
from tests.transit.test_life import alone
from tests.transit.traffic import ping


def watch(droplet: Droplet, drops: bool = False) -> Any:
    """A watcher that misses nothing from here on."""
    events = droplet.client.WatchEvents(pb.WatchEventsRequest(drops=drops), timeout=20)
    events.initial_metadata()
    return events


def test_endpoints_and_links_are_events(made: Rig) -> None:
    """In the order in which they happen, to every watcher."""
    one, (first,) = alone(made, "uid-1")
    watchers = [watch(one), watch(one, drops=True)]
    one.detach("uid-1")
    one.attach_whole(local("uid-1", endpoint(1, FRONT, one), name=first))
    with IPRoute(netns=one.namespace) as ip:
        ip.link("set", index=ip.link_lookup(ifname="sub0")[0], mtu=1400)
    for events in watchers:
        heard = [_without_drops(events) for _ in range(3)]
        assert [event.endpoint_changed.state for event in heard] == ["detached", "attached", ""]
        assert (heard[2].link_changed.interface, heard[2].link_changed.mtu) == ("sub0", 1400)
        assert heard[0].time_unix_ns <= heard[1].time_unix_ns <= heard[2].time_unix_ns
        events.cancel()
    assert one.client.GetInfo(pb.GetInfoRequest()).interface_mtu == 1400


def _without_drops(events: Iterator[pb.Event]) -> pb.Event:
    return next(event for event in events if event.WhichOneof("event") != "drop")


def test_drops_are_events_while_somebody_asks(made: Rig) -> None:
    """Reason, addresses and hook are told; the programs write nothing once nobody watches."""
    one, (first,) = alone(made, "uid-1")
    assert _switch(one) == 0
    plain, asking = watch(one), watch(one, drops=True)
    assert _switch(one) == 1
    assert ping(first, "10.0.1.99", 0.2) is None
    event = next(event for event in asking if event.drop.name == "ENDPOINT_UNKNOWN")
    assert event.drop.vni == 7
    assert (event.drop.source, event.drop.destination) == (bytes((10, 0, 1, 11)), bytes((10, 0, 1, 99)))
    assert event.drop.hook == "agent"
    assert event.drop.interface == one.links()[0]
    assert event.drop.sentence.startswith("The destination is in a network")
    assert (event.drop.uid, event.drop.vpc_known, event.drop.inner) == ("uid-1", True, True)
    assert (event.drop.protocol, len(event.drop.frame)) == (1, min(event.drop.length, 128)), "an echo request"
    asking.cancel()
    until(lambda: _switch(one) == 0, "the switch is off again")
    one.detach("uid-1")
    assert next(plain).endpoint_changed.state == "detached", "who did not ask for drops hears none"
    plain.cancel()


def _switch(droplet: Droplet) -> int:
    """The switch as the programs see it."""
    import os

    from mizar.kernel import libbpf
    from mizar.kernel.layout import U32, struct_codec
    from mizar.kernel.maps import Table

    fd = libbpf.open_pin(Pins.of(droplet.name).maps / "droplet_switches")
    assert fd is not None
    try:
        value = Table("droplet_switches", fd, U32, struct_codec("droplet_switches")).get(0)
    finally:
        os.close(fd)
    assert value is not None
    return int(value["events"])
