# SPDX-License-Identifier: Apache-2.0
"""The programs on real interfaces: the hand-over from XDP to tc, and what the kernel does after our verdict."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from pyroute2 import IPRoute
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether

from mizar.kernel import namespaces

from .frames import PAYLOAD, datagram, tunnel
from .live import LIMIT_S, LiveDroplet, receive
from .plan import BOUNCER, DIVIDER, FAMILIES, FRONT, HOST, ME, RED, ROUTER_MAC, TUNNELS, A, B, R

UDP_SEGMENT = 103
SOL_PACKET, PACKET_VNET_HDR = 263, 15


@pytest.fixture(scope="module")
def made_live() -> Iterator[LiveDroplet]:
    live = LiveDroplet()
    yield live
    live.close()


@pytest.fixture
def live(made_live: LiveDroplet) -> LiveDroplet:
    testbed = made_live.testbed
    testbed.reset()
    testbed.as_host()
    testbed.endpoint(made_live.endpoint)
    testbed.agent(made_live.endpoint)
    return made_live


def is_tunnel(frame: bytes) -> bool:
    return frame[12:14] == b"\x08\x00" and frame[36:38] in (b"\x17\xc1", b"\x12\xb5")


@pytest.mark.parametrize("kind", TUNNELS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_tunnel_packet_reaches_the_endpoints_socket(live: LiveDroplet, kind: str, family: int) -> None:
    """From the wire into the namespace: the whole frame, and the endpoint's own stack takes it."""
    seen = live.raw(live.workload, "e0")
    port = 5000 + family + len(kind)
    inbox = live.udp(live.workload, family, port)
    arrived = datagram(family, R, A.address(family), dst_mac=A.mac, dport=port)
    live.raw(live.wire, "w0").send(tunnel(kind, arrived, src=BOUNCER))
    payload, sender = inbox.recvfrom(2048)
    assert (payload, sender[0]) == (PAYLOAD, R.address(family))
    expected = bytes(datagram(family, R, A.address(family), src_mac=ROUTER_MAC, dst_mac=A.mac, dport=port))
    assert receive(seen, lambda frame: frame.endswith(PAYLOAD)) == expected


@pytest.mark.parametrize("fields", [None, {"vni": RED.vni + 1}, {"slot": 9}], ids=["gone", "other-vpc", "other-slot"])
def test_a_frame_for_an_interface_that_is_gone_is_dropped(live: LiveDroplet, fields: dict[str, Any] | None) -> None:
    """Between XDP's note and the hand-over, the endpoint has left, or its interface's number is another's."""
    if fields is None:
        live.testbed.tables.agents.delete(live.endpoint.ifindex)
    else:
        live.testbed.agent(live.endpoint, **fields)
    seen = live.raw(live.workload, "e0")
    wire = live.raw(live.wire, "w0")
    inner = datagram(4, R, A.address(4), dst_mac=A.mac)
    wire.send(tunnel("geneve", inner, src=BOUNCER))
    wait_for_count(live, ("drop", "DELIVERY_FAILED"))
    counted = live.testbed.counted()
    assert counted["drop", "DELIVERY_FAILED"] == {"packets": 1, "bytes": len(inner)}
    assert counted["vpc", RED.slot]["dropped_packets"] >= 1  # the endpoint's own multicast is refused meanwhile
    live.testbed.agent(live.endpoint)
    wire.send(tunnel("geneve", datagram(4, R, A.address(4), dst_mac=A.mac, payload=b"second"), src=BOUNCER))
    assert receive(seen, lambda frame: frame.endswith((PAYLOAD, b"second"))).endswith(b"second")


def wait_for_count(live: LiveDroplet, key: tuple[str, Any]) -> None:
    """Until a counter has moved, with a limit."""
    end = time.monotonic() + LIMIT_S
    while key not in live.testbed.counted():
        assert time.monotonic() < end, live.testbed.counted()


def test_what_is_no_tunnel_packet_reaches_the_hosts_stack(live: LiveDroplet) -> None:
    """A frame without a note goes on as if no program were there."""
    seen = live.raw(live.droplet, "u0")
    frame = bytes(Ether(src=HOST.mac, dst=ME.mac) / IP(src=HOST.address, dst=ME.address) / UDP(dport=9) / PAYLOAD)
    live.raw(live.wire, "w0").send(frame)
    assert receive(seen, lambda got: got.endswith(PAYLOAD)) == frame


@pytest.mark.parametrize("family", FAMILIES)
def test_a_bounced_packet_is_back_on_the_wire(live: LiveDroplet, family: int) -> None:
    live.testbed.reset()
    live.testbed.as_bouncer()
    wire = live.raw(live.wire, "w0")
    wire.send(tunnel("geneve", datagram(family, A, R.address(family)), src=DIVIDER))
    inner = datagram(family, A, R.address(family), ttl=63, src_mac=ROUTER_MAC, dst_mac=R.mac)
    expected = tunnel("geneve", inner, src=ME, dst=HOST, told=DIVIDER)
    assert receive(wire, lambda frame: is_tunnel(frame) and frame[:6] != expected[6:12]) == expected


@pytest.mark.parametrize("kind", TUNNELS)
@pytest.mark.parametrize("family", FAMILIES)
def test_an_endpoints_datagram_goes_into_the_tunnel(live: LiveDroplet, kind: str, family: int) -> None:
    """From a socket to the wire: the endpoint finds its neighbour by an answered ARP request or solicitation, and its
    checksum, left to the hardware, is right on the wire."""
    live.testbed.agent(live.endpoint, tunnel=kind)
    wire = live.raw(live.wire, "w0")
    outbox = live.udp(live.workload, family)
    outbox.sendto(PAYLOAD, (R.address(family), 4002))
    frame = receive(wire, is_tunnel)
    sent = Ether(frame[50:])
    inner = datagram(family, A, R.address(family), sport=sent[UDP].sport)
    if family == 4:
        inner[IP].id, inner[IP].flags = sent[IP].id, sent[IP].flags
    else:
        inner["IPv6"].fl = sent["IPv6"].fl
    source_port = int.from_bytes(frame[34:36], "big")
    assert frame == tunnel(kind, inner, src=ME, dst=BOUNCER, sport=source_port)


def test_an_endpoint_pings_its_gateway(live: LiveDroplet) -> None:
    """Through the endpoint's own stack, by ping sockets of both families."""

    def ping_socket(family: int) -> socket.socket:
        Path("/proc/sys/net/ipv4/ping_group_range").write_text("0 2147483647")
        kind, protocol = (socket.AF_INET, socket.IPPROTO_ICMP) if family == 4 else (socket.AF_INET6, 58)
        return socket.socket(kind, socket.SOCK_DGRAM, protocol)

    for family, request, answer in ((4, 8, 0), (6, 128, 129)):
        one = live.open(live.workload, partial(ping_socket, family))
        one.sendto(bytes([request, 0, 0, 0, 0, 0, 0, 1]) + PAYLOAD, (FRONT.gateway(family), 0))
        data, sender = one.recvfrom(2048)
        assert (data[0], data[8:], sender[0]) == (answer, PAYLOAD, FRONT.gateway(family))


@pytest.mark.parametrize("kind", TUNNELS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_superpacket_is_cut_into_right_segments(live: LiveDroplet, kind: str, family: int) -> None:
    """GSO: one 5 x 1000 byte skb passes the agent; the kernel cuts it and mends lengths and checksums, all headers."""
    live.testbed.agent(live.endpoint, tunnel=kind)
    wire = live.raw(live.wire, "w0")
    outbox = live.udp(live.workload, family)
    outbox.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, 1000)
    segments = [bytes([number]) * 1000 for number in range(5)]
    outbox.sendto(b"".join(segments), (R.address(family), 4002))
    ports = set()
    for expected in segments:
        frame = receive(wire, is_tunnel)
        assert frame.endswith(expected)
        assert len(frame) == 50 + 14 + (20 if family == 4 else 40) + 8 + 1000
        outer, inner = Ether(frame), Ether(frame[50:])
        assert bytes(inner) == rebuilt(inner)
        assert (outer[IP].len, outer[UDP].len, outer[UDP].chksum) == (len(frame) - 14, len(frame) - 34, 0)
        assert frame[14:34] == rebuilt_header(outer)
        ports.add(outer[UDP].sport)
    assert len(ports) == 1
    assert live.testbed.counted()["vpc", RED.slot]["sent_packets"] == 5


@pytest.mark.parametrize("linear", [14, 30, 60])
@pytest.mark.parametrize("family", FAMILIES)
def test_headers_outside_of_the_linear_part_are_found(live: LiveDroplet, family: int, linear: int) -> None:
    """A packet socket may put any part of a jumbo frame's headers into pages, where programs cannot look at first."""
    for namespace, names in ((live.droplet, ("u0", "h0")), (live.wire, ("w0",)), (live.workload, ("e0",))):
        for name in names:
            namespace.run(partial(set_mtu, name, 6000))
    payload = bytes(range(250)) * 20
    sent = datagram(family, A, R.address(family), payload=payload)
    wire = live.raw(live.wire, "w0")
    outbox = live.raw(live.workload, "e0")
    outbox.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
    vnet = struct.pack("=BBHHHH", 0, 0, linear, 0, 0, 0)  # struct virtio_net_hdr: hdr_len alone
    outbox.send(vnet + bytes(sent))
    assert receive(wire, is_tunnel)[50:] == bytes(sent)


def set_mtu(name: str, mtu: int) -> None:
    with IPRoute() as netlink:
        netlink.link("set", index=netlink.link_lookup(ifname=name)[0], mtu=mtu)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_tunnel_of_the_endpoints_own_goes_through(live: LiveDroplet, family: int) -> None:
    """The kernel has marked such packets as encapsulated already; they fit into our tunnel all the same."""
    inside = "172.20.0.2"
    address, device = R.address(family), f"own{family}"

    def make() -> None:
        with IPRoute() as netlink:
            (under,) = netlink.link_lookup(ifname="e0")
            remote = {"vxlan_group" if family == 4 else "vxlan_group6": address}
            netlink.link("add", ifname=device, kind="vxlan", vxlan_id=7, vxlan_link=under, vxlan_port=8472, **remote)
            (index,) = netlink.link_lookup(ifname=device)
            netlink.addr("add", index=index, address="172.20.0.1", prefixlen=24)
            netlink.link("set", index=index, state="up")
            netlink.neigh("add", dst=inside, lladdr="02:00:00:00:00:77", ifindex=index)

    live.workload.run(make)
    wire = live.raw(live.wire, "w0")
    live.udp(live.workload, 4).sendto(PAYLOAD, (inside, 9))
    frame = receive(wire, lambda got: is_tunnel(got) and got.endswith(PAYLOAD))
    outer, inner = Ether(frame), Ether(frame[50:])
    assert (outer[IP].len, frame[14:34]) == (len(frame) - 14, rebuilt_header(outer))
    assert (inner.src, inner.payload.src, inner.payload.dst) == (A.mac, A.address(family), address)
    own = Ether(bytes(inner[UDP].payload)[8:])
    assert bytes(own) == rebuilt(own)
    live.workload.run(partial(delete_link, device))


def delete_link(name: str) -> None:
    with IPRoute() as netlink:
        netlink.link("del", index=netlink.link_lookup(ifname=name)[0])


def rebuilt(frame: Any) -> bytes:
    """The same frame with all lengths and checksums computed by scapy."""
    copy = frame.copy()
    for layer, names in (("IP", ("len", "chksum")), ("IPv6", ("plen",)), ("UDP", ("len", "chksum"))):
        if layer in copy:
            for name in names:
                delattr(copy[layer], name)
    return bytes(copy)


def rebuilt_header(frame: Any) -> bytes:
    """Its outer IPv4 header, with the checksum computed by scapy."""
    header = frame[IP].copy()
    header.remove_payload()
    del header.chksum
    return bytes(header)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_neighbour_on_the_same_droplet_gets_the_frame(live: LiveDroplet, family: int) -> None:
    """redirect_peer into a second namespace, where a real stack listens."""
    with namespaces.anonymous() as other:
        index = live.veth("h1", "e0", other, peer_mac=B.mac)
        try:
            live.testbed.endpoint(B, ifindex=index)
            seen = live.raw(other, "e0")
            outbox = live.udp(live.workload, family)
            outbox.sendto(PAYLOAD, (B.address(family), 4002))
            frame = Ether(receive(seen, lambda got: got.endswith(PAYLOAD)))
            assert (frame.src, frame.dst) == (ROUTER_MAC, B.mac)
            assert (frame.payload.src, frame.payload.dst) == (A.address(family), B.address(family))
        finally:
            live.remove(index)
