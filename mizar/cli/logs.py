# SPDX-License-Identifier: Apache-2.0
"""`mizar logs`: access logs of functions, of all their instances, each line as its instance wrote it."""

from __future__ import annotations

import json
import time
from typing import Annotated, Any

import typer

from mizar.cli.connection import Server, connect
from mizar.cli.output import Format, Output
from mizar.model.errors import InvalidError
from mizar.model.resources import kind_named

PAUSE_S = 1.0
"""Between two questions while it follows."""


def logs(
    kind: Annotated[str, typer.Argument(help="httploadbalancer.")],
    name: Annotated[str, typer.Argument(help="NAME, or TENANT/NAME.")],
    tenant: Annotated[str | None, typer.Option("--tenant", "-t", help="Whose it is.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, max=1000, help="Of each instance, to begin with.")] = 20,
    server: Server = None,
    output: Output = Format.TABLE,
) -> None:
    """Show what clients have asked an HTTP load balancer for: one line for each request, the oldest first."""
    if kind_named(kind).name != "HttpLoadBalancer":
        raise InvalidError(f"{kind} has no access logs; expected httploadbalancer")
    owner, _, own = name.rpartition("/")
    places: dict[str, str] = {}
    with connect(server) as client:
        while True:
            told = client.logs(owner or tenant or "", own, places, lines)
            for one in told["instances"]:
                places[one["instance"]] = one["next"]
            found = [(one["instance"], line) for one in told["instances"] for line in one["lines"]]
            for instance, line in sorted(found, key=lambda pair: _when(pair[1])):
                _print(instance, line, output)
            for one in told["instances"]:
                if one["reason"]:
                    typer.echo(f"{one['instance']}: {one['reason']}", err=True)
            if not follow:
                return
            lines = 1000
            time.sleep(PAUSE_S)


def _when(line: str) -> float:
    try:
        return float(json.loads(line)["time"])
    except (ValueError, KeyError, TypeError):
        return 0.0


def _print(instance: str, line: str, output: Format) -> None:
    said = _said(line)
    if output is not Format.TABLE:
        typer.echo(json.dumps({"instance": instance} | (said if said is not None else {"line": line})))
        return
    if said is None:  # cut off, or not of an instance's making: nobody's request goes unseen
        typer.echo(_shown(f"{instance} {line}"))
        return
    when = time.strftime("%H:%M:%S", time.gmtime(_when(line)))
    words = (when, instance, *(said.get(key, "") for key in ("client", "method", "host", "path", "status", "server")))
    typer.echo(_shown(" ".join(str(word) or "-" for word in (*words, f"{said.get('totalMs', '')}ms"))))


def _said(line: str) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _shown(text: str) -> str:
    """Hosts and paths are of clients' making: nothing of them may speak to the terminal."""
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)
