# SPDX-License-Identifier: Apache-2.0
"""A gateway's process: what has to be done beside the data plane, from its start to its end.

Called by `mizar gateway run`. Traffic goes on without it: the program, its maps and the kernel's slow path stay when it
ends, and are taken over by the next. What it does in the loop is short or bounded: walks have budgets.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mizar.gateway import control, dataplane, kernel_path, pair, queue_worker, rules
from mizar.gateway.dataplane import Dataplane
from mizar.gateway.flow_table import FlowTable
from mizar.gateway.forecast import Forecasts
from mizar.gateway.foretell import foretell
from mizar.gateway.kernel_plan import KernelPlan
from mizar.gateway.kernel_sync import REFRESH_S, KernelSync
from mizar.gateway.metrics import GatewayMetrics
from mizar.gateway.options import Options, pins
from mizar.gateway.pair import PairOfGateways, Part
from mizar.gateway.pool_use import PoolUse
from mizar.gateway.present import reasons, sentences, words
from mizar.gateway.queue_worker import QueueWorker
from mizar.gateway.summary import summary
from mizar.gateway.sweep import Sweep
from mizar.kernel.conntrack import Conntrack, Listener
from mizar.kernel.events import EventReader
from mizar.kernel.gateway_keeper import Keeper
from mizar.kernel.layout import constant
from mizar.kernel.namespaces import Namespace
from mizar.metrics.serve import serving as serving_metrics
from mizar.model.errors import InvalidError, MizarError, TemporaryError
from mizar.pipeline.description import Pipeline
from mizar.pipeline.nat import NatRules
from mizar.pipeline.reader import read_pipeline

_log = logging.getLogger(__name__)
_SWEEP_S, _PART_S = 1.0, 0.02
"""Between two sweeps; and for how long the loop does nothing else, and then other things, while it sweeps."""
_COUNT_S, _BUDGET = 1.0, 5_000
_OBSERVE_S = 10.0


@dataclass
class Slow:
    """The kernel's slow path at work."""

    plan: KernelPlan
    namespace: Namespace
    listener: Listener
    conntrack: Conntrack
    sync: KernelSync

    def close(self) -> None:
        """Lets go of it; it goes on."""
        self.listener.close()
        self.conntrack.close()
        self.namespace.close()


@dataclass
class Gateway:
    """One gateway. `events` counts what the data plane told of, by kind."""

    options: Options
    pipeline: Pipeline
    plane: Dataplane
    table: FlowTable | None = None
    sweep: Sweep | None = None
    slow: Slow | None = None
    workers: list[QueueWorker] = field(default_factory=list)
    forecasts: Forecasts = field(default_factory=Forecasts)
    events: Counter[str] = field(default_factory=Counter)
    ended: Counter[str] = field(default_factory=Counter)
    reports: bool = False
    pair: PairOfGateways = field(init=False)

    def __post_init__(self) -> None:
        self.pair = PairOfGateways(self)

    @property
    def nat(self) -> NatRules:
        """The rules in force."""
        return self.pipeline.nat or NatRules()

    def start(self) -> None:
        """Takes over what is pinned, or begins anew."""
        self._tables()
        self._kernel(self.pipeline)
        if self.table is not None:
            self._write(self.table)
        dataplane.put_in_place(self.options, self.plane)
        self._judge()
        self._queues()

    def apply(self, pipeline: Pipeline) -> dict[str, int]:
        """Another description from now on; connections that it allows go on. Raises MizarError, mostly before
        anything has changed: what the program, nftables or the maps cannot do."""
        plane = dataplane.prepare(self.options, pipeline)
        try:
            queue_worker.check(pipeline)
            self._kernel(pipeline)
        except BaseException:
            plane.close()
            raise
        old, self.plane, self.pipeline = self.plane, plane, pipeline
        self._tables()
        if self.table is not None:
            self._write(self.table)
        dataplane.put_in_place(self.options, plane)
        ended = self._judge()
        self._queues()
        old.close()
        _log.info("applied pipeline=%s ended=%d", pipeline.name, ended)
        return {"ended": ended}

    def expire(self) -> bool:
        """A part of the sweep for connections whose time is up; whether it is at its end."""
        if self.sweep is None:
            return True
        self.ended["expired"] += self.sweep.run(_PART_S)
        return self.sweep.whole

    def count(self) -> None:
        """A part of the walk for the use of pools."""
        if self.table is not None:
            self.table.count(_BUDGET)

    def refresh(self) -> None:
        """Compares with the kernel's connections."""
        if self.slow is not None:
            self.slow.sync.refresh()

    def observe(self) -> None:
        """What is in use, for the forecast."""
        if self.table is None:
            return
        uses: dict[str, tuple[int, int]] = {}
        none = constant("QUOTA_NONE")
        total = 0
        for meta, tenant in self.table.tables.nat_tenants.items():
            total += tenant["in_use"]
            if tenant["quota"] != none:
                uses[f"tenant {meta:#x}"] = tenant["in_use"], tenant["quota"]
        tables = self.table.tables
        uses["connections"] = total, tables.connections4.room + tables.connections6.room
        if self.table.pools is not None:
            uses |= self.table.pools.uses
        self.forecasts.observe(time.monotonic(), uses)

    def hear(self, reader: EventReader) -> None:
        """Events of the data plane: each is counted and logged; it tells at most one a second for each tenant."""
        kinds = {constant("GATEWAY_EVENT_EXHAUSTED"): "exhausted", constant("GATEWAY_EVENT_QUOTA"): "quota"}
        for event in reader.read():
            kind = kinds.get(event["kind"], "report")
            self.events[kind] += 1
            if kind == "report":
                self.pair.told(event)
            else:
                reason = reasons().get(event["reason"], str(event["reason"]))
                _log.warning("%s tenant=%#x reason=%s flow=%s", kind, event["tenant"], reason, words(event))

    def foretell(self, frame: bytes, meta: int) -> dict[str, Any]:
        """What the data plane would make of a frame with this metadata, now. Raises InvalidError."""
        if self.table is None:
            raise InvalidError("the pipeline translates nothing (there is no step nat)")
        found = foretell(self.table, self.nat, frame, meta)
        return {**asdict(found), "frame": found.frame.hex(), "sentence": sentences().get(found.reason, "")}

    def set_reports(self, on: bool) -> None:
        """Whether the data plane tells of every connection that begins, is answered or closes."""
        self.reports = on
        if self.table is not None:
            settings = self.table.tables.nat_settings.get(0) or {}
            self.table.tables.nat_settings.put(0, {**settings, "reports": int(on)})

    def conntracked(self) -> None:
        """Events of the kernel's conntrack."""
        if self.slow is None:
            return
        try:
            for _ in range(64):
                events = self.slow.listener.read()
                if not events:
                    return
                for event in events:
                    self.slow.sync.told(event)
        except TemporaryError as error:
            _log.warning("conntrack-events-lost reason=%s", error)
            self.slow.sync.refresh()

    def close(self) -> None:
        """Lets go of everything; frames go on."""
        for worker in self.workers:
            worker.close()
        if self.slow is not None:
            self.slow.close()
        if self.table is not None:
            self.table.keeper.close()
        self.plane.close()

    def _tables(self) -> None:
        """The flow table over the maps of the program in hand."""
        if self.table is not None:
            self.table.keeper.close()
        tables = self.plane.tables
        self.table = self.sweep = None
        if tables is not None:
            self.table = FlowTable(tables, Keeper(tables.maps), pools=PoolUse(self.nat))
            self.sweep = Sweep(self.table)
        self._listen()

    def _listen(self) -> None:
        """The slow path and the table know each other, where there are both."""
        if self.table is not None:
            self.table.ended = self._ended if self.slow is not None else None
            if self.slow is not None:
                self.slow.sync.table = self.table

    def _write(self, table: FlowTable) -> None:
        """The rules in force; no tenant may have more than its share of what there is room for."""
        tables, share = table.tables, self.options.tenant_share
        quota = min(tables.connections4.room, tables.connections6.room) * share // 100 if share < 100 else 0
        rules.write(tables, self.nat, reports=self.reports, keeper=table.keeper, quota=quota)

    def _kernel(self, pipeline: Pipeline) -> None:
        """The slow path as described. One that is described no more goes."""
        self._slow_path(pipeline)
        self._listen()

    def _slow_path(self, pipeline: Pipeline) -> None:
        name = self.options.gateway
        if pipeline.kernel is None:
            if self.slow is not None:
                self.slow.close()
                kernel_path.remove(name, self.slow.plan)
                self.slow = None
            return
        if self.table is None:
            raise InvalidError("kernel: the pipeline translates nothing (there is no step nat)")
        nat = pipeline.nat or NatRules()
        if self.slow is not None and self.slow.plan.path.namespace != pipeline.kernel.namespace:
            raise InvalidError("kernel: namespace cannot change while the gateway runs: stop it with --remove first")
        plan = kernel_path.settle(name, pipeline.kernel, nat, {end.name: end for end in pipeline.tunnels})
        if self.slow is not None:
            self.slow.plan, self.slow.sync.nat = plan, nat
            return
        namespace = Namespace.by_name(pipeline.kernel.namespace)
        conntrack = Conntrack(namespace)
        self.slow = Slow(plan, namespace, Listener(namespace), conntrack, KernelSync(self.table, conntrack, nat))

    def _judge(self) -> int:
        ended = 0 if self.table is None else self.table.judge(self.nat)
        self.ended["not allowed"] += ended
        self.refresh()
        return ended

    def _queues(self) -> None:
        for worker in self.workers:
            worker.close()
        self.workers = []
        if self.table is not None:
            if self.options.queues:
                self.table.keeper.pin(pins(self.options.gateway).progs)
            self.workers = queue_worker.open_all(self.options, self.pipeline, self.plane, self.table)

    def _ended(self, connection: Any) -> None:
        if self.slow is not None:
            self.slow.sync.ended(connection)


def run(options: Options) -> None:
    """Runs a gateway until SIGTERM, SIGINT or `mizar gateway stop`. Raises MizarError when it cannot begin."""
    asyncio.run(_run(options))


def read(text: str, name: str) -> Pipeline:
    """A description. Raises ManifestErrors with all that is wrong in it."""
    return read_pipeline(text, name)


async def _run(options: Options) -> None:
    try:
        text = options.file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidError(f"{options.file} cannot be read: {error}") from error
    pipeline = read(text, str(options.file))
    queue_worker.check(pipeline)
    pair.check(options)
    stop = asyncio.Event()
    ready = asyncio.Event()
    found: list[Gateway] = []

    async def answer(asked: dict[str, Any]) -> Any:
        command = asked.get("command")
        if command == "who":
            return {"gateway": options.gateway}
        if not ready.is_set():
            raise TemporaryError("the gateway is about to start: ask again")
        if command == "apply":
            return found[0].apply(read(str(asked.get("text")), str(asked.get("file"))))
        if command == "show":
            found[0].observe()
            return summary(found[0])
        if command == "foretell":
            return found[0].foretell(bytes.fromhex(str(asked.get("frame"))), int(asked.get("meta") or 0))
        if command == "pair":
            await found[0].pair.be(Part(asked["lead"], asked["follow"], Path(asked["pki"]) if asked["pki"] else None))
            return found[0].pair.summary()
        if command == "stop":
            stop.set()
            return {"stopped": options.gateway}
        raise InvalidError(f"a gateway's process knows no command {command!r}")

    async with control.serving(options.gateway, answer):
        gateway = Gateway(options, pipeline, dataplane.prepare(options, pipeline))
        try:
            gateway.start()
            found.append(gateway)
            loop = asyncio.get_running_loop()
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, stop.set)
            certificates = None if options.pki is None else (options.pki, "gateway")
            async with serving_metrics(options.metrics, _reader(gateway), certificates), gateway.pair.at_work():
                _log.info("ready gateway=%s pipeline=%s", options.gateway, pipeline.name)
                ready.set()
                await _work(gateway, stop)
        finally:
            gateway.close()
    _log.info("ended gateway=%s", options.gateway)


async def _work(gateway: Gateway, stop: asyncio.Event) -> None:
    tasks = [
        asyncio.create_task(_sweeping(gateway)),
        asyncio.create_task(_every(_COUNT_S, gateway.count)),
        asyncio.create_task(_every(REFRESH_S, gateway.refresh)),
        asyncio.create_task(_every(_OBSERVE_S, gateway.observe)),
        asyncio.create_task(_listening(gateway)),
    ]
    stopped = asyncio.create_task(stop.wait())
    done, _ = await asyncio.wait([stopped, *tasks], return_when=asyncio.FIRST_COMPLETED)
    for task in (*tasks, stopped):
        task.cancel()
    await asyncio.gather(*tasks, stopped, return_exceptions=True)
    for task in done:
        if not task.cancelled() and task.exception() is not None:
            raise task.exception() or MizarError("a part of the gateway ended")


async def _every(seconds: float, call: Callable[[], None]) -> None:
    while True:
        try:
            call()
        except MizarError as error:
            _log.error("work-failed work=%s reason=%s", call.__name__, error)
        await asyncio.sleep(seconds)


async def _sweeping(gateway: Gateway) -> None:
    while True:
        whole = True
        try:
            whole = gateway.expire()
        except MizarError as error:
            _log.error("work-failed work=expire reason=%s", error)
        await asyncio.sleep(_SWEEP_S if whole else _PART_S)


async def _listening(gateway: Gateway) -> None:
    """Hears whatever has something to tell; a changed description may bring others, so what is heard is looked up
    anew."""
    loop = asyncio.get_running_loop()
    while True:
        plane, slow, workers = gateway.plane, gateway.slow, gateway.workers
        woken = asyncio.Event()
        heard: list[tuple[int, Callable[[], None]]] = []
        reader = None
        if "gateway_events" in plane.maps:
            opened = EventReader(plane.maps["gateway_events"], "gateway_event")
            reader = opened
            heard.append((opened.fileno(), lambda opened=opened: gateway.hear(opened)))  # type: ignore[misc]
        if slow is not None:
            heard.append((slow.listener.fileno(), gateway.conntracked))
        heard += [(worker.fileno(), worker.serve) for worker in workers]
        for number, call in heard:
            loop.add_reader(number, call)
        try:
            while (plane, slow, workers) == (gateway.plane, gateway.slow, gateway.workers):
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.1):
                        await woken.wait()
        finally:
            for number, _ in heard:
                loop.remove_reader(number)
            if reader is not None:
                reader.close()


def _reader(gateway: Gateway) -> Callable[[int], Coroutine[Any, Any, Any]]:
    metrics = GatewayMetrics(gateway)

    async def reading(_endpoints: int) -> Any:
        gateway.observe()
        return list(metrics.read())

    return reading


def remove(name: str, text: str, file: Path) -> None:
    """Takes away what a gateway left on this host, its slow path included; `text` is its description, which says where
    that is."""
    pipeline = read(text, str(file))
    if pipeline.kernel is not None:
        tunnels = {end.name: end for end in pipeline.tunnels}
        kernel_path.forget(name, pipeline.kernel, pipeline.nat or NatRules(), tunnels)
    dataplane.take_away(name)
