# SPDX-License-Identifier: Apache-2.0
"""The audit of one droplet: do maps, interfaces and programs hold what this daemon was told?

Called by the servicer. It looks at the kernel and compares with the ledger's state, which it believes; `readback` is
the other way round. What a first look suspects is looked at once more under the ledger's lock, beside a copy of the
state of that moment, so that no change in progress is taken for a fault. It must never change anything but by `repair`,
and never hold the lock while it looks at a whole table.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from mizar.model.addresses import to_mapped
from mizar.model.errors import MizarError
from mizar.transit import entries
from mizar.transit.entries import Op
from mizar.transit.execute import Maps, execute
from mizar.transit.findings import Finding, Owners, key_text, kind_of, value_text
from mizar.transit.ledger import Ledger
from mizar.transit.readback import hashable, implied, same
from mizar.transit.stack import stack_endpoints
from mizar.transit.state import State

HASHES = (
    "droplet_slots", "vpcs", "identities", "group_sets", "endpoints", "agents", "agent_options", "member_slots",
    "listeners", "public_addresses", "substrate_endpoints", "policy_sets",
)  # fmt: skip
TRIES = ("networks", "routes", "network_acls", "public_inside")
"""Asked for a key, these answer with the longest prefix that holds it: they are always read whole."""
ARRAYS = (
    "droplets",
    "hop_sets",
    "proxies",
    "services",
    "service_notes",
    "members",
    "member_notes",
    "endpoint_policies",
    "endpoint_limits",
    "limiters",
    "acl_vpcs",
    "public_switch",
)
FOLLOWS_S = 0.5
"""Within which the stack's side follows the state; it has no part in the lock."""
MOST = 1000
"""Findings that are told of one droplet."""
_PACE, _PAUSE_S = 2048, 0.002

Place = tuple[str, Any]
"""A table and a key of it, hashable."""
Other = Callable[[bool], Awaitable[list[Finding]]]
"""Looks at something else than maps; told whether to mend it."""


@dataclass(frozen=True, slots=True)
class Report:
    """`looked_at`: entries of maps; `more`: findings beyond those that may be told."""

    findings: list[Finding]
    looked_at: int = 0
    more: int = 0


def wanted_entries(state: State) -> dict[Place, Op]:
    """All that the maps should hold, by place; what is left out holds nothing."""
    found: dict[Place, Op] = {}
    for droplet in state.droplets.values():
        op = entries.droplet_put(droplet, state.own_mtu)[0]
        found[op.table, op.key] = op
    for op in implied(state):
        found[op.table, hashable(op.key)] = op
    for address, vni in stack_endpoints(state).items():
        key = {"addr": to_mapped(address)}
        found["substrate_endpoints", hashable(key)] = Op("substrate_endpoints", key, vni)
    return found


def held_entries(maps: Maps, table: str) -> Iterator[tuple[Any, Any]]:
    """All that a map holds now."""
    target = getattr(maps, table)
    yield from target.used() if table in ARRAYS else target.items()


def agrees(found: Any, op: Op | None) -> bool:
    """Whether an entry (None: there is none) is as it should be. Whoever learns that an endpoint of the direct path has
    gone marks it in place; that is no fault."""
    if op is None or found is None:
        return found is None and (op is None or (op.table in ARRAYS and not _anything(op.value)))
    if op.table == "endpoints" and op.value["flags"] & entries.LEARNED:
        found = {**found, "flags": found["flags"] & ~entries.GONE}
    return same(found, op.value)


def _anything(value: Any) -> bool:
    if isinstance(value, int):
        return bool(value)
    return any(part if isinstance(part, int) else any(part) for part in value.values())


class Audit:
    """Looks at one droplet. `others` look at what is no map."""

    def __init__(self, ledger: Ledger, others: tuple[Other, ...] = ()) -> None:
        self._ledger = ledger
        self._others = others
        self._one = asyncio.Lock()

    async def run(self, *, repair: bool) -> Report:
        """One look at everything; one at a time."""
        async with self._one:
            report = await self._maps(repair)
            found = list(report.findings)
            for other in self._others:
                found += await other(repair)
            return replace(report, findings=found[:MOST], more=report.more + max(0, len(found) - MOST))

    async def told(self) -> State:
        """The state as the daemon was told it."""
        async with self._ledger.lock:
            return self._ledger.state.copy()

    async def _maps(self, repair: bool) -> Report:
        suspects, looked_at = await asyncio.to_thread(self._suspects, await self.told())
        if any(table == "substrate_endpoints" for table, _ in suspects):
            await asyncio.sleep(FOLLOWS_S)
        rest, findings, more = iter(suspects.items()), list[Finding](), 0
        while chunk := dict(islice(rest, _PACE)):
            found = await self._confirm(chunk, repair=repair)
            room = max(0, MOST - len(findings))
            findings += found[:room]
            more += max(0, len(found) - room)
        return Report(findings, looked_at, more)

    def _suspects(self, state: State) -> tuple[dict[Place, Any], int]:
        """Where maps seem to differ, with the keys; and how many entries there are. Maps change while they are read, so
        some of it is just a change."""
        wanted, seen, suspects = wanted_entries(state), set[Place](), dict[Place, Any]()
        looked_at = 0
        for table in (*HASHES, *TRIES, *ARRAYS):
            for key, value in held_entries(self._ledger.maps, table):
                place = table, hashable(key)
                seen.add(place)
                looked_at += 1
                if not agrees(value, wanted.get(place)):
                    suspects[place] = key
                if looked_at % _PACE == 0:
                    time.sleep(_PAUSE_S)  # a thread of its own: others get their turn
        for place in wanted.keys() - seen:
            if not agrees(None, wanted[place]):
                suspects[place] = wanted[place].key
        return suspects, looked_at

    async def _confirm(self, suspects: dict[Place, Any], *, repair: bool) -> list[Finding]:
        """The second look, at what is suspected alone: no change is under way while it lasts."""
        async with self._ledger.lock:
            state = self._ledger.state.copy()
            found = await asyncio.to_thread(read, self._ledger.maps, suspects)
        differing = await asyncio.to_thread(_compare, state, suspects, found)
        if not repair or not differing:
            return [finding for _, finding in differing]
        return await self._ledger.whole(self._mend({place: suspects[place] for place, _ in differing}, differing))

    async def _mend(self, keys: dict[Place, Any], differing: list[tuple[Place, Finding]]) -> list[Finding]:
        """What is wanted by now is written."""
        async with self._ledger.lock:
            return await asyncio.to_thread(self._mend_now, keys, dict(differing))

    def _mend_now(self, keys: dict[Place, Any], findings: dict[Place, Finding]) -> list[Finding]:
        wanted = wanted_entries(self._ledger.state)
        ops = [wanted.get(place) or nothing(place[0], key) for place, key in keys.items()]
        ops.sort(key=lambda op: not op.value)  # what refers to nothing goes last
        try:
            execute(self._ledger.maps, ops)
        except MizarError as error:
            return [replace(finding, error=str(error)) for finding in findings.values()]
        return [
            replace(finding, repair="written again" if wanted.get(place) else "removed")
            for place, finding in findings.items()
        ]


def nothing(table: str, key: Any) -> Op:
    """The end of an entry."""
    return Op(table, key, 0 if table in ("acl_vpcs", "public_switch") else {} if table in ARRAYS else None)


def read(maps: Maps, keys: dict[Place, Any]) -> dict[Place, Any]:
    """The entries at these places, as far as there are any."""
    found: dict[Place, Any] = {}
    for table in TRIES:
        if any(place[0] == table for place in keys):
            found |= {(table, hashable(key)): value for key, value in held_entries(maps, table)}
    for place, key in keys.items():
        if place[0] not in TRIES:
            value = getattr(maps, place[0]).get(key)
            if value is not None and (place[0] not in ARRAYS or _anything(value)):
                found[place] = value
    return {place: found[place] for place in keys if place in found}


def _compare(state: State, keys: dict[Place, Any], found: dict[Place, Any]) -> list[tuple[Place, Finding]]:
    wanted, owners = wanted_entries(state), Owners(state)
    differing = []
    for place, key in keys.items():
        table, op, value = place[0], wanted.get(place), found.get(place)
        if agrees(value, op):
            continue
        should = op.value if op else None
        both = should is not None and value is not None
        finding = Finding(
            kind_of(op, value is not None),
            table,
            key_text(table, key),
            value_text(should, value if both else None),
            value_text(value, should if both else None),
            owners.of(table, key, should if should is not None else value),
        )
        differing.append((place, finding))
    return differing
