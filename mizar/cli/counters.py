# SPDX-License-Identifier: Apache-2.0
"""`mizar counters`: what droplets have counted, per VPC and per reason of a drop."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.table import Table

from mizar.api.client import Client
from mizar.cli.connection import Server, connect, object_name
from mizar.cli.output import Format, Output, columns, emit

# Heading and field of proto's VpcCounters, in the order in which a packet meets them.
_SHOWN = (
    ("SENT", "sentPackets"),
    ("DIRECT", "directPackets"),
    ("TO DIVIDER", "toDividerPackets"),
    ("DIVIDED", "dividedPackets"),
    ("PEERED", "peeredPackets"),
    ("BOUNCED", "bouncedPackets"),
    ("DELIVERED", "deliveredPackets"),
    ("RETURNED", "returnedPackets"),
    ("ANSWERED", "answeredPackets"),
    ("DROPPED", "droppedPackets"),
    ("LIMITED", "limitedPackets"),
)


def complete_droplet(ctx: typer.Context, incomplete: str) -> list[str]:
    """Names of droplets that begin so."""
    from mizar.cli.connection import complete_name

    ctx.params["kind"] = "droplet"
    return complete_name(ctx, incomplete)


def counters(
    droplet: Annotated[str | None, typer.Argument(help="One droplet only.", autocompletion=complete_droplet)] = None,
    server: Server = None,
    output: Output = Format.TABLE,
) -> None:
    """Show the packets that droplets sent, divided, bounced, delivered and dropped, by VPC."""
    with connect(server) as client:
        names = [droplet] if droplet else droplets_with_daemon(client)
        found = [{"droplet": name, **client.counters(name)} for name in names]
        vpcs = {item["status"].get("number"): object_name(item, qualified=True) for item in client.list("VPC")}
    emit(found, output, lambda: _table(found, vpcs))


def droplets_with_daemon(client: Client) -> list[str]:
    """Names of the droplets that can be asked."""
    return [object_name(item) for item in client.list("Droplet") if item["spec"]["daemon"] != "none"]


def _table(found: list[dict[str, Any]], vpcs: dict[int, str]) -> Table:
    rows: list[tuple[object, ...]] = []
    for item in found:
        for row in item["vpcs"]:
            vni = int(row["vni"])
            rows.append((item["droplet"], vpcs.get(vni, f"VPC {vni}"), *(row.get(key, 0) for _, key in _SHOWN)))
        rows += [
            (item["droplet"], f"drop: {row['name']}", *[None] * (len(_SHOWN) - 2), row["packets"], None)
            for row in item["drops"]
        ]
    return columns(("DROPLET", "VPC", *(heading for heading, _ in _SHOWN)), rows)
