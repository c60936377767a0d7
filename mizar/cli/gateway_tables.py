# SPDX-License-Identifier: Apache-2.0
"""What `mizar gateway` prints for people. Pure; called by mizar.cli.gateway with what JSON has."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from mizar.cli.output import columns

Plain = dict[str, Any]


def gateway(found: Plain) -> RenderableType:
    """What a gateway is, then a table for tenants and one for what is bounded."""
    facts = Table(box=None, pad_edge=False, show_header=False)
    for name, value in _facts(found):
        facts.add_row(Text(name, style="bold"), Text(value))
    parts: list[RenderableType] = [facts]
    if found["tenants"]:
        keys = ("tenant", "connections", "quota", "begun", "refused", "exhausted")
        headings = ("TENANT", "CONNECTIONS", "QUOTA", "BEGUN", "OVER QUOTA", "NO PORT")
        rows = [["-" if one[key] is None else one[key] for key in keys] for one in found["tenants"]]
        parts += [Text(), _numbers(columns(headings, rows), 1)]
    if found["forecast"]:
        bounds = [
            (one["what"], one["inUse"], one["limit"], _until(one["secondsLeft"], one["inUse"] >= one["limit"]))
            for one in found["forecast"]
        ]
        parts += [Text(), _numbers(columns(("FORECAST", "IN USE", "LIMIT", "USED UP"), bounds), 1)]
    return Group(*parts)


def connections(found: Sequence[Plain]) -> Table:
    """By tenant; an arrow leads from who began to whom."""
    rows = [
        (
            f"{one['tenant']:#x}",
            one["original"]["protocol"],
            one["state"],
            duration(one["idleSeconds"]),
            _flow(one["original"]),
            _flow(one["becomes"]),
        )
        for one in sorted(found, key=lambda one: (one["tenant"], *map(str, one["original"].values())))
    ]
    table = columns(("TENANT", "PROTOCOL", "STATE", "IDLE", "ORIGINAL", "BECOMES"), rows)
    table.columns[3].justify = "right"
    return table


def counters(found: Sequence[Plain]) -> Table:
    """In the order of the program, and of each by metadata."""
    places = {name: place for place, name in enumerate(dict.fromkeys(one["counter"] for one in found))}
    ordered = sorted(found, key=lambda one: (places[one["counter"]], one["meta"] or 0))
    rows = [(one["counter"], _hex(one["meta"]), one["packets"], one["bytes"]) for one in ordered]
    return _numbers(columns(("COUNTER", "META", "PACKETS", "BYTES"), rows), 2)


def duration(seconds: float) -> str:
    """`45 s`, `12 min`, `3 h`, `20 d`."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def _facts(found: Plain) -> Iterator[tuple[str, str]]:
    yield "gateway", found["gateway"]
    yield "pipeline", found["pipeline"]
    both = found["interface"] == found["egress"]
    yield "interface", found["interface"] if both else f"{found['interface']} in, {found['egress']} out"
    yield "connections", str(found["connections"])
    if found["kernelNamespace"]:
        yield "kernel namespace", found["kernelNamespace"]
    if found["queues"]:
        yield "queues", ", ".join(str(queue) for queue in found["queues"])
    for name, words in (("events", "{1} {0}"), ("ended", "{1} {0}"), ("pair", "{0}: {1}")):
        counts = [words.format(key, count) for key, count in found[name].items() if name == "pair" or count]
        if counts or name == "events":
            yield name, ", ".join(counts) or "none"


def _flow(flow: Plain) -> str:
    ends = [
        f"[{flow[end]}]:{flow[port]}" if ":" in flow[end] else f"{flow[end]}:{flow[port]}"
        for end, port in (("source", "sourcePort"), ("destination", "destinationPort"))
    ]
    return f"{flow['meta']:#x} {ends[0]} > {ends[1]}"


def _until(seconds: float | None, full: bool) -> str:
    if full:
        return "now"
    return "does not grow" if seconds is None else f"in {duration(seconds)}"


def _numbers(table: Table, first: int) -> Table:
    """Columns from this one on are numbers."""
    for column in table.columns[first:]:
        column.justify = "right"
    return table


def _hex(meta: int | None) -> str:
    return "" if meta is None else f"{meta:#x}"
