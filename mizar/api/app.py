# SPDX-License-Identifier: Apache-2.0
"""The REST API: requests → the manager, and its answers → JSON.

Made by mizar.api.serve, which puts the caller into each request's state. Thin: it parses, asks what the caller may do,
and calls the manager; it must never keep state, and never let a stack trace or a stranger's object out.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from importlib.metadata import version
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.exceptions import HTTPException

from mizar.api.asking import Asking
from mizar.api.caller import Caller
from mizar.api.events import add_events
from mizar.api.limits import Limits
from mizar.api.messages import as_json
from mizar.api.problems import status_of
from mizar.api.refusal import Refusal
from mizar.api.replies import (
    ApplyReply,
    ApplyRequest,
    AuditReply,
    AuditRequest,
    Errors,
    Health,
    MoveRequest,
    Object,
    ObjectList,
    PreviewReply,
    PreviewRequest,
)
from mizar.api.traces import TraceRequest, answer
from mizar.api.turns import Turns
from mizar.manager.audit import as_dict
from mizar.manager.intake import Submission
from mizar.manager.manager import Manager
from mizar.model.errors import InvalidError, MizarError, NotFoundError, Problem
from mizar.model.manifest import parse_resource
from mizar.model.resources import KINDS, Kind, Ref, Scope
from mizar.preview import preview as previews

ALIVE_S = 1.0
MOST_AT_ONCE, BYTES_AT_ONCE = 64, 1 << 16
"""Manifests, and bytes of them, that are read without a thread, in which others are served meanwhile: about a
millisecond, where one alone may have 32 MiB."""
MOST_PREVIEWS, PREVIEWS_OF_TENANT = 6, 2
"""That are worked out or wait; of tenants, and of administrators."""
_REFUSALS: dict[int | str, dict[str, Any]] = {
    404: {"model": Errors, "description": "No such object, or none that the caller may see."},
    409: {"model": Errors, "description": "Taken, or still in use."},
    422: {"model": Errors, "description": "The request is wrong; every error is listed and nothing was stored."},
    503: {"model": Errors, "description": "Not now; try again."},
    507: {"model": Errors, "description": "No address, number or place is left."},
}


def make_app(manager: Manager) -> FastAPI:
    """The application over one manager."""
    app = FastAPI(
        title="Mizar",
        version=version("mizar"),
        description="Virtual networks for many tenants over any set of Linux hosts, in eBPF.",
        redoc_url=None,
        docs_url=None,
        redirect_slashes=False,
    )
    app.add_middleware(Limits)
    app.add_exception_handler(MizarError, _refuse)
    app.add_exception_handler(RequestValidationError, _refuse_shape)
    app.add_exception_handler(HTTPException, _refuse_path)
    app.add_exception_handler(Exception, _apologise)
    _add_apply(app, manager)
    _add_preview(app, manager)
    _add_watch(app, manager)
    _add_droplet_questions(app, manager)
    _add_logs(app, manager)
    _add_audit(app, manager)
    _add_move(app, manager)
    add_events(app, manager)
    _add_traces(app, manager)
    for kind in KINDS.values():
        if kind.served:
            _add_kind(app, manager, kind)

    @app.get("/healthz", summary="Whether the server answers")
    async def health() -> Health:
        return Health(version=version("mizar"))

    return app


def _add_apply(app: FastAPI, manager: Manager) -> None:
    @app.post("/v1/apply", summary="Apply manifests, all or none", response_model=ApplyReply, responses=_REFUSALS)
    async def apply(request: Request, body: ApplyRequest, caller: Asking) -> JSONResponse:
        length = int(request.headers.get("content-length", BYTES_AT_ONCE + 1))
        if len(body.resources) > MOST_AT_ONCE or length > BYTES_AT_ONCE:
            submissions, refused = await asyncio.to_thread(_parse, body.resources, caller)
        else:
            submissions, refused = _parse(body.resources, caller)
        results = manager.apply(submissions, refused=refused, dry_run=body.dry_run, visible=caller.sees)
        await manager.kept()
        return JSONResponse(
            {
                "results": [
                    {"kind": r.ref.kind, "tenant": r.ref.tenant or None, "name": r.ref.name, "change": r.change}
                    | ({"warnings": list(r.warnings)} if r.warnings else {})
                    for r in results
                ]
            }
        )


def _add_preview(app: FastAPI, manager: Manager) -> None:
    busy = asyncio.Semaphore(1)
    turns = Turns("previews", MOST_PREVIEWS, PREVIEWS_OF_TENANT)

    @app.post(
        "/v1/preview",
        summary="What an apply of these manifests would do; nothing is kept and no droplet is told",
        response_model=PreviewReply,
        responses=_REFUSALS,
    )
    async def preview(body: PreviewRequest, caller: Asking) -> JSONResponse:
        with turns.taken(caller.tenant):
            submissions, refused = await asyncio.to_thread(_parse, body.resources, caller)
            async with busy:  # one at a time: it is work for seconds, beside which others shall be served
                known = manager.snapshot()
                found = await asyncio.to_thread(previews.preview, known, submissions, refused, caller.sees)
        return JSONResponse(previews.as_data(found))


def _parse(documents: Sequence[dict[str, Any]], caller: Caller) -> tuple[list[Submission], list[Problem]]:
    """Manifests that are valid in themselves and that the caller may apply, and what is wrong with the others."""
    submissions: list[Submission] = []
    refused: list[Problem] = []
    for index, document in enumerate(documents):
        try:
            resource = parse_resource(document, index)
        except InvalidError as error:
            refused += error.problems
            continue
        objections = [
            Problem(problem.message, problem.field, str(resource.ref), index) for problem in caller.objections(resource)
        ]
        refused += objections
        if not objections:
            submissions.append(Submission(index, resource))
    return submissions, refused


def _add_kind(app: FastAPI, manager: Manager, kind: Kind) -> None:
    """The paths of one kind: list, get, delete."""
    in_tenant = kind.scope is Scope.TENANT
    path = f"/v1/tenants/{{tenant}}/{kind.plural}/{{name}}" if in_tenant else f"/v1/{kind.plural}/{{name}}"

    def seen(caller: Caller, ref: Ref) -> Ref:
        if not caller.sees(ref):
            raise NotFoundError(Problem("there is no such object", resource=str(ref)))
        return ref

    # Asynchronous, though they wait for nothing: FastAPI runs others in a thread, which costs more than they do.
    async def of_tenant(caller: Asking, tenant: str, name: str) -> Ref:
        return seen(caller, Ref(kind.name, tenant, name))

    async def of_cluster(caller: Asking, name: str) -> Ref:
        return seen(caller, Ref(kind.name, "", name))

    async def one_tenant(tenant: Annotated[str | None, Query(description="Only this tenant's.")] = None) -> str | None:
        return tenant

    async def all_tenants() -> None:
        return None

    ref_of = Depends(of_tenant if in_tenant else of_cluster)
    tenant_of = Depends(one_tenant if in_tenant else all_tenants)

    async def list_objects(caller: Asking, tenant: str | None = tenant_of) -> JSONResponse:
        return JSONResponse({"items": list(manager.all(kind.name, tenant, caller.sees))})

    async def get_object(ref: Ref = ref_of) -> JSONResponse:
        return JSONResponse(manager.get(ref))

    async def delete_object(
        caller: Asking,
        ref: Ref = ref_of,
        cascade: Annotated[bool, Query(description="Delete what is inside of it too.")] = False,
        force: Annotated[
            bool, Query(description="A droplet that will never answer again: wait for it no more.")
        ] = False,
    ) -> JSONResponse:
        if caller.tenant is not None and not ref.tenant:
            raise InvalidError(Problem("only an administrator can delete this kind", resource=str(ref)))
        found = manager.delete(ref, cascade=cascade, force=force, visible=caller.sees)
        await manager.kept()
        return JSONResponse(found)

    named = f"{kind.name}s" if kind.name != "VPC" else "VPCs"
    app.get(f"/v1/{kind.plural}", summary=f"List {named}", response_model=ObjectList)(list_objects)
    app.get(path, summary=f"Show a {kind.name}", response_model=Object, responses=_only(404))(get_object)
    app.delete(
        path,
        summary=f"Begin to delete a {kind.name}; it is gone when every droplet has forgotten it",
        response_model=Object,
        responses=_only(404, 409, 422),
    )(delete_object)


def _add_droplet_questions(app: FastAPI, manager: Manager) -> None:
    def known(caller: Caller, name: str) -> None:
        if not caller.sees(Ref("Droplet", "", name)):
            raise NotFoundError(Problem("there is no such object", resource=f"Droplet {name}"))

    @app.get("/v1/droplets/{name}/counters", summary="What a droplet has counted", responses=_only(404, 503))
    async def counters(caller: Asking, name: str) -> dict[str, Any]:
        known(caller, name)
        return as_json(await manager.counters(name))

    @app.get("/v1/droplets/{name}/state", summary="What a droplet's tables hold", responses=_only(404, 503))
    async def state(caller: Asking, name: str) -> dict[str, Any]:
        known(caller, name)
        return as_json(await manager.state(name))

    @app.get(
        "/v1/droplets/{name}/functions",
        summary="What functions a droplet has loaded, and what they have done",
        responses=_only(404, 503),
    )
    async def functions(caller: Asking, name: str) -> dict[str, Any]:
        known(caller, name)
        return as_json(await manager.functions(name))

    def known_function(caller: Caller, name: str, function: str) -> None:
        known(caller, name)
        if not caller.sees(Ref("Function", "", function)):
            raise NotFoundError(Problem("there is no such object", resource=f"Function {function}"))

    @app.get(
        "/v1/droplets/{name}/functions/{function}/maps",
        summary="The own maps of a function on a droplet",
        responses=_only(404, 422, 503),
    )
    async def function_maps(caller: Asking, name: str, function: str) -> dict[str, Any]:
        known_function(caller, name, function)
        return {"maps": await manager.function_maps(name, function)}

    @app.get(
        "/v1/droplets/{name}/functions/{function}/maps/{map_name}",
        summary="What one of a function's own maps holds on a droplet",
        responses=_only(404, 422, 503),
    )
    async def function_map(
        caller: Asking,
        name: str,
        function: str,
        map_name: str,
        most: Annotated[int, Query(ge=1, le=1000, description="Entries that are told.")] = 100,
    ) -> dict[str, Any]:
        known_function(caller, name, function)
        (found,) = await manager.function_maps(name, function, map_name, most)
        return found


def _add_logs(app: FastAPI, manager: Manager) -> None:
    @app.get(
        "/v1/tenants/{tenant}/httploadbalancers/{name}/logs",
        summary="What clients asked an HTTP load balancer for, as its instances logged it",
        responses=_only(404, 422),
    )
    async def logs(
        caller: Asking,
        tenant: str,
        name: str,
        after: Annotated[
            list[str], Query(max_length=128, description="INSTANCE=PLACE, as `next` of the answer before has it.")
        ] = [],  # noqa: B006 - FastAPI copies it
        most: Annotated[int, Query(ge=1, le=1000, description="Lines of each instance.")] = 100,
    ) -> dict[str, Any]:
        ref = Ref("HttpLoadBalancer", tenant, name)
        if not caller.sees(ref):
            raise NotFoundError(Problem("there is no such object", resource=str(ref)))
        places = dict(one.partition("=")[::2] for one in after)
        return {"instances": await manager.logs(ref, places, most)}


def _add_audit(app: FastAPI, manager: Manager) -> None:
    @app.post(
        "/v1/droplets/{name}/audit",
        summary="Compare what a droplet holds with what is wanted of it; with repair, mend it",
        response_model=AuditReply,
        responses=_only(404),
    )
    async def audit(body: AuditRequest, caller: Asking, name: str) -> JSONResponse:
        if not caller.sees(Ref("Droplet", "", name)):
            raise NotFoundError(Problem("there is no such object", resource=f"Droplet {name}"))
        return JSONResponse(as_dict(await manager.audit(name, repair=body.repair)))


def _add_move(app: FastAPI, manager: Manager) -> None:
    @app.post(
        "/v1/tenants/{tenant}/endpoints/{name}/move",
        summary="Begin to move an Endpoint to another droplet; status.move tells what becomes of it",
        response_model=Object,
        responses=_only(404, 409, 422),
    )
    async def move(body: MoveRequest, caller: Asking, tenant: str, name: str) -> JSONResponse:
        ref = Ref("Endpoint", tenant, name)
        if not caller.sees(ref):
            raise NotFoundError(Problem("there is no such object", resource=str(ref)))
        found = manager.move(ref, body.droplet)
        await manager.kept()
        return JSONResponse(found)


def _add_traces(app: FastAPI, manager: Manager) -> None:
    ask = answer(manager)

    @app.post(
        "/v1/traces",
        summary="Which way a packet takes, hop by hop, and why; nothing is changed by asking",
        responses=_only(404, 422, 503),
    )
    async def trace(body: TraceRequest, caller: Asking) -> dict[str, Any]:
        found: dict[str, Any] = await ask(body, caller)
        return found


def _add_watch(app: FastAPI, manager: Manager) -> None:
    @app.get(
        "/v1/watch",
        summary="Changes from now on, one JSON object per line",
        response_class=StreamingResponse,
        description='Lines {"type": "ready"} first, {"type": "alive"} at least every second, {"type": "changed" or '
        '"gone", "object": …} for each change. A slow reader gets the newest state of each object.',
    )
    async def watch(caller: Asking) -> StreamingResponse:
        return StreamingResponse(lines(caller), media_type="application/x-ndjson")

    async def lines(caller: Caller) -> AsyncIterator[bytes]:
        with manager.watchers.join(caller.sees) as watcher:
            yield b'{"type": "ready"}\n'
            while True:
                for item, gone in (news := await watcher.take(ALIVE_S)):
                    yield _line({"type": "gone" if gone else "changed", "object": manager.show(item)})
                if not news:
                    yield b'{"type": "alive"}\n'


def _line(change: dict[str, Any]) -> bytes:
    return json.dumps(change, separators=(",", ":")).encode() + b"\n"


def _only(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: _REFUSALS[status] for status in statuses}


async def _refuse(_request: Request, error: Exception) -> Refusal:
    assert isinstance(error, MizarError)
    return Refusal(error.problems, status_of(error))


async def _refuse_shape(_request: Request, error: Exception) -> Refusal:
    assert isinstance(error, RequestValidationError)
    problems = tuple(
        Problem(str(found["msg"]), field=".".join(str(part) for part in found["loc"])) for found in error.errors()
    )
    return Refusal(problems, 422)


async def _refuse_path(_request: Request, error: Exception) -> Refusal:
    assert isinstance(error, HTTPException)
    return Refusal([Problem(str(error.detail))], error.status_code)


async def _apologise(_request: Request, _error: Exception) -> Refusal:
    return Refusal([Problem("the server failed; its log says why")], 500)
