# SPDX-License-Identifier: Apache-2.0
"""`--simulate` of `mizar demo` and `mizar lab up`: the matrix of a lab that is nowhere, and that it is one.

The work is in mizar.lab.simulated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from mizar.cli.matrix import matrix, tick
from mizar.cli.objects import read_manifests
from mizar.cli.output import FAILED, Format, emit
from mizar.lab.findings import Cell, Member
from mizar.lab.simulated import LongestWay, Served, Simulated, simulate

_BANNER = "SIMULATION: no packet was sent and nothing runs. A model of the data plane (docs/simulation.md) carried each"


def show(names: Sequence[str], output: Format) -> None:
    """Simulates the lab of manifests and shows what came of it; exit 1 unless all is well."""
    manifests = read_manifests(list(names))
    with manifests.blamed():
        found = simulate(manifests.resources)
    emit(_as_data(found), output, lambda: _screen(found))
    if not found.ok:
        raise typer.Exit(FAILED)


def _screen(found: Simulated) -> RenderableType:
    cells = {(cell.source, cell.destination): cell for cell in found.cells}
    lines: list[RenderableType] = [
        Text(_BANNER, style="bold yellow"),
        Text("packet from program to program, over tables as the planner wants them on each droplet.\n", "bold yellow"),
        f"lab {found.lab}: {found.droplets} droplets, {len(found.members)} endpoints. Every endpoint to every other of "
        "its VPC, IPv4 and IPv6:\nan ICMP echo, a UDP datagram and the begin of a TCP connection, all answered.\n",
        matrix(found.members, lambda one, other: _mark(cells.get((one, other)), one == other)),
    ]
    lines += _between(cells)
    if found.served:
        lines += [Text("\nServices, asked by every endpoint of their VPC (members are taken for healthy)")]
        lines += [_served(one) for one in found.served]
    lines += [Text(f"  {cell.source} → {cell.destination} {one.way}: {one.detail}", style="red")
              for cell in found.cells for one in cell.outcomes if one.detail]  # fmt: skip
    lines += [_isolation(found)]
    if found.longest:
        lines += _longest(found.longest)
    lines += [Text(f"  left out: {words}", style="dim") for words in found.unseen]
    if any(one.policy for cell in found.cells for one in cell.outcomes):
        lines += [Text("\nno, and not …: a policy does not allow it (`mizar diff` and `mizar trace` name the rule)")]
    good = sum(cell.ok for cell in found.cells)
    words = f"\n{good} of {len(found.cells)} cells are green in this simulation"
    if found.isolation.sent:
        words += "; VPCs never heard one another" if found.isolation.ok else "; isolation is BROKEN"
    lines += [Text(words, style="bold green" if found.ok else "bold red")]
    lines += [Text("Nothing is left running: `mizar lab status` and `exec` are for a real lab (root, Linux).")]
    return Group(*lines)


def _mark(cell: Cell | None, self_: bool) -> Text:
    if self_:
        return Text("-", style="dim")
    if cell is None:
        return Text("·", style="dim")
    wrong = [one.way for one in cell.outcomes if not one.ok]
    refused = [one.way for one in cell.outcomes if one.policy]
    if refused and not wrong:
        return Text("no" if len(refused) == len(cell.outcomes) else f"not {','.join(refused)}", style="yellow")
    return Text(",".join(wrong), style="bold red") if wrong else Text("ok", style="green")


def _between(cells: dict[tuple[Member, Member], Cell]) -> list[RenderableType]:
    """Pairs of peered VPCs are in no matrix of one VPC."""
    apart = [cell for (one, other), cell in cells.items() if one.group != other.group]
    if not apart:
        return []
    good = sum(cell.ok for cell in apart)
    return [Text(f"\nBetween peered VPCs: {good} of {len(apart)} pairs ").append_text(tick(good == len(apart)))]


def _served(one: Served) -> Text:
    text = Text(f"  {one.tenant}/{one.name} ({one.kind}, {', '.join(one.addresses)}) answered {len(one.cells)} ")
    text.append_text(tick(one.ok))
    for name, detail in one.cells.items():
        if detail:
            text.append(f"\n    {name}: {detail}", style="red")
    return text


def _isolation(found: Simulated) -> Text:
    proof = found.isolation
    if not proof.sent:
        return Text("\nIsolation: no two VPCs of this lab are apart, so there is nothing to prove", style="dim")
    words = (
        f"\nIsolation: {proof.sent} packets to addresses that other VPCs have too; {proof.heard} of {proof.expected} "
    )
    words += f"expected were heard by their own, {len(proof.foreign)} by others "
    text = Text(words).append_text(tick(proof.ok))
    for problem in (*proof.foreign, *proof.problems):
        text.append(f"\n  {problem}", style="red")
    return text


def _longest(way: LongestWay) -> list[RenderableType]:
    lines: list[RenderableType] = [Text(f"\nThe longest way: {way.source} → {way.destination}")]
    return lines + [Text(f"  {droplet:<6} {program:<8} {did}") for droplet, program, did in way.hops]


def _as_data(found: Simulated) -> dict[str, Any]:
    return {
        "simulation": True,
        "ok": found.ok,
        "lab": found.lab,
        "cells": [
            {
                "from": str(cell.source),
                "to": str(cell.destination),
                "vpc": cell.source.vpc,
                "ok": cell.ok,
                "checks": {
                    one.way: {"ok": one.ok, "detail": one.detail, "policy": one.policy} for one in cell.outcomes
                },
            }
            for cell in found.cells
        ],
        "services": [asdict(one) | {"ok": one.ok} for one in found.served],
        "isolation": asdict(found.isolation) | {"ok": found.isolation.ok},
        "longest": asdict(found.longest) if found.longest else None,
        "leftOut": list(found.unseen),
    }
