# SPDX-License-Identifier: Apache-2.0
"""A virtual machine's endpoint: a tap that outlives the daemon and the machine, with the offloads of virtio-net."""

import signal
import socket
from collections.abc import Callable
from functools import partial

import pytest
from pyroute2 import IPRoute
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.l2 import ARP, Ether

from mizar._built import transit_pb2 as pb
from mizar.kernel import taps
from mizar.kernel.namespaces import Namespace
from tests.transit.machine import Machine
from tests.transit.rig import BACK, FRONT, Droplet, Rig, endpoint, local, put_network, until
from tests.transit.test_life import alone
from tests.transit.test_traffic import two_droplets
from tests.transit.traffic import ping

ROUTER = "02:4d:5a:00:00:01"
MAC, ADDRESS = "02:00:00:00:01:03", "10.0.1.13"  # endpoint 3 of "front"


def vm(host: Droplet, uid: str = "vm", number: int = 3, **tap: int | str) -> pb.LocalEndpoint:
    """Endpoint `number` of "front" with a tap."""
    workload = pb.Workload(tap=pb.Tap(**tap))  # type: ignore[arg-type]
    return pb.LocalEndpoint(uid=uid, endpoint=endpoint(number, FRONT, host), workload=workload)


def frame(to: str, above: object) -> bytes:
    """What the machine sends to an address."""
    return bytes(Ether(src=MAC, dst=ROUTER) / IP(src=ADDRESS, dst=to, id=7) / above)


def of(layer: type, **fields: object) -> Callable[[bytes], bool]:
    """Whether a frame has a layer with these fields."""

    def check(found: bytes) -> bool:
        parsed = Ether(found)
        return layer in parsed and all(getattr(parsed[layer], name) == value for name, value in fields.items())

    return check


def test_a_machine_talks_through_its_tap(made: Rig) -> None:
    """ARP is answered, a neighbour on the droplet and one on another exchange pings with it, both ways."""
    one, two, first, second = two_droplets(made)
    (result,) = one.attach(vm(one))
    assert not result.error
    two.apply(pb.Change(put_endpoint=endpoint(3, FRONT, one)))
    with Machine(one.namespace, result.host_interface) as machine:
        until(partial(_pings, machine, "10.0.1.1"), "the kernel has seen that the tap is open")
        machine.send(bytes(Ether(src=MAC, dst="ff:ff:ff:ff:ff:ff") / ARP(hwsrc=MAC, psrc=ADDRESS, pdst="10.0.1.11")))
        answer = Ether(machine.receive(of(ARP, op=2)))
        assert (answer[ARP].hwsrc, answer[ARP].psrc, answer.dst) == (ROUTER, "10.0.1.11", MAC)
        for other in ("10.0.1.11", "10.0.1.12"):
            until(partial(_pings, machine, other), f"{other} answers the machine")
        for place in (first, second):
            with Namespace.by_name(place) as entered:
                client = entered.run(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            client.sendto(b"to the machine", (ADDRESS, 4000))
            got = Ether(machine.receive(of(UDP, dport=4000)))
            assert (got.src, got.dst, bytes(got[UDP].payload)) == (ROUTER, MAC, b"to the machine")
            client.close()


def _pings(machine: Machine, other: str) -> bool:
    machine.send(frame(other, ICMP(id=9) / b"ping"))
    try:
        machine.receive(of(ICMP, type=0, id=9), limit_s=0.5)
    except AssertionError:
        return False
    return True


@pytest.mark.parametrize("target", ["10.0.1.11", "10.0.1.12"], ids=["same-droplet", "tunnel"])
def test_offloads_of_virtio_net_go_through(made: Rig, target: str) -> None:
    """A partial checksum and a TCP superpacket (vnet_hdr) reach a real stack whole: it takes every byte."""
    one, two, first, second = two_droplets(made)
    place = first if target == "10.0.1.11" else second
    (result,) = one.attach(vm(one))
    two.apply(pb.Change(put_endpoint=endpoint(3, FRONT, one)))
    with Namespace.by_name(place) as entered:
        listener = entered.run(lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM))
    listener.bind((target, 5001))
    listener.listen()
    listener.settimeout(10)
    with listener, Machine(one.namespace, result.host_interface, offloads=True) as machine:
        until(partial(_pings, machine, target), "the way is open")
        head = {"sport": 4001, "dport": 5001, "window": 65535}
        machine.send(_partial(frame(target, TCP(**head, flags="S", seq=100))), checksum_at=(34, 16))
        reply = Ether(machine.receive(of(TCP, flags="SA")))
        ack = reply[TCP].seq + 1
        machine.send(_partial(frame(target, TCP(**head, flags="A", seq=101, ack=ack))), checksum_at=(34, 16))
        data = bytes(range(250)) * 40
        whole = frame(target, TCP(**head, flags="PA", seq=101, ack=ack) / data)
        machine.send(_partial(whole), checksum_at=(34, 16), segment_bytes=1000)
        connection, _ = listener.accept()
        connection.settimeout(10)
        received = b""
        while len(received) < len(data):
            received += connection.recv(1 << 16)
        assert received == data
        connection.sendall(data)
        back = b""
        while len(back) < len(data):
            segment = Ether(machine.receive(of(TCP, dport=4001, seq=ack + len(back))))  # not one that came before
            back += bytes(segment[TCP].payload)[: segment[IP].len - 20 - 4 * segment[TCP].dataofs]
            seen = TCP(**head, flags="A", seq=101 + len(data), ack=ack + len(back))
            machine.send(_partial(frame(target, seen)), checksum_at=(34, 16))
        assert back == data
        connection.close()


def _partial(whole: bytes) -> bytes:
    """With the pseudo header's sum where the TCP checksum belongs: the rest is left to hardware."""
    length = len(whole) - 34
    words = whole[26:34] + bytes([0, 6]) + length.to_bytes(2, "big")
    total = sum(int.from_bytes(words[i : i + 2], "big") for i in range(0, len(words), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return whole[:50] + total.to_bytes(2, "big") + whole[52:]


def test_what_a_machine_must_not_send_is_dropped(made: Rig) -> None:
    """The agent is at the tap as at any endpoint: another's address or MAC goes nowhere, and is counted."""
    one, (first,) = alone(made, "uid-1")
    (result,) = one.attach(vm(one))
    with Machine(one.namespace, result.host_interface) as machine:
        machine.send(bytes(Ether(src=MAC, dst=ROUTER) / IP(src="10.0.1.12", dst="10.0.1.11") / UDP() / b"x"))
        machine.send(bytes(Ether(src="02:00:00:00:01:07", dst=ROUTER) / IP(src=ADDRESS, dst="10.0.1.11") / UDP()))
        until(lambda: {"SPOOFED_ADDRESS", "SPOOFED_MAC"} <= one.drops().keys(), "both are counted")
        until(partial(_pings, machine, "10.0.1.11"), "and the machine itself is not shut out")
    assert ping(first, "10.0.1.1") is not None


def test_a_tap_is_as_it_was_asked_for(made: Rig) -> None:
    """Name, owner and queues; the state says the same, and asking again changes nothing."""
    one, _ = alone(made, "uid-1")
    wanted = vm(one, name="vm-web", owner=65534, queues=2)
    (result,) = one.attach(wanted)
    assert (result.error, result.host_interface) == ("", "vm-web")
    with IPRoute(netns=one.namespace) as ip:
        (link,) = ip.link("get", ifname="vm-web")
    data = dict(link.get_attr("IFLA_LINKINFO").get_attr("IFLA_INFO_DATA")["attrs"])
    assert (data["IFLA_TUN_OWNER"], data["IFLA_TUN_MULTI_QUEUE"], data["IFLA_TUN_PERSIST"]) == (65534, 1, 1)
    assert data["IFLA_TUN_VNET_HDR"] == 1
    assert link.get_attr("IFLA_MTU") == 1450
    (held,) = (found for found in one.state().local_endpoints if found.local.uid == "vm")
    assert (held.local, held.problem) == (wanted, "")
    with Machine(one.namespace, "vm-web", queues=2) as machine:
        until(partial(_pings, machine, "10.0.1.11"), "the machine's way is open")
        one.attach_whole(wanted)
        assert _pings(machine, "10.0.1.11")


def test_a_taps_name_may_be_taken(made: Rig) -> None:
    """By another interface or by another endpoint: refused, and nothing of either is touched."""
    one, _ = alone(made, "uid-1")
    one.attach_whole(vm(one, name="vm-web"))
    results = one.attach(vm(one, "other", 4, name="vm-web"), vm(one, "third", 5, name="sub0"))
    assert [result.permanent for result in results] == [False, False]
    assert "taken by endpoint vm of" in results[0].error
    assert "not Mizar's" in results[1].error
    with Machine(one.namespace, "vm-web") as machine:
        until(partial(_pings, machine, "10.0.1.11"), "the first one's machine has its tap")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_machine_does_not_notice_a_new_daemon(made: Rig, number: int) -> None:
    """It keeps its tap open and talks, with no daemon and with the next one; detached, the tap is gone."""
    one, _ = alone(made, "uid-1")
    (result,) = one.attach(vm(one))
    with Machine(one.namespace, result.host_interface) as machine:
        until(partial(_pings, machine, "10.0.1.11"), "the machine's way is open")
        one.stop(number)
        assert _pings(machine, "10.0.1.11")
        one.start()
        assert _pings(machine, "10.0.1.11")
        assert {found.local.uid: found.problem for found in one.state().local_endpoints} == {"uid-1": "", "vm": ""}
        one.detach("vm")
        until(lambda: result.host_interface not in one.links(), "the tap is gone")
    one.apply(put_network(BACK, one))
    with pytest.raises(OSError, match=r".*"), Machine(one.namespace, result.host_interface) as late:
        late.send(b"")


def test_a_tap_without_its_machine_stays(made: Rig) -> None:
    """Power off and on again: the same tap; a tap that somebody deletes is lost, and made again when asked for."""
    one, (first,) = alone(made, "uid-1")
    (result,) = one.attach(vm(one))
    for _ in range(2):
        with Machine(one.namespace, result.host_interface) as machine:
            until(partial(_pings, machine, "10.0.1.11"), "the machine's way is open")
        assert ping(first, ADDRESS, 0.1) is None
    events = one.client.WatchEvents(pb.WatchEventsRequest())
    events.initial_metadata()
    with IPRoute(netns=one.namespace) as ip:
        ip.link("del", index=ip.link_lookup(ifname=result.host_interface)[0])
    changed = next(events).endpoint_changed
    assert (changed.uid, changed.state) == ("vm", "lost")
    events.cancel()
    one.attach_whole(vm(one))
    with Machine(one.namespace, result.host_interface) as machine:
        until(partial(_pings, machine, "10.0.1.11"), "the new tap works")


def test_a_kernel_without_taps_says_so(made: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """One sentence that names the device."""
    monkeypatch.setattr(taps, "_DEVICE", "/dev/net/no-such-device")
    with pytest.raises(Exception, match="/dev/net/no-such-device"):
        taps._open()


def test_a_container_and_a_machine_of_one_uid(made: Rig) -> None:
    """The workload of a uid changes its kind: the veth goes, the tap comes."""
    one, (first, _) = alone(made, "uid-1", "uid-2")
    (result,) = one.attach(vm(one, "uid-2", 2))
    assert not result.error
    with IPRoute(netns=one.namespace) as ip:
        (link,) = ip.link("get", ifname=result.host_interface)
    assert link.get_attr("IFLA_LINKINFO").get_attr("IFLA_INFO_KIND") == "tun"
    one.attach_whole(local("uid-2", endpoint(2, FRONT, one), name=first.replace("e1", "e2")))
    assert ping(first, "10.0.1.12") is not None
