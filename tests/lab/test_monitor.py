# SPDX-License-Identifier: Apache-2.0
"""What people see of real traffic: why it is dropped, how a flood is counted, and what a capture says of it."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from scapy.utils import RawPcapNgReader

from mizar.api.client import Client
from mizar.kernel.namespaces import Namespace
from mizar.lab import lab as labs
from mizar.lab.names import LabName
from tests.lab.conftest import manifests, wait_until

pytestmark = pytest.mark.root

ROUTER = "02:4d:5a:00:00:01"
STRANGE = "10.0.99.99"
FLOOD = 3000
IP_MTU_DISCOVER, PMTUDISC_PROBE = 10, 3


class Watcher:
    """`mizar monitor -o json` as a process of its own."""

    def __init__(self, lab: LabName, *options: str) -> None:
        command = [sys.executable, "-m", "mizar.cli.main", "monitor", "--server", lab.server_url, "-o", "json"]
        self.process = subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True)
        self.file = self.process.stdout
        self.seen: list[dict[str, Any]] = []

    def until(self, found: Callable[[list[dict[str, Any]]], object]) -> list[dict[str, Any]]:
        """Reads until what was seen is enough."""
        assert self.file is not None
        while not found(self.seen):
            line = self.file.readline()
            assert line, "the monitor ended"
            self.seen.append(json.loads(line))
        return self.seen

    def end(self) -> int:
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(30)


@contextmanager
def watching(lab: LabName, *options: str) -> Iterator[Watcher]:
    """A watcher that misses nothing from here on."""
    watcher = Watcher(lab, *options)
    try:
        with Client(lab.server_url) as client:
            wait_until(lambda: _watched(client, lab), 30)
        yield watcher
    finally:
        watcher.process.kill()
        watcher.process.communicate()


def _watched(client: Client, lab: LabName) -> bool:
    """Whether both droplets write events."""
    import os

    from mizar.kernel import libbpf
    from mizar.kernel.bpffs import Pins
    from mizar.kernel.layout import U32, struct_codec
    from mizar.kernel.maps import Table

    for droplet in ("d1", "d2"):
        fd = libbpf.open_pin(Pins.of(lab.instance(droplet)).maps / "droplet_switches")
        assert fd is not None
        try:
            value = Table("droplet_switches", fd, U32, struct_codec("droplet_switches")).get(0)
        finally:
            os.close(fd)
        if not value or not value["events"]:
            return False
    return True


def spoof(lab: LabName, count: int) -> None:
    """Datagrams from an address that is not the endpoint's own."""
    with Namespace.by_name(labs.endpoint_namespace(lab, "blue/blue-web")) as namespace:
        sender = namespace.run(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW))
    with sender:
        sender.bind(("eth0", 0))
        mac = sender.getsockname()[4].hex(":")
        datagram = IP(src=STRANGE, dst="10.0.2.2") / UDP(sport=4001, dport=53) / b"who am I"
        frame = bytes(Ether(src=mac, dst=ROUTER) / datagram)
        for _ in range(count):
            sender.send(frame)


def dropped(seen: list[dict[str, Any]], kind: str = "drop") -> list[dict[str, Any]]:
    return [one for one in seen if one["type"] == kind and one.get("reason") == "SPOOFED_ADDRESS"]


def test_a_spoofed_packet_is_shown_and_a_flood_is_counted_everywhere(lab: LabName, tmp_path: Path) -> None:
    """Each with names and the sentence; every packet is either shown or counted; the capture tells why on each,
    and metrics say the same."""
    labs.up(manifests(lab))
    capture = tmp_path / "drops.pcapng"
    with watching(lab, "--vpc", "blue/main", "--pcap", str(capture)) as watcher:
        spoof(lab, 1)
        (seen,) = dropped(watcher.until(dropped))
        assert seen["sentence"] == "The endpoint sent from an IP address that is not its own."
        assert (seen["droplet"], seen["program"], seen["sender"]) == ("d1", "agent", "blue/blue-web")
        assert seen["source"] == {"address": STRANGE, "port": 4001, "endpoint": None}
        assert seen["destination"] == {"address": "10.0.2.2", "port": 53, "endpoint": "blue/db"}
        spoof(lab, FLOOD)

        def counted(seen: list[dict[str, Any]]) -> bool:
            left_out = sum(one["packets"] for one in dropped(seen, "suppressed"))
            return bool(len(dropped(seen)) + left_out == FLOOD + 1)

        watcher.until(counted)
        assert len(dropped(watcher.seen)) < FLOOD // 4
        assert watcher.end() == 130
        with RawPcapNgReader(str(capture)) as reader:
            frames = list(reader)
    about = [meta for frame, meta in frames if STRANGE in str(Ether(frame).summary())]
    comments = [(getattr(meta, "comments", None) or [meta.comment])[0].decode() for meta in about]
    assert len(comments) == len(dropped(watcher.seen))
    assert comments[0] == (
        "SPOOFED_ADDRESS: The endpoint sent from an IP address that is not its own. "
        "(dropped by agent on d1; VPC blue/main; sent by blue/blue-web)"
    )
    assert {meta.ifname.split(b"/")[0] for meta in about} == {b"d1"}
    _metrics_agree(lab)


def scraped(lab: LabName, process: str, query: str = "") -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """What Prometheus would have read."""
    place = lab.metrics_url(process).removeprefix("unix://")
    with httpx.Client(transport=httpx.HTTPTransport(uds=place), base_url="http://localhost") as client:
        text = client.get(f"/metrics{query}").raise_for_status().text
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found[sample.name, frozenset(sample.labels.items())] = sample.value
    return found


def series(metric: str, /, **labels: str) -> tuple[str, frozenset[tuple[str, str]]]:
    return metric, frozenset(labels.items())


def _metrics_agree(lab: LabName) -> None:
    """With the counters that the manager asks for, and with what was sent."""
    with Client(lab.server_url) as client:
        reasons = {one["name"]: one for one in client.counters("d1")["drops"]}
        number = str(client.get("VPC", "main", "blue")["status"]["number"])
        uid = client.get("Endpoint", "blue-web", "blue")["metadata"]["uid"]
        (drops,) = (one for one in client.traffic()["drops"] if one["reason"] == "SPOOFED_ADDRESS")
        assert drops["packets"] == FLOOD + 1
    daemon, server = scraped(lab, "d1", "?endpoints=10"), scraped(lab, "server")
    labels = {"reason": "SPOOFED_ADDRESS", "verdict": "drop"}
    assert reasons["SPOOFED_ADDRESS"]["packets"] == FLOOD + 1
    assert daemon[series("mizar_dropped_packets_total", **labels)] == FLOOD + 1
    assert daemon[series("mizar_dropped_bytes_total", **labels)] == reasons["SPOOFED_ADDRESS"]["bytes"]
    assert daemon[series("mizar_vpc_packets_total", vpc=number, way="dropped")] > FLOOD
    assert daemon[series("mizar_endpoint_packets_total", endpoint=uid, vpc=number, way="dropped")] > FLOOD
    assert daemon[series("mizar_endpoints")] == 2
    assert daemon[series("mizar_map_entries", map="local_endpoints")] == 2
    assert daemon[series("mizar_daemon_call_seconds_count", call="Attach")] >= 1
    assert server[series("mizar_vpc_info", vpc=number, tenant="blue", name="main")] == 1
    assert server[series("mizar_objects", kind="Endpoint", phase="Provisioned")] == 4
    assert server[series("mizar_droplets", health="up")] == 2
    assert server[series("mizar_reconcile_waiting")] == 0


def run_in(namespace: str, *command: str) -> str:
    with Namespace.by_name(namespace) as entered:
        done = entered.run(lambda: subprocess.run(command, capture_output=True, text=True, check=True, timeout=30))
    return str(done.stdout)


def needed_elsewhere(client: Client) -> tuple[str, str]:
    """A host of endpoints, and another droplet that is the bouncer of their network, or the divider of a VPC."""
    for tenant, network, host in (("blue", "front", "d1"), ("blue", "back", "d2"), ("red", "front", "d1")):
        for bouncer in client.get("Network", network, tenant)["status"]["bouncers"]:
            if bouncer != host:
                return host, bouncer
    (divider, *_) = client.get("VPC", "main", "blue")["status"]["dividers"]
    return ("d1", "d2") if divider == "d2" else ("d2", "d1")


@pytest.mark.long
def test_seeded_faults_are_named(lab: LabName) -> None:
    """A workload whose interface was given an MTU too large; a droplet that is cut off, which is a bouncer."""
    labs.up(manifests(lab))
    own = labs.endpoint_namespace(lab, "blue/blue-web")
    with Client(lab.server_url) as client:
        interface = client.get("Endpoint", "blue-web", "blue")["status"]["hostInterface"]
        (address, _) = client.get("Endpoint", "db", "blue")["status"]["addresses"]
        witness, dead = needed_elsewhere(client)
    for where, which in ((lab.droplet_namespace("d1"), interface), (own, "eth0")):
        run_in(where, "ip", "link", "set", which, "mtu", "2000")
    with Namespace.by_name(own) as namespace:
        sender = namespace.run(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    with sender, watching(lab) as watcher:
        sender.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, PMTUDISC_PROBE)
        sender.sendto(bytes(1800), (address, 7007))
        (seen,) = watcher.until(lambda seen: [one for one in seen if one.get("reason") == "PACKET_TOO_BIG"])[-1:]
        assert (seen["droplet"], seen["sender"], seen["destination"]["endpoint"]) == ("d1", "blue/blue-web", "blue/db")
        assert seen["sentence"].startswith("The packet, with its tunnel headers, is longer than the way")
        run_in(lab.droplet_namespace(dead), "ip", "link", "set", "eth0", "down")

        def named(seen: list[dict[str, Any]]) -> bool:
            news = [(one["droplet"], one["about"], one["state"]) for one in seen if one["type"] == "droplet"]
            return (witness, dead, "down") in news

        watcher.until(named)
