# SPDX-License-Identifier: Apache-2.0
"""`mizar lab up|status|exec|down`: hosts on one machine. Thin over mizar.lab.lab."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.console import Group
from rich.text import Text

from mizar.api.client import Client
from mizar.cli.connection import COMPLETION_TIMEOUT_S, object_name
from mizar.cli.demo import Simulate
from mizar.cli.objects import Files, read_manifests
from mizar.cli.output import FAILED, Format, Output, columns, emit, stderr
from mizar.lab.names import LabName
from mizar.lab.names import labs as all_labs
from mizar.lab.plan import plan
from mizar.model.errors import InvalidError, MizarError, NotFoundError

COMMAND_NOT_FOUND, NOT_EXECUTABLE = 127, 126  # as shells say it

app = typer.Typer(help="Hosts as network namespaces of this machine, with real daemons.", no_args_is_help=True)


def _complete_lab(incomplete: str) -> list[str]:
    return [lab.name for lab in all_labs() if lab.name.startswith(incomplete)]


def _complete_endpoint(ctx: typer.Context, incomplete: str) -> list[str]:
    try:
        with Client(_chosen(ctx.params.get("name")).server_url, timeout_s=COMPLETION_TIMEOUT_S) as client:
            names = [object_name(item, qualified=True) for item in client.list("Endpoint")]
    except (MizarError, OSError):
        return []
    return [name for name in names if name.startswith(incomplete)]


LabArgument = Annotated[
    str | None, typer.Argument(help="Which lab, when there are several.", autocompletion=_complete_lab)
]
Name = Annotated[
    str | None,
    typer.Option("--name", "-n", help="Which lab, when there are several.", autocompletion=_complete_lab),
]


@app.command()
def up(filename: Files = None, simulate: Simulate = False, output: Output = Format.TABLE) -> None:
    """Bring up the lab of manifests, or repair and change the one that is up; wait until all is provisioned.

    With --simulate nothing is brought up: the matrix that the lab would have is shown, and that is all.
    """
    if simulate:
        from mizar.cli.simulation import show

        show(filename or [], output)
        return
    from mizar.cli.progress import steps
    from mizar.lab import lab as labs

    manifests = read_manifests(filename)
    with manifests.blamed(), steps(quiet=output is not Format.TABLE) as progress:
        made = labs.up(manifests.resources, progress)
    result = {"lab": made.lab.name, "server": made.lab.server_url, "droplets": [host.name for host in made.hosts]}
    emit(result, output, lambda: f"lab {made.lab.name} is up: `mizar lab status`, `mizar get endpoints -A`")


@app.command()
def status(lab: LabArgument = None, name: Name = None, output: Output = Format.TABLE) -> None:
    """Show processes, droplets, endpoints and problems; exit 1 when there is a problem."""
    from mizar.lab import lab as labs

    found = labs.status(_chosen(lab or name))
    emit(found, output, lambda: _table(found))
    if found["problems"]:
        raise typer.Exit(FAILED)


@app.command("exec", context_settings={"allow_interspersed_args": False})
def execute(
    endpoint: Annotated[
        str,
        typer.Argument(help="tenant/name, or a name that only one tenant has.", autocompletion=_complete_endpoint),
    ],
    command: Annotated[list[str], typer.Argument(help="What to run, behind --.")],
    name: Name = None,
) -> None:
    """Run a command inside of an endpoint's network namespace; its exit code is ours."""
    from mizar.lab import lab as labs

    command = command[1:] if command[0] == "--" else command
    if not command:
        raise typer.BadParameter("give a command behind --")
    try:
        labs.execute(_chosen(name), endpoint, command)
    except OSError as error:
        stderr().print(f"mizar: {command[0]}: {error.strerror}")
        raise typer.Exit(COMMAND_NOT_FOUND if isinstance(error, FileNotFoundError) else NOT_EXECUTABLE) from error


@app.command()
def down(
    lab: LabArgument = None,
    name: Name = None,
    filename: Files = None,
    output: Output = Format.TABLE,
) -> None:
    """Remove a lab and everything that belongs to it, also what a crash left behind."""
    from mizar.lab import lab as labs

    if filename:
        chosen = [plan(read_manifests(filename).resources).lab]
    else:
        chosen = [_chosen(lab or name)] if lab or name or all_labs() else []
    removed = [found.name for found in chosen if labs.down(found)]
    emit(
        {"removed": removed}, output, lambda: f"lab {removed[0]} is gone" if removed else "there was nothing to remove"
    )


def _chosen(name: str | None) -> LabName:
    if name:
        return LabName(name)
    found = all_labs()
    if len(found) == 1:
        return found[0]
    if not found:
        raise NotFoundError("no lab is up: bring one up with `mizar lab up -f FILE` (a simulation leaves none)")
    raise InvalidError(f"several labs are up ({', '.join(lab.name for lab in found)}): choose one with -n NAME")


def _table(found: dict[str, Any]) -> Group:
    processes = [(row["name"], row["pid"] or "dead", row["log"]) for row in found["processes"]]
    droplets = [
        (
            item["metadata"]["name"],
            item["spec"]["address"],
            item["status"].get("connected"),
            item["status"].get("xdpMode"),
            item["status"]["phase"],
        )
        for item in found["droplets"]
    ]
    endpoints = [
        (
            f"{item['metadata']['tenant']}/{item['metadata']['name']}",
            item["spec"]["network"],
            item["status"]["host"],
            item["status"].get("addresses"),
            item["status"]["phase"],
        )
        for item in found["endpoints"]
    ]
    problems = [Text(f"  {problem}", style="red") for problem in found["problems"]]
    return Group(
        Text(f"lab {found['lab']}, server {found['server']}\n"),
        columns(("PROCESS", "PID", "LOG"), processes),
        Text(),
        columns(("DROPLET", "ADDRESS", "CONNECTED", "XDP", "PHASE"), droplets),
        Text(),
        columns(("ENDPOINT", "NETWORK", "DROPLET", "ADDRESSES", "PHASE"), endpoints),
        Text(f"\n{len(problems)} problems" if problems else "\nno problems", style="bold red" if problems else "green"),
        *problems,
        Text(_metrics_hint(found["processes"]), style="dim"),
    )


def _metrics_hint(processes: list[dict[str, Any]]) -> str:
    """How to read the metrics of a process: those of a lab are on unix sockets."""
    name, place = processes[-1]["name"], processes[-1]["metrics"].removeprefix("unix://")
    return f"\nmetrics of {name}: curl --unix-socket {place} localhost/metrics"
