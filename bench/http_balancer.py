# SPDX-License-Identifier: Apache-2.0
"""What an HTTP load balancer costs: requests per second and their median time, beside the same requests to the server.

    python bench/http_balancer.py [--seconds 5]

Needs root, HAProxy (which is the server too: it answers by itself) and wrk. The lab is that of
examples/http-load-balancer.yaml: client, instance and server on different droplets of this machine.
"""

from __future__ import annotations

import argparse
import itertools
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mizar.api.client import Client
from mizar.lab import lab as labs
from mizar.lab.names import LabName
from mizar.model.manifest import parse_manifests
from mizar.transit.processes import program_at

EXAMPLE = Path(__file__).parents[1] / "examples" / "http-load-balancer.yaml"
DIRECT, BALANCED = "http://{server}:8080/", "http://10.0.1.100/"
READY_S = 30.0
UNITS = {"us": 1.0, "ms": 1e3, "s": 1e6}
"""In which wrk tells times, in microseconds."""
SERVER = """
global
    nbthread 1
defaults
    mode http
    timeout client 30s
    timeout server 30s
    timeout connect 1s
frontend all
    bind :8080
    http-request return status 200 content-type text/plain string 'hello'
"""


def main() -> None:
    """Brings the lab up, measures, and takes it down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=5, help="of each measurement")
    seconds = parser.parse_args().seconds
    with opened("http-bench") as shop:
        for connections, what in itertools.product((1, 32), shop.urls):
            rate, p50_us = shop.asked(what, connections, seconds)
            print(f"{connections:3} connections  {what:9} {rate:>10.0f} requests/s  p50 {p50_us:.0f} us")


@dataclass(frozen=True)
class Shop:
    """The lab, while its server answers: URLs by the way that they take, and how a command is begun in the client."""

    urls: Mapping[str, str]
    client: list[str]

    def asked(self, what: str, connections: int, seconds: int) -> tuple[float, float]:
        """Requests a second, and the median time of one in microseconds."""
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}", "--latency", self.urls[what]]
        told = subprocess.run([*self.client, *command], capture_output=True, text=True, check=True).stdout  # noqa: S603
        words = [line.split() for line in told.splitlines() if line.strip()]
        p50 = next(one[1] for one in words if one[0] == "50%")
        rate = next(float(one[1]) for one in words if one[0] == "Requests/sec:")
        number, unit = next((p50.removesuffix(end), times) for end, times in UNITS.items() if p50.endswith(end))
        return rate, float(number) * unit


@contextmanager
def opened(lab: str) -> Iterator[Shop]:
    """The example's lab under a name of its own, once the load balancer serves."""
    name = LabName(lab)
    documents: list[Any] = list(yaml.safe_load_all(EXAMPLE.read_text()))
    documents[0]["metadata"]["name"] = name.name
    try:
        labs.up(parse_manifests(yaml.safe_dump_all(documents), str(EXAMPLE)))
        with Client(name.server_url) as client, tempfile.TemporaryDirectory() as folder:
            found = {one: client.get("Endpoint", one, "blue") for one in ("web-1", "client")}
            inside = {one: manifest["spec"]["workload"]["namespace"] for one, manifest in found.items()}
            config = Path(folder) / "server.cfg"
            config.write_text(SERVER)
            command = [*into(inside["web-1"]), program_at("haproxy", "haproxy"), "-db", "-f", str(config)]
            server = subprocess.Popen(command, stderr=subprocess.DEVNULL)  # noqa: S603
            try:
                end = time.monotonic() + READY_S
                while not is_ready(client.get("HttpLoadBalancer", "shop", "blue")["status"]):
                    if time.monotonic() > end:
                        raise RuntimeError("the load balancer was not ready in time")
                    time.sleep(0.2)
                direct = DIRECT.format(server=found["web-1"]["status"]["addresses"][0])
                yield Shop({"direct": direct, "balanced": BALANCED}, into(inside["client"]))
            finally:
                server.terminate()
                server.wait()
    finally:
        labs.down(name)


def is_ready(status: dict[str, Any]) -> bool:
    """All instances serve, and none misses the server that is asked."""
    web = next(one for one in status["backends"] if one["name"] == "web")
    return bool(status["ready"] == "2/2" and not web["down"])


def into(namespace: str) -> list[str]:
    """The beginning of a command that runs in a namespace."""
    return ["nsenter", f"--net=/run/netns/{namespace}"]


if __name__ == "__main__":
    main()
