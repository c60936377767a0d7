# SPDX-License-Identifier: Apache-2.0
"""Which server a command speaks to, and how names are completed from it.

Called by the commands that need a server. Completion must never fail or wait: what cannot be had is left out.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from mizar.api.client import DEFAULT_URL, Client
from mizar.lab.names import labs
from mizar.model.errors import InvalidError, MizarError
from mizar.model.resources import KINDS, Scope, kind_named

COMPLETION_TIMEOUT_S = 0.5

Server = Annotated[
    str | None,
    typer.Option(
        "--server",
        envvar="MIZAR_SERVER",
        show_default=False,
        help=f"URL of the server; default {DEFAULT_URL}, or that of the lab which is up.",
    ),
]


def connect(server: str | None, timeout_s: float = 60.0) -> Client:
    """A client for `--server`, or for what is there. Certificates are named by MIZAR_CA, MIZAR_CERT and MIZAR_KEY."""
    ca, certificate, key = (_path(name) for name in ("MIZAR_CA", "MIZAR_CERT", "MIZAR_KEY"))
    return Client(server or default_url(), ca=ca, certificate=certificate, key=key, timeout_s=timeout_s)


def default_url() -> str:
    """The host's server when it has a socket, else that of the one lab that is up."""
    if Path(DEFAULT_URL.removeprefix("unix://")).exists():
        return DEFAULT_URL
    up = [lab for lab in labs() if lab.server_socket.exists()]
    if len(up) > 1:
        names = ", ".join(lab.name for lab in up)
        raise InvalidError(f"several labs are up ({names}): choose one with --server {up[0].server_url}")
    return up[0].server_url if up else DEFAULT_URL


def _path(variable: str) -> Path | None:
    text = os.environ.get(variable)
    return Path(text) if text else None


def complete_kind(incomplete: str) -> list[tuple[str, str]]:
    """Kinds that a server stores."""
    kinds = [kind for kind in KINDS.values() if kind.served]
    return [(kind.plural, kind.name) for kind in kinds if kind.plural.startswith(incomplete.lower())]


def complete_name(ctx: typer.Context, incomplete: str) -> list[str]:
    """Names of objects of the kind typed before; `tenant/name` where no tenant was chosen."""
    try:
        kind = kind_named(str(ctx.params["kind"]))
        tenant = ctx.params.get("tenant")
        with connect(ctx.params.get("server"), COMPLETION_TIMEOUT_S) as client:
            found = client.list(kind.name, tenant if kind.scope is Scope.TENANT else None)
    except (MizarError, KeyError, OSError):
        return []
    names = [object_name(item, qualified=not tenant) for item in found]
    return [name for name in names if name.startswith(incomplete)]


def complete_tenant(ctx: typer.Context, incomplete: str) -> list[str]:
    """Names of tenants."""
    try:
        with connect(ctx.params.get("server"), COMPLETION_TIMEOUT_S) as client:
            return [name for item in client.list("Tenant") if (name := object_name(item)).startswith(incomplete)]
    except (MizarError, OSError):
        return []


def object_name(item: dict[str, Any], qualified: bool = False) -> str:
    """An object's name, with its tenant's in front when it has one and `qualified` is set."""
    metadata = item["metadata"]
    tenant = metadata.get("tenant")
    return f"{tenant}/{metadata['name']}" if tenant and qualified else str(metadata["name"])


TenantOption = Annotated[
    str | None,
    typer.Option(
        "--tenant",
        "-t",
        envvar="MIZAR_TENANT",
        autocompletion=complete_tenant,
        help="The tenant that the object belongs to.",
    ),
]
