# SPDX-License-Identifier: Apache-2.0
"""Functions that take tunnel packets as they are: what they see, what they answer, and that it stays so."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

import pytest
from scapy.contrib.geneve import GENEVE
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.layers.vxlan import VXLAN

from mizar.api.client import Client
from mizar.kernel.namespaces import Namespace
from mizar.lab import lab as labs
from mizar.lab.names import LabName
from mizar.lab.probes import readable
from mizar.model.manifest import parse_manifests, parse_resource
from mizar.model.resources import Ref
from tests.lab.conftest import wait_until
from tests.lab.test_groups import EXAMPLES, changed, up

PORT = 4200
OPTION = bytes.fromhex("0102 01 01 cafe0001")
PORTS = {"inspector": 6081, "older": 4789}
LIMIT_S = 30.0
ROUTER_MAC = "02:4d:5a:00:00:01"
ROUTER = bytes.fromhex(ROUTER_MAC.replace(":", ""))


@dataclass(frozen=True)
class Seen:
    """What a function reads of a tunnel packet: the outer headers, and the inner ones behind them."""

    ether_to: str
    outer_from: str
    outer_to: str
    port: int
    vni: int
    options: bytes
    inner_ether: tuple[str, str]
    inner_from: tuple[str, int]
    inner_to: tuple[str, int]
    payload: bytes
    whole: bool
    """UDP's length and checksum of the inner packet are as they would be on a wire."""


def seen_in(frame: bytes) -> Seen | None:
    """What a frame says, None for one that is no tunnel packet with a datagram to PORT in it."""
    outer = Ether(frame)
    ip = outer.payload
    if not isinstance(ip, IP | IPv6) or not isinstance(ip.payload, UDP):
        return None
    udp = ip.payload
    if udp.dport == PORTS["older"]:
        header = VXLAN(bytes(udp.payload))
        options, inner = b"", header.payload
    elif udp.dport == PORTS["inspector"]:
        raw = bytes(udp.payload)
        size = 4 * (raw[0] & 0x3F)
        header = GENEVE(raw[:8])
        options, inner = raw[8 : 8 + size], Ether(raw[8 + size :])
    else:
        return None
    if not inner.haslayer(UDP) or inner[UDP].dport != PORT:
        return None
    packet = inner.payload
    again = packet.__class__(bytes(packet))
    del again[UDP].chksum
    del again[UDP].len
    return Seen(
        outer.dst, ip.src, ip.dst, udp.dport, header.vni, options, (inner.src, inner.dst),
        (packet.src, packet[UDP].sport), (packet.dst, packet[UDP].dport), bytes(packet[UDP].payload),
        bytes(again) == bytes(packet),
    )  # fmt: skip


class Function:
    """A process in a namespace that reads its veth, and answers a request with what it holds, backwards: as an
    ordinary datagram from its own address."""

    def __init__(self, namespace: str) -> None:
        self.seen: list[Seen] = []
        self.frames: list[bytes] = []
        with Namespace.by_name(namespace) as inside:
            self.wire = inside.run(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)))
            self._ways = {
                4: inside.run(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)),
                6: inside.run(lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)),
            }
        self.wire.bind(("eth0", 0))
        self._ways[6].setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        for family, way in self._ways.items():
            way.bind(("0.0.0.0" if family == 4 else "::", PORT))
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work)
        self._thread.start()

    def _work(self) -> None:
        while not self._stop.is_set():
            if not readable([self.wire.fileno()], 0.1):
                continue
            frame = self.wire.recv(65536)
            found = seen_in(frame)
            if found is not None:
                self.seen.append(found)
                self.frames.append(frame)
                way = self._ways[ip_address(found.inner_from[0]).version]
                with contextlib.suppress(OSError):  # a neighbour is not known yet: the client asks again
                    way.sendto(found.payload[::-1], found.inner_from)

    def close(self) -> None:
        """Ends it."""
        self._stop.set()
        self._thread.join(LIMIT_S)
        for each in (self.wire, *self._ways.values()):
            each.close()


def ask(namespace: str, address: str, payload: bytes) -> bytes:
    """Sends a request again and again until there is an answer; returns it."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with Namespace.by_name(namespace) as inside:
        client = inside.run(lambda: socket.socket(family, socket.SOCK_DGRAM))
    with client:
        client.connect((address, PORT))
        for _ in range(round(LIMIT_S / 0.2)):
            with contextlib.suppress(OSError):
                client.send(payload)
            if readable([client.fileno()], 0.2):
                with contextlib.suppress(OSError):
                    return client.recv(65536)
    raise AssertionError(f"no answer from {address}")


@pytest.fixture
def bypass(lab: LabName) -> LabName:
    up(lab, "bypass-decapsulation.yaml", "bypass")
    return lab


@pytest.fixture
def over_ipv6(lab: LabName) -> LabName:
    text = (EXAMPLES / "bypass-decapsulation.yaml").read_text().replace("{name: bypass}", f"{{name: {lab.name}}}")
    text = text.replace("{droplets: 2}", '{droplets: 2, substrate: {cidr: "fd31::/64", mtu: 1500}}')
    labs.up(parse_manifests(text, "test"))
    return lab


@pytest.fixture
def client(lab: LabName) -> Iterator[Client]:
    with Client(lab.server_url) as made:
        yield made


def of(client: Client, name: str) -> dict[str, Any]:
    status: dict[str, Any] = client.get("Endpoint", name, "blue")["status"]
    return status


def check(lab: LabName, client: Client, function: str, sender: str, address: str) -> Seen:
    """A request and its answer; and that what the function saw of it is a whole tunnel packet of the right VPC."""
    worker = Function(lab.endpoint_namespace("blue", function))
    try:
        payload = f"{sender} to {address}".encode()
        assert ask(lab.endpoint_namespace("blue", sender), address, payload) == payload[::-1]
        seen = next(one for one in worker.seen if one.payload == payload)
    finally:
        worker.close()
    version = ip_address(address).version
    own = next(one for one in of(client, sender)["addresses"] if ip_address(one).version == version)
    mac = of(client, function)["mac"]
    host = of(client, function)["host"]
    assert (seen.ether_to, seen.inner_ether) == (mac, (ROUTER_MAC, mac))
    assert seen.vni == client.get("VPC", "main", "blue")["status"]["vni"]
    assert seen.port == PORTS[function] or sender == "far", "what its own droplet bounces comes as it was sent"
    assert (seen.inner_from[0], seen.inner_to, seen.whole) == (own, (address, PORT), True)
    assert seen.outer_to == client.get("Droplet", host)["spec"]["address"]
    assert seen.options.startswith(OPTION) == (seen.port == PORTS["inspector"])
    return seen


def test_a_function_sees_tunnel_packets_and_answers(bypass: LabName, client: Client) -> None:
    """Geneve and VXLAN, inner packets of both families, from its own droplet and another: always the same thing. Then
    it becomes an ordinary endpoint, and a function again, over AF_XDP too."""
    addresses = {name: client.get("Droplet", name)["spec"]["address"] for name in ("d1", "d2")}
    for function in ("inspector", "older"):
        for address in of(client, function)["addresses"]:
            assert check(bypass, client, function, "near", address).outer_from == addresses["d1"]
            assert check(bypass, client, function, "far", address).outer_from in addresses.values()
    (address, _) = sorted(of(client, "inspector")["addresses"], key=len)
    changed(client, "inspector", bypassDecapsulation=False)
    with Namespace.by_name(bypass.endpoint_namespace("blue", "inspector")) as inside:
        echo = inside.run(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    echo.bind((address, PORT))
    answering = threading.Thread(target=lambda: echo.sendto(b"plain", echo.recvfrom(64)[1]))
    answering.start()
    assert ask(bypass.endpoint_namespace("blue", "far"), address, b"x") == b"plain"
    answering.join(LIMIT_S)
    echo.close()
    changed(client, "inspector", bypassDecapsulation=True)
    for sender in ("near", "far"):
        check(bypass, client, "inspector", sender, address)
    over_af_xdp(bypass, client)


def over_af_xdp(lab: LabName, client: Client) -> None:
    """The example of a function that works over AF_XDP: it reads VNI and options, and answers a datagram as it is."""
    vni = client.get("VPC", "main", "blue")["status"]["vni"]
    with echoing(lab, "inspector") as (mode, lines):
        assert mode == "driver"
        for sender in ("near", "far"):
            for address in of(client, "inspector")["addresses"]:
                payload = f"{sender} to {address} over AF_XDP".encode()
                assert ask(lab.endpoint_namespace("blue", sender), address, payload) == payload
                line = next(line for line in lines if line.get("inner", ["", ""])[1] == address)
                assert (line["vni"], line["tunnel"]) == (vni, "geneve")
                assert [0x0102, 1, "cafe0001"] in line["options"]


@contextlib.contextmanager
def echoing(lab: LabName, name: str) -> Iterator[tuple[str, Iterator[dict[str, Any]]]]:
    """examples/tunnel_echo.py in an endpoint's namespace: the mode of its program, and what it says of each packet."""
    with Namespace.by_name(lab.endpoint_namespace("blue", name)) as inside:
        command = [sys.executable, str(EXAMPLES / "tunnel_echo.py")]
        process = inside.run(lambda: subprocess.Popen(command, stdout=subprocess.PIPE, bufsize=0))
    assert process.stdout is not None
    output = process.stdout

    def lines() -> Iterator[dict[str, Any]]:
        while readable([output.fileno()], LIMIT_S):
            yield json.loads(output.readline())

    try:
        said = lines()
        yield next(said)["mode"], said
    finally:
        process.kill()
        process.wait()
        output.close()


@pytest.mark.long
def test_it_stays_so_over_ipv6_and_when_it_moves(over_ipv6: LabName, client: Client) -> None:
    """Outer IPv6; then from the other droplet, where it lives then."""
    for target in ("", "d2", "d1"):
        if target:
            command = [sys.executable, "-m", "mizar.cli.main", "endpoint", "move", "blue/inspector", "--to", target]
            subprocess.run(
                [*command, "--server", over_ipv6.server_url], check=True, stdout=subprocess.DEVNULL, timeout=60
            )
        for address in of(client, "inspector")["addresses"]:
            for sender in ("near", "far"):
                assert ":" in check(over_ipv6, client, "inspector", sender, address).outer_from


@pytest.mark.long
@pytest.mark.parametrize("sender", ["near", "far"])
def test_superpackets_come_as_packets_of_a_wire(bypass: LabName, client: Client, sender: str) -> None:
    """Twenty datagrams that the sender gives to its kernel as one: each in a tunnel packet of its own, and whole."""
    (address, _) = sorted(of(client, "inspector")["addresses"], key=len)
    check(bypass, client, "inspector", sender, address)
    worker = Function(bypass.endpoint_namespace("blue", "inspector"))
    with Namespace.by_name(bypass.endpoint_namespace("blue", sender)) as inside:
        sock = inside.run(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    with sock:
        sock.setsockopt(socket.IPPROTO_UDP, 103, 1000)  # UDP_SEGMENT
        sock.connect((address, PORT))
        sock.send(b"".join(bytes([number]) * 1000 for number in range(20)))
        wanted = [bytes([number]) * 1000 for number in range(20)]
        wait_until(lambda: sorted(seen.payload for seen in worker.seen) == wanted, LIMIT_S)
    worker.close()
    assert all(seen.whole for seen in worker.seen)
    assert {len(frame) for frame in worker.frames} == {14 + 20 + 8 + 8 + 8 + 14 + 20 + 8 + 1000}


@pytest.mark.long
def test_tunnel_packets_of_a_function_are_believed_nothing(bypass: LabName, client: Client) -> None:
    """Sent back as they came, and with its own MAC: refused, for what its addresses say, and nobody hears of them."""
    (address, _) = sorted(of(client, "inspector")["addresses"], key=len)
    mac = bytes.fromhex(of(client, "inspector")["mac"].replace(":", ""))
    worker = Function(bypass.endpoint_namespace("blue", "inspector"))
    ask(bypass.endpoint_namespace("blue", "far"), address, b"a packet to send back")
    (frame, *_) = worker.frames

    def drops() -> dict[str, int]:
        return {row["name"]: row["packets"] for row in client.counters("d1")["drops"]}

    def refused(hostile: bytes, reason: str) -> None:
        before = drops().get(reason, 0)
        worker.wire.send(hostile)
        wait_until(lambda: drops().get(reason, 0) > before, LIMIT_S)

    refused(frame, "SPOOFED_MAC")
    refused(ROUTER + mac + frame[12:], "SPOOFED_ADDRESS")
    worker.close()


@pytest.mark.long
def test_a_function_behind_a_proxied_endpoint(bypass: LabName, client: Client) -> None:
    """What reaches it comes from the address that stands for the clients, in a tunnel as all else."""
    spec = {"network": "front", "type": "proxied", "target": {"endpoint": "inspector"}}
    manifest = {
        "apiVersion": "mizar/v1",
        "kind": "Endpoint",
        "metadata": {"name": "door", "tenant": "blue"},
        "spec": spec,
    }
    client.apply([parse_resource(manifest)])
    client.wait([Ref("Endpoint", "blue", "door")], LIMIT_S)
    status = of(client, "door")
    worker = Function(bypass.endpoint_namespace("blue", "inspector"))
    for sender in ("near", "far"):
        for address in status["addresses"]:
            payload = f"{sender} to {address}".encode()
            assert ask(bypass.endpoint_namespace("blue", sender), address, payload) == payload[::-1]
            seen = next(one for one in worker.seen if one.payload == payload)
            assert seen.inner_from[0] in status["sourceAddresses"]
    worker.close()
