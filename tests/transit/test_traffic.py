# SPDX-License-Identifier: Apache-2.0
"""Endpoints that a daemon attached talk to one another, over the paths that the tables describe."""

import hashlib
import os
import subprocess

import pytest

from mizar._built import transit_pb2 as pb
from tests.transit.rig import (
    BACK,
    FRONT,
    Droplet,
    Rig,
    endpoint,
    local,
    put_droplet,
    put_network,
    put_vpc,
    until,
)
from tests.transit.traffic import ping, send_tcp, sink


def two_droplets(made: Rig, tunnel: "pb.TunnelProtocol.ValueType" = pb.GENEVE) -> tuple[Droplet, Droplet, str, str]:
    """Droplet 1 bounces "front" and divides the VPC; endpoint 1 lives on it, endpoint 2 on droplet 2."""
    one, two = made.add_droplet(), made.add_droplet()
    first, second = made.make_namespace("e1"), made.make_namespace("e2")
    made.start_all()
    for droplet in (one, two):
        droplet.apply(put_droplet(one), put_droplet(two), put_vpc(one), put_network(FRONT, one))
    one.attach_whole(local("uid-1", endpoint(1, FRONT, one, tunnel), name=first))
    two.attach_whole(local("uid-2", endpoint(2, FRONT, two, tunnel), name=second))
    one.apply(pb.Change(put_endpoint=endpoint(2, FRONT, two, tunnel)))
    return one, two, first, second


@pytest.mark.parametrize("tunnel", [pb.GENEVE, pb.VXLAN])
def test_endpoints_of_one_network_reach_one_another(made: Rig, tunnel: "pb.TunnelProtocol.ValueType") -> None:
    """Both ways, both families, and a TCP transfer arrives unchanged."""
    one, two, first, second = two_droplets(made, tunnel)
    until(lambda: ping(second, "10.0.1.11") is not None, "the first answer (next hops are resolved)")
    assert ping(first, "10.0.1.12") == 64
    assert ping(first, "fd00:10:0:1::12") is not None
    assert ping(second, "fd00:10:0:1::11") is not None
    data = os.urandom(3_000_000)
    with sink(first, "10.0.1.11", 5001) as received:
        send_tcp(second, "10.0.1.11", 5001, data)
    assert hashlib.sha256(b"".join(received)).digest() == hashlib.sha256(data).digest()
    assert one.counters().delivered_packets > 0
    assert two.counters().sent_packets > 0
    assert ping(first, "10.0.1.1") is not None, "the gateway answers"
    assert ping(first, "10.0.1.99", 0.3) is None
    assert one.drops()["ENDPOINT_UNKNOWN"] >= 1


def test_other_network_is_reached_through_bouncer_and_divider(made: Rig) -> None:
    """Droplet 2 hosts both endpoints' networks' first and bounces nothing; droplet 3 divides and bounces "back"."""
    one, two, three = made.add_droplet(), made.add_droplet(), made.add_droplet()
    first, second = made.make_namespace("e1"), made.make_namespace("e2")
    made.start_all()
    for droplet in (one, two, three):
        droplet.apply(*(put_droplet(other) for other in (one, two, three)), put_vpc(three))
    for droplet in (one, two, three):
        droplet.apply(put_network(FRONT, two))
    for droplet in (one, three):
        droplet.apply(put_network(BACK, three))
    one.attach_whole(
        local("uid-1", endpoint(1, FRONT, one), name=first), local("uid-2", endpoint(2, BACK, one), name=second)
    )
    two.apply(pb.Change(put_endpoint=endpoint(1, FRONT, one)))
    three.apply(pb.Change(put_endpoint=endpoint(2, BACK, one)))
    until(lambda: ping(first, "10.0.1.1") is not None, "the gateway answers")
    # Both live on droplet 1, so the agent hands the packet over itself: no tunnel, one virtual hop.
    assert ping(first, "10.0.2.12") == 63
    assert ping(first, "10.0.3.1", 0.3) is None
    assert until(lambda: three.drops().get("NETWORK_UNKNOWN"), "the divider drops what no network holds")
    assert two.counters().to_divider_packets >= 1


@pytest.mark.parametrize("family", [4, 6])
def test_a_tunnel_of_the_endpoints_own_carries_bulk_data(made: Rig, family: int) -> None:
    """TCP inside of a vxlan device of the endpoint inside of the VPC's tunnel: cut before it enters the second."""
    one, _, first, second = two_droplets(made)
    until(lambda: ping(second, "10.0.1.11", 0.2), "the first answer")
    ends = {first: ("10.0.1.11", "fd00:10:0:1::11"), second: ("10.0.1.12", "fd00:10:0:1::12")}
    for number, (place, other) in enumerate(((first, second), (second, first)), 1):
        way = ["local", ends[place][family == 6], "remote", ends[other][family == 6], "dstport", "4789"]
        for command in (
            ["link", "add", "own0", "type", "vxlan", "id", "9", *way],
            ["addr", "add", f"172.20.0.{number}/24", "dev", "own0"],
            ["link", "set", "own0", "up"],
        ):
            subprocess.run(["ip", "-n", place, *command], check=True, timeout=30)
    until(lambda: ping(first, "172.20.0.2", 0.2), "the first answer inside")
    data = os.urandom(1_000_000)
    with sink(second, "172.20.0.2", 5001) as received:
        send_tcp(first, "172.20.0.2", 5001, data)
    assert b"".join(received) == data
    assert "REWRITE_FAILED" not in one.drops()
