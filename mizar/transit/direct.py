# SPDX-License-Identifier: Apache-2.0
"""The direct path: finding out where the endpoints live that this droplet's endpoints send to.

Runs beside the server, one per daemon. An agent whose packet went over a bouncer gives notice; the question goes, as a
control packet, the way that the packet went (bouncer, divider, bouncer), and who knows the endpoint answers the asker.
What is learned is written into `endpoints`, where agents find it without another lookup. It must never believe an
answer that it has not asked for, spend more on one tenant than on another, or touch an entry that the planner put.
"""

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from mizar.model.addresses import from_mapped, text_of, to_mapped
from mizar.transit import asking
from mizar.transit.asking import Ask, Hint
from mizar.transit.health import Sender
from mizar.transit.ledger import Ledger
from mizar.transit.logs import event
from mizar.transit.shares import Shares
from mizar.transit.values import Learned, Network, NetworkFlag, VpcFlag

MOST_HOPS = 4
"""How often a question is passed on: bouncer, divider, bouncer, and one more while tables change."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 10.0
"""Between two questions for the same endpoint: doubled each time that nobody answers."""
MOST_ASKED = 1024
"""Questions of one VPC that are remembered."""
ASKS_PER_S = 200
"""Questions that one VPC may cause here, on the average of a second."""
SWEEP_S, IDLE_SWEEPS = 15.0, 20
"""How often the use of what was learned is looked at, and after how many looks without any it is forgotten."""

Key = tuple[int, bytes]
_GONE = 2  # enum notice_kind
_log = logging.getLogger(__name__)


class Notices(Protocol):
    """What is needed of kernel.events.EventReader."""

    def batches(self) -> AsyncIterator[list[dict[str, Any]]]:
        """Notices (struct notice) as they come."""


@dataclass(slots=True)
class _Asked:
    """A question: what an answer must bear, and when it may be repeated (loop time)."""

    nonce: int
    again: float
    pause_s: float


def _divides(network: Network, other: bytes) -> bool:
    """Whether a divider shall see what a network and an address say to one another."""
    return network.through_divider and network.prefix_of(other) is None


class Direct:
    """What one droplet asks, answers and learns."""

    def __init__(
        self, ledger: Ledger, sender: Sender, changed: Callable[[int, bytes, bytes], None] = lambda *_: None
    ) -> None:
        """`changed` is told of each path: VNI, address, host; an empty host when it is forgotten."""
        self._ledger = ledger
        self._sender = sender
        self._changed = changed
        self._shares: Shares[bytes] = Shares(ledger.state.limits.learned)
        self._asked: dict[int, dict[bytes, _Asked]] = {}
        self._credit: dict[int, tuple[float, float]] = {}
        self._used: dict[Key, tuple[int, int]] = {}
        self._hosts: frozenset[bytes] | None = None
        self._draw = random.Random()  # noqa: S311 - a nonce tells answers apart; known droplets alone can send one

    def hosts(self) -> Iterable[bytes]:
        """The droplets to which direct paths lead."""
        if self._hosts is None:
            self._hosts = frozenset(learned.host for learned in list(self._ledger.state.learned.values()))
        return self._hosts

    async def run(self, notices: Notices) -> None:
        """Serve notices until cancelled."""
        for vni, address in self._ledger.state.learned:  # of the daemon before
            self._shares.use(vni, address)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._sweep_forever())
            async for batch in notices.batches():
                await self.handle(batch)

    async def handle(self, batch: Sequence[dict[str, Any]]) -> None:
        """What the data plane has noticed."""
        hints: list[Hint] = []
        gone = [(notice["vni"], from_mapped(notice["dst"])) for notice in batch if notice["kind"] == _GONE]
        if gone:
            await self._forget(gone)
        for notice in batch:
            match notice["kind"]:
                case 1 | 2:  # NOTICE_UNKNOWN, NOTICE_GONE: where is it, if not there?
                    hints += self._unknown(notice["vni"], from_mapped(notice["src"]), from_mapped(notice["dst"]))
                case 3:  # NOTICE_ASK
                    if (asked := asking.ask(notice)) is not None:
                        self._serve(asked)
                case 4:  # NOTICE_HINT
                    if (hint := asking.hint(notice)) is not None:
                        hints.append(hint)
        await self._take([hint for hint in hints if self._expected(hint)])

    # ---- asking

    def _unknown(self, vni: int, src: bytes, dst: bytes) -> list[Hint]:
        """An agent's packet went the long way. Where this droplet itself is asked, the answer is at hand."""
        state, now = self._ledger.state, asyncio.get_running_loop().time()
        sender = state.at.get((vni, src))
        learned = state.learned.get((vni, dst))
        if sender is None or (vni, dst) in state.at or (learned and state.droplets[learned.host].down):
            return []
        network = state.networks.get((vni, sender.network_id))
        if network is None or _divides(network, dst):
            return []
        mine = self._asked.setdefault(vni, {})
        asked = mine.get(dst)
        if (asked and now < asked.again) or not self._affordable(vni, now):
            return []
        lately = asked is not None and now < asked.again + LONGEST_PAUSE_S
        pause_s = min(2 * asked.pause_s, LONGEST_PAUSE_S) if asked and lately else FIRST_PAUSE_S
        mine.pop(dst, None)
        if len(mine) >= MOST_ASKED:
            del mine[next(iter(mine))]
        nonce = self._draw.getrandbits(32)
        mine[dst] = _Asked(nonce, now + pause_s, pause_s)
        question = Ask(vni, src, dst, state.own, nonce)
        if network.flags & (NetworkFlag.BOUNCED_HERE | NetworkFlag.ROUTED_HERE):
            return self._answer(question)
        self._send(network.bouncers, question)
        return []

    def _affordable(self, vni: int, now: float) -> bool:
        credit, since = self._credit.get(vni, (float(ASKS_PER_S), now))
        credit = min(ASKS_PER_S, credit + (now - since) * ASKS_PER_S)
        self._credit[vni] = (credit - 1 if credit >= 1 else credit, now)
        return credit >= 1

    def _send(self, members: Sequence[bytes], question: Ask) -> None:
        """To a member of a hop set that is alive."""
        droplets, own = self._ledger.state.droplets, self._ledger.state.own
        alive = [one for one in members if one in droplets and not droplets[one].down and one != own]
        if alive:
            self._tell(self._draw.choice(alive), question.data(), question.vni)

    def _tell(self, to: bytes, data: bytes, number: int) -> None:
        """The VPC as the wire names it: another droplet has another number for one that shares its VNI."""
        vpc, droplet = self._ledger.state.vpcs.get(number), self._ledger.state.droplets.get(to)
        if vpc is not None and droplet is not None and droplet.reached:
            self._sender.send(droplet.reached, data, vpc.wire_vni or vpc.vni, vpc.identity)

    # ---- answering

    def _serve(self, question: Ask) -> None:
        if question.asker in self._ledger.state.droplets and question.asker != self._ledger.state.own:
            for hint in self._answer(question):
                self._tell(question.asker, hint.data(), question.vni)

    def _answer(self, question: Ask) -> list[Hint]:
        """The answer, if this droplet is sure of it; else the question goes on, the way that the packet would go."""
        state, vni = self._ledger.state, question.vni
        vpc, network = state.vpcs.get(vni), state.network_at(vni, question.dst)
        if vpc is None:
            return []
        if network and network.flags & NetworkFlag.BOUNCED_HERE:
            found = state.at.get((vni, question.dst))
            if found is None or _divides(network, question.src):
                return []
            return [Hint(vni, question.dst, found.host, found.mac, found.tunnel, found.network_id, question.nonce)]
        if question.hops < MOST_HOPS:
            onward = Ask(vni, question.src, question.dst, question.asker, question.nonce, question.hops + 1)
            if network and network.flags & NetworkFlag.ROUTED_HERE:
                self._send(network.bouncers, onward)
            elif not vpc.flags & VpcFlag.DIVIDED_HERE:
                self._send(vpc.dividers, onward)
        return []

    # ---- learning

    def _expected(self, hint: Hint) -> bool:
        asked = self._asked.get(hint.vni, {}).get(hint.dst)
        return asked is not None and asked.nonce == hint.nonce

    async def _take(self, hints: Sequence[Hint]) -> None:
        if not hints:
            return
        state = self._ledger.state
        found, forgotten = [], []
        for hint in hints:
            number = hint.network_id if (hint.vni, hint.network_id) in state.networks else 0
            found.append(Learned(hint.vni, hint.dst, number, hint.mac, hint.host, hint.tunnel))
            forgotten += self._shares.use(hint.vni, hint.dst)
        learned = await self._ledger.learn(found, forgotten)
        for vni, address in forgotten:
            self._changed(vni, address, b"")
        self._hosts = None
        for one in learned:
            self._changed(one.vni, one.address, one.host)
            self._used.pop(one.key, None)
            asked = self._asked.get(one.vni, {}).get(one.address)
            if asked is not None:  # when it turns out to be wrong, the next question shall not wait for this one's sake
                asked.pause_s = FIRST_PAUSE_S
                asked.again = min(asked.again, asyncio.get_running_loop().time() + FIRST_PAUSE_S)
            event(_log, logging.DEBUG, "learned", vni=one.vni, address=text_of(one.address), host=text_of(one.host))
        for one in found:
            if one not in learned:
                self._shares.drop(one.vni, [one.address])

    async def _forget(self, keys: Sequence[Key]) -> None:
        """They were wrong, or nobody uses them."""
        known = [key for key in keys if key in self._ledger.state.learned]
        await self._ledger.learn((), keys)
        self._hosts = None
        for vni, address in known:
            self._changed(vni, address, b"")
        for vni, address in keys:
            self._shares.drop(vni, [address])
            self._used.pop((vni, address), None)

    # ---- forgetting

    async def _sweep_forever(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            await self.sweep()

    async def sweep(self) -> None:
        """Looks at the stamps: what is used goes to the end of its VPC's queue, what is idle for long is forgotten."""
        state, idle = self._ledger.state, []
        self._hosts = None
        for number, (vni, address) in enumerate(self._shares.held()):
            key = (vni, address)
            value = self._ledger.maps.endpoints.get({"vni": vni, "addr": to_mapped(address)})
            if key not in state.learned or value is None:
                self._shares.drop(vni, [address])
                self._used.pop(key, None)
                continue
            stamp, looks = self._used.get(key, (None, 0))
            if stamp != value["used"]:
                self._shares.use(vni, address)
                looks = 0
            self._used[key] = (value["used"], looks + 1)
            if looks >= IDLE_SWEEPS:
                idle.append(key)
            if number % 256 == 255:
                await asyncio.sleep(0)
        for vni in self._asked.keys() - state.vpcs.keys():
            del self._asked[vni]
        for vni in self._credit.keys() - state.vpcs.keys():
            del self._credit[vni]
        if idle:
            await self._forget(idle)
