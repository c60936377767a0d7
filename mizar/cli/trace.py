# SPDX-License-Identifier: Apache-2.0
"""`mizar trace`: which way a packet takes, hop by hop, and why.

Registered by mizar.cli.main. Exit code 0 when the packet arrives, 1 when it does not, or not as predicted.
"""

from __future__ import annotations

from enum import StrEnum
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from mizar.cli.connection import Server, TenantOption, complete_name, connect
from mizar.cli.objects import named
from mizar.cli.output import FAILED, Format, Output, columns, emit, stderr
from mizar.model.errors import InvalidError
from mizar.model.resources import kind_named
from mizar.trace.capture import frames
from mizar.trace.drawing import draw


class Protocol(StrEnum):
    """What the packet is."""

    ICMP = "icmp"
    TCP = "tcp"
    UDP = "udp"


def _complete_endpoint(ctx: typer.Context, incomplete: str) -> list[str]:
    ctx.params["kind"] = "endpoint"
    return complete_name(ctx, incomplete)


def trace(
    source: Annotated[
        str | None,
        typer.Argument(help="Endpoint that sends: tenant/name, or name with -t.", autocompletion=_complete_endpoint),
    ] = None,
    destination: Annotated[
        str | None,
        typer.Argument(help="Endpoint, or an address in the source's VPC.", autocompletion=_complete_endpoint),
    ] = None,
    outside: Annotated[
        str | None, typer.Option("--from", help="In place of SOURCE: an address of a client outside of all VPCs.")
    ] = None,
    public: Annotated[
        str | None, typer.Option("--to", help="In place of DESTINATION: an address, or address:port, [address]:port.")
    ] = None,
    droplet: Annotated[
        str, typer.Option("--droplet", help="With --from: where the packet comes in; else at any that it may.")
    ] = "",
    protocol: Annotated[Protocol, typer.Option("--proto", "--protocol", help="What is sent.")] = Protocol.ICMP,
    sport: Annotated[int, typer.Option("--sport", min=0, max=65535, help="Source port; of an echo, its id.")] = 40000,
    dport: Annotated[int, typer.Option("--dport", min=0, max=65535, help="Destination port.")] = 80,
    size: Annotated[int, typer.Option("--size", min=0, help="Bytes of the IP packet; 0: a short one.")] = 0,
    from_file: Annotated[
        Path | None, typer.Option("--from-file", help="Trace a frame of this capture (pcap, pcapng) as SRC's.")
    ] = None,
    frame: Annotated[int, typer.Option("--frame", min=1, help="Which frame of the capture, from 1.")] = 1,
    live: Annotated[
        bool, typer.Option("--live", help="Send it too, and show where what happens differs from the prediction.")
    ] = False,
    svg: Annotated[Path | None, typer.Option("--svg", help="Draw the way into this file.")] = None,
    tenant: TenantOption = None,
    server: Server = None,
    output: Output = Format.TABLE,
) -> None:
    """Show which way a packet takes, as the droplets' tables are now: each hop, what it does, and why it ends."""
    if (source is None) == (outside is None):
        raise typer.BadParameter("give an endpoint, or an address outside with --from", param_hint="SOURCE")
    if public is not None and destination is not None:
        raise typer.BadParameter("give one destination", param_hint="--to")
    if public is not None:
        destination, dport = _end(public, dport)
    owner = ""
    sender: str | dict[str, str]
    if source is None:
        sender = _address(outside or "", "--from")
        if destination is not None:
            _address(destination, "--to")
    else:
        ref = named(kind_named("Endpoint"), source, tenant)
        sender, owner = {"tenant": ref.tenant, "name": ref.name}, ref.tenant
    question: dict[str, Any] = {
        "source": sender,
        "droplet": droplet,
        "protocol": protocol.value,
        "sourcePort": sport,
        "destinationPort": dport,
        "size": size,
        "live": live,
    }
    if destination is not None:
        question["destination"] = _destination(destination, owner)
    if from_file is not None:
        question["frame"] = _frame(from_file, frame).hex()
    elif destination is None:
        raise typer.BadParameter("give a destination, or a capture with --from-file", param_hint="DESTINATION")
    with connect(server) as client:
        found = client.trace(question)
    emit(found, output, lambda: _shown(found))
    if svg is not None:
        _write(svg, draw(found))
    if not found["ok"]:
        raise typer.Exit(FAILED)


def _address(text: str, option: str) -> str:
    try:
        return str(ip_address(text))
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is no address", param_hint=option) from error


def _end(text: str, port: int) -> tuple[str, int]:
    """`address`, `address:port` or `[address]:port`, and the port that is meant where none is said."""
    address, _, said = text.rpartition(":")
    if text.startswith("[") or text.count(":") == 1:
        address, said = (text, "") if text.endswith("]") else (address, said)
        if said and not (said.isdecimal() and int(said) <= 65535):
            raise typer.BadParameter(f"{said!r} is no port", param_hint="--to")
        return address.strip("[]"), int(said) if said else port
    return text, port


def _destination(text: str, tenant: str) -> str | dict[str, str]:
    try:
        return str(ip_address(text))
    except ValueError:
        ref = named(kind_named("Endpoint"), text, tenant)
        return {"tenant": ref.tenant, "name": ref.name}


def _frame(path: Path, number: int) -> bytes:
    try:
        found = frames(path.read_bytes())
    except OSError as error:
        raise InvalidError(f"{path} cannot be read: {error.strerror}") from error
    if number > len(found):
        raise InvalidError(f"{path} has {len(found)} frames, not {number}")
    return found[number - 1]


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text)
    except OSError as error:
        raise InvalidError(f"{path} cannot be written: {error.strerror}") from error
    stderr().print(f"drawn: {path}")


def _shown(found: dict[str, Any]) -> Group:
    rows = [
        (number, hop["droplet"], hop["program"], hop["vpc"], hop["verdict"] + _to(hop), _told(hop))
        for number, hop in enumerate(found["hops"], 1)
    ]
    table = columns(("HOP", "DROPLET", "PROGRAM", "VPC", "BECOMES", "WHY"), rows)
    lines: list[RenderableType] = [
        Text(f"{found['source']} → {found['destination']}: {found['packet']}", style="bold"),
        table,
    ]
    good = Text(found["ending"], style="green" if found["arrives"] else "bold red")
    how = "predicted: " if found["divergence"] else "predicted and seen: "
    lines.append(Text(how).append(good) if found["live"] else good)
    lines += [Text(line, style="bold red") for line in (found["divergence"], *found["findings"]) if line]
    return Group(*lines)


def _to(hop: dict[str, Any]) -> str:
    return f": {hop['next']}" if hop["next"] else ""


def _told(hop: dict[str, Any]) -> str:
    """All that there is to say of a hop, a line for each thing."""
    lines = [hop["sentence"], hop["table"], ", ".join(hop["rewrite"])]
    lines.append("" if hop["room"] is None else f"{hop['room']} bytes of room left")
    lines += [said for said in hop.get("policy", []) if said not in hop["notes"]]
    functions = hop.get("functions", [])
    lines.append(f"functions that see it: {', '.join(functions)}; what they do is known only live" if functions else "")
    lines += [f"! {note}" for note in hop["notes"]]
    lines.append(f"seen: {hop['seen']}" if hop["seen"] else "")
    return "\n".join(line for line in lines if line)
