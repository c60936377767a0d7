# SPDX-License-Identifier: Apache-2.0
"""Batches: applied whole or refused whole, with the index, the object and the reason; roles follow the own address."""

from collections.abc import Callable

import grpc
import pytest

from mizar._built import transit_pb2 as pb
from tests.transit.rig import (
    BACK,
    FRONT,
    VNI,
    Droplet,
    Rig,
    endpoint,
    local,
    packed,
    put_droplet,
    put_network,
    put_vpc,
    until,
)
from tests.transit.traffic import ping

Refused = tuple[grpc.StatusCode, str]


def refused(call: Callable[[], object]) -> Refused:
    """The status of a call that must be refused."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value.code(), str(caught.value.details())


def prepared(made: Rig) -> tuple[Droplet, Droplet]:
    """A droplet that knows another one (which has no daemon), a VPC, a network and an endpoint there."""
    one, two = made.add_droplet(), made.add_droplet()
    one.start()
    changes = [put_droplet(one), put_droplet(two), put_vpc(one), put_network(FRONT, one, two)]
    assert one.apply(*changes, pb.Change(put_endpoint=endpoint(1, FRONT, two))) == 5
    return one, two


def told(droplet: Droplet) -> pb.State:
    """What it was told. That a droplet without a daemon answers no probe, it finds out meanwhile."""
    state = droplet.state()
    for other in state.droplets:
        other.ClearField("down")
    return state


def test_repeated_batch_changes_nothing(made: Rig) -> None:
    """And the generation is returned and reported."""
    one, two = prepared(made)
    before = told(one)
    changes = [put_droplet(two), put_vpc(one), put_network(FRONT, two, one)]
    request = pb.ApplyRequest(generation=42, changes=[*changes, pb.Change(put_endpoint=endpoint(1, FRONT, two))])
    assert one.client.Apply(request) == pb.ApplyReply(generation=42, changed=0)
    assert one.client.GetInfo(pb.GetInfoRequest()).generation == 42
    assert told(one) == before
    absent = [
        pb.Change(delete_droplet=packed("172.30.9.99")),
        pb.Change(delete_vpc=99),
        pb.Change(delete_network=pb.NetworkKey(vni=99, id=9)),
        pb.Change(delete_endpoint=pb.EndpointKey(vni=99, addresses=[packed("10.9.9.9")])),
    ]
    assert one.apply(*absent) == 0


def test_batch_is_refused_whole(made: Rig) -> None:
    """Ninety-nine good changes before a bad one leave no trace."""
    one, two = prepared(made)
    before = told(one)
    good = []
    for number in range(99):
        what = endpoint(1, FRONT, two)
        what.addresses[:] = [packed(f"10.0.1.{100 + number}")]
        what.mac = bytes((2, 0, 0, 1, 0, number))
        good.append(pb.Change(put_endpoint=what))
    bad = endpoint(2, FRONT, two)
    bad.network_id = 99
    code, details = refused(lambda: one.apply(put_vpc(two), put_network(BACK, one), *good, pb.Change(put_endpoint=bad)))
    assert code == grpc.StatusCode.FAILED_PRECONDITION
    assert "change 101 (put_endpoint)" in details
    assert "network 99 of VPC 7 is not known; put it first" in details
    assert told(one) == before
    assert one.apply(*good) == 99


def test_refusals_have_the_status_that_tells_what_to_do(made: Rig) -> None:
    """Unknown, in use, taken, contradictory: each with its code, and nothing changed."""
    one, two = prepared(made)
    before = told(one)
    other = endpoint(2, FRONT, two)
    other.addresses[:] = [other.addresses[0], endpoint(1, FRONT, two).addresses[1]]
    same_mac = endpoint(3, FRONT, two)
    same_mac.mac = endpoint(1, FRONT, two).mac
    stranger = pb.Change(put_vpc=pb.Vpc(vni=VNI, dividers=[packed("172.30.9.77")]))
    gateway = endpoint(4, FRONT, two)
    gateway.addresses[0] = packed("10.0.1.1")
    overlong = pb.Change(put_vpc=pb.Vpc(vni=1, dividers=[bytes((172, 30, 1, k)) for k in range(17)]))
    outside = endpoint(5, FRONT, two)
    outside.addresses[0] = packed("10.0.9.9")
    precondition, exists, invalid = (
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.ALREADY_EXISTS,
        grpc.StatusCode.INVALID_ARGUMENT,
    )
    cases: list[tuple[pb.Change, grpc.StatusCode, str]] = [
        (stranger, precondition, "172.30.9.77 is no known droplet"),
        (put_network(FRONT, one, vni=99), precondition, "VPC 99 is not known"),
        (pb.Change(put_endpoint=outside), precondition, "no prefix that holds 10.0.9.9"),
        (pb.Change(delete_droplet=two.address), precondition, "in use by network 1 of VPC 7"),
        (pb.Change(delete_vpc=VNI), precondition, "still has network 1"),
        (pb.Change(delete_network=pb.NetworkKey(vni=VNI, id=FRONT)), precondition, "still has endpoint 10.0.1.11"),
        (pb.Change(put_endpoint=other), exists, "is taken by endpoint 10.0.1.11"),
        (pb.Change(put_endpoint=same_mac), exists, "MAC 02:00:00:00:01:01 is taken"),
        (pb.Change(put_endpoint=gateway), exists, "10.0.1.1 is the gateway"),
        (pb.Change(put_endpoint=endpoint(6, FRONT, one)), invalid, "made by Attach"),
        (pb.Change(put_endpoint=endpoint(7, FRONT, two, 9)), invalid, "tunnel protocol is 9"),  # type: ignore[arg-type]
        (pb.Change(), invalid, "it is empty"),
        (overlong, invalid, "at most 16"),
        (put_vpc(one, vni=1 << 24), invalid, "VPC 16777216 is no VNI"),
    ]
    for change, code, part in cases:
        found, details = refused(lambda change=change: one.apply(put_droplet(two), change))  # type: ignore[misc]
        assert (found, part in details) == (code, True), details
        assert "change 1 (" in details
    assert told(one) == before


def test_roles_follow_the_tables(made: Rig) -> None:
    """A droplet that becomes bouncer and divider, and resigns, forwards accordingly."""
    one, two = made.add_droplet(), made.add_droplet()
    first = made.make_namespace("e1")
    one.start()
    one.apply(put_droplet(one), put_droplet(two), put_vpc(two), put_network(FRONT, two))
    one.attach_whole(local("uid-1", endpoint(1, FRONT, one), name=first))
    assert ping(first, "10.0.1.99", 0.2) is None
    assert "ENDPOINT_UNKNOWN" not in one.drops(), "an address of the network is its bouncer's to judge"
    one.apply(put_network(FRONT, one))
    assert ping(first, "10.0.1.99", 0.2) is None
    assert until(lambda: one.drops().get("ENDPOINT_UNKNOWN"), "a bouncer judges for itself")
    assert "NETWORK_UNKNOWN" not in one.drops()
    one.apply(put_vpc(one))
    assert ping(first, "10.0.8.8", 0.2) is None
    assert until(lambda: one.drops().get("NETWORK_UNKNOWN"), "a divider too")
    unknown = one.drops()["ENDPOINT_UNKNOWN"]
    one.apply(put_network(FRONT, two), put_vpc(two))
    assert ping(first, "10.0.1.98", 0.2) is None
    assert one.drops()["ENDPOINT_UNKNOWN"] == unknown


def test_full_table_is_refused_and_undone(made: Rig) -> None:
    """More addresses than the table holds: RESOURCE_EXHAUSTED, naming the option that enlarges it."""
    one, two = made.add_droplet(), made.add_droplet()
    one.start("--max-endpoints", "64")
    one.apply(put_droplet(one), put_droplet(two), put_vpc(one), put_network(FRONT, one))
    before = told(one)
    changes = []
    for number in range(65):
        what = endpoint(1, FRONT, two)
        what.addresses[:] = [packed(f"10.0.1.{100 + number}")]
        what.mac = bytes((2, 0, 0, 1, 0, number))
        changes.append(pb.Change(put_endpoint=what))
    code, details = refused(lambda: one.apply(*changes))
    assert code == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "change 64" in details
    assert "--max-endpoints" in details
    assert told(one) == before
    assert one.apply(*changes[:64]) == 64


def test_state_comes_in_chunks(made: Rig) -> None:
    """Thousands of endpoints: several messages, each once."""
    one, two = made.add_droplet(), made.add_droplet()
    one.start()
    wide = put_network(FRONT, one)
    del wide.put_network.prefixes[1]
    wide.put_network.prefixes[0].CopyFrom(pb.Prefix(address=packed("10.0.0.0"), length=16, gateway=packed("10.0.0.1")))
    one.apply(put_droplet(one), put_droplet(two), put_vpc(one), wide)
    changes = []
    for number in range(3000):
        what = endpoint(1, FRONT, two)
        what.addresses[:] = [bytes((10, 0, 1 + number // 250, 1 + number % 250))]
        what.mac = bytes((2, 0, 0, 1, number >> 8, number & 255))
        changes.append(pb.Change(put_endpoint=what))
    assert one.apply(*changes) == 3000
    chunks = list(one.client.GetState(pb.GetStateRequest()))
    held = [found for chunk in chunks for found in chunk.endpoints]
    assert sorted(found.mac for found in held) == sorted(change.put_endpoint.mac for change in changes)
    assert max(len(chunk.endpoints) for chunk in chunks) <= 1000
