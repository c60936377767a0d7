# SPDX-License-Identifier: Apache-2.0
"""An endpoint behind an Open vSwitch bridge: the daemon adds the port over OVSDB, a real switch carries the traffic."""

import hashlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyroute2 import IPRoute

from mizar._built import transit_pb2 as pb
from tests.transit.rig import FRONT, Droplet, Rig, endpoint, put_droplet, put_network, put_vpc, until
from tests.transit.switch import Switch, available
from tests.transit.test_traffic import two_droplets
from tests.transit.traffic import ping, send_tcp, sink

MAC = "02:00:00:00:01:03"


@pytest.fixture
def switched(made: Rig, tmp_path: Path) -> Iterator[tuple[Droplet, Switch]]:
    """A droplet whose host has a switch with the bridge br0; the daemon knows where it answers."""
    if not available():
        pytest.skip("ovs-vswitchd is not installed (Debian: openvswitch-switch)")
    one = made.add_droplet()
    switch = Switch(one.namespace, tmp_path / "ovs")
    try:
        switch.configure("add-br", "br0", "--", "set", "bridge", "br0", "datapath_type=netdev")
        one.arguments += ["--ovsdb", switch.target]
        one.start()
        one.apply(put_droplet(one), put_vpc(one), put_network(FRONT, one))
        yield one, switch
    finally:
        switch.close()


def behind(host: Droplet, uid: str = "ovs", number: int = 3, **port: str | int) -> pb.LocalEndpoint:
    """Endpoint `number` of "front" behind a bridge."""
    workload = pb.Workload(ovs=pb.OvsPort(**{"bridge": "br0", **port}))  # type: ignore[arg-type]
    return pb.LocalEndpoint(uid=uid, endpoint=endpoint(number, FRONT, host), workload=workload)


def test_what_is_behind_a_bridge_talks_to_the_overlay(made: Rig, switched: tuple[Droplet, Switch]) -> None:
    """A namespace on another port of the bridge has the endpoint's MAC and addresses: pings of both families, and TCP
    each way, to an endpoint on another droplet."""
    one, switch = switched
    two, far, workload = made.add_droplet(), made.make_namespace("far"), made.make_namespace("behind")
    two.start()
    for droplet in (one, two):
        droplet.apply(put_droplet(one), put_droplet(two), put_vpc(one), put_network(FRONT, one))
    other = pb.LocalEndpoint(uid="far", endpoint=endpoint(2, FRONT, two), workload=pb.Workload(name=far))
    two.attach_whole(other)
    one.apply(pb.Change(put_endpoint=endpoint(2, FRONT, two)))
    wanted = behind(one)
    (result,) = one.attach(wanted)
    assert not result.error
    (port,) = switch.ports("br0")
    facts = switch.configure("get", "interface", port, "external_ids", "ofport")
    assert "iface-id=ovs" in facts
    assert MAC in facts
    switch.plug("br0", "toworkload", workload, MAC, "10.0.1.13/24", "fd00:10:0:1::13/64")
    until(lambda: ping(far, "10.0.1.13") is not None, "the way is open")
    assert ping(workload, "10.0.1.12") is not None
    assert ping(far, "fd00:10:0:1::13") is not None
    data = os.urandom(1_000_000)
    for source, target, address in ((far, workload, "10.0.1.13"), (workload, far, "10.0.1.12")):
        with sink(target, address, 5001) as received:
            send_tcp(source, address, 5001, data)
        assert hashlib.sha256(b"".join(received)).digest() == hashlib.sha256(data).digest()
    (held,) = one.state().local_endpoints
    assert (held.local, held.problem) == (wanted, "")
    one.attach_whole(wanted)
    one.detach("ovs")
    until(lambda: switch.ports("br0") == ["toworkload"] and one.links() == [], "port and interface are gone")


def test_two_endpoints_of_one_bridge_have_vlans_of_their_own(made: Rig, switched: tuple[Droplet, Switch]) -> None:
    """Access VLANs keep them apart on the bridge; between them the way is the overlay."""
    one, switch = switched
    places = []
    for number, vlan in ((3, 103), (4, 104)):
        one.attach_whole(behind(one, f"uid-{number}", number, port=f"to{number}", vlan=vlan))
        place = made.make_namespace(f"behind{number}")
        mac = f"02:00:00:00:01:0{number}"
        switch.plug("br0", f"w{number}", place, mac, f"10.0.1.1{number}/24", vlan=vlan)
        places.append(place)
    until(lambda: ping(places[0], "10.0.1.14") is not None, "the way is open")
    assert ping(places[1], "10.0.1.13") is not None
    assert switch.configure("get", "port", "to3", "tag").strip() == "103"
    assert one.counters().delivered_packets >= 4


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_port_outlives_its_daemon_and_its_switch(
    made: Rig, switched: tuple[Droplet, Switch], number: signal.Signals
) -> None:
    """A new daemon, a new database server, a new switch: the same port, and traffic. What belongs to no endpoint any
    more is removed; a port that somebody took away is a problem, which asking again heals."""
    one, switch = switched
    workload = made.make_namespace("behind")
    one.attach_whole(behind(one), behind(one, "gone", 5, port="stale"))
    switch.plug("br0", "toworkload", workload, MAC, "10.0.1.13/24")
    until(lambda: ping(workload, "10.0.1.1") is not None, "the gateway answers")
    one.stop(number)
    with IPRoute(netns=one.namespace) as ip:
        ip.link("del", index=ip.link_lookup(ifname="stale")[0])
    switch.end("switch")
    switch.end("db")
    switch.start_database()
    switch.start_switch()
    one.start()
    assert [(found.local.uid, found.problem) for found in one.state().local_endpoints] == [("ovs", "")]
    assert "stale" not in switch.ports("br0")
    until(lambda: ping(workload, "10.0.1.1") is not None, "the gateway answers again")
    (port,) = set(switch.ports("br0")) - {"toworkload"}
    switch.configure("del-port", port)
    until(lambda: one.state().local_endpoints[0].problem, "the daemon sees that its port is gone")
    assert "is no port of bridge br0 any more" in one.state().local_endpoints[0].problem
    one.attach_whole(behind(one))
    until(lambda: ping(workload, "10.0.1.1") is not None, "the gateway answers over the new port")


def test_what_cannot_be_a_port_leaves_nothing(made: Rig, switched: tuple[Droplet, Switch]) -> None:
    """No such bridge, a name that is taken by an interface or a port: refused with the reason, for now."""
    one, switch = switched
    switch.configure("add-port", "br0", "others", "--", "set", "interface", "others", "type=internal")
    results = one.attach(
        behind(one, "a", 3, bridge="absent"), behind(one, "b", 4, port="others"), behind(one, "c", 5, port="sub0")
    )
    assert [result.permanent for result in results] == [False, False, False]
    assert "no bridge absent" in results[0].error
    for result in results[1:]:
        assert "taken" in result.error, result
    assert switch.ports("br0") == ["others"]
    assert one.links() == one.pins() == []
    switch.end("db")
    (result,) = one.attach(behind(one, "d", 6))
    assert result.error


def test_without_open_vswitch_the_refusal_is_for_good(made: Rig, tmp_path: Path) -> None:
    """The reason names what is missing; other endpoints are not held up."""
    one, _, first, _ = two_droplets(made)
    (result,) = one.attach(behind(one))
    assert result.permanent
    assert "no Open vSwitch here" in result.error
    assert len(one.links()) == 1
    assert ping(first, "10.0.1.1") is not None
