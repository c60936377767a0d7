# SPDX-License-Identifier: Apache-2.0
"""`mizar ddos load` and `report`: long lists of a protection, and what protections have kept from endpoints.

Registered by mizar.cli.main. What it changes is the DdosProtection object: `mizar apply` could do as well.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from mizar.cli.connection import Server, TenantOption, connect
from mizar.cli.output import Format, Output, columns, emit, stderr
from mizar.cli.prefix_files import list_read
from mizar.model.prefix_list import count_packed
from mizar.model.resources import Ref

KIND = "DdosProtection"
app = typer.Typer(help="Protections against attacks: their lists, and what they have done.", no_args_is_help=True)
Manifest = dict[str, Any]
_KINDS = {
    "synsAnswered": "SYNs answered with a cookie",
    "verified": "came back with their cookie",
    "noSuchConnection": "segments of no connection",
    "synMalformed": "malformed SYNs",
    "reflected": "reflected datagrams",
    "blocked": "from blocked prefixes",
    "sourceOverLimit": "over the limit of a source",
    "targetOverLimit": "over the limit of a target",
    "syns": "SYNs, all",
    "seen": "packets, all",
}


@app.command()
def load(
    name: Annotated[str, typer.Argument(help="The protection.")],
    file: Annotated[Path, typer.Argument(help="A prefix or an address in each line; what is behind # is not read.")],
    tenant: TenantOption = None,
    allow: Annotated[bool, typer.Option("--allow", help="The list of what may pass.")] = False,
    timeout: Annotated[float, typer.Option("--timeout", min=0, help="Seconds to wait; 0: not at all.")] = 60.0,
    server: Server = None,
    output: Output = Format.TABLE,
) -> None:
    """Replace a protection's long list by that of a file: up to a million prefixes."""
    with stderr().status(f"reading {file} …"):
        found = list_read(file)
    assert found.data is not None
    count = count_packed(found.data)
    field = "allowList" if allow else "blockList"
    with connect(server) as client:
        object_ = client.get(KIND, name, tenant)
        spec = {**object_["spec"], field: found.sent}
        owner = object_["metadata"]["tenant"]
        metadata = {"name": name, "tenant": owner, "labels": object_["metadata"].get("labels", {})}
        manifest = {"apiVersion": "mizar/v1", "kind": KIND, "metadata": metadata, "spec": spec}
        change = client.apply([manifest])[0]["change"]
        if timeout:
            with stderr().status("waiting for the droplets …"):
                client.wait([Ref(KIND, owner, name)], timeout, until="Provisioned")
    said = {"protection": name, "tenant": owner, "list": field, "prefixes": count, "change": change}
    emit(said, output, lambda: Text(f"{field} of {owner}/{name}: {count} prefixes, {change}"))


@app.command()
def report(
    name: Annotated[str | None, typer.Argument(help="One protection; without: all.")] = None,
    tenant: TenantOption = None,
    server: Server = None,
    output: Output = Format.TABLE,
) -> None:
    """Who attacks whom, by which kind of attack, and how much of it: for each protection and droplet."""
    with connect(server) as client:
        found = [client.get(KIND, name, tenant)] if name else client.list(KIND, tenant)
    said = [_reported(one) for one in found]
    emit(said, output, lambda: _table(said))


def _reported(one: Manifest) -> Manifest:
    totals: dict[str, dict[str, int]] = {}
    for row in one["status"].get("droplets", ()):
        for kind, counted in row.get("counts", {}).items():
            total = totals.setdefault(kind, {"packets": 0, "bytes": 0})
            total["packets"] += counted["packets"]
            total["bytes"] += counted["bytes"]
    rows = one["status"].get("droplets", ())
    top = [{"droplet": row["droplet"], **each} for row in rows for each in row.get("top", ())]
    return {
        "protection": one["metadata"]["name"],
        "tenant": one["metadata"]["tenant"],
        "state": one["status"].get("state", ""),
        "totals": totals,
        "top": sorted(top, key=lambda each: -each["packets"]),
        "droplets": one["status"].get("droplets", []),
    }


def _table(said: list[Manifest]) -> Table:
    table = Table.grid(padding=(1, 0))
    for one in said:
        state = one["state"] or "nowhere yet"
        table.add_row(Text(f"{one['tenant']}/{one['protection']}: {state}", style="bold"))
        rows = [(_KINDS[kind], c["packets"], c["bytes"]) for kind in _KINDS if (c := one["totals"].get(kind))]
        if rows:
            table.add_row(columns(("WHAT", "PACKETS", "BYTES"), rows))
        times = [
            (row["droplet"], measure, row[measure]["engagedAt"], row[measure].get("withdrawnAt", "engaged"))
            for row in one["droplets"]
            for measure in ("synCookies", "reflection")
            if measure in row
        ]
        if times:
            table.add_row(columns(("DROPLET", "MEASURE", "ENGAGED", "WITHDRAWN"), times))
        top = [
            (row["source"], row["packets"], _KINDS.get(row["kind"], row["kind"]), row["target"], row["droplet"])
            for row in one["top"]
        ]
        if top:
            table.add_row(columns(("SOURCE", "PACKETS, ABOUT", "LAST KIND", "LAST TARGET", "DROPLET"), top))
    return table
