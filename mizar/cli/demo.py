# SPDX-License-Identifier: Apache-2.0
"""`mizar demo`: what `./run demo` shows. The work is in mizar.lab.demo; with --simulate, in mizar.lab.simulated.

What needs Linux is imported only where it is used: a simulation runs anywhere.
"""

from __future__ import annotations

import os
import signal
import sys
from importlib import resources
from pathlib import Path
from typing import Annotated

import typer

from mizar.cli.objects import Files, read_manifests
from mizar.cli.output import FAILED, Format, Output, emit, stdout
from mizar.model.errors import MizarError

EXAMPLE = Path(str(resources.files("mizar._built"))) / "examples" / "two-tenants.yaml"

Simulate = Annotated[
    bool, typer.Option("--simulate", help="Over a model of the data plane: no root, no Linux, no packet.")
]


def demo(
    filename: Files = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the lab up afterwards.")] = False,
    simulate: Simulate = False,
    output: Output = Format.TABLE,
) -> None:
    """Bring up a lab, send traffic between all endpoints, prove that tenants are apart; exit 1 unless all is well."""
    if simulate:
        from mizar.cli.simulation import show

        if keep:
            raise typer.BadParameter("a simulation leaves nothing behind that could be kept")
        show(filename or [str(EXAMPLE)], output)
        return
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        raise MizarError("the demo needs root on Linux; without privileges: mizar demo --simulate")
    manifests = read_manifests(filename or [str(EXAMPLE)])
    from mizar.cli.demo_screen import QuietScreen, TextScreen, as_data, verdict
    from mizar.cli.progress import steps
    from mizar.lab import demo as demos

    quiet = output is not Format.TABLE
    for number in (signal.SIGTERM, signal.SIGHUP):  # as Ctrl-C: clean up first
        signal.signal(number, signal.default_int_handler)
    with manifests.blamed(), steps(quiet) as progress:
        screen = QuietScreen(progress) if quiet else TextScreen(progress, stdout())
        result = demos.run(manifests.resources, screen, keep)
    emit(as_data(result), output, lambda: verdict(result))
    if not result.ok:
        raise typer.Exit(FAILED)
