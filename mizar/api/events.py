# SPDX-License-Identifier: Apache-2.0
"""Live events as lines of JSON (what is refused, trapped, becomes of paths, endpoints, droplets), and counters of all.

Part of mizar.api.app. Thin: mizar.manager.monitor decides what a caller is shown.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import FastAPI, Query
from fastapi.responses import StreamingResponse

from mizar.api.asking import Asking
from mizar.manager.manager import Manager
from mizar.manager.sightings import TYPES

ALIVE_S = 1.0


def add_events(app: FastAPI, manager: Manager) -> None:
    """Adds the paths."""

    @app.get(
        "/v1/events",
        summary="What droplets see from now on, one JSON object per line",
        response_class=StreamingResponse,
        description='Lines {"type": "ready", "droplets": […], "away": […]} first and {"type": "alive"} when nothing '
        f"happens for a second; then {', '.join(TYPES)}, and suppressed or missed with a count where there was more "
        "than is told. Tenants see what is of their own VPCs.",
    )
    async def events(
        caller: Asking,
        type: Annotated[list[str], Query(description="Of these types only.")] = [],  # noqa: A002, B006
        tenant: Annotated[str | None, Query(description="Of this tenant's VPCs only.")] = None,
        vpc: Annotated[str | None, Query(description="Of this VPC only: tenant/name.")] = None,
        endpoint: Annotated[str | None, Query(description="From or to this endpoint only: tenant/name.")] = None,
        droplet: Annotated[str | None, Query(description="On this droplet only.")] = None,
        reason: Annotated[list[str], Query(description="Drops of these reasons only.")] = [],  # noqa: B006
        address: Annotated[str | None, Query(description="From or to this address or prefix only.")] = None,
        policy: Annotated[str | None, Query(description="What this policy decides only: tenant/name.")] = None,
    ) -> StreamingResponse:
        wish = manager.monitor.wish(
            caller.sees,
            types=type,
            tenant=tenant,
            vpc=vpc,
            endpoint=endpoint,
            droplet=droplet,
            reasons=reason,
            address=address,
            policy=policy,
        )
        found = manager.monitor.watch(wish, caller.sees, caller.tenant, ALIVE_S)
        first = await anext(found)  # errors become a status while there is still one to be sent
        return StreamingResponse(_lines(first, found), media_type="application/x-ndjson")

    @app.get("/v1/traffic", summary="What all droplets have counted: by VPC, endpoint, droplet and reason of drops")
    async def traffic(caller: Asking) -> dict[str, Any]:
        return await manager.traffic.look(caller.sees, caller.tenant is None)


async def _lines(first: dict[str, Any], rest: AsyncIterator[dict[str, Any]]) -> AsyncIterator[bytes]:
    try:
        yield _line(first)
        async for one in rest:
            yield _line(one)
    finally:
        await rest.aclose()  # type: ignore[attr-defined]


def _line(value: dict[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"
