# SPDX-License-Identifier: Apache-2.0
"""`mizar pipeline tc`: a pipeline as filters of the kernel; thin over mizar.pipeline.tc.

Called by mizar.cli.pipeline.
"""

from __future__ import annotations

import re

import typer
from rich.table import Table
from rich.text import Text

from mizar.cli.output import Format, emit
from mizar.pipeline.description import Pipeline
from mizar.pipeline.tc.compile import compile_rules
from mizar.pipeline.tc.lowering import Ports

_INTERFACE = re.compile(r"[^\s/:%]{1,15}")


def ports_of(interface: str, egress: str, kernel: str, worker: str) -> Ports:
    """The interfaces by name; none but the first has to be there."""
    for name in filter(None, (interface, egress, kernel, worker)):
        if not _INTERFACE.fullmatch(name):
            raise typer.BadParameter(f"expected an interface's name of at most 15 characters, found {name!r}")
    if not interface:
        raise typer.BadParameter("--interface: expected the uplink's name")
    return Ports(interface, egress, kernel, worker)


def show(pipeline: Pipeline, ports: Ports, tenants: tuple[int, ...], output: Format) -> None:
    """The plan on stdout."""
    plan = compile_rules(pipeline, ports, tenants)
    if output is not Format.TABLE:
        emit(plan.plain(), output, Table)
        return
    for note in plan.notes:
        print(f"# {note}")
    for line in plan.links():
        print(f"# first: ip {line}")
    for counter in plan.counters:
        meta = "" if counter.meta is None else f" of {counter.meta:#x}"
        print(f"# counter {counter.number:08x}: {counter.name}{meta}")
    print("\n".join(plan.commands()))


def apply(pipeline: Pipeline, ports: Ports, tenants: tuple[int, ...], output: Format) -> None:
    """Puts the plan in force; applying it again changes nothing."""
    from mizar.kernel.flower import TcBlock  # only here: printing needs no kernel

    with TcBlock(ports.block) as block:
        done = block.apply(lambda generation: compile_rules(pipeline, ports, tenants, generation))
    found = {"pipeline": pipeline.name, "interface": ports.uplink, "changed": done.changed, "filters": done.filters}
    words = f"{done.filters} filters on {ports.uplink}" if done.changed else "nothing to change"
    emit(found, output, lambda: Text(f"{pipeline.name}: {words}"))


def remove(pipeline: Pipeline, ports: Ports, tenants: tuple[int, ...], output: Format) -> None:
    """Takes everything away again."""
    from mizar.kernel.flower import TcBlock

    with TcBlock(ports.block) as block:
        there = block.remove(compile_rules(pipeline, ports, tenants))
    found = {"pipeline": pipeline.name, "interface": ports.uplink, "changed": there}
    emit(found, output, lambda: Text(f"{pipeline.name}: {'removed' if there else 'there was nothing'}"))
