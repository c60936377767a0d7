# SPDX-License-Identifier: Apache-2.0
"""What a droplet tells of the own maps of a function. Called by the manager; keeps nothing."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import grpc

from mizar._built import transit_pb2 as pb
from mizar.manager.droplet_link import untold
from mizar.model.errors import InvalidError, MizarError, NotFoundError, TemporaryError

if TYPE_CHECKING:
    from mizar._built.transit_pb2_grpc import TransitAsyncStub

_ERRORS: dict[grpc.StatusCode, type[MizarError]] = {
    grpc.StatusCode.FAILED_PRECONDITION: NotFoundError,
    grpc.StatusCode.INVALID_ARGUMENT: InvalidError,
}


async def told(
    stub: TransitAsyncStub, droplet: str, request: pb.GetFunctionMapsRequest, limit_s: float
) -> list[dict[str, Any]]:
    """Name and shape of each; of the one that the request names also its rows. Raises NotFoundError, InvalidError or
    TemporaryError, with the droplet's name."""
    try:
        reply = await stub.GetFunctionMaps(request, timeout=limit_s)
    except grpc.aio.AioRpcError as error:
        raise _ERRORS.get(error.code(), TemporaryError)(f"droplet {droplet}: {untold(error)}") from error
    return [_map(one, rows=bool(request.map)) for one in reply.maps]


def _map(one: pb.FunctionMapState, *, rows: bool) -> dict[str, Any]:
    shape = {
        "name": one.name,
        "type": one.type,
        "entries": one.entries,
        "keySize": one.key_size,
        "valueSize": one.value_size,
    }
    found = [{"key": json.loads(row.key), "value": json.loads(row.value)} for row in one.rows]
    return {**shape, "rows": found, "more": one.more} if rows else shape
