# SPDX-License-Identifier: Apache-2.0
"""How exact limits of endpoints are. See bench/qos.py."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from bench.qos import MANIFESTS, Bench, Case, number
from bench.suite.figure import Figure, Plan, Turn
from bench.suite.leftovers import lab_name
from mizar.api.client import Client
from mizar.lab import lab as labs
from mizar.lab.names import LabName
from mizar.model.manifest import parse_manifests

CASES = {
    "TCP, sent": ("tcp", "egress"),
    "TCP, received": ("tcp", "ingress"),
    "UDP, sent": ("udp", "egress"),
    "packets, sent": ("packets", "egress"),
}
NEAR = "same droplet"
WAYS = {NEAR: "near", "other droplet": "far"}
RATES = ("100M",)
PACKETS = "10k"


@contextmanager
def opened(plan: Plan) -> Iterator[Mapping[str, Turn | str]]:
    """One lab; the neighbours take turns."""
    lab = LabName(lab_name())
    cases = dict(list(CASES.items())[:1]) if plan.quick else CASES
    try:
        labs.up(parse_manifests(MANIFESTS.replace("NAME", lab.name).replace("TUNNEL", "geneve"), "bench"))
        with Client(lab.server_url) as client:
            bench = Bench(lab, client, plan.pick(1, 2))

            def turn(other: str) -> dict[str, float]:
                told = {}
                for name, (kind, direction) in cases.items():
                    for rate in (PACKETS,) if kind == "packets" else RATES:
                        case = Case(rate, direction, other, kind, 4)
                        bench.limit(**case.limit())
                        _, arrived, _ = bench.stream(case)
                        told[f"{name}, limit {rate}"] = 100 * (arrived / number(rate) - 1)
                return told

            turns: dict[str, Turn | str] = {name: lambda other=other: turn(other) for name, other in WAYS.items()}  # type: ignore[misc]
            if plan.quick:
                turns[NEAR] = "left out of a quick run"
            yield turns
    finally:
        labs.down(lab)


FIGURES = (
    Figure(
        "qos",
        "What arrives of a limited stream, against its limit",
        "% off",
        opened,
        "what limits cost (`programs`: *limited*, *into the shaper*), and limits that the machine cannot carry anyway: "
        "of UDP, one and a half times the limit is offered, and a machine that is busy with others cannot receive it. "
        "Below zero is less than was allowed.",
        rounds=2,
        packages={"iperf3": "iperf3"},
    ),
)
