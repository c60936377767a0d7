# SPDX-License-Identifier: Apache-2.0
"""`mizar monitor`: what droplets refuse, and what else happens on them, while it happens."""

from __future__ import annotations

import base64
import contextlib
import json
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from mizar.cli.connection import Server, TenantOption, connect
from mizar.cli.counters import complete_droplet
from mizar.cli.output import stderr, stdout
from mizar.cli.pcapng import PcapngWriter
from mizar.model import drop_reasons
from mizar.model.errors import InvalidError

_TYPES = ("drop", "verdict", "trap", "path", "endpoint", "droplet", "link", "protection")
_TURNS = (("engage", "engaged"), ("withdraw", "withdrawn"))
_PASSED_BY = "refused by"
_INDENT = " " * 14
_OUTCOMES = {"allowed": "allowed by", "audited": "let pass in audit mode by"}
_VERDICTS = {"drop": "dropped by", "pass": "left to the host's stack by"}


def _complete_reason(incomplete: str) -> list[str]:
    return [name for name in drop_reasons.by_name() if name.startswith(incomplete.upper())]


def _complete_type(incomplete: str) -> list[str]:
    return [kind for kind in _TYPES if kind.startswith(incomplete)]


def monitor(
    type: Annotated[  # noqa: A002 - what people type
        list[str] | None,
        typer.Option(help=f"Of {', '.join(_TYPES)}; repeatable. Default: all.", autocompletion=_complete_type),
    ] = None,
    tenant: TenantOption = None,
    vpc: Annotated[str | None, typer.Option(help="One VPC: TENANT/NAME.")] = None,
    endpoint: Annotated[str | None, typer.Option(help="From or to one endpoint: TENANT/NAME.")] = None,
    droplet: Annotated[str | None, typer.Option(help="On one droplet.", autocompletion=complete_droplet)] = None,
    reason: Annotated[
        list[str] | None, typer.Option(help="Drops of a reason; repeatable.", autocompletion=_complete_reason)
    ] = None,
    address: Annotated[str | None, typer.Option(help="From or to an address or prefix.")] = None,
    policy: Annotated[str | None, typer.Option(help="What one policy decides: TENANT/NAME.")] = None,
    pcap: Annotated[
        Path | None, typer.Option(help="Also write refused packets here, as pcapng with the reason as comment.")
    ] = None,
    count: Annotated[int, typer.Option(min=0, help="End after so many lines; 0: never.")] = 0,
    seconds: Annotated[float, typer.Option("--for", min=0, help="End after so many seconds; 0: never.")] = 0,
    server: Server = None,
    output: Annotated[str, typer.Option("--output", "-o", help="table, or json: one object per line.")] = "table",
) -> None:
    """Show live what is dropped and why, what endpoints ask for, and changes of paths, endpoints and droplets."""
    if output not in ("table", "json"):
        raise typer.BadParameter("expected table or json", param_hint="--output")
    wish = {
        "type": type or [],
        "tenant": tenant,
        "vpc": vpc,
        "endpoint": endpoint,
        "droplet": droplet,
        "reason": reason or [],
        "address": address,
        "policy": policy,
    }
    with contextlib.ExitStack() as stack:
        client = stack.enter_context(connect(server))
        capture = stack.enter_context(_capture(pcap)) if pcap is not None else None
        shown = 0
        deadline = time.monotonic() + seconds if seconds else None
        for event in client.events(wish):
            if event["type"] not in ("alive", "ready"):
                _show(event, output)
                shown += 1
                if capture is not None and event.get("frame"):
                    _write(capture, event)
            elif event["type"] == "ready":
                _begin(event, output)
            if (count and shown >= count) or (deadline is not None and time.monotonic() >= deadline):
                return


def _begin(event: dict[str, Any], output: str) -> None:
    """Who is watched, where it is not in the way of a program."""
    names = ", ".join(event["droplets"]) or "no droplet"
    away = f"; cannot be reached: {', '.join(event['away'])}" if event["away"] else ""
    if output == "table":
        stderr().print(Text(f"watching {names}{away}; Ctrl-C ends", style="dim"))


def _show(event: dict[str, Any], output: str) -> None:
    if output == "json":
        print(json.dumps(event), flush=True)
        return
    console, text = stdout(), line(event)
    if not console.is_terminal:
        console.print(text)
        return
    for part in text.split("\n"):  # what is too wide goes on under its beginning
        first, *rest = part.wrap(console, console.width)
        console.print(first)
        for more in Text(" ").join(rest).wrap(console, console.width - len(_INDENT)) if rest else ():
            console.print(Text(_INDENT) + more)


@contextlib.contextmanager
def _capture(path: Path) -> Iterator[PcapngWriter]:
    try:
        with path.open("wb") as stream:
            yield PcapngWriter(stream)
    except OSError as error:
        raise InvalidError(f"cannot write {path}: {error.strerror or error}") from error


def _write(capture: PcapngWriter, event: dict[str, Any]) -> None:
    frame = base64.b64decode(event["frame"])
    where = f"{event['droplet']}/{event['interface'] or event['program']}"
    capture.write(where, _unix_ns(event["time"]), frame, event["length"], comment(event))


def comment(event: dict[str, Any]) -> str:
    """Why a packet was refused, for whoever reads the capture."""
    by = f"{_VERDICTS.get(event['verdict'], _PASSED_BY)} {event['program']} on {event['droplet']}"
    whose = f"; VPC {event['vpc']}" if event["vpc"] else ""
    sender = f"; sent by {event['sender']}" if event["sender"] else ""
    rule = f"; by {event['rule']}" if event.get("rule") else ""
    rule += f"; by {_by_function(event)}" if event.get("function") else ""
    rule += f"; over the limit of {event['limit']}" if event.get("limit") else ""
    return f"{event['reason']}: {event['sentence']} ({by}{whose}{sender}{rule})"


def line(event: dict[str, Any]) -> Text:
    """An event for people: what, where and between whom, and why."""
    head = Text.assemble((_clock(event["time"]) if "time" in event else " " * 12, "dim"), "  ", event["droplet"], "  ")
    kind = event["type"]
    if kind in ("drop", "verdict"):
        return _drop(head, event)
    if kind == "suppressed":
        head.append(f"{event['packets']:,} more not shown", style="yellow")
        return head.append(f"  {event['reason']}{_of(event['vpc'])}", style="dim")
    if kind == "missed":
        return head.append(f"{_count(event['events'])} not shown: this end reads too slowly", style="yellow")
    if kind == "trap":
        answer = "answered" if event["answered"] else "not answered"
        return head.append(f"{event['endpoint'] or 'an endpoint'} asks for {event['asked']}: {answer}")
    if kind == "path":
        who = _who(event, event["vpc"])
        where = f"now goes straight to {event['to']}" if event["to"] else "goes the long way again"
        return head.append(f"path to {who}{_of(event['vpc'])} {where}", style="cyan")
    if kind == "endpoint":
        detail = f": {event['detail']}" if event["detail"] else ""
        style = "bold red" if event["state"] == "lost" else ""
        return head.append(f"endpoint {event['endpoint']} {event['state']}{detail}", style=style)
    if kind == "droplet":
        up = event["state"] == "up"
        words = "answers again" if up else "answers no probe: others take over what it did, where there are others"
        return head.append(f"droplet {event['about']} {words}", style="green" if up else "bold red")
    if kind == "link":
        state = "up" if event["up"] else "down"
        return head.append(f"interface {event['interface']} is {state}, MTU {event['mtu']}")
    if kind == "protection":
        done = [f"{word}s {' and '.join(event[key])}" for word, key in _TURNS if event[key]]
        most = [f"{one['source']} (about {one['packets']:,} packets)" for one in event["top"]]
        said = f"protection {event['protection']}{_of(event['vpc'])} {', '.join(done)}"
        head.append(said, style="bold red" if event["engaged"] else "green")
        return head.append(f"\n{_INDENT}most of it from {', '.join(most)}") if most else head
    if kind == "away":
        return head.append(f"not watched any more: {event['message']}", style="bold red")
    return head.append("is watched again", style="green") if kind == "back" else head.append(kind)


def _drop(head: Text, event: dict[str, Any]) -> Text:
    vpc = event["vpc"]
    what = f"{_who(event['source'], vpc)} → {_who(event['destination'], vpc)}"
    protocol = f" {event['protocol']}" if event["protocol"] else ""
    head.append(what, style="bold").append(f"{protocol}, {event['length']} bytes{_of(vpc)}")
    if event["sender"] and event["sender"] != event["source"]["endpoint"]:
        head.append(f", sent by {event['sender']}", style="yellow")
    by = _OUTCOMES.get(event.get("outcome", ""), _VERDICTS.get(event["verdict"], _PASSED_BY))
    head.append(f"\n{_INDENT}{by} {event['program']}: ", style="dim")
    style = "green" if event.get("outcome") == "allowed" else "yellow" if event.get("outcome") else "red"
    head.append(event["sentence"], style=style).append(f" [{event['reason']}]", "dim")
    if event.get("rule"):
        head.append(f"\n{_INDENT}by {event['rule']}", style="bold")
    if event.get("limit"):
        head.append(f"\n{_INDENT}over the limit of {event['limit']}", style="bold")
    if event.get("function"):
        head.append(f"\n{_INDENT}by {_by_function(event)}", style="bold")
    return head


def _by_function(event: dict[str, Any]) -> str:
    return f"function {event['function']}, {event['functionReason'] or 'for no reason that it names'}"


def _count(events: int | None) -> str:
    return "events" if events is None else f"{events:,} events"


def _of(vpc: str | None) -> str:
    return f" in {vpc}" if vpc else ""


def _who(end: dict[str, Any], vpc: str | None) -> str:
    """A name with its address; the tenant only where it is not the VPC's."""
    if not end["address"]:
        return "?"
    port = end.get("port")
    address = f"[{end['address']}]" if port and ":" in end["address"] else end["address"]
    place = f"{address}:{port}" if port else address
    name = end["endpoint"]
    if not name:
        return place
    tenant, _, short = name.partition("/")
    return f"{short if vpc and vpc.partition('/')[0] == tenant else name} ({place})"


def _clock(text: str) -> str:
    return f"{datetime.fromtimestamp(_unix_ns(text) / 1e9).astimezone():%H:%M:%S.%f}"[:12]


def _unix_ns(text: str) -> int:
    whole, _, fraction = text.removesuffix("Z").partition(".")
    return int(datetime.fromisoformat(f"{whole}+00:00").timestamp()) * 10**9 + int(fraction)
