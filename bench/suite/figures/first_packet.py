# SPDX-License-Identifier: Apache-2.0
"""From the request for an endpoint to the first packet that it answers: a real server, real daemons, a lab of two."""

from __future__ import annotations

import socket
import statistics
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import count
from typing import Any

import yaml

from bench.suite.figure import Figure, Goal, Plan, Turn
from bench.suite.leftovers import lab_name
from mizar.api.client import Client
from mizar.kernel import namespaces
from mizar.kernel.namespaces import Namespace
from mizar.lab import lab as labs
from mizar.lab.names import LabName
from mizar.model.manifest import parse_manifests

LIMIT_S = 30.0
P50, P99 = "create to first packet, p50", "create to first packet, p99"
WAYS = {"a namespace that is there": False, "a namespace of the daemon's pool": True}
ECHO = bytes((8, 0, 0xF7, 0xFF, 0, 0, 0, 0))
"""An ICMP echo request without data, and its checksum."""


def manifest(kind: str, name: str, **spec: Any) -> dict[str, Any]:
    """Of the one tenant."""
    metadata = {"name": name} if kind in ("Lab", "Tenant") else {"name": name, "tenant": "blue"}
    return {"apiVersion": "mizar/v1", "kind": kind, "metadata": metadata, "spec": spec}


class Site:
    """A lab with one endpoint on its second droplet; the others come to the first.

    They are in another network: who asks for a neighbour that is not there yet asks again after a second, and it would
    be that second of its own kernel that is measured.
    """

    def __init__(self, lab: LabName) -> None:
        self.lab, self._numbers = lab, count(2)
        documents = [
            manifest("Lab", lab.name, droplets=2),
            manifest("Tenant", "blue"),
            manifest("VPC", "main", cidrs=["10.0.0.0/16"]),
            manifest("Network", "front", vpc="main", cidrs=["10.0.0.0/17"]),
            manifest("Network", "back", vpc="main", cidrs=["10.0.128.0/17"]),
            manifest("Endpoint", "asks", network="back", droplet="d2", addresses=["10.0.128.9"]),
        ]
        labs.up(parse_manifests(yaml.safe_dump_all(documents), "bench"))
        with Namespace.by_name(lab.endpoint_namespace("blue", "asks")) as inside:
            self.asking = inside.run(partial(socket.socket, socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP))
        self.asking.settimeout(0.001)

    def first_packet_ms(self, client: Client, pooled: bool) -> float:
        """From the request to the answer."""
        number = next(self._numbers)
        address, name = f"10.0.{number // 250}.{2 + number % 250}", f"e{number}"
        place = f"{self.lab.namespace_prefix}bench_{number}"
        workload: dict[str, Any] = {"namespace": place}
        if pooled:
            workload["pool"] = True
        else:
            namespaces.create(place).close()
        wanted = manifest("Endpoint", name, network="front", droplet="d1", addresses=[address], workload=workload)
        with ThreadPoolExecutor(1) as pool:
            begun = time.monotonic()
            applied = pool.submit(client.apply, [wanted])
            while not self._answers(address):
                if time.monotonic() > begun + LIMIT_S or (applied.done() and applied.exception()):
                    raise RuntimeError(f"{name} does not answer: {applied.exception() if applied.done() else ''}")
            took_ms = (time.monotonic() - begun) * 1000
            applied.result()
        return took_ms

    def _answers(self, address: str) -> bool:
        """Asks, and waits a millisecond."""
        self.asking.sendto(ECHO, (address, 0))
        try:
            answer, (sender, _) = self.asking.recvfrom(2048)
        except TimeoutError:
            return False
        return sender == address and answer[20] == 0


@contextmanager
def opened(plan: Plan) -> Iterator[Mapping[str, Turn | str]]:
    """One lab."""
    lab = LabName(lab_name())
    number = plan.pick(5, 30)
    try:
        site = Site(lab)
        with Client(lab.server_url) as client:

            def turn(pooled: bool) -> dict[str, float]:
                took = sorted(site.first_packet_ms(client, pooled) for _ in range(number))
                return {P50: statistics.median(took), P99: took[min(len(took) - 1, len(took) * 99 // 100)]}

            yield {name: lambda pooled=pooled: turn(pooled) for name, pooled in WAYS.items()}  # type: ignore[misc]
    finally:
        labs.down(lab)


FIGURES = (
    Figure(
        "first-packet",
        "From the request for an endpoint to the first packet that it answers",
        "ms",
        opened,
        "a large fleet (`control-plane` shows that an endpoint costs the same there), and a network between server and "
        "droplets. An endpoint of another droplet and network asks every millisecond.",
        goals=(
            Goal("endpoint created → first packet delivered, median",
                 "184 ms programming (Andromeda); 3 s (a Kubernetes pod)", P50, 50,
                 contender="a namespace that is there"),
        ),
        rounds=3,
    ),
)  # fmt: skip
