# SPDX-License-Identifier: Apache-2.0
"""What people and programs read: tables, JSON and YAML on stdout; errors in one block on stderr.

Called by every command. JSON and YAML carry everything; a table carries what fits a line.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum
from typing import Annotated, Any

import typer
import yaml
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from mizar.model.errors import (
    ConflictError,
    ExhaustedError,
    InvalidError,
    MizarError,
    NotFoundError,
    TemporaryError,
)

FAILED, MISUSED = 1, 2
WIDE = 200
"""Columns of a table that goes to no terminal: nothing is cut for a program that reads it."""

_HEADINGS: tuple[tuple[type[MizarError], str], ...] = (
    (InvalidError, "refused"),
    (ConflictError, "conflict"),
    (NotFoundError, "not found"),
    (TemporaryError, "not possible now"),
    (ExhaustedError, "full"),
)
_PHASE_STYLES = {"Provisioned": "green", "Failed": "bold red", "Init": "yellow", "Deleting": "yellow"}


class Format(StrEnum):
    """How a command prints its result."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


Output = Annotated[Format, typer.Option("--output", "-o", help="How to print the result.")]


def stdout() -> Console:
    """The console for results; made anew so that a redirected sys.stdout is honoured."""
    return _console(stderr=False)


def stderr() -> Console:
    """The console for progress and errors."""
    return _console(stderr=True)


def _console(stderr: bool) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, highlight=False, soft_wrap=True, width=None if stream.isatty() else WIDE)


def emit(value: Any, form: Format, table: Callable[[], RenderableType]) -> None:
    """Prints `value` as JSON or YAML, or what `table()` makes."""
    if form is Format.JSON:
        print(json.dumps(value, indent=2))
    elif form is Format.YAML:
        many = value if isinstance(value, list) else [value]
        print(yaml.safe_dump_all(many, sort_keys=False, allow_unicode=True), end="")
    else:
        stdout().print(table())


def columns(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    """A table without lines; a phase is coloured, None is empty. What is too wide is folded, never cut."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*(_cell(value) for value in row))
    return table


def _cell(value: object) -> Text:
    if value is None:
        return Text("")
    if isinstance(value, bool):
        return Text("yes" if value else "no", style="green" if value else "bold red")
    if isinstance(value, list | tuple):
        return Text(", ".join("/".join(item.values()) if isinstance(item, dict) else str(item) for item in value))
    return Text(str(value), style=_PHASE_STYLES.get(str(value), ""))


def report(error: MizarError) -> None:
    """One block: what kind of failure, then one line for each problem."""
    heading = next((text for kind, text in _HEADINGS if isinstance(error, kind)), "failed")
    lines = str(error).splitlines() or [heading]
    block = Text.assemble(("mizar: ", "bold"), (heading, "bold red"), ": ")
    if len(lines) == 1:
        block.append(lines[0])
    else:
        for line in lines:
            block.append(f"\n  {line}")
    stderr().print(block)
