# SPDX-License-Identifier: Apache-2.0
"""What all droplets have counted, at one moment, under names: the ground of rates.

Made by mizar.manager.manager, read by the API. All daemons are asked at once, and not again for half a second however
many people look. Tenants are shown their own VPCs and endpoints; droplets and reasons of drops are the operator's. It
must never wait long for a droplet that does not answer.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import grpc

from mizar._built import transit_pb2 as pb
from mizar.manager.droplet_link import Link
from mizar.manager.names import Names
from mizar.manager.registry import Item, Registry
from mizar.model import drop_reasons
from mizar.model.errors import MizarError
from mizar.model.resources import Droplet, Ref

FRESH_S = 0.5
CALL_S = 2.0
AT_ONCE = 32
"""Daemons that are asked at the same time."""
MOST_ENDPOINTS = 2000
"""That are told, the busiest first."""

_VPC = tuple(field.name for field in pb.VpcCounters.DESCRIPTOR.fields if field.name != "vni")
_ENDPOINT = tuple(field.name for field in pb.EndpointCounters.DESCRIPTOR.fields if field.name != "uid")


@dataclass(frozen=True, slots=True)
class _Asked:
    """What came of one round: counters by droplet, or why there are none."""

    at_s: float
    found: dict[str, pb.Counters | str]


class Traffic:
    """Asks droplets for those who look."""

    def __init__(self, registry: Registry, links: Callable[[str], Link | None], health: Callable[[str], str]) -> None:
        self._registry = registry
        self._links = links
        self._health = health
        self._names = Names(registry)
        self._asking: asyncio.Task[_Asked] | None = None

    async def look(self, sees: Callable[[Ref], bool], operator: bool) -> dict[str, Any]:
        """Counters as JSON values: {"time", "droplets", "vpcs", "endpoints"}; `time` in seconds since 1970."""
        asked = await self._round()
        found: dict[str, Any] = {"time": asked.at_s, "droplets": [], "drops": []}
        if operator:
            found["droplets"] = [self._droplet(name, what) for name, what in sorted(asked.found.items())]
            found["drops"] = _drops(asked)
        found["vpcs"] = list(self._vpcs(asked, sees))
        found["endpoints"] = list(self._endpoints(asked, sees))
        return found

    async def _round(self) -> _Asked:
        """The round that is under way or fresh, or another."""
        task = self._asking
        stale = task is None or (task.done() and (task.cancelled() or time.time() - task.result().at_s > FRESH_S))
        if task is None or stale:
            task = self._asking = asyncio.create_task(self._ask_all())
        return await asyncio.shield(task)

    async def _ask_all(self) -> _Asked:
        names = [
            item.resource.name
            for item in self._registry.of_kind("Droplet")
            if isinstance(item.resource, Droplet) and item.resource.spec.has_daemon
        ]
        room = asyncio.Semaphore(AT_ONCE)

        async def ask(name: str) -> pb.Counters | str:
            async with room:
                return await self._ask(name)

        return _Asked(time.time(), dict(zip(names, await asyncio.gather(*map(ask, names)), strict=True)))

    async def _ask(self, name: str) -> pb.Counters | str:
        link = self._links(name)
        if link is None:
            return "it has no daemon that could be asked"
        try:
            return await link.stub().GetCounters(pb.GetCountersRequest(), timeout=CALL_S)
        except grpc.aio.AioRpcError as error:
            return f"it did not tell its counters: {error.code().name}"
        except MizarError as error:
            return str(error)
        except asyncio.CancelledError:
            # grpc.aio cancels whoever waits for a call when the channel is closed; that is not our caller's end.
            if (task := asyncio.current_task()) is None or task.cancelling():
                raise
            return "its connection ended"

    def _droplet(self, name: str, what: pb.Counters | str) -> dict[str, Any]:
        shown: dict[str, Any] = {"name": name, "health": self._health(name)}
        if isinstance(what, str):
            return shown | {"problem": what}
        known = drop_reasons.by_number()
        dropped = [one for one in what.drops if one.reason in known and known[one.reason].verdict == "drop"]
        total = {field: sum(getattr(one, field) for one in what.vpcs) for field in _VPC}
        total["dropped_packets"] = sum(one.packets for one in dropped)
        return shown | {"problem": "", "endpoints": len(what.endpoints), **_camel(total)}

    def _vpcs(self, asked: _Asked, sees: Callable[[Ref], bool]) -> Iterator[dict[str, Any]]:
        total: dict[str, tuple[Item, dict[str, int]]] = {}
        for what in asked.found.values():
            for one in what.vpcs if isinstance(what, pb.Counters) else ():
                item = self._names.vpc(one.vni)
                if item is None or not sees(item.ref):
                    continue
                _, counts = total.setdefault(item.uid, (item, dict.fromkeys(_VPC, 0)))
                for field in _VPC:
                    counts[field] += getattr(one, field)
        for item, counts in sorted(total.values(), key=lambda one: one[0].ref):
            yield {"tenant": item.resource.tenant, "name": item.resource.name, **_camel(counts)}

    def _endpoints(self, asked: _Asked, sees: Callable[[Ref], bool]) -> Iterator[dict[str, Any]]:
        found = [
            (one.sent_packets + one.delivered_packets + one.dropped_packets, droplet, one, item)
            for droplet, what in asked.found.items()
            for one in (what.endpoints if isinstance(what, pb.Counters) else ())
            if (item := self._names.endpoint(one.uid)) is not None and sees(item.ref)
        ]
        for _, droplet, one, item in sorted(found, key=lambda row: -row[0])[:MOST_ENDPOINTS]:
            counts = {field: getattr(one, field) for field in _ENDPOINT}
            yield {"tenant": item.resource.tenant, "name": item.resource.name, "droplet": droplet, **_camel(counts)}


def _drops(asked: _Asked) -> list[dict[str, Any]]:
    """By reason, over all droplets."""
    total: dict[int, list[int]] = {}
    for what in asked.found.values():
        for one in what.drops if isinstance(what, pb.Counters) else ():
            counts = total.setdefault(one.reason, [0, 0])
            counts[0] += one.packets
            counts[1] += one.bytes
    known = drop_reasons.by_number()
    return [
        {
            "reason": known[number].name if number in known else str(number),
            "sentence": known[number].sentence if number in known else "",
            "verdict": known[number].verdict if number in known else "",
            "packets": packets,
            "bytes": octets,
        }
        for number, (packets, octets) in sorted(total.items())
    ]


def _camel(counts: dict[str, int]) -> dict[str, int]:
    def name(field: str) -> str:
        first, *rest = field.split("_")
        return first + "".join(part.capitalize() for part in rest)

    return {name(field): count for field, count in counts.items()}
