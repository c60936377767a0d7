# SPDX-License-Identifier: Apache-2.0
"""`mizar pipeline simulate`: a capture through the interpreter; what leaves goes into another capture.

Thin over mizar.pipeline.interpreter.simulation and `captures`. Registered by mizar.cli.pipeline.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from mizar.cli.captures import read_frames
from mizar.cli.output import Format, columns, emit
from mizar.cli.pcapng import PcapngWriter
from mizar.model.errors import InvalidError
from mizar.pipeline.description import Pipeline
from mizar.pipeline.interpreter.connection import Flow
from mizar.pipeline.interpreter.machine import Verdict
from mizar.pipeline.interpreter.simulation import Passed, Simulation


def simulate(pipeline: Pipeline, capture: str, out: Path | None, output: Format) -> None:
    """Reads, runs, writes what left, and shows every frame."""
    try:
        data = sys.stdin.buffer.read() if capture == "-" else Path(capture).read_bytes()
    except OSError as error:
        raise InvalidError(f"{capture} cannot be read: {error}") from error
    frames = read_frames(data, "stdin" if capture == "-" else capture)
    run = Simulation(pipeline)
    passed = list(run.run(frames))
    if out is not None:
        _write(out, passed)
    end_ns = max((time_ns for time_ns, _ in frames), default=0)
    found = {
        "pipeline": pipeline.name,
        "frames": [_plain(number, one) for number, one in enumerate(passed, 1)],
        "counters": [
            {"name": name, "meta": meta, "packets": tally.packets, "bytes": tally.octets}
            for (name, meta), tally in run.machine.counters.items()
        ],
        "reasons": {str(reason): count for reason, count in run.table.reasons.items()},
        "connections": [
            {"tenant": one.tenant, "original": _flow(one.original), "becomes": _flow(one.becomes)}
            for one in run.connections(end_ns)
        ],
    }
    emit(found, output, lambda: _table(passed, found))


def _write(out: Path, passed: Iterable[Passed]) -> None:
    try:
        with out.open("wb") as stream:
            writer = PcapngWriter(stream)
            for one in passed:
                if one.outcome.verdict is not Verdict.DROP:
                    frame = one.outcome.frame
                    writer.write(_end(one), one.time_ns, frame, len(frame), one.short)
    except OSError as error:
        raise InvalidError(f"{out} cannot be written: {error}") from error


def _end(one: Passed) -> str:
    return f"queue {one.outcome.queue}" if one.outcome.verdict is Verdict.QUEUE else str(one.outcome.verdict)


def _plain(number: int, one: Passed) -> dict[str, Any]:
    outcome = one.outcome
    return {
        "number": number,
        "time_ns": one.time_ns,
        "verdict": str(outcome.verdict),
        "queue": outcome.queue,
        "reason": outcome.reason,
        "meta": outcome.meta,
        "way": list(one.way),
        "in": one.frame.hex(),
        "out": None if outcome.verdict is Verdict.DROP else outcome.frame.hex(),
    }


def _flow(flow: Flow) -> dict[str, Any]:
    width = 4 if flow.version == 4 else 16
    source, target = (str(ip_address(one.to_bytes(width, "big"))) for one in (flow.source, flow.destination))
    return {
        "meta": flow.meta,
        "protocol": flow.protocol,
        "source": source,
        "source_port": flow.source_port,
        "destination": target,
        "destination_port": flow.destination_port,
    }


def _table(passed: list[Passed], found: dict[str, Any]) -> Group:
    rows = []
    for number, one in enumerate(passed, 1):
        meta = "" if one.outcome.meta is None else f"{one.outcome.meta:#x}"
        size = f"{len(one.frame)}" + ("" if one.outcome.verdict is Verdict.DROP else f" > {len(one.outcome.frame)}")
        rows.append((str(number), size, _end(one), meta, one.short, one.outcome.reason))
    table: Table = columns(("FRAME", "BYTES", "VERDICT", "META", "WAY", "DROPPED BECAUSE"), rows)
    left = sum(one.outcome.verdict is not Verdict.DROP for one in passed)
    summary = f"{len(passed)} frames, {left} left, {len(found['connections'])} connections"
    reasons = "".join(f"; {count} {reason}" for reason, count in found["reasons"].items())
    return Group(table, Text(summary + reasons))
