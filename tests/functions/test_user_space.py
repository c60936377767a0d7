# SPDX-License-Identifier: Apache-2.0
"""The base of functions in user space: what it reads of packets, what it sends, counts and survives."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from ipaddress import ip_address
from typing import Any

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether

from mizar.functions.frame import frame_of
from mizar.functions.tunnelled import Inner, Option, TunnelPacket, completed, read, read_inner
from mizar.functions.user_space import UserSpaceFunction, Wire
from mizar.kernel import namespaces
from mizar.kernel.namespaces import Namespace
from mizar.lab.probes import readable
from mizar.model.errors import InvalidError
from mizar.oracle.checksum import ones_sum
from tests.kernel.test_xsk import run

LIMIT_S = 30.0
ROUTER = "02:4d:5a:00:00:01"
TUNNEL: dict[str, Any] = {"vni": 9, "options": [{"class": 0x0102, "type": 1, "data": "cafe0001"}]}
FOUR = {"ethernet": {"src": ROUTER, "dst": "02:00:00:00:00:07"}, "ipv4": {}, "udp": {"src": 7, "dst": 9}}
SIX = {"ethernet": FOUR["ethernet"], "ipv6": {}, "tcp": {"src": 7, "dst": 9}}


def scapied(frame: bytes) -> Any:
    """What scapy reads, with all checksums as they should be."""
    found = Ether(frame)
    for layer in (IP, UDP, TCP):
        if found.haslayer(layer):
            del found[layer].chksum
    assert bytes(Ether(bytes(found))) == frame
    return found


@pytest.mark.parametrize("inner", [FOUR, SIX], ids=["IPv4", "IPv6"])
def test_a_packet_goes_back_and_on(inner: dict[str, Any]) -> None:
    """Plain frames from the endpoint, with right checksums; the rest of the packet is as it came."""
    packet = read(frame_of({"tunnel": TUNNEL, **inner, "payload": "hello"}))
    assert packet is not None
    assert packet.inner is not None
    assert (packet.tunnel, packet.vni, str(packet.outer_source)) == ("geneve", 9, "172.31.0.1")
    assert packet.options == (Option(0x0102, 1, bytes.fromhex("cafe0001")),)
    assert packet.inner.ports == (7, 9)
    back = scapied(packet.inner.back())
    layer = IP if back.haslayer(IP) else IPv6
    assert (back.src, back.dst) == ("02:00:00:00:00:07", ROUTER)
    assert (back[layer].src, back[layer].dst) == (str(packet.inner.destination), str(packet.inner.source))
    assert (back[layer].payload.sport, back[layer].payload.dport) == (9, 7)
    to = ip_address("10.0.1.77" if layer is IP else "fd00::77")
    onward = scapied(packet.inner.forward(to))
    assert (onward[layer].src, onward[layer].dst) == (str(packet.inner.destination), str(to))
    assert bytes(onward[layer].payload.payload) == b"hello"
    with pytest.raises(InvalidError, match="cannot go on"):
        packet.inner.forward("fd00::1" if layer is IP else "10.0.0.1")


def test_what_is_no_tunnel_packet_is_none() -> None:
    whole = frame_of({"tunnel": TUNNEL, **FOUR})
    for end in range(len(whole)):
        found = read(whole[:end])
        assert found is None or found.inner is None or len(found.inner_frame) >= 14
    assert read(frame_of(FOUR)) is None
    assert read(b"") is None


@pytest.mark.parametrize("inner", [FOUR, SIX], ids=["IPv4", "IPv6"])
def test_a_checksum_that_was_left_to_hardware_is_completed(inner: dict[str, Any]) -> None:
    """Only that: one that is right or wrong stays."""
    whole = frame_of({**inner, "payload": "abc"})
    parsed = read_inner(whole)
    assert parsed is not None
    at = parsed.transport + (6 if parsed.protocol == 17 else 16)
    length = (len(whole) - parsed.transport).to_bytes(4, "big")
    pseudo = parsed.source.packed + parsed.destination.packed + length + parsed.protocol.to_bytes(4, "big")
    partial = whole[:at] + ones_sum(pseudo).to_bytes(2, "big") + whole[at + 2 :]
    wrong = whole[:at] + b"\x12\x34" + whole[at + 2 :]
    assert [completed(one) for one in (whole, partial, wrong)] == [whole, whole, wrong]


class Echo(UserSpaceFunction):
    """Sends everything back; dies of a certain payload."""

    ready = threading.Event()

    def started(self) -> None:
        self.ready.set()

    def packet(self, packet: TunnelPacket) -> None:
        assert packet.inner is not None
        self.inner(packet.inner)

    def inner(self, packet: Inner) -> None:
        if packet.payload == b"poison":
            raise ValueError("poison")
        self.send(packet.back())


@pytest.fixture
def pair() -> Iterator[tuple[Namespace, socket.socket]]:
    """A namespace with eth0, and a raw socket on the other end of it."""
    if os.geteuid() != 0:
        pytest.skip("needs root")

    def make() -> socket.socket:
        peer = ["peer", "name", "eth0", "netns", f"/proc/self/fd/{inside.fd}"]
        run("ip", "link", "add", "ft0", "type", "veth", *peer, keep=inside.fd)
        run("ip", "link", "set", "ft0", "up")
        made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        made.bind(("ft0", 0))
        return made

    with namespaces.anonymous() as inside, namespaces.anonymous() as outside, outside.run(make) as wire:
        inside.run(lambda: run("ip", "link", "set", "eth0", "up"))
        yield inside, wire


@pytest.mark.root
@pytest.mark.parametrize(("wire", "plain"), [("xdp", False), ("veth", False), ("xdp", True)])
def test_a_function_at_work(pair: tuple[Namespace, socket.socket], wire: Wire, plain: bool) -> None:
    """Answers what comes, survives a packet that it dies of, counts, and ends when it is told to."""
    inside, outside = pair
    Echo.ready.clear()
    function = Echo(wire=wire, plain=plain, namespace=inside)
    worker = threading.Thread(target=lambda: function.run(signals=False))
    worker.start()
    around = {} if plain else {"tunnel": TUNNEL}
    try:
        assert Echo.ready.wait(LIMIT_S)
        poison = frame_of({**around, **FOUR, "payload": "poison"})
        for _ in range(int(LIMIT_S / 0.05)):  # what is sent while a link comes up may be lost
            outside.send(poison)
            if function.counters.failed:
                break
            readable([outside.fileno()], 0.05)
        asked = frame_of({**around, **FOUR, "payload": "hello"})
        answer = read_inner(frame_of({**FOUR, "payload": "hello"}))
        assert answer is not None
        until(outside, asked, answer.back())
    finally:
        function.stop()
        worker.join(LIMIT_S)
    assert not worker.is_alive()
    assert function.counters.received >= 2
    assert function.counters.failed
    assert function.counters.sent >= 1
    assert function.mode == ("veth" if wire == "veth" else "generic" if plain else "driver")


def until(wire: socket.socket, asked: bytes, wanted: bytes) -> None:
    """Sends until the answer comes: what is sent while a link comes up may be lost."""
    for _ in range(int(LIMIT_S / 0.1)):
        wire.send(asked)
        while readable([wire.fileno()], 0.1):
            if wire.recv(65536) == wanted:
                return
    raise AssertionError("no answer")
