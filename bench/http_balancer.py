# SPDX-License-Identifier: Apache-2.0
"""What an HTTP load balancer costs: requests per second and their median time, beside the same requests to the server.

    python bench/http_balancer.py [--seconds 5]

Needs root, HAProxy (which is the server too: it answers by itself) and wrk. The lab is that of
examples/http-load-balancer.yaml: client, instance and server on different droplets of this machine.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
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
    name = LabName("http-bench")
    documents: list[Any] = list(yaml.safe_load_all(EXAMPLE.read_text()))
    documents[0]["metadata"]["name"] = name.name
    labs.up(parse_manifests(yaml.safe_dump_all(documents), str(EXAMPLE)))
    try:
        measure(name, seconds)
    finally:
        labs.down(name)


def measure(lab: LabName, seconds: int) -> None:
    """One line for each number of connections and each way."""
    with Client(lab.server_url) as client, tempfile.TemporaryDirectory() as folder:
        found = {name: client.get("Endpoint", name, "blue") for name in ("web-1", "client")}
        inside = {name: one["spec"]["workload"]["namespace"] for name, one in found.items()}
        config = Path(folder) / "server.cfg"
        config.write_text(SERVER)
        server = subprocess.Popen(  # noqa: S603
            [*into(inside["web-1"]), program_at("haproxy", "haproxy"), "-db", "-f", str(config)],
            stderr=subprocess.DEVNULL,
        )
        try:
            end = time.monotonic() + READY_S
            while not is_ready(client.get("HttpLoadBalancer", "shop", "blue")["status"]):
                if time.monotonic() > end:
                    sys.exit("the load balancer was not ready in time")
                time.sleep(0.2)
            direct = DIRECT.format(server=found["web-1"]["status"]["addresses"][0])
            for connections in (1, 32):
                for what, url in (("direct", direct), ("balanced", BALANCED)):
                    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}", "--latency", url]
                    told = subprocess.run(  # noqa: S603
                        [*into(inside["client"]), *command], capture_output=True, text=True, check=True
                    ).stdout
                    words = [line.split() for line in told.splitlines() if line.strip()]
                    p50 = next(one[1] for one in words if one[0] == "50%")
                    rate = next(one[1] for one in words if one[0] == "Requests/sec:")
                    print(f"{connections:3} connections  {what:9} {rate:>10} requests/s  p50 {p50}")
        finally:
            server.terminate()
            server.wait()


def is_ready(status: dict[str, Any]) -> bool:
    """All instances serve, and none misses the server that is asked."""
    web = next(one for one in status["backends"] if one["name"] == "web")
    return bool(status["ready"] == "2/2" and not web["down"])


def into(namespace: str) -> list[str]:
    """The beginning of a command that runs in a namespace."""
    return ["nsenter", f"--net=/run/netns/{namespace}"]


if __name__ == "__main__":
    main()
