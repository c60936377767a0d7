# SPDX-License-Identifier: Apache-2.0
"""All functions that this daemon runs, by the uid of their endpoint.

Called by `attachments`, with each endpoint that is attached or ends, and by the servicer. What an instance was told is
kept in a file of its folder, because the tables have no room for it: it is how the next daemon knows. An instance is
brought to what it should be in the background; what keeps it from that is told in reports. It must never hold up an
endpoint for a function's sake.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from mizar._built import transit_pb2 as pb
from mizar.model.errors import InvalidError, NotFoundError
from mizar.transit import told
from mizar.transit.cgroups import NONE, Cgroups
from mizar.transit.engines import log_reading
from mizar.transit.engines.engine import Engine, Foretelling, Kind, Place, Sample
from mizar.transit.keeping import Keeper
from mizar.transit.logs import event
from mizar.transit.values import Local, Wanted
from mizar.transit.workloads import InNamespace, NamespaceBy

_log = logging.getLogger(__name__)


class Engines:
    """Runs functions. `kinds` by the name of the engine in contracts/transit.proto; `tell` publishes reports."""

    def __init__(
        self,
        folder: Path,
        logs: Path,
        kinds: Mapping[str, Kind],
        tell: Callable[[pb.EngineReport], None],
        uplink: Callable[[], str] = str,
        groups: Cgroups = NONE,
    ) -> None:
        self._folder = folder
        self._logs = logs
        self._kinds = kinds
        self._tell = tell
        self._uplink = uplink
        self._groups = groups
        self._instances: dict[str, _Instance] = {}
        self._ending: dict[str, asyncio.Task[None]] = {}

    def check(self, wanted: Wanted) -> None:
        """Raises InvalidError for a function that can never be run."""
        if wanted.engine:
            function = pb.Engine.FromString(wanted.engine)
            self._kind(function).check(function)

    def put(self, wanted: Wanted) -> None:
        """An endpoint is there: what serves behind it shall be as it says."""
        if not wanted.engine or wanted.standby or not isinstance(wanted.workload, InNamespace):
            self.remove(wanted.uid)
            return
        function = pb.Engine.FromString(wanted.engine)
        brought = wanted.workload.namespace if wanted.workload.by is NamespaceBy.POOL else ""
        told.keep(self._folder, wanted.uid, wanted.engine, brought)
        instance = self._instances.get(wanted.uid)
        if instance is not None and instance.kind != function.WhichOneof("kind"):
            self.remove(wanted.uid)
            instance = None
        if instance is None:
            instance = self._make(wanted.uid, wanted.workload.spec, function)
        instance.wish(function)

    def remove(self, uid: str) -> None:
        """An endpoint ends, or has no function any more: the instance goes, in the background."""
        instance = self._instances.pop(uid, None)
        folder = self._folder / uid
        if instance is None and not folder.exists():
            return
        before = self._ending.get(uid)

        async def end() -> None:
            if before is not None:
                await asyncio.wait([before])
            try:
                if instance is not None:
                    await instance.end()
            finally:  # whatever is in the way: what it was told may hold secrets
                await asyncio.to_thread(told.clear, folder)
            event(_log, logging.INFO, "engine_ended", uid=uid)

        task = self._ending[uid] = asyncio.create_task(end(), name=f"end of {uid}")
        task.add_done_callback(lambda done: self._ended(uid, done))

    def take_over(self, locals_: Iterable[Local]) -> None:
        """Finds again what the daemon before left running; ends what belongs to no endpoint."""
        known = {local.wanted.uid for local in locals_}
        for folder in told.folders(self._folder):
            if folder.name not in known:
                self.remove(folder.name)
        for local in locals_:
            if local.wanted.engine:
                self.put(local.wanted)

    def running(self) -> list[tuple[str, Engine]]:
        """Each with the uid of its endpoint."""
        return [(uid, instance.engine) for uid, instance in self._instances.items()]

    def reports(self) -> list[pb.EngineReport]:
        """How each fares."""
        return [instance.report() for instance in self._instances.values()]

    async def foretell(self, request: pb.TraceEngineRequest) -> pb.TraceEngineReply:
        """What an instance would make of a frame. Raises NotFoundError where there is none that can tell."""
        instance = self._instances.get(request.uid)
        if instance is None or not isinstance(instance.engine, Foretelling):
            raise NotFoundError(f"no function of endpoint {request.uid} tells here what it makes of packets")
        return await instance.engine.foretell(request.frame, outside=request.outside)

    def log(self, uid: str, after: str, most: int) -> tuple[list[str], str]:
        """What an instance has logged behind a place, and the next one. Blocks. Raises NotFoundError."""
        instance = self._instances.get(uid)
        path = instance.engine.log() if instance is not None else None
        if path is None:
            raise NotFoundError(f"no function of endpoint {uid} logs here")
        return log_reading.read(path, after, most)

    def samples(self) -> Iterator[tuple[pb.Engine, Sample]]:
        """What each has counted. Blocks; of those that do not answer there is nothing."""
        for instance in list(self._instances.values()):
            with contextlib.suppress(OSError, ValueError):
                for sample in instance.engine.samples():
                    yield instance.wanted, sample

    async def drain(self, limit_s: float) -> None:
        """Wait for those that are ending."""
        if self._ending:
            await asyncio.wait(self._ending.values(), timeout=limit_s)

    def close(self) -> None:
        """The daemon ends, functions go on."""
        for instance in self._instances.values():
            instance.close()

    def _make(self, uid: str, namespace: str, function: pb.Engine) -> "_Instance":
        before = self._ending.get(uid)
        changed = lambda: self._changed(uid)  # noqa: E731
        place = Place(uid, self._folder / uid, self._logs, namespace, changed, self._uplink, self._groups)
        engine = self._kind(function).make(place)
        instance = _Instance(uid, function, engine, before, lambda: self._changed(uid))
        self._instances[uid] = instance
        return instance

    def _changed(self, uid: str) -> None:
        instance = self._instances.get(uid)
        if instance is not None and (news := instance.news()) is not None:
            self._tell(news)

    def _kind(self, function: pb.Engine) -> Kind:
        name = function.WhichOneof("kind") or "no function"
        found = self._kinds.get(name)
        if found is None:
            raise InvalidError(f"this daemon cannot run {name}")
        return found

    def _ended(self, uid: str, task: asyncio.Task[None]) -> None:
        if self._ending.get(uid) is task:
            del self._ending[uid]
        if not task.cancelled() and (error := task.exception()) is not None:
            event(_log, logging.ERROR, "engine_not_ended", uid=uid, error=repr(error))


class _Instance:
    """One function: brought to what is wanted of it, again and again until that works."""

    def __init__(
        self,
        uid: str,
        function: pb.Engine,
        engine: Engine,
        before: "asyncio.Task[None] | None",
        changed: Callable[[], None],
    ) -> None:
        self.uid = uid
        self.kind = function.WhichOneof("kind")
        self.engine = engine
        self.wanted = function
        self._changed = changed
        self._trouble = ""
        self._told: pb.EngineReport | None = None
        self._keeper = Keeper(f"function of {uid}", lambda: self.engine.put(self.wanted), self._done, after=before)

    def wish(self, function: pb.Engine) -> None:
        """Be so from now on."""
        self.wanted = function
        self._keeper.wake()

    async def end(self) -> None:
        """Ends for good."""
        await self._keeper.end()
        await self.engine.end()

    def close(self) -> None:
        """Lets go of what runs on."""
        self._keeper.let_go()
        self.engine.close()

    def report(self) -> pb.EngineReport:
        """How it fares now."""
        found = self.engine.report()
        found.uid = self.uid
        if self._trouble:
            found.reason = self._trouble
        return found

    def news(self) -> pb.EngineReport | None:
        """The report, if it is another than the last one that was asked for here."""
        found = self.report()
        if found == self._told:
            return None
        self._told = found
        return found

    def _done(self, trouble: str) -> None:
        if trouble and trouble != self._trouble:
            event(_log, logging.WARNING, "engine_failed", uid=self.uid, error=trouble)
        self._trouble = trouble
        self._changed()
