# SPDX-License-Identifier: Apache-2.0
"""The own maps of this droplet's functions, and what they hold, for people (GetFunctionMaps).

Called by the servicer. It must never tell of a map of the data plane's: what is asked for is found, by its name, among
a function's own.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping

from mizar._built import transit_pb2 as pb
from mizar.kernel import libbpf
from mizar.kernel.function_maps import held, type_of
from mizar.model.errors import InvalidError, NotFoundError
from mizar.transit.function_values import Function
from mizar.transit.functions import Functions

MOST, MOST_EVER = 100, 1000


async def read(functions: Functions, request: pb.GetFunctionMapsRequest) -> pb.FunctionMaps:
    """What is asked for. No change waits for it. Raises NotFoundError and InvalidError."""
    if request.most > MOST_EVER:
        raise InvalidError(f"at most {MOST_EVER} entries are told at once, not {request.most}")
    async with functions.lock:
        function = functions.held.get(request.function)
        if function is None:
            raise NotFoundError(f"there is no function {request.function} on this droplet")
        own = functions.own.of(function.name)
        if request.map and request.map not in own:
            known = ", ".join(sorted(own)) or "none"
            raise NotFoundError(f"function {function.name} has no map {request.map} of its own here; it has {known}")
        maps = {name: os.dup(fd) for name, fd in sorted(own.items()) if request.map in ("", name)}
    reading = asyncio.create_task(asyncio.to_thread(_told, function, maps, request))
    reading.add_done_callback(lambda _: _close(maps))
    return await asyncio.shield(reading)  # who asked may give up: the thread reads on, from these very descriptors


def _close(maps: Mapping[str, int]) -> None:
    for fd in maps.values():
        os.close(fd)


def _told(function: Function, maps: Mapping[str, int], request: pb.GetFunctionMapsRequest) -> pb.FunctionMaps:
    found = []
    for name, fd in maps.items():
        info = libbpf.info("map", fd)
        one = pb.FunctionMapState(
            name=name,
            type=type_of(info),
            entries=info.max_entries,
            key_size=info.key_size,
            value_size=info.value_size,
        )
        if request.map:
            rows, one.more = held(name, fd, request.most or MOST)
            one.rows.extend(_row(function, one, key, values) for key, values in rows)
        found.append(one)
    return pb.FunctionMaps(maps=found)


def _row(function: Function, one: pb.FunctionMapState, key: bytes, values: list[bytes]) -> pb.FunctionMapRow:
    shape, types = function.about.maps.get(one.name), function.about.types
    told = [types.unpack(shape.value if shape else 0, value) for value in values]
    return pb.FunctionMapRow(
        key=json.dumps(types.unpack(shape.key if shape else 0, key)),
        value=json.dumps(told if "PERCPU" in one.type else told[0]),
    )
