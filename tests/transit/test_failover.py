# SPDX-License-Identifier: Apache-2.0
"""Droplets that die: their peers find out by themselves, and traffic goes over others."""

from __future__ import annotations

import signal
import threading

from pyroute2 import IPRoute

from mizar._built import transit_pb2 as pb
from tests.transit.rig import FRONT, Droplet, Rig, endpoint, local, put_droplet, put_network, put_vpc, until
from tests.transit.traffic import exchange_udp, ping


def wire(made: Rig, droplet: Droplet, state: str) -> None:
    """Pull the droplet's cable, or put it in again."""
    with IPRoute(netns=made.switch) as ip:
        ip.link("set", index=ip.link_lookup(ifname=f"p{droplet.number}")[0], state=state)


def called_down(droplet: Droplet) -> set[bytes]:
    return {one.address for one in droplet.state().droplets if one.down}


def two_bouncers(made: Rig) -> tuple[list[Droplet], str, str]:
    """Endpoints on droplets 1 and 2; droplets 3 and 4 bounce their network and divide the VPC."""
    droplets = [made.add_droplet() for _ in range(4)]
    first, second = made.make_namespace("e1"), made.make_namespace("e2")
    ends = [endpoint(1, FRONT, droplets[0]), endpoint(2, FRONT, droplets[1])]
    made.start_all()
    for droplet in droplets:
        droplet.apply(
            *map(put_droplet, droplets), put_vpc(*droplets[2:]), put_network(FRONT, *droplets[2:]), generation=1
        )
    for bouncer in droplets[2:]:
        bouncer.apply(*(pb.Change(put_endpoint=end) for end in ends))
    droplets[0].attach_whole(local("uid-1", ends[0], name=first))
    droplets[1].attach_whole(local("uid-2", ends[1], name=second))
    until(lambda: ping(first, "10.0.1.12") is not None, "the first answer (next hops are resolved)")
    for droplet in droplets:  # those that were started later were silent at first
        until(lambda at=droplet: not called_down(at), "all are up")  # type: ignore[misc]
    return droplets, first, second


def test_traffic_goes_on_when_a_bouncer_dies(made: Rig) -> None:
    """All flows, also those that were its own; it is told as an event; and it is taken back when it is there again."""
    droplets, first, second = two_bouncers(made)
    told: list[tuple[bytes, bool]] = []
    events = droplets[0].client.WatchEvents(pb.WatchEventsRequest())
    next(iter([events.initial_metadata()]))

    def listen() -> None:
        for event in events:
            if event.WhichOneof("event") == "droplet_changed":
                told.append((event.droplet_changed.address, event.droplet_changed.down))
            if len(told) == 2:
                return

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    dead = droplets[2]
    wire(made, dead, "down")
    for droplet in droplets[:2]:
        until(lambda at=droplet: called_down(at) == {dead.address}, "the bouncer is called down")  # type: ignore[misc]
    for _ in range(24):
        exchange_udp(first, second, "10.0.1.12", b"after")
    wire(made, dead, "up")
    until(lambda: not called_down(droplets[0]), "the bouncer is up again")
    listener.join(10)
    assert told == [(dead.address, True), (dead.address, False)]
    events.cancel()


def test_a_dead_daemon_is_no_dead_droplet(made: Rig) -> None:
    """Its programs answer the probes: nobody calls it down, while another, that is, is."""
    droplets, first, second = two_bouncers(made)
    droplets[2].stop(signal.SIGKILL)
    wire(made, droplets[3], "down")
    until(lambda: called_down(droplets[0]) == {droplets[3].address}, "the other bouncer is called down")
    until(lambda: called_down(droplets[1]) == {droplets[3].address}, "the other bouncer is called down")
    for _ in range(24):
        exchange_udp(first, second, "10.0.1.12", b"after")
