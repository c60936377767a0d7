# SPDX-License-Identifier: Apache-2.0
"""Rates from counters, and the screen that shows them: nothing is cut in two, what has no room is counted."""

from __future__ import annotations

from typing import Any

import pytest
from rich.console import Console

from mizar.cli.rates import rates, short, sort
from mizar.cli.top import screen

WAYS = ("sent", "delivered", "bounced", "divided", "toDivider", "peered", "direct")


def row(packets: int = 0, dropped: int = 0, **names: Any) -> dict[str, Any]:
    counts = {f"{way}Packets": packets for way in WAYS} | {f"{way}Bytes": 100 * packets for way in WAYS}
    return {**names, **counts, "droppedPackets": dropped}


def sample(time: float, packets: int, dropped: int = 0, endpoints: int = 3) -> dict[str, Any]:
    reason = {"reason": "SPOOFED_MAC", "sentence": "Not its own.", "verdict": "drop"}
    return {
        "time": time,
        "droplets": [
            row(packets, dropped, name="d1", health="up", problem="", endpoints=endpoints),
            {"name": "d2", "health": "dead", "problem": "it is unreachable"},
        ],
        "vpcs": [row(packets, dropped, tenant="blue", name="main")],
        "endpoints": [
            row(packets * n, dropped, tenant="blue", name=f"e{n}", droplet="d1") for n in range(1, endpoints + 1)
        ],
        "drops": [reason | {"packets": dropped, "bytes": 60 * dropped}] if dropped else [],
    }


def test_rates_are_per_second() -> None:
    """Over the time that really passed; a new reason counts from nothing, a counter that began anew too."""
    found = rates(sample(100.0, 1000), sample(102.5, 3500, dropped=50))
    assert found["seconds"] == 2.5
    (vpc,) = found["vpcs"]
    assert (vpc["sentPacketsPerSecond"], vpc["sentBytesPerSecond"], vpc["droppedPacketsPerSecond"]) == (
        1000,
        100000,
        20,
    )
    assert found["drops"][0]["packetsPerSecond"] == 20
    assert rates(sample(1, 5000), sample(2, 30))["vpcs"][0]["sentPacketsPerSecond"] == 30
    assert found["droplets"][1] == {"name": "d2", "health": "dead", "problem": "it is unreachable"}


def test_what_is_new_has_no_rate_yet() -> None:
    """Its counters may be old."""
    assert rates(sample(1, 1, endpoints=1), sample(2, 7, endpoints=2))["endpoints"][1]["sentPacketsPerSecond"] == 0


@pytest.mark.parametrize(("by", "first"), [("packets", "e3"), ("bytes", "e3"), ("drops", "e1"), ("name", "e1")])
def test_sorting(by: str, first: str) -> None:
    """The most first; by name where they are equal."""
    found = rates(sample(1, 0), sample(2, 10, dropped=5))
    assert sort(found["endpoints"], by)[0]["name"] == first


SHORT: list[tuple[float, str]] = [
    (0, "0"),
    (0.4, "0.4"),
    (7, "7"),
    (999.4, "999"),
    (1000, "1.0k"),
    (34567, "35k"),
    (9.99e8, "999M"),
]


@pytest.mark.parametrize(("value", "text"), SHORT)
def test_short_numbers(value: float, text: str) -> None:
    """At most five characters, up to what no machine does."""
    assert short(value) == text


@pytest.mark.parametrize(("width", "height"), [(100, 24), (80, 24), (120, 60)])
def test_the_screen_fits(width: int, height: int) -> None:
    """In the window that there is."""
    found = rates(sample(1, 0, endpoints=90), sample(2, 2000, dropped=9, endpoints=90))
    console = Console(width=width, height=height, record=True, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
    console.print(screen(found, "packets", height))
    text = console.export_text()
    assert len(text.splitlines()) <= height
    words = ("DROPLETS", "HEALTH", "FORWARDED", "DROPPED", "VPCS", "ENDPOINTS", "DROPS", "SPOOFED_MAC", "and ", "dead")
    assert all(word in text for word in words)
    console.print(screen(found, "packets", None))
    assert "more" not in console.export_text(), "what goes to no terminal is whole"


def test_a_tenant_sees_no_droplets() -> None:
    """The tables that it has are shown without them."""
    found = rates(sample(1, 0) | {"droplets": [], "drops": []}, sample(2, 5) | {"droplets": [], "drops": []})
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
    console.print(screen(found, "packets", None))
    text = console.export_text()
    assert "blue/main" in text
    assert "DROPLETS" not in text
