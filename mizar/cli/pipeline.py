# SPDX-License-Identifier: Apache-2.0
"""`mizar pipeline`: checks, draws and compiles the gateway's pipelines; thin over mizar.pipeline.

Registered by mizar.cli.main, which turns MizarError into a message and an exit code. Touches no device.
"""

from __future__ import annotations

import sys
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from mizar.cli import pipeline_tc
from mizar.cli.output import Format, Output, columns, emit
from mizar.cli.pipeline_simulate import simulate
from mizar.model.errors import InvalidError
from mizar.pipeline.description import Pipeline, blocks
from mizar.pipeline.fields import number
from mizar.pipeline.plantuml import plantuml
from mizar.pipeline.reader import read_pipeline
from mizar.pipeline.report import Row, report
from mizar.pipeline.rte_flow.compile import compile_rules
from mizar.pipeline.rte_flow.described import FORM, described, flow_text, read_flow
from mizar.pipeline.rte_flow.example import example_connection
from mizar.pipeline.rte_flow.lowering import Ports
from mizar.pipeline.svg import svg
from mizar.pipeline.xdp.generate import Program, generate

app = typer.Typer(help="The gateway's flow pipelines: check, draw, compile.", no_args_is_help=True)

File = Annotated[str, typer.Argument(help="Description in YAML, - for stdin.", metavar="FILE")]
Tenants = Annotated[
    list[str] | None,
    typer.Option("--tenant", help="Metadata value with counters and meters of its own; repeatable.", metavar="META"),
]


class Picture(StrEnum):
    """What `draw` writes."""

    SVG = "svg"
    PLANTUML = "plantuml"


@app.command()
def check(file: File, output: Output = Format.TABLE) -> None:
    """Read a description and say every problem at once; exit 1 when there is one."""
    pipeline = _read(file)
    switches = sum(1 for _, block in blocks(pipeline) if block.switch is not None)
    found = {"pipeline": pipeline.name, "groups": len(pipeline.groups), "switches": switches, "problems": 0}
    emit(found, output, lambda: Text(f"{pipeline.name}: {found['groups']} groups, {switches} switches, no problem"))


@app.command()
def draw(
    file: File,
    form: Annotated[Picture, typer.Option("--format", "-F", help="The picture's form.")] = Picture.SVG,
    output: Output = Format.TABLE,
) -> None:
    """Draw a pipeline, as SVG or as PlantUML, to stdout."""
    pipeline = _read(file)
    picture = svg(pipeline) if form is Picture.SVG else plantuml(pipeline)
    if output is Format.TABLE:
        print(picture, end="")
    else:
        emit({"pipeline": pipeline.name, "format": str(form), "picture": picture}, output, Table)


@app.command("report")
def report_command(file: File, tenant: Tenants = None, output: Output = Format.TABLE) -> None:
    """Say of each rule and each target: taken, or what forces it elsewhere, with an estimated cost."""
    rows = report(_read(file), _tenants(tenant))
    emit([asdict(row) for row in rows], output, lambda: _table(rows))


@app.command("rte-flow")
def rte_flow(
    file: File,
    tenant: Tenants = None,
    uplink: Annotated[int, typer.Option(min=0, help="DPDK's number of the uplink's port.")] = 0,
    kernel: Annotated[int, typer.Option(min=0, help="DPDK's number of the kernel's representor.")] = 1,
    connection: Annotated[
        list[str] | None,
        typer.Option(help=f"Also the rules of this connection, as the section nat translates it: {FORM}."),
    ] = None,
    output: Output = Format.TABLE,
) -> None:
    """Print a pipeline as testpmd's commands, or with -o json as rules; nothing is sent to a device."""
    pipeline = _read(file)
    plan = compile_rules(pipeline, Ports(uplink, kernel), _tenants(tenant))
    asked = [read_flow(text) for text in connection or ()]
    found = described(pipeline, plan, asked, uplink) if asked else []
    example = None if asked else example_connection(plan, uplink)
    if output is Format.TABLE:
        for note in plan.notes:
            print(f"# {note}")
        print("\n".join(plan.commands()))
        if example is not None:
            print("# for each connection, for example:")
            print("\n".join(example.commands()))
        for one in found:
            print(f"# {one}")
            print("\n".join(one.rules.commands()))
    else:
        plain: dict[str, Any] = plan.plain()
        if example is not None:
            plain |= {"exampleConnection": [rule.plain() for rule in example.rules]}
            plain |= {"exampleCommands": example.commands()}
        plain["connections"] = [
            {
                "begins": flow_text(one.flow),
                "becomes": flow_text(one.becomes),
                "rules": [rule.plain() for rule in one.rules.rules],
                "testpmd": one.rules.commands(),
            }
            for one in found
        ]
        emit(plain, output, Table)


@app.command("tc")
def tc(
    file: File,
    tenant: Tenants = None,
    interface: Annotated[str, typer.Option(help="The uplink: where frames come from.")] = "uplink",
    egress: Annotated[str, typer.Option(help="Where frames leave; without it, the uplink.")] = "",
    kernel: Annotated[str, typer.Option(help="Where trapped frames go.")] = "kernel",
    worker: Annotated[str, typer.Option(help="Where a user-space program takes its queues' frames.")] = "",
    apply: Annotated[bool, typer.Option("--apply", help="Put it in force in this namespace.")] = False,
    remove: Annotated[bool, typer.Option("--remove", help="Take away what --apply has put there.")] = False,
    output: Output = Format.TABLE,
) -> None:
    """Print a pipeline as tc's filters (`tc -batch`), or with -o json as rules; or put it in force."""
    if apply and remove:
        raise typer.BadParameter("expected --apply or --remove, not both")
    do = pipeline_tc.apply if apply else pipeline_tc.remove if remove else pipeline_tc.show
    do(_read(file), pipeline_tc.ports_of(interface, egress, kernel, worker), _tenants(tenant), output)


@app.command("simulate")
def simulate_command(
    file: File,
    pcap: Annotated[
        str, typer.Option("--pcap", help="Frames that come in: pcap or pcapng, - for stdin.", metavar="IN")
    ],
    out: Annotated[Path | None, typer.Option("--out", help="Write what leaves, as pcapng.", metavar="OUT")] = None,
    output: Output = Format.TABLE,
) -> None:
    """Send a capture through the interpreter: each frame with its verdict and its way; no device is touched.

    Time is the capture's: connections, limits and time-outs follow it. In OUT an interface stands for each end
    (egress, kernel, queue N), and the way is the frame's comment.
    """
    simulate(_read(file), pcap, out, output)


@app.command()
def xdp(file: File, output: Output = Format.TABLE) -> None:
    """Print a pipeline's XDP program as C; it stands on the headers in dataplane/gateway."""
    program = generate(_read(file))
    if output is Format.TABLE:
        print(program.text, end="")
    else:
        emit(_program(program) | {"text": program.text}, output, Table)


@app.command()
def build(
    file: File,
    object_file: Annotated[Path, typer.Option("--object", help="Where the ELF object goes.", metavar="OBJ")],
    output: Output = Format.TABLE,
) -> None:
    """Compile a pipeline's XDP program with this host's clang; nothing is loaded."""
    from mizar.kernel.clang import compile_program

    program = generate(_read(file))
    data = compile_program(program.text, program.pipeline)
    try:
        object_file.write_bytes(data)
    except OSError as error:
        raise InvalidError(f"{object_file} cannot be written: {error}") from error
    found = _program(program) | {"object": str(object_file), "bytes": len(data)}
    emit(found, output, lambda: Text(f"{program.pipeline}: {object_file}, {len(data)} bytes"))


def _program(program: Program) -> dict[str, object]:
    return {
        "pipeline": program.pipeline,
        "counters": list(program.counters),
        "limits": list(program.limits),
        "questions": program.questions,
    }


def _read(name: str) -> Pipeline:
    try:
        text = sys.stdin.read() if name == "-" else Path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidError(f"{name} cannot be read: {error}") from error
    return read_pipeline(text, "stdin" if name == "-" else name)


def _tenants(values: list[str] | None) -> tuple[int, ...]:
    found = []
    for value in values or ():
        try:
            meta = number(int(value) if value.isascii() and value.isdecimal() and len(value) < 12 else value)
            if not 0 <= meta < 1 << 32:
                raise ValueError(f"expected a number of 32 bits, found {value}")
        except ValueError as error:
            raise typer.BadParameter(f"--tenant: {error}") from error
        found.append(meta)
    return tuple(found)


def _table(rows: list[Row]) -> Table:
    lines = []
    for row in rows:
        for place, one in enumerate(row.judgements):
            rule = f"{row.spot}: {row.when}" if place == 0 else ""
            cost = "" if one.estimated_ns is None else f"~{one.estimated_ns} ns"
            lines.append((rule, one.target, str(one.verdict), cost, "; ".join(one.reasons)))
    table = columns(("RULE", "TARGET", "VERDICT", "ESTIMATE", "WHY"), lines)
    table.caption = "Estimates are of one packet on one core; those of XDP add up measured steps."
    table.caption_justify = "left"
    return table
