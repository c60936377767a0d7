# SPDX-License-Identifier: Apache-2.0
"""The protections of this droplet: what the function ddos-protection is told, and what is told of it.

Called by the servicer with each SetFunctions, at the daemon's start, and once a second by itself: whose kernels can be
asked, whether their listeners believe cookies, and what is news. Which measure is engaged is decided in the data plane,
packet by packet, and goes on while there is no daemon. What was told is kept in a file, lists included.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import time
from collections.abc import Iterable
from pathlib import Path

from google.protobuf.message import DecodeError

from mizar._built import transit_pb2 as pb
from mizar.kernel import interfaces, libbpf, syn_primer
from mizar.kernel.function_maps import ENDPOINT_VALUES, raw_table, replace_table
from mizar.kernel.maps import CounterTable, Table
from mizar.kernel.namespaces import Namespace
from mizar.kernel.netlink import Netlink
from mizar.model.addresses import text_of
from mizar.model.errors import MizarError
from mizar.transit import ddos_values as values
from mizar.transit.events import Hub
from mizar.transit.functions import Functions
from mizar.transit.ledger import Ledger
from mizar.transit.logs import event
from mizar.transit.state import State
from mizar.transit.values import Local
from mizar.transit.workloads import InNamespace

LOOK_S = 1.0
"""How often it looks for news."""
TELL_S = 3.0
"""How often counts are told while nothing else changes."""
PRIME_S = 30.0
"""How often a listener is prepared again: its kernel believes cookies for a minute at least."""
_log = logging.getLogger(__name__)


class Ddos:
    """One droplet's."""

    def __init__(self, functions: Functions, ledger: Ledger, hub: Hub, file: Path) -> None:
        self._functions, self._ledger, self._hub, self._file = functions, ledger, hub, file
        self._held: dict[str, pb.DdosProtection] = {}
        self._boundaries: dict[str, int] = {}
        self._kernels: dict[int, bytes] = {}
        self._kernels_map = 0
        self._primed: dict[str, tuple[float, set[syn_primer.Listener]]] = {}
        self._told: dict[str, tuple[float, pb.DdosStatus]] = {}
        self._warned: set[str] = set()

    # ---- changes

    def missing(self, wanted: Iterable[pb.DdosProtection]) -> list[bytes]:
        """Digests of the lists that are neither here nor in the request."""
        known = self._lists()
        return sorted(
            {
                digest
                for one in wanted
                for digest, data in ((one.block_digest, one.block), (one.allow_digest, one.allow))
                if digest and not data and digest not in known
            }
        )

    def whole(self, wanted: Iterable[pb.DdosProtection]) -> list[pb.DdosProtection]:
        """With their lists. Raises InvalidError."""
        known, found = self._lists(), []
        for one in wanted:
            message = pb.DdosProtection()
            message.CopyFrom(one)
            if one.block_digest and not one.block:
                message.block = known[one.block_digest]
            if one.allow_digest and not one.allow:
                message.allow = known[one.allow_digest]
            values.check(message)
            found.append(message)
        return found

    def set(self, wanted: Iterable[pb.DdosProtection]) -> int:
        """All of them from now on; the function is loaded. How many were not so already."""
        held = {one.uid: one for one in wanted}
        changed = values.in_turn((one for uid, one in held.items() if self._held.get(uid) != one), self._held)
        gone = [one for uid, one in self._held.items() if uid not in held]
        if not changed and not gone:
            return 0
        kept = {one.number for one in held.values()}
        for one in gone:
            self._told.pop(one.uid, None)
            if one.number not in kept:
                self._clear(one.number)
        for one in changed:
            self._write(one, fresh=self._number(one.uid) != one.number)
        self._held = held
        self._keep()
        event(_log, logging.INFO, "protections_set", protections=len(held), changed=len(changed) + len(gone))
        return len(changed) + len(gone)

    def restore(self) -> None:
        """At the daemon's start: what was told to the one before. The function runs, and its maps are as they were."""
        try:
            told = pb.SetFunctionsRequest.FromString(self._file.read_bytes())
        except FileNotFoundError:
            return
        except (OSError, DecodeError) as error:
            event(_log, logging.ERROR, "protections_not_read", file=self._file, error=error)
            return
        if not self._maps:
            return
        self._held = {one.uid: one for one in told.protections}
        for one in self._held.values():
            self._write(one, fresh=False, lists=False)

    def rewrite(self) -> None:
        """Writes all of it again; somebody else has altered it."""
        for one in self._held.values():
            self._write(one, fresh=False)

    def altered(self) -> list[str]:
        """Names of the protections whose rule is not as it was told."""
        found = []
        for one in self._held.values() if self._maps else ():
            there = self._raw("protections").get(_place(one.number)) or b""
            if there != values.rule(one, int.from_bytes(there[:8], "little")):
                found.append(one.name)
        return found

    def _write(self, one: pb.DdosProtection, *, fresh: bool, lists: bool = True) -> None:
        maps, number, before = self._maps, one.number, self._held.get(one.uid)
        if fresh:
            self._clear(number)
        same = before is not None and not fresh and before is not one and _lists_of(before) == _lists_of(one)
        if lists and not same:
            found = values.tables(one)
            for name in ("prefixes4", "prefixes6"):
                replace_table(maps[name], number, found.get(name))
            self._boundaries[one.uid] = sum(len(cells) for cells in found.values())
        words = values.port_words(one.ports)
        self._raw("reflectors").put_raw(
            [(_place(number * 1024 + at), words.get(at, 0).to_bytes(8, "little")) for at in range(1024)]
        )
        there = self._raw("protections").get(_place(number)) or bytes(8)
        seed = int.from_bytes(there[:8], "little") or secrets.randbits(64) | 1
        self._raw("protections").put_raw([(_place(number), values.rule(one, seed))])

    def _clear(self, number: int) -> None:
        maps = self._maps
        if not maps:
            return
        self._raw("protections").put_raw([(_place(number), bytes(values.RULE.size))])
        self._raw("states").put_raw([(_place(number), bytes(values.STATE.size))])
        self._counters.zero([number])
        first = number * values.TOP * 2
        empty = bytes(values.VOTED.size)
        self._raw("top").put_raw([(_place(first + at), empty) for at in range(values.TOP * 2)])
        for name in ("prefixes4", "prefixes6"):
            replace_table(maps[name], number, None)

    def _lists(self) -> dict[bytes, bytes]:
        return {
            digest: data
            for one in self._held.values()
            for digest, data in ((one.block_digest, one.block), (one.allow_digest, one.allow))
            if digest
        }

    def _number(self, uid: str) -> int:
        return self._held[uid].number if uid in self._held else 0

    def _keep(self) -> None:
        unfinished = self._file.with_name(f"{self._file.name}.unfinished")
        try:
            if not self._held:
                self._file.unlink(missing_ok=True)
                return
            with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                file.write(pb.SetFunctionsRequest(protections=self._held.values()).SerializeToString())
            unfinished.replace(self._file)
        except OSError as error:
            raise MizarError(f"{self._file} cannot be written: {error.strerror}") from error

    @property
    def _maps(self) -> dict[str, int]:
        return self._functions.own.of(values.FUNCTION) if values.FUNCTION in self._functions.held else {}

    def _raw(self, name: str) -> Table[bytes, bytes]:
        return raw_table(name, self._maps[name])

    @property
    def _counters(self) -> CounterTable:
        return CounterTable("counters", self._maps["counters"], values.COUNTERS)

    # ---- looking

    async def run(self) -> None:
        """Looks until cancelled."""
        while True:
            await asyncio.sleep(LOOK_S)
            if not self._held:
                continue
            try:
                async with self._functions.lock:
                    found = await asyncio.to_thread(self._look, self._ledger.state)
            except MizarError as error:
                event(_log, logging.WARNING, "protections_not_seen", error=error)
                continue
            for one in found:
                self._hub.ddos_status(one)

    def rows(self) -> list[pb.DdosStatus]:
        """What was told last."""
        return [found for _, found in self._told.values()]

    def named(self) -> list[tuple[str, pb.DdosStatus]]:
        """The same by TENANT/NAME."""
        return [(one.name, self._told[uid][1]) for uid, one in self._held.items() if uid in self._told]

    def _look(self, state: State) -> list[pb.DdosStatus]:
        maps = self._maps
        if not maps:
            return []
        slots = dict(self._protected(maps))
        uids = {local.slot: uid for uid, local in list(state.locals.items()) if local.slot in slots}
        self._ask_kernels([state.locals[uid] for uid in uids.values() if uid in state.locals], slots)
        news, now = [], time.monotonic()
        for one in self._held.values():
            found = self._status(one, slots, uids)
            at, before = self._told.get(one.uid, (0.0, None))
            if before is None or _state(before) != _state(found) or (now - at >= TELL_S and before != found):
                self._told[one.uid] = now, found
                news.append(self._turned(one, before, found))
        return news

    def _protected(self, maps: dict[str, int]) -> list[tuple[int, int]]:
        table = raw_table(ENDPOINT_VALUES, maps[ENDPOINT_VALUES])
        found = ((int.from_bytes(key, "little"), int.from_bytes(value, "little")) for key, value in table.raw_items())
        return [(slot, number) for slot, number in found if number]

    def _ask_kernels(self, found: list[Local], slots: dict[int, int]) -> None:
        """Which namespace each endpoint is in, and that its listeners believe cookies."""
        flags = {one.number: one.flags for one in self._held.values()}
        wanted: dict[int, bytes] = {}
        with Netlink() as netlink:
            for local in found:
                workload = local.wanted.workload
                if not flags.get(slots[local.slot], 0) & values.COOKIES or not isinstance(workload, InNamespace):
                    continue
                try:
                    interface = interfaces.get(netlink, local.host_interface)
                    self._prime(local, workload)
                except (MizarError, OSError) as error:
                    if local.wanted.uid not in self._warned:
                        self._warned.add(local.wanted.uid)
                        event(_log, logging.WARNING, "listeners_not_prepared", endpoint=local.wanted.uid, error=error)
                    continue
                if interface.peer_nsid is not None:
                    addresses = local.endpoint.addresses
                    wanted[local.slot] = values.kernel(interface.peer_nsid + 1, interface.index, addresses)
        number = libbpf.info("map", self._maps["kernels"]).id
        # Of another map nothing is known: the function was gone in between, and what was told to it with it.
        before = self._kernels if number == self._kernels_map else {}
        self._kernels, self._kernels_map = wanted, number
        rows = [(slot, found) for slot, found in wanted.items() if before.get(slot) != found]
        rows += [(slot, values.kernel(0, 0)) for slot in before.keys() - wanted.keys()]
        self._raw("kernels").put_raw([(_place(slot), found) for slot, found in rows])

    def _prime(self, local: Local, workload: InNamespace) -> None:
        uid = local.wanted.uid
        at, done = self._primed.get(uid, (0.0, set()))
        if time.monotonic() - at > PRIME_S:
            at, done = time.monotonic(), set()
        addresses = [text_of(one) for one in local.endpoint.addresses]
        with Namespace.open_spec(workload.spec) as namespace:
            self._primed[uid] = at, syn_primer.prime(namespace, addresses, done)

    def _status(self, one: pb.DdosProtection, slots: dict[int, int], uids: dict[int, str]) -> pb.DdosStatus:
        number = one.number
        state = values.STATE.unpack(self._raw("states").get(_place(number)) or bytes(values.STATE.size))
        _, cookies_until, _, filter_until, cookies_since, filter_since = state
        now, offset = time.monotonic_ns(), time.time_ns() - time.monotonic_ns()
        top = self._raw("top")
        first = number * values.TOP * 2
        rows = [top.get(_place(first + at)) or bytes(values.VOTED.size) for at in range(values.TOP * 2)]
        mine = [slot for slot, which in slots.items() if which == number]
        return pb.DdosStatus(
            uid=one.uid,
            cookies=bool(one.flags & values.COOKIES_ALWAYS) or cookies_until > now,
            filter=bool(one.flags & values.REFLECTED_ALWAYS) or filter_until > now,
            cookies_since_unix_ms=(cookies_since + offset) // 10**6 if cookies_since else 0,
            filter_since_unix_ms=(filter_since + offset) // 10**6 if filter_since else 0,
            cookies_until_unix_ms=(cookies_until + offset) // 10**6 if cookies_until else 0,
            filter_until_unix_ms=(filter_until + offset) // 10**6 if filter_until else 0,
            counts=values.told_counts(self._counters.get(number)),
            top=values.voted(rows, uids)[:20],
            endpoints=len(mine),
            cookie_endpoints=sum(slot in self._kernels for slot in mine),
            prefixes=self._boundaries.get(one.uid, 0),
        )

    @staticmethod
    def _turned(one: pb.DdosProtection, before: pb.DdosStatus | None, found: pb.DdosStatus) -> pb.DdosStatus:
        """The news, with what was engaged or withdrawn, which is logged."""
        news = pb.DdosStatus()
        news.CopyFrom(found)
        for what, was, now in (
            ("cookies", before is not None and before.cookies, found.cookies),
            ("filter", before is not None and before.filter, found.filter),
        ):
            if was != now:
                level = logging.WARNING if now else logging.INFO
                name = "protection_engaged" if now else "protection_withdrawn"
                event(_log, level, name, protection=one.name, measure=what)
                news.turned.append(what)
        return news


def _place(number: int) -> bytes:
    return number.to_bytes(4, "little")


def _lists_of(one: pb.DdosProtection) -> tuple[bytes, bytes]:
    return one.block_digest, one.allow_digest


def _state(found: pb.DdosStatus) -> tuple[object, ...]:
    return found.cookies, found.filter, found.endpoints, found.cookie_endpoints
