# SPDX-License-Identifier: Apache-2.0
"""`mizar audit`: whether every droplet holds what the planner wants of it."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.console import Group, RenderableType

from mizar.cli.connection import Server, connect
from mizar.cli.counters import complete_droplet, droplets_with_daemon
from mizar.cli.output import FAILED, Format, Output, columns, emit, stderr
from mizar.model.errors import NotFoundError


def audit(
    droplets: Annotated[
        list[str] | None, typer.Argument(help="These droplets; none: all.", autocompletion=complete_droplet)
    ] = None,
    repair: Annotated[bool, typer.Option("--repair", help="Mend what is found, and say what was done.")] = False,
    server: Server = None,
    output: Output = Format.TABLE,
) -> None:
    """Compare what droplets hold (maps, interfaces, programs) with what they should. Exit code 1: something differs."""
    with connect(server) as client:
        names = droplets or droplets_with_daemon(client)
        if not names:
            raise NotFoundError("there is no droplet with a daemon that you may audit")
        found = []
        for number, name in enumerate(names, start=1):
            if len(names) > 1 and stderr().is_terminal:
                stderr().print(f"{name} ({number} of {len(names)}) …")
            found.append(client.audit(name, repair=repair))
    emit(found, output, lambda: _shown(found))
    if any(item["findings"] or item["more"] or not item["reached"] for item in found):
        raise typer.Exit(FAILED)


def _shown(found: list[dict[str, Any]]) -> RenderableType:
    rows = [
        (item["droplet"], one["kind"], one["at"], one["table"], one["object"], one["vpc"], one["key"], one["wanted"],
         one["found"], one["error"] or one["repair"] or "not repaired")
        for item in found
        for one in item["findings"]
    ]  # fmt: skip
    lines: list[RenderableType] = []
    if rows:
        headings = ("DROPLET", "IS", "AT", "TABLE", "OBJECT", "VPC", "KEY", "WANTED", "FOUND", "REPAIR")
        lines.append(columns(headings, rows))
    return Group(*lines, *(_told(item) for item in found))


def _told(item: dict[str, Any]) -> str:
    if not item["reached"]:
        return f"{item['droplet']}: not audited: {item['reason']}"
    wrong = len(item["findings"]) + item["more"]
    more = f" ({item['more']} of them not shown)" if item["more"] else ""
    findings = f"{wrong or 'no'} finding{'' if wrong == 1 else 's'}{more}"
    return f"{item['droplet']}: {findings}, {item['lookedAt']} entries looked at"
