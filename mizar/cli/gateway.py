# SPDX-License-Identifier: Apache-2.0
"""`mizar gateway`: runs a gateway on this host, and asks one; thin over mizar.gateway.

Registered by mizar.cli.main, which turns MizarError into a message and an exit code. Connections and counters are
read from the pinned maps: they are there whether or not the process is.
"""

from __future__ import annotations

import logging
import sys
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from mizar.cli import gateway_tables as tables
from mizar.cli.output import Format, Output, emit
from mizar.gateway import control, process
from mizar.gateway import dataplane as planes
from mizar.gateway.flow_table import FlowTable, reading
from mizar.gateway.options import Options, Sizes
from mizar.gateway.present import plain
from mizar.kernel.attach import XdpMode
from mizar.kernel.layout import constant
from mizar.model.errors import InvalidError, NotFoundError

app = typer.Typer(help="A gateway on this host: its pipeline, its connections.", no_args_is_help=True)

File = Annotated[str, typer.Option("--filename", "-f", help="The pipeline's description, - for stdin.")]
Name = Annotated[str, typer.Option("--name", "-n", help="Of the gateway on this host; default: its interface.")]
_SIZES = Sizes()
_SHARE = 50


class _Xdp(StrEnum):
    AUTO = "auto"
    DRIVER = "driver"
    GENERIC = "generic"


_XDP: dict[_Xdp, XdpMode | None] = {_Xdp.AUTO: None, _Xdp.DRIVER: "driver", _Xdp.GENERIC: "generic"}


@app.command()
def run(
    filename: Annotated[Path, typer.Option("--filename", "-f", help="The pipeline's description.")],
    interface: Annotated[str, typer.Option(help="Where frames come in: its ingress belongs to the gateway.")],
    egress: Annotated[str, typer.Option(help="Where frames leave and answers come in; default: the interface.")] = "",
    name: Name = "",
    xdp: Annotated[_Xdp, typer.Option(help="How XDP is attached; auto: driver, else generic.")] = _Xdp.AUTO,
    metrics: Annotated[
        str, typer.Option(help="Where Prometheus reads: unix:///path or address:port; beyond loopback --pki is needed.")
    ] = "",
    pki: Annotated[Path | None, typer.Option(help="Folder with ca.crt, gateway.crt, gateway.key.")] = None,
    queue: Annotated[
        list[str] | None,
        typer.Option(
            metavar="N=INTERFACE", help="Queue N is served by a program behind this interface, as one with DPDK."
        ),
    ] = None,
    lead: Annotated[
        str, typer.Option(help="ADDRESS:PORT where another gateway may learn of this one's connections; needs --pki.")
    ] = "",
    follow: Annotated[
        str, typer.Option(help="ADDRESS:PORT of another gateway, whose connections are kept at hand; needs --pki.")
    ] = "",
    max_connections: Annotated[int, typer.Option(min=16, help="Over each of IPv4 and IPv6.")] = _SIZES.connections4,
    lines_mib: Annotated[
        int, typer.Option(min=0, help="Memory for the fast places of connections, of each of IPv4 and IPv6.")
    ] = _SIZES.lines_mib,
    tenant_share: Annotated[
        int,
        typer.Option(min=1, max=100, help="Percent of all connections that a tenant without a quota may have."),
    ] = _SHARE,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log everything.")] = False,
) -> None:
    """Run a gateway until SIGTERM. Frames go on without it; a second run takes over without losing one."""
    _log_to_stderr(logging.DEBUG if verbose else logging.INFO)
    sizes = Sizes(max_connections, max_connections, lines_mib=lines_mib)
    queues = _queues(queue)
    process.run(
        Options(
            filename, interface, egress, name, _XDP[xdp], metrics, pki, lead, follow, sizes, queues, tenant_share
        )
    )  # fmt: skip


def _queues(words: list[str] | None) -> dict[int, str]:
    found: dict[int, str] = {}
    for word in words or ():
        number, _, interface = word.partition("=")
        if not number.isdecimal() or not interface or int(number) >= constant("QUEUES_MOST") or int(number) in found:
            raise typer.BadParameter(f"--queue: expected N=INTERFACE, each queue from 0 to 63 once, found {word}")
        found[int(number)] = interface
    return found


@app.command()
def show(name: Name, output: Output = Format.TABLE) -> None:
    """What a running gateway does, its tenants, what was refused and what will be exhausted when."""
    found = control.ask(name, "show")
    emit(found, output, lambda: tables.gateway(found))


@app.command()
def connections(
    name: Name,
    meta: Annotated[str, typer.Option(help="Of this tenant only, by its metadata.")] = "",
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 1000,
    output: Output = Format.TABLE,
) -> None:
    """Connections that live."""
    with reading(planes.opened(name)) as table:
        found = [plain(one) for one in islice(_of(table, _meta(meta)), limit)]
    emit(found, output, lambda: tables.connections(found))


@app.command()
def counters(name: Name, output: Output = Format.TABLE) -> None:
    """Counters of the description, of all tenants and of each, and of what was dropped."""
    rows = [
        {"counter": one.name, "meta": one.meta, "packets": one.packets, "bytes": one.octets}
        for one in planes.counted(name)
    ]
    emit(rows, output, lambda: tables.counters(rows))


@app.command()
def apply(name: Name, filename: File, output: Output = Format.TABLE) -> None:
    """Give a running gateway another description: connections that it allows go on, others end."""
    found = control.ask(name, "apply", text=_read(filename), file=filename)
    emit(found, output, lambda: Text(f"{name}: applied, {found['ended']} connections ended"))


@app.command()
def stop(
    name: Name,
    remove: Annotated[
        str, typer.Option("--remove", help="Also take away program, connections and slow path: the description's FILE.")
    ] = "",
    output: Output = Format.TABLE,
) -> None:
    """End a gateway's process; frames go on. With --remove they do not."""
    try:
        found = control.ask(name, "stop")
        control.gone(name)
    except NotFoundError:
        if not remove:
            raise
        found = {"stopped": name}
    if remove:
        process.remove(name, _read(remove), Path(remove))
    found |= {"removed": bool(remove)}
    emit(found, output, lambda: Text(f"{name}: {'removed' if remove else 'stopped; frames go on'}"))


def _of(table: FlowTable, meta: int | None) -> Any:
    return (one for one in table.listed() if meta is None or meta in (one.tenant, one.original.meta))


def _meta(text: str) -> int | None:
    if not text:
        return None
    try:
        return int(text, 0)
    except ValueError as error:
        raise typer.BadParameter(f"expected a number, found {text!r}", param_hint="--meta") from error


def _read(filename: str) -> str:
    try:
        return sys.stdin.read() if filename == "-" else Path(filename).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidError(f"{filename} cannot be read: {error}") from error


def _log_to_stderr(level: int) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("time=%(asctime)s level=%(levelname)s event=%(message)s", "%FT%T%z"))
    root = logging.getLogger("mizar")
    root.handlers, root.propagate = [handler], False
    root.setLevel(level)
