# SPDX-License-Identifier: Apache-2.0
"""What the gateway's translation adds (bench/gateway_cost.py); what goes through it and nftables (gateway_nft.py)."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

from bench import gateway_cost, gateway_nft
from bench.gateway_cost import ACK, SYN, TCP, UDP
from bench.suite.figure import Figure, Goal, Plan, Turn
from bench.suite.machine import found, on_cpu

PROTOCOLS = {"UDP": UDP, "TCP": TCP}
FEW, MANY = 1 << 10, 1 << 20
HOT, HOT_MANY, NEW = "added, 1,024 flows", "added, a million flows", "new connections, one CPU"


@contextmanager
def translation(plan: Plan) -> Iterator[Mapping[str, Turn | str]]:
    """Each protocol has programs and a table of its own, filled once."""
    many, runs = plan.pick(1 << 14, MANY), plan.pick(1 << 16, MANY)

    def turn(made: gateway_cost.Bench) -> dict[str, float]:
        told = {}
        with on_cpu(plan.cpus[-1]):
            for name, flows in ((HOT, FEW), (HOT_MANY, many)):
                made.point(flows)
                bare = made.bare_ns(runs)
                told[name] = made.nat_ns(runs, ACK) - bare
            with gateway_cost.bench(made.protocol, many) as fresh:
                fresh.point(many)
                told[NEW] = 1e9 / fresh.nat_ns(many, SYN)
        return told

    with ExitStack() as stack:
        turns: dict[str, Turn | str] = {}
        for name, protocol in PROTOCOLS.items():
            made = stack.enter_context(gateway_cost.bench(protocol, many))
            made.point(many)
            made.nat_ns(many, SYN)
            made.nat_ns(many, ACK)
            turns[name] = lambda made=made: turn(made)  # type: ignore[misc]
        yield turns


@contextmanager
def beside_nftables(plan: Plan) -> Iterator[Mapping[str, Turn | str]]:
    """On one veth, with a CPU for the gateway alone."""
    if found("nft") is None or len(plan.cpus) < 2:
        yield dict.fromkeys(("gateway", "nftables"), "it needs nftables and two CPUs")
        return
    gateway_nft.clean()
    signal.signal(signal.SIGUSR1, lambda *_: None)
    with gateway_nft.bench(FEW, (plan.cpus[0], plan.cpus[-1])) as made:
        seconds = 0.5

        def turn(name: str) -> dict[str, float]:
            measured: gateway_nft.Measured = getattr(made, name)(seconds)
            return {"packets": measured.packets}

        yield {
            "bare veth": lambda: turn("bare"),
            "mizar": lambda: turn("gateway"),
            "nftables": lambda: turn("nftables"),
        }


FIGURES = (
    Figure(
        "nat",
        "What the gateway's translation adds to a bare redirect of the same packets",
        "ns",
        translation,
        "interfaces. Each run takes another of many flows, in an order that no cache foresees.",
        units={NEW: "connections/s"},
        goals=(
            Goal("NAT hot path, added", "nft 1183 ns whole; own table +34 ns", HOT, 70, contender="UDP"),
            Goal("NAT hot path, added, a million flows", "nft 1183 ns whole; own table +34 ns", HOT_MANY, 70,
                 contender="UDP"),
        ),
        rounds=3,
    ),
    Figure(
        "gateway",
        "Small datagrams through the gateway (VXLAN in, masqueraded, VXLAN out), one CPU, one veth",
        "packets/s",
        beside_nftables,
        "a network card, and flows that begin: all 1,024 are known.",
        rounds=3,
        packages={"nft": "nftables"},
    ),
)  # fmt: skip
