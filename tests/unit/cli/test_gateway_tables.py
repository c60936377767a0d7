# SPDX-License-Identifier: Apache-2.0
"""What `mizar gateway` prints for people."""

from __future__ import annotations

from io import StringIO
from typing import Any

import pytest
from rich.console import Console, RenderableType

from mizar.cli import gateway_tables as tables

BLUE, OUTSIDE = 0x1000005, 0x1000064
SHOWN: dict[str, Any] = {
    "gateway": "gw", "pipeline": "lab", "interface": "eth1", "egress": "eth1", "rules": 1, "connections": 3,
    "kernelNamespace": None, "queues": [], "events": {"quota": 2}, "ended": {"expired": 0}, "pair": {},
    "tenants": [
        {"tenant": "0x1000005", "connections": 3, "quota": None, "begun": 12, "refused": 0, "exhausted": 4},
        {"tenant": "0x1000006", "connections": 3, "quota": 3, "begun": 3, "refused": 2, "exhausted": 0},
    ],
    "forecast": [
        {"what": "tenant 0x1000006", "inUse": 3, "limit": 3, "secondsLeft": 0.0},
        {"what": "ports", "inUse": 1, "limit": 4, "secondsLeft": 180.0},
        {"what": "connections", "inUse": 6, "limit": 8192, "secondsLeft": None},
    ],
}  # fmt: skip


def lines(shown: RenderableType) -> list[list[str]]:
    """What is printed, line by line, in columns."""
    out = StringIO()
    Console(file=out, width=200, soft_wrap=True, highlight=False).print(shown)
    return [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in out.getvalue().splitlines()]


def test_show_is_facts_and_two_tables() -> None:
    """What is empty is not there; a quota that is none is a dash."""
    assert lines(tables.gateway(SHOWN)) == [
        ["gateway", "gw"],
        ["pipeline", "lab"],
        ["interface", "eth1"],
        ["connections", "3"],
        ["events", "2 quota"],
        [],
        ["TENANT", "CONNECTIONS", "QUOTA", "BEGUN", "OVER QUOTA", "NO PORT"],
        ["0x1000005", "3", "-", "12", "0", "4"],
        ["0x1000006", "3", "3", "3", "2", "0"],
        [],
        ["FORECAST", "IN USE", "LIMIT", "USED UP"],
        ["tenant 0x1000006", "3", "3", "now"],
        ["ports", "1", "4", "in 3 min"],
        ["connections", "6", "8192", "does not grow"],
    ]


def test_a_pair_and_a_kernel_are_told_of() -> None:
    """Where there are such."""
    more = {"egress": "eth2", "kernelNamespace": "gw-nat", "queues": [3], "pair": {"followers": 1, "told": 7}}
    shown = lines(tables.gateway({**SHOWN, **more, "events": {}, "tenants": [], "forecast": []}))
    assert shown[2:] == [
        ["interface", "eth1 in, eth2 out"],
        ["connections", "3"],
        ["kernel namespace", "gw-nat"],
        ["queues", "3"],
        ["events", "none"],
        ["pair", "followers: 1, told: 7"],
    ]


def test_connections_are_in_order() -> None:
    """By tenant, whatever the order of the table."""
    found = [_connection(tenant, version) for tenant in (BLUE + 1, BLUE) for version in (4, 6)]
    heading, *rows = lines(tables.connections(found))
    assert heading == ["TENANT", "PROTOCOL", "STATE", "IDLE", "ORIGINAL", "BECOMES"]
    assert [row[0] for row in rows] == ["0x1000005", "0x1000005", "0x1000006", "0x1000006"]
    assert rows[0][1:] == [
        "udp", "established", "4 s",
        "0x1000005 10.0.0.5:4000 > 203.0.113.9:53", "0x1000064 192.0.2.1:4000 > 203.0.113.9:53",
    ]  # fmt: skip
    assert rows[1][4] == "0x1000005 [fd00::5]:4000 > [2001:db8::9]:53"


def test_counters_are_in_order() -> None:
    """By name as in the program, then by metadata."""
    found = [{"counter": name, "meta": meta, "packets": 1, "bytes": 60} for name, meta in
             (("no case", None), ("new", 6), ("new", 5), ("hot", 7))]  # fmt: skip
    assert [row[:2] for row in lines(tables.counters(found))[1:]] == [
        ["no case", "1"], ["new", "0x5"], ["new", "0x6"], ["hot", "0x7"],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("seconds", "says"), [(0, "0 s"), (119, "119 s"), (120, "2 min"), (7200, "2 h"), (172_800, "2 d")]
)
def test_durations(seconds: float, says: str) -> None:
    """In the unit that leaves at least two."""
    assert tables.duration(seconds) == says


def _connection(tenant: int, version: int) -> dict[str, Any]:
    source, pool, target = (
        ("10.0.0.5", "192.0.2.1", "203.0.113.9") if version == 4 else ("fd00::5", "2001:db8::1", "2001:db8::9")
    )
    return {
        "tenant": tenant,
        "state": "established",
        "idleSeconds": 4,
        "original": _flow(tenant, source, target),
        "becomes": _flow(OUTSIDE, pool, target),
    }


def _flow(meta: int, source: str, target: str) -> dict[str, Any]:
    ends = {"source": source, "sourcePort": 4000, "destination": target, "destinationPort": 53}
    return {"meta": meta, "protocol": "udp", **ends}
