# SPDX-License-Identifier: Apache-2.0
"""What HAProxy says of itself at its stats socket, read as values (Management Guide 9.3: show stat, show info).

Called by `http_balancer`. A question is answered by the worker that serves now; its numbers begin anew with it.
"""

import asyncio
import csv
from collections.abc import Iterator, Mapping
from pathlib import Path

from mizar._built import transit_pb2 as pb
from mizar.transit.engines.engine import Sample
from mizar.transit.engines.http_socket import ask

Row = Mapping[str, str]
_OF_LISTENERS = {"req_tot": "requests", "bin": "received_bytes", "bout": "sent_bytes", "dreq": "denied_requests"}
_OF_BACKENDS = {"wretr": "retries", "wredis": "redispatches", "econ": "connection_errors"}


async def worker(path: Path) -> int:
    """The number of the process that answers; 0 while none does."""
    try:
        answer = await asyncio.to_thread(ask, path, "show info")
    except OSError:
        return 0
    found = [line.partition(":")[2].strip() for line in answer.splitlines() if line.startswith("Pid:")]
    return int(found[0]) if found and found[0].isdecimal() else 0


def rows(path: Path) -> list[Row]:
    """One for each listener, backend and server. Blocks; raises OSError."""
    answer = ask(path, "show stat").lstrip("# ")
    return list(csv.DictReader(answer.splitlines()))


def unwell(found: list[Row]) -> list[pb.ServerReport]:
    """The servers that do not answer, and why."""
    servers = (row for row in found if row.get("svname") not in ("FRONTEND", "BACKEND", None))
    return [
        pb.ServerReport(backend=_named(row), server=row["svname"], reason=_reason(row))
        for row in servers
        if row.get("status", "").startswith("DOWN")
    ]


def samples(found: list[Row]) -> Iterator[Sample]:
    """Numbers for metrics."""
    for row in found:
        what, name = row.get("svname"), _named(row)
        if what == "FRONTEND":
            label = (("listener", name.removeprefix("port-")),)
            yield from _numbers(row, "http_balancer", label, _OF_LISTENERS)
            yield Sample("http_balancer_connections", _number(row, "scur"), label)
            for code in range(1, 6):
                labels = (*label, ("code", f"{code}xx"))
                yield Sample("http_balancer_responses", _number(row, f"hrsp_{code}xx"), labels, counter=True)
        elif what == "BACKEND" and name != "no-route":
            label = (("backend", name),)
            yield from _numbers(row, "http_balancer_backend", label, _OF_BACKENDS)
            yield Sample("http_balancer_backend_queued", _number(row, "qcur"), label)
            yield Sample("http_balancer_backend_servers_up", _number(row, "act"), label)


def _numbers(row: Row, prefix: str, label: tuple[tuple[str, str], ...], names: Mapping[str, str]) -> Iterator[Sample]:
    for field, name in names.items():
        yield Sample(f"{prefix}_{name}", _number(row, field), label, counter=True)


def _number(row: Row, field: str) -> float:
    text = row.get(field, "")
    return float(text) if text.isdecimal() else 0.0


def _named(row: Row) -> str:
    return row.get("pxname", row.get("# pxname", "")).removeprefix("to-")


def _reason(row: Row) -> str:
    said = " ".join(filter(None, (row.get("check_status", ""), row.get("check_code", ""), row.get("last_chk", ""))))
    return "".join(c for c in said if c.isprintable())[:200]
