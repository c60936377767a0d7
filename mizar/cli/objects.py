# SPDX-License-Identifier: Apache-2.0
"""`mizar apply`, `get`, `describe`, `delete` and `counters`: the objects that a server stores.

Registered by mizar.cli.main.
"""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from rich.table import Table
from rich.text import Text

from mizar.api.client import Client
from mizar.cli.connection import (
    Server,
    TenantOption,
    complete_kind,
    complete_name,
    connect,
    object_name,
)
from mizar.cli.function_files import with_objects_read
from mizar.cli.output import Format, Output, columns, emit, stderr
from mizar.cli.prefix_files import with_lists_read
from mizar.cli.secret_files import with_secrets_read
from mizar.model.errors import InvalidError, MizarError, NotFoundError, Problem
from mizar.model.manifest import Manifests, parse_texts
from mizar.model.resources import KINDS, Kind, Ref, Scope, kind_named

Manifest = dict[str, Any]

KindArgument = Annotated[
    str, typer.Argument(help="Kind, in any spelling: endpoint, ep, endpoints.", autocompletion=complete_kind)
]
NameArgument = Annotated[
    str, typer.Argument(help="Name; of a tenant's object tenant/name, or with -t.", autocompletion=complete_name)
]
OptionalName = Annotated[str | None, typer.Argument(help="One object only.", autocompletion=complete_name)]
Files = Annotated[
    list[str] | None, typer.Option("--filename", "-f", help="File of manifests, - for stdin; repeatable.")
]
Wait = Annotated[bool, typer.Option("--wait", help="Return when the droplets have acknowledged the change.")]
Timeout = Annotated[float, typer.Option("--timeout", min=0, help="Seconds that --wait waits.")]

# What a table shows of each kind, behind tenant and name: heading and path into the object.
COLUMNS: dict[str, tuple[tuple[str, str], ...]] = {
    "Tenant": (),
    "VPC": (("CIDRS", "spec.cidrs"), ("VNI", "status.vni"), ("DIVIDERS", "status.dividers")),
    "VPCPeering": (
        ("VPC", "spec.vpc"),
        ("PEER TENANT", "spec.peer.tenant"),
        ("PEER VPC", "spec.peer.vpc"),
        ("STATE", "status.state"),
    ),
    "SubstrateRoute": (("PREFIXES", "spec.prefixes"), ("VPCS", "spec.vpcs")),
    "AddressPool": (
        ("PREFIXES", "spec.prefixes"),
        ("TENANTS", "spec.tenants"),
        ("DROPLETS", "spec.droplets"),
        ("FREE", "status.free"),
    ),
    "Network": (("VPC", "spec.vpc"), ("CIDRS", "spec.cidrs"), ("BOUNCERS", "status.bouncers")),
    "Endpoint": (
        ("NETWORK", "spec.network"),
        ("TYPE", "spec.type"),
        ("DROPLET", "status.host"),
        ("READY", "status.ready"),
        ("ADDRESSES", "status.addresses"),
    ),
    "HttpLoadBalancer": (
        ("NETWORK", "spec.network"),
        ("READY", "status.ready"),
        ("ADDRESSES", "status.addresses"),
    ),
    "LoadBalancer": (
        ("NETWORK", "spec.network"),
        ("READY", "status.ready"),
        ("ADDRESSES", "status.addresses"),
        ("PUBLIC", "status.publicAddresses"),
        ("MODE", "status.mode"),
    ),
    "NatGateway": (
        ("NETWORK", "spec.network"),
        ("ADDRESSES", "status.addresses"),
        ("DROPLET", "status.droplet"),
        ("STATE", "status.state"),
        ("CONNECTIONS", "status.connections"),
        ("QUOTA", "status.quota"),
    ),
    "Policy": (
        ("VPC", "spec.vpc"),
        ("PRIORITY", "spec.priority"),
        ("MODE", "spec.mode"),
        ("ENDPOINTS", "status.endpoints"),
        ("WARNINGS", "status.warnings"),
    ),
    "Function": (
        ("ORDER", "spec.order"),
        ("STAGES", "status.stages"),
        ("DROPLETS", "status.droplets"),
        ("REFUSED", "status.refused"),
    ),
    "VpnConnection": (
        ("VPC", "spec.vpc"),
        ("ENDPOINT", "status.endpoint"),
        ("PEER", "spec.peer.address"),
        ("REMOTE", "spec.remotePrefixes"),
        ("STATE", "status.state"),
        ("DETAIL", "status.detail"),
    ),
    "DdosProtection": (
        ("VPC", "spec.vpc"),
        ("ENDPOINTS", "spec.endpoints"),
        ("NETWORKS", "spec.networks"),
        ("STATE", "status.state"),
        ("REFUSED", "status.refused"),
    ),
    "NetworkAcl": (
        ("VPC", "spec.vpc"),
        ("NETWORKS", "spec.networks"),
        ("MODE", "spec.mode"),
        ("WARNINGS", "status.warnings"),
    ),
    "Droplet": (
        ("ADDRESS", "spec.address"),
        ("CONNECTED", "status.connected"),
        ("HEALTH", "status.health"),
        ("XDP", "status.xdpMode"),
    ),
}


def apply(
    filename: Files = None,
    wait: Wait = False,
    timeout: Timeout = 60.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what it would do, as `mizar diff` does.")] = False,
    server: Server = None,
    output: Output = Format.TABLE,
) -> None:
    """Create or change the objects of manifests: all of them, or on any error none."""
    manifests = read_manifests(filename)
    if dry_run:
        from mizar.cli.diff import show

        with connect(server) as client, manifests.blamed():
            show(client.preview(manifests.resources), output)
        return
    with connect(server) as client, manifests.blamed():
        results = client.apply(manifests.resources)
        if wait:
            wait_for(client, [resource.ref for resource in manifests.resources], timeout)
    for row in results:
        for warning in row.get("warnings") or ():
            stderr().print(Text(f"warning: {_qualified(row.get('tenant'), row['name'])}: {warning}", style="yellow"))
    rows = [(row["kind"], _qualified(row.get("tenant"), row["name"]), row["change"]) for row in results]
    emit(results, output, lambda: columns(("KIND", "NAME", "CHANGE"), rows))


def get(
    kind: KindArgument,
    name: OptionalName = None,
    tenant: TenantOption = None,
    all_tenants: Annotated[bool, typer.Option("--all-tenants", "-A", help="Objects of every tenant.")] = False,
    server: Server = None,
    output: Output = Format.TABLE,
) -> None:
    """List the objects of a kind, or show one."""
    wanted = _served(kind)
    with connect(server) as client:
        if name is not None:
            ref = named(wanted, name, tenant)
            found = [client.get(ref.kind, ref.name, ref.tenant or None)]
        else:
            found = client.list(wanted.name, None if all_tenants or wanted.scope is Scope.CLUSTER else tenant)
    emit(found[0] if name is not None else found, output, lambda: _table(wanted, found))


def describe(
    kind: KindArgument,
    name: NameArgument,
    tenant: TenantOption = None,
    server: Server = None,
    output: Output = Format.TABLE,
) -> None:
    """Show everything about one object."""
    ref = named(_served(kind), name, tenant)
    with connect(server) as client:
        found = client.get(ref.kind, ref.name, ref.tenant or None)
    emit(found, output, lambda: _described(found))


def delete(
    kind: Annotated[str | None, typer.Argument(help="Kind.", autocompletion=complete_kind)] = None,
    name: OptionalName = None,
    filename: Files = None,
    tenant: TenantOption = None,
    cascade: Annotated[bool, typer.Option("--cascade", help="And everything inside of it.")] = False,
    force: Annotated[bool, typer.Option("--force", help="A droplet that will never answer again.")] = False,
    wait: Wait = False,
    timeout: Timeout = 60.0,
    server: Server = None,
    output: Output = Format.TABLE,
) -> None:
    """Delete one object, or all objects of manifests in the order that their dependence asks for.

    Of manifests, what is gone already is passed by.
    """
    if (kind is None or name is None) == (filename is None):
        raise typer.BadParameter("give either KIND and NAME, or -f FILE")
    if kind is not None and name is not None:
        refs = [named(_served(kind), name, tenant)]
    else:
        order = list(KINDS)
        named_there = read_manifests(filename, secrets=False).resources
        found = sorted(named_there, key=lambda item: order.index(item.kind), reverse=True)
        refs = [resource.ref for resource in found if KINDS[resource.kind].served]
    deleted: dict[Ref, Manifest] = {}
    with connect(server) as client:
        for ref in refs:
            try:
                deleted[ref] = client.delete(ref.kind, ref.name, ref.tenant or None, cascade=cascade, force=force)
            except NotFoundError:
                if filename is None:
                    raise
        if wait and deleted:
            wait_for(client, list(deleted), timeout, gone=True)
    now = "gone" if wait else "deleting"
    rows = [(ref.kind, _qualified(ref.tenant, ref.name), now if ref in deleted else "not there") for ref in refs]
    emit(list(deleted.values()), output, lambda: columns(("KIND", "NAME", "CHANGE"), rows))


def read_manifests(names: list[str] | None, *, secrets: bool = True) -> Manifests:
    """The objects of all files; every error of every file at once. Raises InvalidError.

    `secrets`: whether those that are in files and variables are read too, and the objects of functions.
    """
    if not names:
        raise typer.BadParameter("give at least one -f FILE")
    texts: list[tuple[str, str]] = []
    problems: list[Problem] = []
    for name in names:
        try:
            text = sys.stdin.read() if name == "-" else Path(name).read_text(encoding="utf-8")
            texts.append(("stdin" if name == "-" else name, text))
        except OSError as error:
            problems.append(Problem(f"{name} cannot be read: {error.strerror or error}"))
        except UnicodeDecodeError as error:
            problems.append(Problem(f"{name} is no text in UTF-8: {error}"))
    try:
        found = parse_texts(texts)
    except InvalidError as error:
        raise InvalidError([*problems, *error.problems]) from error
    if problems:
        raise InvalidError(problems)
    if not found.resources:
        raise InvalidError(f"there is no object in {', '.join(names)}")
    return with_lists_read(with_objects_read(with_secrets_read(found))) if secrets else found


def wait_for(client: Client, refs: list[Ref], timeout_s: float, gone: bool = False) -> None:
    """Waits with a line of progress on a terminal."""
    what = "gone" if gone else "provisioned"
    with stderr().status(f"waiting until {len(refs)} objects are {what} …"):
        client.wait(refs, timeout_s, until="gone" if gone else "Provisioned")


def _served(text: str) -> Kind:
    try:
        kind = kind_named(text)
    except MizarError as error:
        raise typer.BadParameter(str(error)) from error
    if not kind.served:
        raise typer.BadParameter(f"a server stores no {kind.name}: see `mizar lab`")
    return kind


def named(kind: Kind, name: str, tenant: str | None) -> Ref:
    """The object that people mean: `tenant/name`, or a name with a tenant beside it."""
    before, slash, after = name.partition("/")
    if kind.scope is Scope.CLUSTER:
        return Ref(kind.name, "", name)
    if slash:
        return Ref(kind.name, before, after)
    if not tenant:
        raise typer.BadParameter(f"{kind.plural} belong to a tenant: write TENANT/{name}, or give -t TENANT")
    return Ref(kind.name, tenant, name)


def _qualified(tenant: str | None, name: str) -> str:
    return f"{tenant}/{name}" if tenant else name


def _table(kind: Kind, found: list[Manifest]) -> Table:
    shown = COLUMNS[kind.name]
    rows = [
        (
            object_name(item, qualified=True),
            *(_at(item, path) for _, path in shown),
            _at(item, "status.phase"),
            _at(item, "status.message"),
        )
        for item in found
    ]
    headings = ("NAME", *(heading for heading, _ in shown), "PHASE", "MESSAGE")
    silent = all(not row[-1] for row in rows)  # mostly nothing is wrong, and a line has few characters
    return columns(headings[:-1], (row[:-1] for row in rows)) if silent else columns(headings, rows)


def _at(item: Any, path: str) -> Any:
    for part in path.split("."):
        item = item.get(part) if isinstance(item, dict) else None
    return item


def _described(item: Manifest, indent: int = 0) -> Text:
    text = Text()
    for key, value in item.items():
        if isinstance(value, dict) and value:
            text.append(f"{'  ' * indent}{key}:\n", style="bold")
            text.append_text(_described(value, indent + 1))
        elif isinstance(value, list) and any(isinstance(one, dict) for one in value):
            text.append(f"{'  ' * indent}{key}:\n", style="bold")
            written = yaml.safe_dump(value, sort_keys=False, allow_unicode=True, default_flow_style=None)
            text.append(textwrap.indent(written, "  " * indent))
        else:
            text.append(f"{'  ' * indent}{key}: ", style="bold").append(f"{_written(value)}\n")
    return text


def _written(value: Any) -> str:
    """In a line. What is there and empty is not left out: `ingress: none` is not the same as no `ingress`."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | dict):
        return ", ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)
