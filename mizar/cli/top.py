# SPDX-License-Identifier: Apache-2.0
"""`mizar top`: droplets, VPCs, endpoints and drops with their rates, live on a terminal."""

from __future__ import annotations

import contextlib
import sys
import termios
import time
import tty
from collections.abc import Iterator, Sequence
from enum import StrEnum
from typing import Annotated

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from mizar.cli.connection import Server, connect
from mizar.cli.output import Format, Output, emit
from mizar.cli.rates import SORTS, Row, rates, short, sort, total
from mizar.lab.probes import readable

_STYLES = {"up": "green", "unreachable": "yellow", "down": "yellow", "dead": "bold red"}
_QUIT = ("q", "\x03", "\x04")


class Sort(StrEnum):
    """What tables are sorted by."""

    PACKETS = "packets"
    BYTES = "bytes"
    DROPS = "drops"
    NAME = "name"


def top(
    by: Annotated[Sort, typer.Option("--sort", "-s", help="What comes first.")] = Sort.PACKETS,
    interval: Annotated[float, typer.Option(min=0.5, max=60, help="Seconds between two samples.")] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Show one sample and end.")] = False,
    server: Server = None,
    output: Output = Format.TABLE,
) -> None:
    """Show droplets, VPCs, endpoints and drops with their rates; -o json gives one sample."""
    with connect(server) as client:
        first = client.traffic()
        if output is not Format.TABLE or once or not sys.stdout.isatty():
            time.sleep(interval)
            found = rates(first, client.traffic())
            emit(found, output, lambda: screen(found, by.value, None))
            return
        shown = rates(first, first)
        console, chosen = Console(highlight=False), by.value
        with _keys() as keys, Live(console=console, screen=True, auto_refresh=False) as live:
            while True:
                live.update(screen(shown, chosen, console.size.height), refresh=True)
                pressed = keys.wait(interval)
                if pressed in _QUIT:
                    return
                if pressed:
                    chosen = next((name for name, key in SORTS.items() if key == pressed), chosen)
                    continue
                second = client.traffic()
                shown, first = rates(first, second), second


class _Keys:
    """Keys of the terminal, without echo. A press does not put off the next sample."""

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor
        self._due = 0.0

    def wait(self, interval_s: float) -> str:
        """The key that was pressed, empty when it is time for the next sample."""
        now = time.monotonic()
        if self._due <= now:
            self._due = now + interval_s
        rest = self._due - now
        if self._descriptor is None:
            time.sleep(rest)
            return ""
        if readable([self._descriptor], rest):
            return sys.stdin.read(1) or "q"
        self._due = 0.0
        return ""


@contextlib.contextmanager
def _keys() -> Iterator[_Keys]:
    if not sys.stdin.isatty():
        yield _Keys(None)
        return
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    tty.setcbreak(descriptor)
    try:
        yield _Keys(descriptor)
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def screen(found: Row, by: str, height: int | None) -> Group:
    """All tables; `height` lines are shared by those that can be long, None: nothing is left out."""
    drops = [row for row in sort(_with_drops(found["drops"]), "drops") if row["droppedPacketsPerSecond"]]
    tables = [("DROPLETS", found["droplets"]), ("VPCS", found["vpcs"]), ("ENDPOINTS", found["endpoints"])]
    tables = [(title, rows) for title, rows in tables if rows]
    lines = height - 6 - 3 * len(tables) - min(len(drops), 6) if height else sum(len(rows) for _, rows in tables)
    room = _shares([len(rows) for _, rows in tables], lines)
    parts: list[Text | Table] = [_head(found, by, height is not None)]
    for (title, rows), limit in zip(tables, room, strict=True):
        parts += [Text(), _table(title, sort(rows, by), limit)]
    if drops:
        parts += [Text(), _reasons(drops[: 5 if height else None])]
    return Group(*parts)


def _with_drops(rows: Sequence[Row]) -> list[Row]:
    return [row | {"droppedPacketsPerSecond": row["packetsPerSecond"]} for row in rows]


def _shares(wanted: Sequence[int], lines: int) -> list[int]:
    """How many rows each table gets: what a short one does not need goes to the others."""
    given, left = [0] * len(wanted), max(lines, 2 * len(wanted))
    for place, number in sorted(enumerate(wanted), key=lambda pair: pair[1]):
        waiting = sum(1 for other, _ in enumerate(wanted) if not given[other])
        given[place] = min(number, max(1, left // waiting))
        left -= given[place]
    return given


def _head(found: Row, by: str, keys: bool) -> Text:
    clock = time.strftime("%H:%M:%S", time.localtime(found["time"]))
    text = Text.assemble((f"mizar top  {clock}", "bold"), f"  rates per second, over the last {found['seconds']:.1f} s")
    if not found["seconds"] or found["seconds"] < 0.1:
        text = Text.assemble((f"mizar top  {clock}", "bold"), "  rates follow …")
    text.append(f"\ndelivered {short(total(found['vpcs'], 'deliveredPackets'))} packets, ")
    text.append(f"{short(8 * total(found['vpcs'], 'deliveredBytes'))}bit")
    dropped = total(found["droplets"] or found["vpcs"], "droppedPackets")
    text.append("; dropped ").append(f"{short(dropped)} packets", style="red" if dropped else "")
    if keys:
        options = "  ".join(f"{key} {name}" for name, key in SORTS.items())
        text.append(f"\nsorted by {by}   keys: {options}  q quit", style="dim")
    return text


def _table(title: str, rows: Sequence[Row], limit: int) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1, 0, 0))  # eighty columns are enough
    table.add_column(title, overflow="ellipsis", no_wrap=True, min_width=13)
    droplets, endpoints = title == "DROPLETS", title == "ENDPOINTS"
    if droplets:
        table.add_column("HEALTH", no_wrap=True)
        table.add_column("ENDPOINTS", justify="right", no_wrap=True)
    if endpoints:
        table.add_column("DROPLET", no_wrap=True)
    headings = ["SENT", "bit", "DELIVERED", "bit", "DROPPED"]
    if droplets:
        headings.insert(-1, "FORWARDED")
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows[:limit]:
        name = f"{row['tenant']}/{row['name']}" if "tenant" in row else row["name"]
        cells: list[Text | str] = [name]
        if droplets:
            cells.append(Text(row["health"], style=_STYLES.get(row["health"], "")))
            cells.append(str(row.get("endpoints", "")))
            if row["problem"]:
                table.add_row(*cells, Text("?", style="yellow"))
                continue
        if endpoints:
            cells.append(row["droplet"])
        table.add_row(*cells, *_figures(row, droplets))
    if len(rows) > limit:
        table.add_row(Text(f"… and {len(rows) - limit} more", style="dim"))
    return table


def _figures(row: Row, droplets: bool) -> Iterator[Text]:
    yield _number(row["sentPacketsPerSecond"])
    yield _number(8 * row["sentBytesPerSecond"])
    yield _number(row["deliveredPacketsPerSecond"])
    yield _number(8 * row["deliveredBytesPerSecond"])
    if droplets:
        ways = ("bounced", "divided", "toDivider", "peered")
        yield _number(sum(row[f"{way}PacketsPerSecond"] for way in ways))
    yield _number(row["droppedPacketsPerSecond"], "bold red")


def _number(value: float, style: str = "") -> Text:
    return Text(short(value), style=style if value else "dim")


def _reasons(rows: Sequence[Row]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1, 0, 0))
    table.add_column("DROPS", no_wrap=True, min_width=20)
    table.add_column("PACKETS", justify="right", no_wrap=True, min_width=7)
    table.add_column("", overflow="ellipsis", no_wrap=True)
    for row in rows:
        words = row["sentence"] if row["verdict"] != "pass" else f"(left to the host's stack) {row['sentence']}"
        table.add_row(row["reason"], _number(row["droppedPacketsPerSecond"], "bold red"), words)
    return table
