# SPDX-License-Identifier: Apache-2.0
"""An endpoint that stands by: prepared where it will live, left behind where it lived, and known to a new daemon."""

import signal

import grpc
import pytest

from mizar._built import transit_pb2 as pb
from tests.transit.rig import FRONT, Droplet, Rig, endpoint, local, put_droplet, put_network, put_vpc, until
from tests.transit.traffic import ping

ADDRESS, PEER = "10.0.1.11", "10.0.1.12"


def two_with_one_moving(made: Rig) -> tuple[Droplet, Droplet, str, str]:
    """`a` is everything's bouncer and divider; endpoint 1 lives on it, endpoint 2 on `b`."""
    a, b = made.add_droplet(), made.add_droplet()
    made.start_all()
    for droplet in (a, b):
        droplet.apply(put_droplet(a), put_droplet(b), put_vpc(a), put_network(FRONT, a))
    places = [made.make_namespace(f"e{number}") for number in (1, 2)]
    a.attach_whole(local("one", endpoint(1, FRONT, a), name=places[0]))
    b.attach_whole(local("two", endpoint(2, FRONT, b), name=places[1]))
    a.apply(pb.Change(put_endpoint=endpoint(2, FRONT, b)))
    until(lambda: ping(places[0], PEER) is not None, "the first answer (next hops are resolved)")
    return a, b, places[0], places[1]


def standing_by(wanted: pb.LocalEndpoint) -> pb.LocalEndpoint:
    return pb.LocalEndpoint(uid=wanted.uid, endpoint=wanted.endpoint, workload=wanted.workload, standby=True)


def standby_of(droplet: Droplet) -> dict[str, bool]:
    return {found.local.uid: found.local.standby for found in droplet.state().local_endpoints}


def test_it_arrives_and_yields_step_by_step_and_daemons_may_die_at_each(made: Rig) -> None:
    """Prepared, arrived, pointed at, departed: packets flow at each step, and a new daemon finds it as it was."""
    a, b, one, two = two_with_one_moving(made)
    here, there = local("one", endpoint(1, FRONT, a), name=one), local("one", endpoint(1, FRONT, b), name=one)

    def flows(stands_by_at_a: bool | None, stands_by_at_b: bool | None, *killed: Droplet) -> None:
        for droplet in killed:
            droplet.stop(signal.SIGKILL)
            droplet.start()
        for droplet, expected in ((a, stands_by_at_a), (b, stands_by_at_b)):
            assert standby_of(droplet).get("one") is expected
        until(lambda: ping(one, PEER) and ping(two, ADDRESS), "packets flow both ways")

    b.attach_whole(standing_by(there))
    flows(False, True, b)
    b.attach_whole(there)
    flows(False, False)
    a.apply(pb.Change(put_endpoint=endpoint(1, FRONT, b)))
    flows(True, False, a)
    a.detach("one")
    flows(None, False)
    assert here.endpoint.mac == there.endpoint.mac
    assert [found.host for found in a.state().endpoints] == [there.endpoint.host] * 2


def test_a_standby_that_is_given_up_leaves_nothing(made: Rig) -> None:
    a, b, one, two = two_with_one_moving(made)
    before = b.links()
    b.attach_whole(standing_by(local("one", endpoint(1, FRONT, b), name=one)))
    assert b.links() != before
    b.detach("one")
    assert "one" not in standby_of(b)
    assert ping(one, PEER)
    assert ping(two, ADDRESS)
    assert standby_of(a) == {"one": False}


def test_what_lives_here_is_not_put_on_standby_by_attach(made: Rig) -> None:
    """Only who hears that it lives elsewhere yields; and another endpoint's address is never taken so."""
    a, b, one, two = two_with_one_moving(made)
    (result,) = a.attach(standing_by(local("one", endpoint(1, FRONT, a), name=one)))
    assert "lives here" in result.error
    stranger = endpoint(1, FRONT, b)
    stranger.mac = bytes.fromhex("02aabbccddee")
    with pytest.raises(grpc.RpcError, match="taken by local endpoint one"):
        a.apply(pb.Change(put_endpoint=stranger))
    assert ping(two, ADDRESS)
