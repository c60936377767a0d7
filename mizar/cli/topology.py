# SPDX-License-Identifier: Apache-2.0
"""`mizar topology apply|show|draw|delete`: this host's interfaces as a description. Thin over mizar.topology.host."""

from __future__ import annotations

import sys
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Group
from rich.text import Text

from mizar.cli.output import FAILED, Format, Output, columns, emit, stderr
from mizar.model.errors import InvalidError
from mizar.topology import host, plantuml, svg
from mizar.topology.compare import Row, State
from mizar.topology.description import HostTopology
from mizar.topology.picture import picture
from mizar.topology.present import Plan
from mizar.topology.reading import parse_topologies
from mizar.topology.steps import Step

app = typer.Typer(
    help="Bridges, VXLAN devices, veths and functions of this host as a description.", no_args_is_help=True
)

File = Annotated[str, typer.Option("--filename", "-f", help="File of one HostTopology, - for stdin.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Look and plan, change nothing.")]


class Drawing(StrEnum):
    """How a picture is written."""

    PLANTUML = "plantuml"
    SVG = "svg"


@app.command()
def apply(filename: File, dry_run: DryRun = False, output: Output = Format.TABLE) -> None:
    """Make this host as described: what is there stays, what drifted is repaired, what is described no more goes."""
    topology = _read(filename)
    found = _planned(topology, dry_run, output, deletion=False)
    if found.conflicts or found.refusals:
        raise typer.Exit(FAILED)


@app.command()
def delete(filename: File, dry_run: DryRun = False, output: Output = Format.TABLE) -> None:
    """Remove what the topology of that name made, and nothing else."""
    topology = _read(filename)
    found = _planned(topology, dry_run, output, deletion=True)
    if found.conflicts or found.refusals:
        raise typer.Exit(FAILED)


@app.command()
def show(filename: File, output: Output = Format.TABLE) -> None:
    """Show each object as wanted and as it is; exit 1 when one is not as wanted."""
    rows = host.show(_read(filename))
    emit([_row(row) for row in rows], output, lambda: _rows(rows))
    if any(row.state is not State.AS_WANTED for row in rows):
        raise typer.Exit(FAILED)


@app.command()
def draw(
    filename: File,
    drawing: Annotated[Drawing, typer.Option("--as", help="What to write.")] = Drawing.PLANTUML,
    described: Annotated[
        bool, typer.Option("--described", help="Do not look at this host: mark nothing as absent.")
    ] = False,
    to: Annotated[Path | None, typer.Option("--to", help="File to write; stdout without it.")] = None,
) -> None:
    """Draw the topology as PlantUML or SVG; what is absent on this host, or not as wanted, is marked."""
    topology = _read(filename)
    drawn = picture(topology, None if described else host.show(topology))
    text = svg.written(drawn) if drawing is Drawing.SVG else plantuml.written(drawn)
    if to is None:
        print(text, end="")
        return
    try:
        to.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InvalidError(f"{to} cannot be written: {error.strerror}") from error


def _planned(topology: HostTopology, dry_run: bool, output: Format, *, deletion: bool) -> Plan:
    """Changes the host, or shows what it would; a plan that may not be done is shown before it is refused."""
    change = host.delete if deletion else host.apply
    found = change(topology, dry_run=True)
    if not dry_run and not found.conflicts and not found.refusals:
        found = change(topology, done=lambda step: _tell(step, output))
    result = {
        "topology": topology.name,
        "changed": not dry_run and bool(found.steps) and not found.conflicts and not found.refusals,
        "steps": [{"object": step.object, "step": str(step)} for step in found.steps],
        "conflicts": found.conflicts,
        "refusals": found.refusals,
    }
    emit(result, output, lambda: _plan(found, dry_run, deletion))
    if (found.conflicts or found.refusals) and not dry_run:
        host.refuse(found)
    return found


def _tell(step: Step, output: Format) -> None:
    if output is Format.TABLE:
        stderr().print(f"  {step}")


def _plan(found: Plan, dry_run: bool, deletion: bool) -> Group:
    blocked = bool(found.conflicts or found.refusals)
    if not found.steps and not blocked:
        return Group(Text("nothing is there to remove" if deletion else "everything is as wanted", style="green"))
    if not blocked and not dry_run:
        count = len(found.steps)
        return Group(Text(f"{count} step{'s' if count > 1 else ''} done", style="green"))
    lines = [Text("the plan:", style="bold"), *(Text(f"  {step}") for step in found.steps)]
    if dry_run:
        lines += [Text(f"conflict: {line}", style="red") for line in found.conflicts]
        lines += [Text(f"refused: {line}", style="red") for line in found.refusals]
        lines.append(Text("a dry run: nothing was changed"))
    return Group(*lines)


def _rows(rows: list[Row]) -> Any:
    cells = [
        (
            row.object,
            row.namespace or "(host)",
            row.interface,
            row.state.value,
            row.detail or (row.wanted if row.state is State.ABSENT else row.actual),
        )
        for row in rows
    ]
    return columns(("OBJECT", "NAMESPACE", "INTERFACE", "STATE", "DETAIL"), cells)


def _row(row: Row) -> dict[str, str]:
    return {key: str(value) for key, value in asdict(row).items()}


def _read(filename: str) -> HostTopology:
    try:
        text = sys.stdin.read() if filename == "-" else Path(filename).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidError(f"{filename} cannot be read: {error}") from error
    found = parse_topologies(text, "stdin" if filename == "-" else filename)
    if len(found) > 1:
        raise InvalidError(f"{filename}: expected one HostTopology, found {', '.join(item.name for item in found)}")
    return found[0]
