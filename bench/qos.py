#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""How exact limits are: what iperf3 gets through with a limit and without, side by side.

    python bench/qos.py [--seconds 10] [--rates 10M,100M,1G] [--packets 20k] [--families 4,6] [--tunnels geneve,vxlan]
                                                                                                       (as root)

A lab of two droplets; endpoint a is limited in one direction, and talks to a neighbour and to an endpoint of the other
droplet. One line per case, in bits of inner frames (or packets) a second:

    without   what arrives where nothing is limited; of UDP, one and a half times the limit is offered
    tenfold   the same with a limit ten times as high, so with all that a limit costs. Where either is less than the
              limit, the machine cannot carry it, and the case says nothing of the limit: its error is left out
    shaper    what leaves the class of the limit: the limit itself, whatever becomes of it behind
    arrived   what came to the receiver's socket, and the error of that against the limit
    lost      of that, what its application was too slow to read: it is no loss of the network
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from mizar.api.client import Client  # noqa: E402
from mizar.kernel import shaper  # noqa: E402
from mizar.kernel.namespaces import Namespace  # noqa: E402
from mizar.lab import lab as labs  # noqa: E402
from mizar.lab.names import LabName  # noqa: E402
from mizar.model.manifest import parse_manifests, parse_resource  # noqa: E402

MANIFESTS = (ROOT / "tests" / "lab" / "qos.yaml").read_text()
IP = {4: 20, 6: 40}
TRANSPORT = {"tcp": 32, "udp": 8, "packets": 8}
UDP_BYTES, PACKET_BYTES = 1360, 100
BEGIN_S, END_S = 2.0, 1.0
SUFFIXES = {"k": 10**3, "M": 10**6, "G": 10**9}


@dataclass(frozen=True)
class Case:
    """One stream: what is limited, and between whom it goes."""

    rate: str
    direction: str
    other: str
    kind: str
    family: int

    @property
    def ends(self) -> tuple[str, str]:
        """Sender and receiver."""
        return ("a", self.other) if self.direction == "egress" else (self.other, "a")

    def limit(self, times: int = 1) -> dict[str, Any]:
        """In a manifest."""
        of = "packetsPerSecond" if self.kind == "packets" else "bitsPerSecond"
        return {self.direction: {of: number(self.rate) * times}}

    @property
    def frame(self) -> int:
        """Bytes of a datagram's inner frame."""
        return self.payload + 14 + IP[self.family] + TRANSPORT[self.kind]

    @property
    def payload(self) -> int:
        """Bytes of a datagram."""
        return PACKET_BYTES if self.kind == "packets" else UDP_BYTES

    @property
    def unit(self) -> int:
        """What one datagram counts for."""
        return 1 if self.kind == "packets" else self.frame * 8


class Bench:
    """The lab, and streams in it."""

    def __init__(self, lab: LabName, client: Client, seconds: float) -> None:
        self.lab, self.client, self.seconds = lab, client, seconds

    def limit(self, **qos: Any) -> None:
        """Of endpoint a."""
        manifest = self.client.get("Endpoint", "a", "blue")
        manifest["spec"]["qos"] = qos
        resource = parse_resource(manifest)
        self.client.apply([resource])
        self.client.wait([resource.ref], 30)

    def command(self, name: str, *command: str) -> list[str]:
        """In an endpoint's namespace."""
        return ["ip", "netns", "exec", self.lab.endpoint_namespace("blue", name), *command]

    def stream(self, case: Case) -> tuple[float, float, float]:
        """What leaves the shaper, arrives, and of that is not read, a second."""
        source, target = case.ends
        addresses = self.client.get("Endpoint", target, "blue")["status"]["addresses"]
        address = next(one for one in addresses if (":" in one) == (case.family == 6))
        client = ["iperf3", "-c", address, "-J", "-t", str(int(self.seconds + BEGIN_S + END_S))]
        if case.kind == "tcp":
            client += ["-O", str(int(BEGIN_S))]
        else:
            offered = number(case.rate) * 3 // 2 * (case.payload * 8 if case.kind == "packets" else 1)
            client += ["-u", "-b", str(offered), "-l", str(case.payload)]
        server = subprocess.Popen(self.command(target, "iperf3", "-s", "-1"), stdout=subprocess.DEVNULL)  # noqa: S603
        try:
            with self._connected(self.command(source, *client)) as running:
                time.sleep(BEGIN_S)
                before, begin = self.seen(case), time.monotonic()
                time.sleep(self.seconds)
                after, took = self.seen(case), time.monotonic() - begin
                out, _ = running.communicate(timeout=30)
        finally:
            server.kill()
            server.wait()
        shaped, arrived, lost = ((now - was) / took for was, now in zip(before, after, strict=True))
        if case.kind == "tcp":
            report = json.loads(out)
            payload = report["start"]["tcp_mss_default"]
            headers = 14 + IP[case.family] + TRANSPORT["tcp"]
            arrived, lost = report["end"]["sum_received"]["bits_per_second"] * (payload + headers) / payload, 0.0
            return shaped * 8, arrived, lost
        return shaped * 8, arrived * case.unit, lost * case.unit

    @contextlib.contextmanager
    def _connected(self, command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
        """Once the server is there."""
        for _ in range(50):
            running = subprocess.Popen(command, stdout=subprocess.PIPE)  # noqa: S603
            try:
                running.wait(0.3)
            except subprocess.TimeoutExpired:
                break
        try:
            yield running
        finally:
            running.kill()
            running.wait()

    def seen(self, case: Case) -> tuple[int, int, int]:
        """Bytes that have left the shaper's classes of a's own limits, datagrams that came to the receiver, and those
        that it did not read."""
        with Namespace.by_name(self.lab.droplet_namespace("d1")) as droplet:
            passed = droplet.run(own_classes)
        with Namespace.by_name(self.lab.endpoint_namespace("blue", case.ends[1])) as receiver:
            read, lost = receiver.run(lambda: datagrams(case.family))
        return passed, read + lost, lost


def own_classes() -> int:
    """Bytes that have left the leaves of the shaper in this namespace."""
    names = json.loads(subprocess.run(["ip", "-j", "link"], stdout=subprocess.PIPE, check=True).stdout)  # noqa: S607
    indexes = [one["ifindex"] for one in names if one["ifname"].startswith("mzqos") and one["ifname"][5] != "p"]
    return sum(one.bytes for index in indexes for one in shaper.statistics(index).values())


def datagrams(family: int) -> tuple[int, int]:
    """Read, and dropped at a socket for want of room, in this namespace."""
    if family == 6:
        lines = dict(line.split() for line in Path("/proc/thread-self/net/snmp6").read_text().splitlines())
        return int(lines["Udp6InDatagrams"]), int(lines["Udp6RcvbufErrors"])
    names, values = (
        line.split() for line in Path("/proc/thread-self/net/snmp").read_text().splitlines() if line.startswith("Udp:")
    )
    found = dict(zip(names, values, strict=True))
    return int(found["InDatagrams"]), int(found["RcvbufErrors"])


def number(text: str) -> int:
    """A rate with its suffix."""
    return int(text[:-1]) * SUFFIXES[text[-1]] if text[-1] in SUFFIXES else int(text)


def measure(bench: Bench, case: Case) -> str:
    """The line of a case."""
    wanted, scale = number(case.rate), 1 if case.kind == "packets" else 10**6
    bench.limit()
    _, without, _ = bench.stream(case)
    bench.limit(**case.limit(10))
    _, tenfold, _ = bench.stream(case)
    bench.limit(**case.limit())
    shaped, arrived, lost = bench.stream(case)
    text = f"{case.rate:>6} {case.direction:<8}{case.other:<5}{case.kind:<8}IPv{case.family}"
    shaped = 0.0 if case.kind == "packets" else shaped  # they are policed
    text += "".join(f"{figure / scale:11.2f}" for figure in (without, tenfold, shaped, arrived))
    if min(without, tenfold) < wanted:
        return text + f"{'-':>9}{lost / scale:10.2f}"
    return text + f"{100 * (arrived - wanted) / wanted:+8.2f}%{lost / scale:10.2f}"


def main() -> None:
    """One lab for each tunnel, all cases."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--seconds", type=float, default=10)
    options.add_argument("--rates", default="10M,100M,1G")
    options.add_argument("--packets", default="20k", help="limits of packets a second")
    options.add_argument("--runs", type=int, default=1)
    options.add_argument("--cases", default="tcp,udp,packets")
    options.add_argument("--families", default="4")
    options.add_argument("--tunnels", default="geneve")
    asked = options.parse_args()
    for tunnel in asked.tunnels.split(","):
        print(f"{tunnel:<31}    without    tenfold     shaper    arrived    error      lost")
        lab = LabName(f"qosbench{os.getpid()}")
        labs.up(parse_manifests(MANIFESTS.replace("NAME", lab.name).replace("TUNNEL", tunnel), "bench"))
        try:
            with Client(lab.server_url) as client:
                bench = Bench(lab, client, asked.seconds)
                for kind, direction, family in itertools.product(
                    asked.cases.split(","), ("egress", "ingress"), map(int, asked.families.split(","))
                ):
                    rates = asked.packets if kind == "packets" else asked.rates
                    for rate, other, _ in itertools.product(rates.split(","), ("near", "far"), range(asked.runs)):
                        print(measure(bench, Case(rate, direction, other, kind, family)), flush=True)
        finally:
            labs.down(lab)


if __name__ == "__main__":
    main()
