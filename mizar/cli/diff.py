# SPDX-License-Identifier: Apache-2.0
"""`mizar diff` and `mizar apply --dry-run`: what a change would do. The work is the server's (mizar/preview).

Exit codes as those of diff(1): 0 nothing would change, 1 something would, 2 trouble.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from mizar.cli.connection import Server, connect
from mizar.cli.objects import Files, read_manifests
from mizar.cli.output import Format, Output, columns, emit, report
from mizar.model import drop_reasons
from mizar.model.errors import MizarError

CHANGES, TROUBLE = 1, 2
SHOWN = 20
"""Lines of a part, unless all are asked for."""
_SIGNS = {"created": ("+", "green"), "changed": ("~", "yellow"), "deleted": ("-", "red")}
_PROTOCOLS = ("icmp", "udp", "tcp")


def diff(
    filename: Files = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="All lines, and every droplet's steps.")] = False,
    server: Server = None,
    output: Output = Format.TABLE,
) -> None:
    """Show what an apply of manifests would do: objects, droplets, who gains or loses reach, flows that would break.

    Nothing is changed. Exit codes: 0 nothing would change, 1 something would, 2 trouble.
    """
    try:
        manifests = read_manifests(filename)
        with connect(server) as client, manifests.blamed():
            found = client.preview(manifests.resources)
    except MizarError as error:
        report(error)
        raise typer.Exit(TROUBLE) from error
    show(found, output, everything=verbose)
    if found["changes"]:
        raise typer.Exit(CHANGES)


def show(found: dict[str, Any], output: Format, everything: bool = False) -> None:
    """Prints a preview as the server tells it."""
    emit(found, output, lambda: _screen(found, None if everything else SHOWN))


def _screen(found: dict[str, Any], most: int | None) -> RenderableType:
    if not found["changes"]:
        return Text(f"nothing would change: all {len(found['objects'])} objects are as they are wanted")
    parts: list[RenderableType] = [_heading("OBJECTS"), *_cut(_objects(found["objects"]), most)]
    if found["droplets"] is not None:
        parts += [_heading("\nDROPLETS: entries of their tables"), *_droplets(found["droplets"], steps=most is None)]
    reach = found["reach"]
    parts += [_heading(f"\nREACH: {_looked(reach)}"), *_cut(_reach(reach), most)]
    if found["flows"]:
        parts += [_heading("\nFLOWS THAT WOULD BREAK"), *_cut(map(_flow, found["flows"]), most)]
    parts += [Text(f"note: {note}", style="dim") for note in found["notes"]]
    return Group(*parts, Text(), _summary(found))


def _heading(words: str) -> Text:
    return Text(words, style="bold")


def _cut(lines: Iterable[Text], most: int | None) -> list[RenderableType]:
    found = list(lines)
    if most is None or len(found) <= most:
        return [*found]
    return [*found[:most], Text(f"  … and {len(found) - most} more lines (-v shows all)", style="dim")]


def _objects(objects: Sequence[dict[str, Any]]) -> Iterator[Text]:
    for one in objects:
        if one["change"] == "unchanged":
            continue
        sign, style = _SIGNS[one["change"]]
        name = f"{one['tenant']}/{one['name']}" if one["tenant"] else one["name"]
        yield Text(f"{sign} {one['kind']} {name}{'' if one['asked'] else '  (follows)'}", style=style)
        for change in one["fields"]:
            yield Text("    ").append_text(_field(change))


def _field(change: dict[str, Any]) -> Text:
    name, before, after = change["field"], change["before"], change["after"]
    if before is None:
        return Text(f"{name}: + {_value(after)}", style="green")
    if after is None:
        return Text(f"{name}: - {_value(before)}", style="red")
    return Text(f"{name}: {_value(before)} → {_value(after)}")


def _value(value: Any) -> str:
    return value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)


def _droplets(droplets: Sequence[dict[str, Any]], *, steps: bool) -> list[RenderableType]:
    if not droplets:
        return [Text("none has anything to do", style="dim")]
    rows = [(one["name"], one["add"], one["change"], one["delete"]) for one in droplets]
    shown: list[RenderableType] = [columns(("DROPLET", "ADD", "CHANGE", "DELETE"), rows)]
    for one in droplets if steps else ():
        lines = (f"  {step['wave']:<7} {step['action']:<6} {step['entry']}" for step in one["steps"])
        shown += [Text(f"{one['name']}, in this order"), *map(Text, lines)]
    return shown


def _looked(reach: dict[str, Any]) -> str:
    if not reach["pairs"]:
        return "the change matters to no pair of endpoints"
    if reach["lookedAt"] < reach["pairs"]:
        return f"{reach['lookedAt']} of the {reach['pairs']} pairs that the change may matter to were looked at"
    return f"{reach['pairs']} pairs, all that the change may matter to, by ICMP, UDP and TCP"


def _reach(reach: dict[str, Any]) -> Iterator[Text]:
    """A line for each sender and what becomes of it; drop reasons are explained once."""
    for sign, style, rows in (("-", "red", reach["lost"]), ("+", "green", reach["gained"])):
        lines: dict[tuple[str, str, str], list[str]] = {}
        for one in rows:
            why = one.get("drop") or one.get("reason", "")
            lines.setdefault((one["from"], _ways(one["ways"]), why), []).append(one["to"])
        for (source, ways, why), targets in lines.items():
            yield Text(f"{sign} {source} → {', '.join(targets)}  {ways}{f'  {why}' if why else ''}", style=style)
    drops = dict.fromkeys(one["drop"] for one in reach["lost"] if one.get("drop"))
    for name in drops:
        yield Text(f"  {name}: {drop_reasons.by_name()[name].sentence}", style="dim")
    if reach["pairs"] and not reach["lost"] and not reach["gained"]:
        yield Text("all reach one another as before", style="dim")


def _ways(ways: Sequence[str]) -> str:
    """Of a family all protocols are the family."""
    found = []
    for family in "46":
        own = [way[:-1] for way in ways if way.endswith(family)]
        whole = set(own) == set(_PROTOCOLS)
        found += [f"IPv{family}" if whole else f"IPv{family} by {', '.join(own)}"] if own else []
    return ", ".join(found)


def _flow(one: dict[str, Any]) -> Text:
    known = "" if one["flows"] is None else f" ({one['flows']} now)"
    style = "red" if one["certain"] else "yellow"
    return Text(f"  {one['endpoint']}: {one['what']}{known}  [{'fact' if one['certain'] else 'estimate'}]", style=style)


def _summary(found: dict[str, Any]) -> Text:
    counts = {name: sum(one["change"] == name for one in found["objects"]) for name in _SIGNS}
    words = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    reach = found["reach"]
    return Text(
        f"objects: {words}; pairs that gain reach: {len(reach['gained'])}, that lose it: {len(reach['lost'])}. "
        "Nothing was changed.",
        style="bold",
    )
