#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""How exact limits are: what iperf3 gets through, compared with what a limit allows. And what a limit costs.

    python bench/qos.py [--seconds 10] [--rates 10M,100M,1G] [--runs 1]          (as root)

A lab of two droplets; endpoint a is limited in one direction, and talks to a neighbour and to an endpoint of the other
droplet. One line per case: what the receiver got, in bits of inner frames per second, and the error. Frames are counted
from the payload that iperf3 tells of, with the headers that each segment bears.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from mizar.api.client import Client  # noqa: E402
from mizar.lab import lab as labs  # noqa: E402
from mizar.lab.names import LabName  # noqa: E402
from mizar.model.manifest import parse_manifests, parse_resource  # noqa: E402

MANIFESTS = """
{apiVersion: mizar/v1, kind: Lab, metadata: {name: NAME}, spec: {droplets: 2}}
---
{apiVersion: mizar/v1, kind: Tenant, metadata: {name: blue}}
---
{apiVersion: mizar/v1, kind: VPC, metadata: {name: main, tenant: blue}, spec: {cidrs: [10.0.0.0/16]}}
---
{apiVersion: mizar/v1, kind: Network, metadata: {name: front, tenant: blue}, spec: {vpc: main, cidrs: [10.0.1.0/24]}}
---
{apiVersion: mizar/v1, kind: Endpoint, metadata: {name: a, tenant: blue}, spec: {network: front, droplet: d1}}
---
{apiVersion: mizar/v1, kind: Endpoint, metadata: {name: near, tenant: blue}, spec: {network: front, droplet: d1}}
---
{apiVersion: mizar/v1, kind: Endpoint, metadata: {name: far, tenant: blue}, spec: {network: front, droplet: d2}}
"""
HEADERS = {"tcp": 14 + 20 + 32, "udp": 14 + 20 + 8}
UDP_BYTES = 1200
SUFFIXES = {"k": 10**3, "M": 10**6, "G": 10**9}


def inside(lab: LabName, name: str, *command: str) -> list[str]:
    """A command in an endpoint's namespace."""
    return ["ip", "netns", "exec", lab.endpoint_namespace("blue", name), *command]


def iperf(lab: LabName, source: str, target: str, address: str, kind: str, offered: int, seconds: int) -> float:
    """Bits of inner frames that arrive in a second, on average; the first two seconds are left out."""
    server = subprocess.Popen(inside(lab, target, "iperf3", "-s", "-1", "-J"), stdout=subprocess.PIPE)  # noqa: S603
    try:
        command = ["iperf3", "-c", address, "-J", "-t", str(seconds), "-O", "2"]
        if kind == "udp":
            command += ["-u", "-b", str(offered), "-l", str(UDP_BYTES)]
        for _ in range(50):
            found = subprocess.run(inside(lab, source, *command), stdout=subprocess.PIPE, check=False)  # noqa: S603
            report = json.loads(found.stdout)
            if "error" not in report:
                break
        out, _ = server.communicate(timeout=30)
        end = report["end"]
        if kind == "udp":
            received = json.loads(out)["end"]["sum"]
            arrived = (received["packets"] - received["lost_packets"]) * (UDP_BYTES + HEADERS["udp"])
            return arrived * 8 / received["seconds"]
        payload = report["start"]["tcp_mss_default"]
        goodput = end["sum_received"]["bits_per_second"]
        return goodput * (payload + HEADERS["tcp"]) / payload
    finally:
        server.kill()
        server.wait()


def number(text: str) -> int:
    """A rate with its suffix."""
    return int(text[:-1]) * SUFFIXES[text[-1]] if text[-1] in SUFFIXES else int(text)


def main() -> None:
    """One lab, all cases."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--seconds", type=int, default=10)
    options.add_argument("--rates", default="10M,100M,1G")
    options.add_argument("--runs", type=int, default=1)
    options.add_argument("--cases", default="tcp,udp")
    asked = options.parse_args()
    lab = LabName(f"qosbench{os.getpid()}")
    labs.up(parse_manifests(MANIFESTS.replace("NAME", lab.name), "bench"))
    try:
        with Client(lab.server_url) as client:
            addresses = {
                name: client.get("Endpoint", name, "blue")["status"]["addresses"][0] for name in ("a", "near", "far")
            }
            for rate in asked.rates.split(","):
                for direction in ("egress", "ingress"):
                    manifest = client.get("Endpoint", "a", "blue")
                    manifest["spec"]["qos"] = {direction: {"bitsPerSecond": rate}}
                    resource = parse_resource(manifest)
                    client.apply([resource])
                    client.wait([resource.ref], 30)
                    for other in ("near", "far"):
                        for kind in asked.cases.split(","):
                            for _ in range(asked.runs):
                                ends = ("a", other) if direction == "egress" else (other, "a")
                                wanted = number(rate)
                                got = iperf(lab, *ends, addresses[ends[1]], kind, wanted * 3 // 2, asked.seconds)
                                error = 100 * (got - wanted) / wanted
                                print(
                                    f"{rate:>6} {direction:<8}{other:<5}{kind:<4}{got / 1e6:9.2f} Mbit/s{error:+7.2f} %"
                                )
                                sys.stdout.flush()
    finally:
        labs.down(lab)


if __name__ == "__main__":
    main()
