# SPDX-License-Identifier: Apache-2.0
"""Matrices of endpoints, one for each VPC. Called by the demo's screen and by the simulation's."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from mizar.lab.findings import Member


def matrix(members: Sequence[Member], mark: Callable[[Member, Member], Text]) -> RenderableType:
    """A row for each endpoint, a column for each of its VPC."""
    tables: list[RenderableType] = []
    for group in dict.fromkeys(member.group for member in members):
        own = [member for member in members if member.group == group]
        table = Table(box=None, title=f"{group[0]}/{group[1]}", title_justify="left", title_style="bold")
        table.add_column("from \\ to")
        for member in own:
            table.add_column(member.name, justify="center")
        for source in own:
            table.add_row(f"{source.name} ({source.droplet})", *(mark(source, peer) for peer in own))
        tables.append(table)
    return Group(*tables)


def tick(ok: bool) -> Text:
    """Whether something is as it should be."""
    return Text("ok", style="green") if ok else Text("WRONG", style="bold red")
