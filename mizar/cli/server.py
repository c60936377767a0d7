# SPDX-License-Identifier: Apache-2.0
"""`mizar server`: the management plane; thin over mizar.api.serve."""

from __future__ import annotations

import asyncio
import logging
import resource
from pathlib import Path
from typing import Annotated

import typer

from mizar.api.listen import DEFAULT_LISTEN
from mizar.api.serve import serve
from mizar.manager.audit import Audits
from mizar.planner.vni import LAST_VNI

DEFAULT_DB = Path("/var/lib/mizar/server.db")


def server(
    db: Annotated[Path, typer.Option(help="File of the database; made when it is missing.")] = DEFAULT_DB,
    listen: Annotated[
        list[str] | None,
        typer.Option(
            help="unix:///path or address:port, repeatable. Other addresses than loopback need --pki; with "
            "https://address:port, callers on loopback show certificates, too."
        ),
    ] = None,
    pki: Annotated[Path | None, typer.Option(help="Folder made by `mizar pki init`.", file_okay=False)] = None,
    vni_range: Annotated[
        str,
        typer.Option(
            metavar="FIRST-LAST", help="VNIs for VPCs that ask for none. Where all are taken, VPCs share them."
        ),
    ] = "1-16777215",
    metrics: Annotated[
        str, typer.Option(help="Where Prometheus reads: unix:///path or address:port; beyond loopback --pki is needed.")
    ] = "",
    audit_interval: Annotated[
        float,
        typer.Option(min=0, metavar="SECONDS", help="In this time each droplet is audited, one by one; 0: never."),
    ] = 600.0,
    audit_repair: Annotated[bool, typer.Option(help="Mend what these audits find.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Also log what heals itself at once.")] = False,
) -> None:
    """Run the management plane: keep what is desired, and bring every droplet to it."""
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s"
    )
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))  # it holds secrets
    audits = Audits(audit_interval, audit_repair)
    asyncio.run(serve(db, listen or DEFAULT_LISTEN, pki, vnis=_vnis(vni_range), audits=audits, metrics=metrics))


def _vnis(text: str) -> range:
    first, _, last = text.partition("-")
    if not (first.isdecimal() and last.isdecimal() and 1 <= int(first) <= int(last) <= LAST_VNI):
        raise typer.BadParameter(f"expected FIRST-LAST within 1-{LAST_VNI}, found {text!r}", param_hint="--vni-range")
    return range(int(first), int(last) + 1)
