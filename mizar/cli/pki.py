# SPDX-License-Identifier: Apache-2.0
"""`mizar pki`: makes the certificate authority and issues certificates; thin over mizar.pki.authority.

Called by mizar.cli.main, which turns MizarError into a message and an exit code.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mizar.pki.authority import initialise, issue
from mizar.pki.identity import Identity, Role

app = typer.Typer(help="Certificates for mutual TLS between server, daemons and people.", no_args_is_help=True)

Directory = Annotated[Path, typer.Argument(help="Folder of the certificate authority.", file_okay=False)]
Hosts = Annotated[
    list[str] | None, typer.Option("--host", help="Host name or address that the holder is reached at; repeatable.")
]


@app.command()
def init(directory: Directory, hosts: Hosts = None) -> None:
    """Make an authority and certificates for server, daemon, admin and gateway; keep whatever is there already."""
    made = initialise(directory, hosts or ())
    for path in made:
        typer.echo(path)
    if not made:
        typer.echo(f"{directory} is complete; nothing was changed", err=True)


@app.command("issue")
def issue_certificate(
    directory: Directory,
    role: Annotated[Role, typer.Option(help="What the holder is.")],
    name: Annotated[str, typer.Option(help="Who the holder is; for a tenant, the tenant's name.")],
    hosts: Hosts = None,
) -> None:
    """Issue one more certificate: ROLE-NAME.crt and ROLE-NAME.key."""
    for path in issue(directory, Identity(role, name), hosts or ()):
        typer.echo(path)
