# SPDX-License-Identifier: Apache-2.0
"""Handshakes of a client while SYNs flood its server, with a DdosProtection and without: a lab of two droplets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from bench.ddos import bind_interrupts, captured, flooded, handshakes, variants
from bench.suite.figure import Figure, Goal, Plan, Turn
from bench.suite.leftovers import lab_name
from mizar.lab import lab as labs
from mizar.lab.names import LabName
from tests.lab.conftest import wait_until
from tests.lab.test_ddos import LIMIT_S, REF, Bench, bench

P50, P99, FAILED = "handshake, p50", "handshake, p99", "handshakes that fail"
SENT, ARRIVED = "SYNs sent", "SYNs that reach the server"
QUIET, FLOODED = "quiet, no protection", "flooded, protected"
_NAMES = {"p50_ms": P50, "p99_ms": P99, "failed": FAILED, "syns_per_s": SENT, "syns_at_server": ARRIVED}


def protect(here: Bench, wanted: bool) -> None:
    """The server has a protection that answers all SYNs, or none."""
    if wanted:
        here.apply(synCookies={"mode": "always"})
        wait_until(lambda: here.told().get("cookieEndpoints") == 1, LIMIT_S)
    elif here.client.list("DdosProtection", "blue"):
        here.client.delete(REF.kind, REF.name, REF.tenant)
        here.client.wait([REF], LIMIT_S, until="gone")


@contextmanager
def opened(plan: Plan) -> Iterator[Mapping[str, Turn | str]]:
    """One lab; the protection comes and goes with the turns."""
    lab = LabName(lab_name())
    number = plan.pick(50, 1500)
    try:
        with bench(lab) as here:
            bind_interrupts(here)
            frames = variants(captured(here))

            def turn(protected: bool, flood: bool) -> dict[str, float]:
                protect(here, protected)
                tries = number if protected or not flood else 10
                found = flooded(here, frames, tries) if flood else handshakes(here, tries)
                return {name: found[field] for field, name in _NAMES.items() if field in found}

            yield {
                QUIET: lambda: turn(False, False),
                "quiet, protected": lambda: turn(True, False),
                FLOODED: lambda: turn(True, True),
                "flooded, no protection": lambda: turn(False, True),
            }
    finally:
        labs.down(lab)


FIGURES = (
    Figure(
        "ddos",
        "A client's handshakes while SYNs flood its server, as many as one core can send",
        "ms",
        opened,
        "a machine of its own for the attacker: the flood's core carries it through both droplets as well, and takes "
        "in what comes by the wire, as with a card whose interrupts are bound to it (receive packet steering at the "
        "substrate's ports). Without that, a veth's packets are taken in by whichever core sent last, and a flood "
        "keeps that core from client and server for milliseconds: their p99 was 3 to 8 times the quiet one. Cookies "
        "are always on; handshakes come one after the other.",
        units={FAILED: "handshakes", SENT: "SYNs/s", ARRIVED: "SYNs"},
        goals=(
            Goal("handshake under a flood of SYNs, p99", "the same without a flood", P99, 3,
                 contender=FLOODED, over=QUIET),
            Goal("handshakes that fail under a flood of SYNs", "all of them", FAILED, 0, contender=FLOODED, worst=True),
            Goal("SYNs of a flood that reach the server", "all of them", ARRIVED, 0, contender=FLOODED, worst=True),
        ),
        rounds=3,
    ),
)  # fmt: skip
