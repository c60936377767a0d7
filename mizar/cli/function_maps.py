# SPDX-License-Identifier: Apache-2.0
"""`mizar function maps`: the own maps of a function on a droplet, and what one of them holds.

Registered by mizar.cli.function.
"""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from mizar.api.client import Client
from mizar.cli.connection import Server, connect
from mizar.cli.counters import complete_droplet
from mizar.cli.function_server import Name
from mizar.cli.output import Format, Output, columns, emit


def complete_map(ctx: typer.Context, incomplete: str) -> list[str]:
    """Names of the function's maps that begin so, once a droplet is named."""
    from mizar.cli.connection import COMPLETION_TIMEOUT_S
    from mizar.model.errors import MizarError

    try:
        with connect(ctx.params.get("server"), COMPLETION_TIMEOUT_S) as client:
            found = client.function_maps(str(ctx.params["droplet"]), str(ctx.params["name"]))["maps"]
    except (MizarError, KeyError, OSError):
        return []
    return [one["name"] for one in found if one["name"].startswith(incomplete)]


def maps(
    name: Name,
    droplet: Annotated[str, typer.Option("--droplet", help="Where.", autocompletion=complete_droplet)],
    map_name: Annotated[
        str | None, typer.Argument(metavar="[MAP]", help="What this one holds.", autocompletion=complete_map)
    ] = None,
    most: Annotated[int, typer.Option("--most", min=1, max=1000, help="Entries that are shown.")] = 100,
    server: Server = None,
    output: Output = Format.TABLE,
) -> None:
    """Show a function's own maps on a droplet; of one, what it holds: of an array what is not zero."""
    with connect(server) as client:
        found = _asked(client, droplet, name, map_name, most)
    emit(found, output, lambda: _held(found) if map_name else _listed(found["maps"]))


def _asked(client: Client, droplet: str, name: str, map_name: str | None, most: int) -> dict[str, Any]:
    if map_name is None:
        return client.function_maps(droplet, name)
    return client.function_map(droplet, name, map_name, most)


def _listed(found: list[dict[str, Any]]) -> Table:
    rows = [[one[key] for key in ("name", "type", "entries", "keySize", "valueSize")] for one in found]
    return columns(("NAME", "TYPE", "ENTRIES", "KEY BYTES", "VALUE BYTES"), rows)


def _held(found: dict[str, Any]) -> Table:
    table = Table.grid()
    table.add_row(columns(("KEY", "VALUE"), [(_text(row["key"]), _text(row["value"])) for row in found["rows"]]))
    if found["more"]:
        table.add_row(Text(f"{found['name']} holds more than these, or may", style="yellow"))
    return table


def _text(value: Any) -> str:
    """Of a struct its fields, as a manifest has them."""
    if isinstance(value, dict):
        return ", ".join(f"{name}: {_text(one)}" for name, one in value.items())
    return value if isinstance(value, str) else json.dumps(value)
