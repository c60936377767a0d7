# SPDX-License-Identifier: Apache-2.0
"""The network functions of this droplet: told whole, loaded whole or not at all, changed under traffic, found again.

Called by the servicer, by the ledger before each change of the tables, and at the daemon's start. What was told is
kept in a file beside the daemon's socket, which lives as long as the pins do; what runs goes on while there is no
daemon, and a new one puts the same chains in its place. It must never leave a function that was unloaded anything:
neither a program, nor a map, nor a bit.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from google.protobuf.message import DecodeError

from mizar._built import transit_pb2 as pb
from mizar.kernel.bpffs import Pins
from mizar.kernel.function_chains import Chains, OwnMaps, Prepared
from mizar.kernel.function_loader import FunctionLoader
from mizar.kernel.function_maps import ENDPOINT_VALUES, fill
from mizar.kernel.function_tables import FunctionTables
from mizar.kernel.functions import MOST_INSTRUCTIONS, Room
from mizar.kernel.layout import U32, constant
from mizar.kernel.maps import Table
from mizar.model.errors import ExhaustedError, InvalidError, MizarError, TemporaryError
from mizar.model.function_object import STAGES
from mizar.transit import without_xdp
from mizar.transit.function_missing import stand_in, told_problem
from mizar.transit.function_values import Function, Masks, chains_of, masks_of, parse, room_of, values_of
from mizar.transit.logs import event
from mizar.transit.state import State

T = TypeVar("T")
NOBODY = Masks(0, 0, {}, {}, {}, {})
_MOST_INSTRUCTIONS_EVER = 1_000_000
_NICE = -15
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Change:
    """All functions from some moment on, loaded. `before`: those that were held, once they are not any more."""

    wanted: list[Function]
    prepared: Prepared
    begun: float
    before: Mapping[str, Function] = field(default_factory=dict)


class Functions:
    """One droplet's. `state` is what the tables hold; `file` is where what was told is kept."""

    def __init__(
        self,
        maps: Mapping[str, int],
        pins: Pins,
        file: Path,
        *,
        generic: bool,
        xdp: bool = True,
        loader: FunctionLoader | None = None,
    ) -> None:
        self.tables = FunctionTables.of(maps, generic=generic)
        visible = {**maps, "function_xdp": self.tables.heads["xdp"]}
        self._room = Room(visible, several_buffers=not generic)
        self._xdp = xdp
        self.chains = Chains(self.tables, self._room, pins.chains)
        self.own = OwnMaps(pins.functions)
        self._loader = loader or FunctionLoader()
        self._file = file
        self.held: dict[str, Function] = {}
        self._most = MOST_INSTRUCTIONS
        self.masks = NOBODY
        self._values: dict[str, dict[int, int]] = {}
        self.lock = asyncio.Lock()
        self._thread = ThreadPoolExecutor(1, "functions", initializer=_be_quick)

    async def aside(self, step: Callable[[], T]) -> T:
        """A step of a change, on a thread that does nothing else: those that all share may write a million rows."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, step)

    async def run(self) -> None:
        """Has what loads functions there before it is needed. Runs beside the server."""
        try:
            await asyncio.to_thread(self._loader.start)
        except TemporaryError as error:
            event(_log, logging.WARNING, "function_loader_not_started", error=error)

    # ---- changes

    def restore(self, state: State) -> None:
        """At the daemon's start: what was told to the one before, and was loaded then: this process may load that, and
        nothing else. The caller lets nothing else happen."""
        self._read_masks()
        told = self._read_file()
        try:
            self._bring([self._parsed(one) for one in told], state)
        except MizarError as error:
            event(_log, logging.ERROR, "functions_not_restored", error=error)
            self._bring(self._sound(told), state)
        for name in self.own.folders():
            if name not in self.held:
                self.own.remove(name)
        self.chains.load = self._loader.load

    def prepare(self, request: pb.SetFunctionsRequest) -> Change | pb.SetFunctionsReply:
        """Loads all functions from now on, entered by nobody yet; a reply, where objects are missing. The caller holds
        `lock` until the end, and nothing else: the kernel's verifier takes its time. Raises what is wrong with one."""
        names = [one.name for one in request.functions]
        if len(set(names)) != len(names):
            raise InvalidError("the request names a function twice; send each once")
        if len(names) > constant("FUNCTIONS"):
            raise ExhaustedError(f"a droplet has room for {constant('FUNCTIONS')} functions, not for {len(names)}")
        if missing := self.missing(request):
            return pb.SetFunctionsReply(missing=missing)
        objects = self._objects(request)
        wanted = []
        numbers = self._numbers(names)
        for one in request.functions:
            whole = pb.Function()
            whole.CopyFrom(one)
            whole.object = objects[one.digest]
            lost = self._lost(whole)
            if lost is None:
                wanted.append(parse(whole, numbers[one.name]))
            elif not one.fail_open:
                wanted.append(stand_in(whole, lost.number, _stages(lost), lost.problem))
        self._most = min(request.most_instructions or MOST_INSTRUCTIONS, _MOST_INSTRUCTIONS_EVER)
        return self._prepare(wanted)

    def missing(self, request: pb.SetFunctionsRequest) -> list[bytes]:
        """Digests of objects that are neither here nor in the request."""
        return sorted({one.digest for one in request.functions} - self._objects(request).keys())

    def _objects(self, request: pb.SetFunctionsRequest) -> dict[bytes, bytes]:
        objects = {one.message.digest: one.message.object for one in self.held.values()}
        return objects | {one.digest: one.object for one in request.functions if one.object}

    def put(self, change: Change, state: State) -> None:
        """From now on packets meet these functions. The caller holds the lock of the tables, too. Abandons the change
        where it cannot be."""
        try:
            masks = masks_of(change.wanted, state)
            self._write_values(change.wanted, state)
            self._write_masks(masks)
            self.chains.enter(change.prepared, masks.droplet, masks.finer)
        except BaseException:
            self.chains.abandon(change.prepared)
            raise
        self.held, change.before = {one.name: one for one in change.wanted}, self.held

    def finish(self, change: Change) -> pb.SetFunctionsReply:
        """Lets go of what nobody enters any more. The caller holds `lock`, and nothing else: packets may be under
        way in what was there before."""
        self.chains.leave()
        before = change.before
        for name in before.keys() - self.held.keys():
            self.own.remove(name)
            self._values.pop(name, None)
        changed = sum(
            name not in before or name not in self.held or before[name].message != self.held[name].message
            for name in before.keys() | self.held.keys()
        )
        elapsed = int((time.monotonic() - change.begun) * 1e6)
        if changed:
            event(_log, logging.INFO, "functions_set", functions=len(self.held), changed=changed, elapsed_us=elapsed)
        lost = {one.name: told_problem(one) for one in self.held.values() if one.problem}
        return pb.SetFunctionsReply(changed=changed, elapsed_us=elapsed, lost=lost)

    def follow(self, state: State) -> None:
        """The tables are about to be these: write for whom functions are then. The caller holds their lock."""
        if self.held or self.masks != NOBODY:
            self._write_values(self.held.values(), state)
            self._write_masks(masks_of(self.held.values(), state))

    def mend(self, state: State) -> None:
        """Writes again whom functions are for, and what leads to them. The caller holds the lock of the tables."""
        self._read_masks()
        masks = masks_of(self.held.values(), state)
        self._values.clear()
        self._write_values(self.held.values(), state)
        self._write_masks(masks)
        self.chains.mend(masks.droplet, masks.finer)

    def _bring(self, wanted: list[Function], state: State) -> None:
        change = self._prepare(wanted)
        self.put(change, state)
        self.finish(change)

    def _prepare(self, wanted: list[Function]) -> Change:
        begun = time.monotonic()
        if not self._xdp:
            without_xdp.refuse_functions(wanted)
        self.chains.room = Room(self._room.maps, self._room.several_buffers, self._most)
        chains = chains_of(wanted)
        try:
            for one in wanted:
                self.own.of(one.name)
            prepared = self.chains.prepare(chains, self.own.open)
        except BaseException:
            self.own.forget_unpinned()
            raise
        try:
            for one in wanted:
                before = self.held[one.name].maps if one.name in self.held else {}
                for name, entries in one.maps.items() if not one.problem else ():
                    if name in self.own.of(one.name):
                        fill(name, self.own.of(one.name)[name], entries, before.get(name, {}))
        except BaseException:
            self.chains.abandon(prepared)
            self.own.forget_unpinned()
            raise
        try:
            for one in wanted:
                if not one.problem:  # else its maps wait for the version that can be loaded
                    self.own.keep(one.about)
                if one.name not in self.held and not self.chains.taking_over:
                    self._start_counting(one.number)
            self._write_file(wanted)
        except BaseException:
            self.chains.abandon(prepared)
            raise
        return Change(wanted, prepared, begun)

    def _numbers(self, names: Iterable[str]) -> dict[str, int]:
        """Each keeps its own; a new one gets one that nobody has at present, as far as there is one."""
        found = {name: self.held[name].number for name in names if name in self.held}
        taken = {one.number for one in self.held.values()}
        free = [number for number in range(constant("FUNCTIONS")) if number not in taken]
        free += sorted(taken - set(found.values()))
        return found | dict(zip([name for name in names if name not in found], free, strict=False))

    def _start_counting(self, number: int) -> None:
        stages, reasons = constant("FUNCTION_STAGES"), constant("FUNCTION_REASONS")
        self.tables.counters.zero(range(number * stages, (number + 1) * stages))
        self.tables.drops.zero(range(number * reasons, (number + 1) * reasons))

    # ---- masks

    def _write_masks(self, masks: Masks) -> None:
        self._write(self.tables.endpoint_functions, self.masks.endpoints, masks.endpoints)
        self._write(self.tables.vpc_functions, self.masks.vpcs, masks.vpcs)
        self._write(self.tables.network_functions, self.masks.networks, masks.networks)
        before, table = self.masks.groups, self.tables.group_functions
        table.put_many([(_group(key), bits) for key, bits in masks.groups.items() if before.get(key) != bits])
        table.delete_many([_group(key) for key in before.keys() - masks.groups.keys()])
        self.masks = masks

    def _write_values(self, functions: Iterable[Function], state: State) -> None:
        """What scopes say of endpoints, into the maps of those functions that have one for it."""
        for one in functions:
            fd = self.own.of(one.name).get(ENDPOINT_VALUES)
            if fd is None:
                continue
            table, wanted = Table(ENDPOINT_VALUES, fd, U32, U32), values_of(one, state)
            if one.name not in self._values:
                self._values[one.name] = {slot: value for slot, value in table.items() if value}
            before = self._values[one.name]
            table.put_many([(slot, value) for slot, value in wanted.items() if before.get(slot) != value])
            table.put_many([(slot, 0) for slot in before.keys() - wanted.keys()])
            self._values[one.name] = wanted

    @staticmethod
    def _write(table: Table[int, int], before: Mapping[int, int], after: Mapping[int, int]) -> None:
        table.put_many([(slot, bits) for slot, bits in after.items() if before.get(slot) != bits])
        table.put_many([(slot, 0) for slot in before.keys() - after.keys()])

    def _read_masks(self) -> None:
        """What the daemon before has written."""
        tables = self.tables
        endpoints, vpcs, networks = (
            {slot: bits for slot, bits in table.items() if bits}
            for table in (tables.endpoint_functions, tables.vpc_functions, tables.network_functions)
        )
        groups = {(key["vni"], key["number"]): bits for key, bits in tables.group_functions.items()}
        self.masks = Masks(0, 0, endpoints, vpcs, networks, groups)

    # ---- what was told, kept

    def _write_file(self, functions: Iterable[Function]) -> None:
        told = [
            pb.FunctionState(
                function=one.message,
                number=one.number,
                stages=[pb.FunctionStage(stage=stage) for stage in _stages(one)],
            )
            for one in functions
        ]
        unfinished = self._file.with_name(f"{self._file.name}.unfinished")
        try:
            if not told:
                self._file.unlink(missing_ok=True)
                return
            with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                file.write(pb.Functions(functions=told, room=self._most).SerializeToString())
            unfinished.replace(self._file)
        except OSError as error:
            raise MizarError(f"{self._file} cannot be written: {error.strerror}") from error

    def _read_file(self) -> list[pb.FunctionState]:
        try:
            told = pb.Functions.FromString(self._file.read_bytes())
        except FileNotFoundError:
            return []
        except (OSError, DecodeError) as error:
            event(_log, logging.ERROR, "functions_not_read", file=self._file, error=error)
            return []
        self._most = told.room
        return list(told.functions)

    @staticmethod
    def _parsed(told: pb.FunctionState) -> Function:
        return parse(told.function, told.number)

    def _sound(self, told: Iterable[pb.FunctionState]) -> list[Function]:
        """Those that can be loaded still, and stand-ins for the others, but for those that may be missing."""
        found: list[Function] = []
        for one in told:
            try:
                found.append(self._tried(self._parsed(one), found))
            except MizarError as error:
                name, closed = one.function.name, not one.function.fail_open
                event(_log, logging.ERROR, "function_lost", function=name, closed=closed, error=error)
                if closed:
                    stages = tuple(stage.stage for stage in one.stages)
                    found.append(self._tried(stand_in(one.function, one.number, stages, str(error)), found))
        return found

    def _tried(self, trial: Function, beside: Iterable[Function]) -> Function:
        self.own.of(trial.name)
        self.chains.abandon(self.chains.prepare(chains_of([*beside, trial]), self.own.open))
        return trial

    def _lost(self, message: pb.Function) -> Function | None:
        """The one of this name, when what is told is the object that cannot be loaded any more."""
        held = self.held.get(message.name)
        return held if held is not None and held.problem and held.message.digest == message.digest else None

    # ---- telling

    def name_of(self, rule: int) -> tuple[str, str, str]:
        """Of a frame that was refused: the function, its own reason, and the sentence for it; empty where unknown."""
        number, own = divmod(rule, constant("FUNCTION_REASONS"))
        function = next((one for one in list(self.held.values()) if one.number == number), None)
        reason = next((one for one in function.about.reasons if one.number == own), None) if function else None
        return (
            function.name if function else "",
            reason.name if reason else "",
            reason.sentence if reason else "",
        )

    def told(self) -> list[pb.Function]:
        """What is loaded, without objects."""
        return [_without_object(one.message) for one in self.held.values()]

    def states(self) -> pb.Functions:
        """What is loaded, and what it has done."""
        held = sorted(self.held.values(), key=lambda one: (one.message.order, one.name))
        return pb.Functions(functions=[self._state(one) for one in held], room=room_of(held))

    async def read(self) -> pb.Functions:
        """states(), for who holds no lock."""
        async with self.lock:
            return await asyncio.to_thread(self.states)

    def _state(self, one: Function) -> pb.FunctionState:
        reasons = constant("FUNCTION_REASONS")
        drops = []
        for reason in one.about.reasons:
            value = self.tables.drops.get(one.number * reasons + reason.number) or {}
            drops.append(pb.FunctionDrops(reason=reason.number, name=reason.name, sentence=reason.sentence, **value))
        return pb.FunctionState(
            function=_without_object(one.message),
            number=one.number,
            stages=[self._stage(one, stage) for stage in one.stages],
            drops=drops,
            maps=sorted(one.about.maps),
            folder=str(self.own.folder(one.name)),
            problem=told_problem(one) if one.problem else "",
        )

    def _stage(self, one: Function, stage: str) -> pb.FunctionStage:
        number = STAGES.index(stage)
        counted: Any = self.tables.counters.get(one.number * len(STAGES) + number) or {"verdicts": (0,) * 5}
        links = [
            (place, link)
            for at, chain in self.chains.held.items()
            if at.stage == stage
            for place, link in enumerate(chain)
            if link.member.number == one.number
        ]
        _, dropped, passed, redirected, transmitted = counted["verdicts"]
        return pb.FunctionStage(
            stage=number,
            place=links[0][0] if links else 0,
            packets=counted.get("packets", 0),
            dropped=dropped,
            passed=passed,
            redirected=redirected,
            transmitted=transmitted,
            sampled=counted.get("sampled", 0),
            sampled_ns=counted.get("sampled_ns", 0),
            instructions=max((link.instance.instructions for _, link in links), default=0),
        )

    def close(self) -> None:
        """Lets go of descriptors; all runs on."""
        self._loader.close()
        self._thread.shutdown()
        self.chains.close()
        self.own.close()


def _be_quick() -> None:
    """The thread that brings changes goes before what else the machine does: a change is short, and waited for."""
    with contextlib.suppress(OSError):  # without CAP_SYS_NICE, or where a limit forbids it
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)


def _group(key: tuple[int, int]) -> dict[str, int]:
    return {"vni": key[0], "number": key[1]}


def _stages(one: Function) -> tuple[int, ...]:
    return tuple(STAGES.index(stage) for stage in one.stages)


def _without_object(message: pb.Function) -> pb.Function:
    told = pb.Function()
    told.CopyFrom(message)
    told.ClearField("object")
    return told
