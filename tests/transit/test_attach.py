# SPDX-License-Identifier: Apache-2.0
"""Attach and Detach: namespaces by name, path and pid; repetition, change, failure."""

import subprocess
from pathlib import Path

from pyroute2 import IPRoute

from mizar._built import transit_pb2 as pb
from tests.transit.rig import BACK, FRONT, Rig, endpoint, local, packed, put_network, until
from tests.transit.test_life import alone
from tests.transit.traffic import ping


def test_namespace_by_path_and_by_pid(made: Rig) -> None:
    """All three ways lead to working endpoints, and the state says which way it was."""
    one, (first,) = alone(made, "uid-1")
    second, third = made.make_namespace("e2"), made.make_namespace("e3")
    holder = subprocess.Popen(["nsenter", f"--net=/run/netns/{third}", "tail", "-f", "/dev/null"])
    try:
        until(lambda: Path(f"/proc/{holder.pid}/comm").read_text() == "tail\n", "the process is in the namespace")
        by_path = local("uid-2", endpoint(2, FRONT, one), path=f"/run/netns/{second}")
        by_pid = local("uid-3", endpoint(3, FRONT, one), pid=holder.pid)
        one.attach_whole(by_path, by_pid)
        assert ping(first, "10.0.1.12") is not None
        assert ping(second, "fd00:10:0:1::13") is not None
        held = {found.local.uid: found for found in one.state().local_endpoints}
        assert held["uid-2"].local == by_path
        assert held["uid-3"].local == by_pid
        assert held["uid-2"].problem == ""
    finally:
        holder.kill()
        holder.wait()


def test_attach_is_idempotent(made: Rig) -> None:
    """The second time nothing is made anew."""
    one, (first,) = alone(made, "uid-1")
    wanted = local("uid-1", endpoint(1, FRONT, one), name=first)
    before = one.links()
    events = one.client.WatchEvents(pb.WatchEventsRequest())
    events.initial_metadata()
    one.attach_whole(wanted)
    assert one.links() == before
    one.detach("uid-1")
    assert next(events).endpoint_changed.state == "detached", "the repeated attach was no event"
    events.cancel()


def test_changed_endpoint_is_adjusted_in_place(made: Rig) -> None:
    """Another address: the same veth, the new address answers, the old one is free."""
    one, (first, second) = alone(made, "uid-1", "uid-2")
    changed = endpoint(1, FRONT, one)
    changed.addresses[0] = packed("10.0.1.77")
    before = one.links()
    one.attach_whole(local("uid-1", changed, name=first))
    assert one.links() == before
    assert ping(second, "10.0.1.77") is not None
    assert ping(first, "10.0.1.12") is not None
    assert ping(second, "10.0.1.11", 0.3) is None


def test_refused_endpoints_leave_nothing(made: Rig) -> None:
    """Each for its own reason, beside one that succeeds."""
    one, (first,) = alone(made, "uid-1")
    one.apply(put_network(BACK, one))
    second = made.make_namespace("e2")
    taken_address = endpoint(2, FRONT, one)
    taken_address.addresses[0] = endpoint(1, FRONT, one).addresses[0]
    taken_mac = endpoint(3, FRONT, one)
    taken_mac.mac = endpoint(1, FRONT, one).mac
    unknown_network = endpoint(4, FRONT, one)
    unknown_network.network_id = 99
    malformed = endpoint(5, FRONT, one)
    malformed.mac = b"short"
    results = one.attach(
        local("taken-address", taken_address, name=second),
        local("taken-mac", taken_mac, name=second),
        local("unknown-network", unknown_network, name=second),
        local("malformed", malformed, name=second),
        local("absent", endpoint(6, FRONT, one), name="no-such-namespace"),
        local("taken-name", endpoint(7, FRONT, one), name=first),
        local("good", endpoint(1, BACK, one), name=second),
    )
    expected = ["10.0.1.11", "02:00:00:00:01:01", "network 99", "6", "no-such-namespace", "eth0", ""]
    for result, part in zip(results, expected, strict=True):
        assert part in result.error, result
        assert bool(result.error) != (result.uid == "good")
        assert result.permanent == (result.uid == "malformed")
    assert len(one.links()) == 2
    until(lambda: len(one.pins()) == 2, "the agents are attached for good, and no other")
    assert {found.local.uid for found in one.state().local_endpoints} == {"uid-1", "good"}
    assert ping(first, "10.0.2.11") is not None


def test_a_batch_of_attachments_is_done_whole(made: Rig) -> None:
    """Fifty endpoints in one request, which then get namespaces of their own."""
    one, _ = alone(made)
    place = made.make_namespace("many")
    count = 50
    wanted = []
    for number in range(count):
        what = endpoint(1, FRONT, one)
        what.addresses[:] = [packed(f"10.0.1.{100 + number}")]
        what.mac = bytes((2, 0, 0, 1, 0, number))
        message = local(f"uid-{number}", what, name=place)
        message.workload.interface = f"eth{number}"
        wanted.append(message)
    results = one.attach(*wanted[:1])
    assert not results[0].error
    results = one.attach(*wanted[1:])
    # All in one namespace: there is one default route, and it is the first one's.
    assert all("default route" in result.error for result in results)
    places = [made.make_namespace(f"n{number}") for number in range(count)]
    for message, name in zip(wanted, places, strict=True):
        message.workload.name = name
    one.attach_whole(*wanted)


def test_vanished_namespace_is_an_event(made: Rig) -> None:
    """The veth goes with the namespace: "lost", and no entry is left."""
    one, (first,) = alone(made, "uid-1")
    events = one.client.WatchEvents(pb.WatchEventsRequest())
    events.initial_metadata()
    made.remove_namespace(first)
    event = next(events)
    assert (event.endpoint_changed.uid, event.endpoint_changed.state) == ("uid-1", "lost")
    events.cancel()
    assert not one.state().local_endpoints
    assert one.pins() == []
    with IPRoute(netns=one.namespace) as ip:
        assert not [link for link in ip.get_links() if str(link.get_attr("IFLA_IFNAME")).startswith("mz")]


def test_vanished_endpoint_leaves_no_pin_whoever_sees_it_first(made: Rig) -> None:
    """GetState reads the kernel and may be faster than the notification; the end is one event and no pin is left."""
    one, places = alone(made, *(f"uid-{number}" for number in range(8)))
    events = one.client.WatchEvents(pb.WatchEventsRequest(), timeout=20)
    events.initial_metadata()
    for number, place in enumerate(places):
        made.remove_namespace(place)
        until(lambda number=number: len(one.state().local_endpoints) == 7 - number, "the state shows it")  # type: ignore[misc]
    until(lambda: one.pins() == [], "no pin is left")
    lost = [next(events).endpoint_changed for _ in places]
    assert {(event.uid, event.state) for event in lost} == {(f"uid-{number}", "lost") for number in range(8)}
    events.cancel()


def test_new_endpoint_starts_counting_from_zero(made: Rig) -> None:
    """Whatever was counted in its slot before, and however the endpoint before it ended."""
    one, (first, second) = alone(made, "uid-1", "uid-2")
    one.stop()
    one.start()  # slots are given out anew, the freed ones as well
    for how in ("detached", "lost"):
        assert ping(first, "10.0.1.12") is not None
        assert all(found.sent_packets for found in one.client.GetCounters(pb.GetCountersRequest()).endpoints)
        if how == "detached":
            one.detach("uid-1", "uid-2")
        else:
            made.remove_namespace(first)
            made.remove_namespace(second)
            until(lambda: not one.state().local_endpoints, "they are gone")
            first, second = made.make_namespace("e3"), made.make_namespace("e4")
        one.attach_whole(
            local("uid-1", endpoint(1, FRONT, one), name=first), local("uid-2", endpoint(2, FRONT, one), name=second)
        )
        found = one.client.GetCounters(pb.GetCountersRequest()).endpoints
        assert [(each.sent_packets, each.delivered_packets) for each in found] == [(0, 0), (0, 0)]
