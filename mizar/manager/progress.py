# SPDX-License-Identifier: Apache-2.0
"""From what droplets acknowledged to what is told: phases, ends of deletions, news for watchers, status in the store.

Owned by mizar.manager.manager; the fleet notes here which object something happened to. Works once per turn of the
event loop on all objects noted, so that many acknowledgements cost one pass and one transaction. It must never change
what is desired, except that an object whose deletion is complete is removed; `go_on` may (a move's next stage).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from mizar.manager.registry import Item, Registry
from mizar.manager.status import Links, phase_of
from mizar.manager.watch import Watchers
from mizar.model.errors import MizarError
from mizar.model.resources import Phase
from mizar.store.protocol import Commit, Store

log = logging.getLogger(__name__)

STATUS_WRITE_S = 0.2
"""How long a status may wait to be written. After a crash it is worked out again, so only its novelty is at stake."""
RETRY_S = 1.0


class Progress:
    """Objects to which something happened."""

    def __init__(
        self,
        registry: Registry,
        store: Store,
        watchers: Watchers,
        forget: Callable[[Item], None],
        go_on: Callable[[Item], None],
    ) -> None:
        self.links: Links = lambda _: None
        self._registry = registry
        self._store = store
        self._watchers = watchers
        self._forget = forget
        self._go_on = go_on
        self._noted: dict[str, Item] = {}
        self._unwritten: dict[str, Item] = {}
        self._formers: dict[str, Item] = {}
        self._pass: asyncio.Handle | None = None
        self._write: asyncio.TimerHandle | None = None

    def note(self, item: Item) -> None:
        """Something happened to the object."""
        self._noted[item.uid] = item
        if self._pass is None:
            self._pass = asyncio.get_running_loop().call_soon(self._work)

    def _note_all(self, items: list[Item]) -> None:
        for item in items:
            self.note(item)

    def stop(self) -> None:
        """Writes what is not written yet, and ends."""
        if self._pass is not None:
            self._pass.cancel()
            self._work()
        if self._write is not None:
            self._write.cancel()
        self._write_status()

    def _work(self) -> None:
        self._pass = None
        while self._noted:
            noted, self._noted = self._noted, {}
            done = []
            for item in noted.values():
                if self._registry.by_uid(item.uid) is not item:
                    continue
                if item.deleting and not item.waiting and not item.troubles and not self._registry.has_children(item):
                    done.append(item)
                else:
                    self._update(item)
            if done:
                self._finish(done)

    def _update(self, item: Item) -> None:
        self._go_on(item)
        phase = phase_of(item, self.links)
        generation = item.resource.metadata.generation
        if (phase, generation) != (item.phase, item.observed_generation):
            log.debug("phase object=%s from=%s to=%s", item.ref, item.phase, phase)
        item.phase, item.observed_generation = phase, generation
        if item.former and not any(name in item.waiting or name in item.troubles for name in item.former):
            item.former = ()
            self._formers[item.uid] = item
        self._watchers.tell(item)
        if phase is Phase.INIT is item.stored:
            return  # it is written when it has come further: until then the store tells what is so
        self._unwritten[item.uid] = item
        if self._write is None:
            self._write = asyncio.get_running_loop().call_later(STATUS_WRITE_S, self._write_status)

    def _finish(self, items: list[Item]) -> None:
        try:
            self._store.commit(Commit(remove=tuple(item.uid for item in items)))
        except MizarError as error:
            log.error("deletion_not_kept objects=%d reason=%s", len(items), error)
            asyncio.get_running_loop().call_later(RETRY_S, self._note_all, items)
            return
        for item in items:
            parents = [parent for parent in self._registry.parents(item.resource) if parent.deleting]
            self._registry.remove(item)
            self._forget(item)
            self._watchers.tell(item, gone=True)
            self._noted.update((parent.uid, parent) for parent in parents)
            for pending in (self._unwritten, self._formers, self._noted):
                pending.pop(item.uid, None)

    def _write_status(self) -> None:
        self._write = None
        unwritten, self._unwritten = self._unwritten, {}
        formers, self._formers = self._formers, {}
        for item in (*unwritten.values(), *formers.values()):
            item.stored = item.phase
        try:
            if formers:
                self._store.commit(Commit(put=tuple(item.record() for item in formers.values())))
            if unwritten:
                self._store.write_status((item.uid, item.status_text()) for item in unwritten.values())
        except MizarError as error:
            log.error("status_not_kept objects=%d reason=%s", len(unwritten), error)
            self._unwritten, self._formers = unwritten | self._unwritten, formers | self._formers
