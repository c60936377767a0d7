# SPDX-License-Identifier: Apache-2.0
"""`mizar function load, attach, order, detach, unload, list, show`: functions on a server's droplets.

Registered by mizar.cli.function. Each is a change of one Function object: what `mizar apply` could do as well.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from mizar.api.client import Client
from mizar.cli.connection import Server, connect
from mizar.cli.counters import droplets_with_daemon
from mizar.cli.output import Format, Output, columns, emit, stderr
from mizar.model.errors import InvalidError, NotFoundError, TemporaryError
from mizar.model.function_object import STAGES
from mizar.model.manifest import parse_resource
from mizar.model.resources import Ref

Manifest = dict[str, Any]
_SCOPES = ("vpc", "network", "group", "endpoint")


def complete_function(ctx: typer.Context, incomplete: str) -> list[str]:
    """Names of functions that begin so."""
    from mizar.cli.connection import complete_name

    ctx.params["kind"] = "function"
    return complete_name(ctx, incomplete)


Name = Annotated[str, typer.Argument(help="The function.", autocompletion=complete_function)]
Droplets = Annotated[list[str] | None, typer.Option("--droplet", help="Everything at a droplet; `all`: at each.")]
Vpcs = Annotated[list[str] | None, typer.Option("--vpc", metavar="TENANT/NAME", help="Packets of a VPC.")]
Networks = Annotated[list[str] | None, typer.Option("--network", metavar="TENANT/NAME", help="Those of a network.")]
Groups = Annotated[list[str] | None, typer.Option("--group", metavar="TENANT/NAME", help="Those of a group.")]
Endpoints = Annotated[list[str] | None, typer.Option("--endpoint", metavar="TENANT/NAME", help="Those of an endpoint.")]
Timeout = Annotated[float, typer.Option("--timeout", min=0, help="Seconds to wait for the droplets; 0: not at all.")]


def load(
    where: Annotated[Path, typer.Argument(help="The function's object (.o), source (.c), or folder.")],
    order: Annotated[int | None, typer.Option(help="Its place among others at a stage; lower is earlier.")] = None,
    stage: Annotated[list[str] | None, typer.Option("--stage", help="Of its stages, this one; repeatable.")] = None,
    timeout: Timeout = 60.0,
    server: Server = None,
    output: Output = Format.TABLE,
) -> None:
    """Store a function with the server; one that is there is replaced, and stays attached as it is."""
    from mizar.cli.function import built, source_of
    from mizar.cli.function_files import function_read
    from mizar.model.function import Function
    from mizar.model.function_object import read_object

    path = where if where.suffix == ".o" else built(source_of(where))
    try:
        name = read_object(path.read_bytes()).name
    except OSError as error:
        raise InvalidError(f"{path} cannot be read: {error.strerror or error}") from error
    with connect(server) as client:
        before = _spec(client, name)
        spec = {**before, "object": path.name}
        spec |= {"order": order} if order is not None else {}
        spec |= {"stages": stage} if stage else {}
        wanted = parse_resource(_manifest(name, spec))
        assert isinstance(wanted, Function)
        _told(client.apply([function_read(wanted, path.parent)]))
        _shown(client, name, timeout, output)


def attach(
    name: Name,
    droplet: Droplets = None,
    vpc: Vpcs = None,
    network: Networks = None,
    group: Groups = None,
    endpoint: Endpoints = None,
    value: Annotated[
        int | None,
        typer.Option(min=1, max=2**32 - 1, help="What these scopes say of their endpoints: endpoint_values."),
    ] = None,
    timeout: Timeout = 60.0,
    server: Server = None,
    output: Output = Format.TABLE,
) -> None:
    """Give a function packets to see; what it has already stays. A scope that it has gets the new value, if any."""
    given = _scopes(droplet, {"vpc": vpc, "network": network, "group": group, "endpoint": endpoint})
    with connect(server) as client:
        spec = _known(client, name)
        _change(client, name, spec, {"attach": attached(spec.get("attach", []), given, value)})
        _shown(client, name, timeout, output)


def detach(
    name: Name,
    droplet: Droplets = None,
    vpc: Vpcs = None,
    network: Networks = None,
    group: Groups = None,
    endpoint: Endpoints = None,
    everything: Annotated[bool, typer.Option("--all", help="From all that it is attached to.")] = False,
    timeout: Timeout = 60.0,
    server: Server = None,
    output: Output = Format.TABLE,
) -> None:
    """Take packets from a function's sight; it stays with the server."""
    options = {"vpc": vpc, "network": network, "group": group, "endpoint": endpoint}
    given = [] if everything else _scopes(droplet, options)
    with connect(server) as client:
        spec = _known(client, name)
        there = spec.get("attach", [])
        strange = [one for one in given if one not in map(_whom, there)]
        if strange:
            raise NotFoundError(f"function {name} is not attached to {_scope_text(strange[0])}")
        _change(client, name, spec, {"attach": [] if everything else [one for one in there if _whom(one) not in given]})
        _shown(client, name, timeout, output)


def order(
    name: Name,
    number: Annotated[int, typer.Argument(help="At a stage, functions run in the order of these, then of names.")],
    timeout: Timeout = 60.0,
    server: Server = None,
    output: Output = Format.TABLE,
) -> None:
    """Give a function another place among those of its stages."""
    with connect(server) as client:
        _change(client, name, _known(client, name), {"order": number})
        _shown(client, name, timeout, output)


def unload(name: Name, timeout: Timeout = 60.0, server: Server = None, output: Output = Format.TABLE) -> None:
    """Take a function from all droplets and from the server."""
    with connect(server) as client:
        client.delete("Function", name)
        if timeout:
            client.wait([Ref("Function", "", name)], timeout, until="gone")
    said = {"function": name, "change": "gone" if timeout else "deleting"}
    emit(said, output, lambda: columns(("NAME", "CHANGE"), [(name, said["change"])]))


def functions(server: Server = None, output: Output = Format.TABLE) -> None:
    """List the functions of a server, in their order."""
    with connect(server) as client:
        found = sorted(client.list("Function"), key=lambda one: (one["spec"]["order"], one["metadata"]["name"]))
    emit(found, output, lambda: _listed(found))


def show(name: Name, server: Server = None, output: Output = Format.TABLE) -> None:
    """Show a function: for whom it is, where it is, and what it has done there."""
    with connect(server) as client:
        found = _whole(client, name)
    emit(found, output, lambda: _described(found))


def _scopes(droplets: list[str] | None, others: dict[str, list[str] | None]) -> list[Manifest]:
    given: list[Manifest] = [{"droplet": name} for name in dict.fromkeys(droplets or ())]
    for kind, names in others.items():
        for text in dict.fromkeys(names or ()):
            tenant, slash, name = text.partition("/")
            if not (tenant and slash and name):
                raise typer.BadParameter(f"--{kind}: expected TENANT/NAME, found {text!r}")
            given.append({kind: {"tenant": tenant, "name": name}})
    if not given:
        raise typer.BadParameter("give at least one of --droplet, --vpc, --network, --group and --endpoint")
    return given


def attached(there: list[Manifest], given: list[Manifest], value: int | None) -> list[Manifest]:
    """Scopes as they are with these besides; where a value is given, all of these have it."""
    said = {"value": value} if value else {}
    known = [_whom(one) for one in there]
    kept = [{**one, **said} if whom in given else one for one, whom in zip(there, known, strict=True)]
    return [*kept, *({**one, **said} for one in given if one not in known)]


def _whom(scope: Manifest) -> Manifest:
    """A scope without its value."""
    return {key: what for key, what in scope.items() if key != "value" and what is not None}


def _manifest(name: str, spec: Manifest) -> Manifest:
    return {"apiVersion": "mizar/v1", "kind": "Function", "metadata": {"name": name}, "spec": spec}


def _spec(client: Client, name: str) -> Manifest:
    try:
        return _known(client, name)
    except NotFoundError:
        return {}


def _known(client: Client, name: str) -> Manifest:
    spec: Manifest = client.get("Function", name)["spec"]
    return spec


def _change(client: Client, name: str, spec: Manifest, changes: Manifest) -> None:
    _told(client.apply([_manifest(name, {**spec, **changes})]))


def _told(results: list[Manifest]) -> None:
    for warning in (warning for row in results for warning in row.get("warnings") or ()):
        stderr().print(Text(f"warning: {warning}", style="yellow"))


def _whole(client: Client, name: str) -> Manifest:
    """The object, and under `loaded` what each droplet says of it."""
    found = client.get("Function", name)
    loaded, silent = [], []
    for droplet in found["status"].get("droplets") or droplets_with_daemon(client):
        try:
            told = client.functions(droplet)["functions"]
        except TemporaryError as error:
            silent.append({"droplet": droplet, "reason": str(error)})
            continue
        loaded += [{"droplet": droplet, **one} for one in told if one["function"]["name"] == name]
    return {**found, "loaded": loaded, "silent": silent}


def _shown(client: Client, name: str, timeout: float, output: Format) -> None:
    if timeout:
        client.wait([Ref("Function", "", name)], timeout)
    found = client.get("Function", name)
    emit(found, output, lambda: _listed([found]))


def _listed(found: list[Manifest]) -> Table:
    rows = [
        (
            one["metadata"]["name"],
            one["spec"]["order"],
            one["status"].get("stages", []),
            [_scope_text(scope) for scope in one["spec"].get("attach", [])],
            one["status"].get("droplets", []),
            one["status"]["phase"],
            one["status"].get("message", ""),
        )
        for one in found
    ]
    return columns(("NAME", "ORDER", "STAGES", "FOR", "DROPLETS", "PHASE", "MESSAGE"), rows)


def _scope_text(scope: Manifest) -> str:
    said = f" = {scope['value']}" if scope.get("value") else ""
    for kind in _SCOPES:
        if scope.get(kind):
            return f"{kind} {scope[kind]['tenant']}/{scope[kind]['name']}{said}"
    return ("all droplets" if scope["droplet"] == "all" else f"droplet {scope['droplet']}") + said


def _described(found: Manifest) -> Table:
    table = Table.grid(padding=(1, 0))
    table.add_row(_listed([found]))
    rows, drops = [], []
    for one in found["loaded"]:
        for stage in one["stages"]:
            mean = f"{stage['sampledNs'] / stage['sampled']:.0f}" if stage["sampled"] else ""
            counted = [stage[key] for key in ("packets", "dropped", "passed", "redirected", "transmitted")]
            rows.append((one["droplet"], STAGES[stage["stage"]], stage["place"], *counted, mean, stage["instructions"]))
        drops += [(one["droplet"], row["name"], row["packets"], row["sentence"]) for row in one["drops"]]
    if rows:
        headings = ("DROPLET", "STAGE", "PLACE", "PACKETS", "DROPPED", "PASSED", "REDIRECTED", "TRANSMITTED", "NS")
        table.add_row(columns((*headings, "INSTRUCTIONS"), rows))
    if drops:
        table.add_row(columns(("DROPLET", "REASON", "PACKETS", "WHAT IT MEANS"), drops))
    for one in found["status"].get("refused", ()):
        table.add_row(Text(f"{one['droplet']} refuses it: {one['reason']}", style="bold red"))
    for one in found["silent"]:
        table.add_row(Text(f"{one['droplet']} does not answer: {one['reason']}", style="yellow"))
    return table
