# SPDX-License-Identifier: Apache-2.0
"""Which of the droplets that matter to this one are alive.

Runs beside the server. The data plane stamps when it heard from a droplet; one that has been silent for an interval is
probed, and one that leaves so many probes in a row unanswered is marked down, which the data plane honours with the
next packet. A probe is answered by the other's Transit XDP: a droplet whose daemon is dead is not down. A foreign end
that knows no probes and is silent is passed over as well, where there is another way; it must never be told as dead.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from mizar.kernel import control
from mizar.model.addresses import text_of, to_mapped
from mizar.transit.events import Hub
from mizar.transit.ledger import Ledger
from mizar.transit.logs import event
from mizar.transit.options import ProbeTiming
from mizar.transit.values import Droplet

_PROBE = bytes([control.PROBE, 0, 0, 0])
_log = logging.getLogger(__name__)


class Sender(Protocol):
    """What is needed of kernel.control.ControlSocket."""

    def send(self, to: bytes, data: bytes, vni: int = 0, identity: bytes = b"") -> bool:
        """Send the data of a CONTROL option."""


@dataclass(slots=True)
class _Watched:
    """One droplet: the stamps as last seen, and how many probes it owes."""

    heard: tuple[int, ...]
    unanswered: int = 0
    probed: bool = False


class Health:
    """Watches droplets. `also` names those that matter besides members of hop sets, and may be ends without probes."""

    def __init__(
        self,
        ledger: Ledger,
        sender: Sender,
        hub: Hub,
        timing: ProbeTiming,
        also: Callable[[], Iterable[bytes]] = tuple,
    ) -> None:
        self._ledger = ledger
        self._sender = sender
        self._hub = hub
        self._timing = timing
        self._also = also
        self._watched: dict[bytes, _Watched] = {}
        self._members: set[bytes] = set()
        self._hosts: set[bytes] = set()
        self._changed = True
        self._looked = 0.0
        self._excused = False

    def tables_changed(self) -> None:
        """Hop sets or droplets may be others now."""
        self._changed = True

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            await self.tick()
            await asyncio.sleep(self._timing.interval_s)

    async def tick(self) -> None:
        """One look at every droplet that matters; an interval lies between two."""
        if self._changed:
            self._changed = False
            self._members = self._find_members()
            self._hosts = {one.host for service in self._ledger.state.services.values() for one in service.members}
        verdicts: dict[bytes, bool] = {}
        counts = self._counts(asyncio.get_running_loop().time())
        state = self._ledger.state
        alike = {*self._members, *self._also()}
        matter = alike.union(self._hosts) - {state.own}
        for address in self._watched.keys() - matter:
            del self._watched[address]
        for address in matter:
            droplet = state.droplets.get(address)
            verdict = self._look(droplet, counts) if droplet else None
            if verdict and address not in alike and not self._knows_probes(address):
                continue  # a foreign end has no reason to answer, and there is no long way to its members
            if droplet and verdict not in (None, droplet.down):
                verdicts[address] = bool(verdict)
        verdicts |= {one.address: False for one in state.droplets.values() if one.down and one.address not in matter}
        if verdicts:
            await self._tell(verdicts)

    def _counts(self, now: float) -> int:
        """Whether silence since the last look tells something: 0 after a stall, in which what answers may have stalled
        as well. The probe of this look gets its interval. Not twice in a row: a machine may always be late."""
        stalled = bool(self._looked) and now - self._looked > 2 * self._timing.interval_s
        self._looked, self._excused = now, stalled and not self._excused
        return int(not self._excused)

    def _look(self, droplet: Droplet, counts: int) -> bool | None:
        """Whether a droplet is down; None where nothing new can be said. One with two addresses is heard by either."""
        address = droplet.address
        senders = self._ledger.maps.droplet_slots
        stamps = [found for one in droplet.addresses if (found := senders.get({"addr": to_mapped(one)})) is not None]
        if not stamps or not droplet.reached:
            return None
        heard = tuple(one["heard"] for one in stamps)
        watched = self._watched.get(address)
        if watched is None:
            self._watched[address] = _Watched(heard)
            return None
        if heard != watched.heard:
            watched.heard, watched.unanswered, watched.probed = heard, 0, False
            return False
        watched.unanswered += watched.probed * counts
        watched.probed = True
        self._sender.send(droplet.reached, _PROBE)
        return True if watched.unanswered >= self._timing.count else None

    async def _tell(self, verdicts: dict[bytes, bool]) -> None:
        for address in await self._ledger.set_down(verdicts):
            down = verdicts[address]
            if address not in self._members and not self._knows_probes(address):
                continue  # a silent foreign end: the long way, which asks no such question, is good enough for it
            level, name = (logging.WARNING, "droplet_down") if down else (logging.INFO, "droplet_up")
            event(_log, level, name, droplet=text_of(address))
            self._hub.droplet_changed(address, down)

    def _knows_probes(self, address: bytes) -> bool:
        stamps = self._ledger.maps.droplet_slots.get({"addr": to_mapped(address)})
        return bool(stamps and stamps["answered"])

    def _find_members(self) -> set[bytes]:
        state = self._ledger.state
        members = {address for vpc in state.vpcs.values() for address in vpc.dividers}
        return members.union(*(network.bouncers for network in state.networks.values()))
