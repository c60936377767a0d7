# SPDX-License-Identifier: Apache-2.0
"""`mizar endpoint move`: an endpoint goes to another droplet, with its address and its connections.

Registered by mizar.cli.main.
"""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from mizar.api.client import Client
from mizar.cli.connection import Server, TenantOption, complete_name, connect
from mizar.cli.counters import complete_droplet
from mizar.cli.objects import named
from mizar.cli.output import Format, Output, emit
from mizar.cli.progress import steps
from mizar.model.errors import ConflictError, Problem, TemporaryError
from mizar.model.resources import Ref, kind_named

MEASURED_S = 3.0
"""How long the next host may take, after the move, to tell how long the workload had no answer."""
_POLL_S = 0.02

app = typer.Typer(no_args_is_help=True, help="Work with single endpoints.")


@app.callback()
def _group() -> None:
    """Work with single endpoints."""


def _complete_endpoint(ctx: typer.Context, incomplete: str) -> list[str]:
    ctx.params["kind"] = "endpoint"
    return complete_name(ctx, incomplete)


@app.command()
def move(
    name: Annotated[
        str, typer.Argument(help="Endpoint: tenant/name, or name with -t.", autocompletion=_complete_endpoint)
    ],
    to: Annotated[str, typer.Option("--to", help="Droplet that it shall live on.", autocompletion=complete_droplet)],
    tenant: TenantOption = None,
    timeout: Annotated[float, typer.Option("--timeout", min=0, help="Seconds to wait for the end of the move.")] = 60.0,
    server: Server = None,
    output: Output = Format.TABLE,
) -> None:
    """Move an endpoint to another droplet: its address stays, and its connections survive."""
    ref = named(kind_named("Endpoint"), name, tenant)
    with connect(server) as client:
        client.move(ref.name, ref.tenant, to)
        with steps() as progress, progress(f"move {ref.tenant}/{ref.name} to {to}"):
            found = _follow(client, ref, timeout)
    emit(found, output, lambda: _sentence(ref, found))


def _follow(client: Client, ref: Ref, timeout_s: float) -> dict[str, Any]:
    """The move when it has ended, with the blackout if it is told in time."""
    end = time.monotonic() + timeout_s
    measured_by = float("inf")
    while True:
        found = client.get(ref.kind, ref.name, ref.tenant)
        move: dict[str, Any] = found["status"]["move"]
        now = time.monotonic()
        if move["stage"] == "Failed":
            raise ConflictError(Problem(f"did not move: {move['reason']}; it stays where it was", resource=str(ref)))
        if move["stage"] == "Done":
            measured_by = min(measured_by, now + MEASURED_S)
            if "blackoutMs" in move or now > measured_by:
                return move
        elif now > end:
            status = found["status"]
            raise TemporaryError(Problem(f"is still {move['stage']}: {status['message']}", resource=str(ref)))
        time.sleep(_POLL_S)


def _sentence(ref: Ref, move: dict[str, Any]) -> str:
    blackout = (
        f"blackout {move['blackoutMs']:.1f} ms" if "blackoutMs" in move else "blackout not measured for this workload"
    )
    took = f"from {move['source']} to {move['target']} in {move['elapsedMs']:.0f} ms"
    return f"{ref.tenant}/{ref.name} moved {took}, {blackout}"
