# SPDX-License-Identifier: Apache-2.0
"""The direct path: finding out where the endpoints live that this droplet's endpoints send to.

Runs beside the server, one per daemon. An agent whose packet went over a bouncer gives notice; the question goes, as a
control packet, the way that the packet went (bouncer, divider, bouncer), and who knows the endpoint answers the asker.
What comes over hops says itself where it set out, and the way back is known at once. What is in use is asked for again
every few seconds. What is learned is written into `endpoints`, where agents find it without another lookup. It must
never believe an answer that it has not asked for, spend more on one tenant than on another, or touch an entry that the
planner put.
"""

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from mizar.model.addresses import UNTOLD_MAC, from_mapped, text_of, to_mapped
from mizar.transit import asking, confirming
from mizar.transit.asking import Ask, Hint
from mizar.transit.confirming import Confirming
from mizar.transit.health import Sender
from mizar.transit.ledger import Ledger
from mizar.transit.logs import event
from mizar.transit.shares import Shares
from mizar.transit.values import Learned, Network, NetworkFlag, Tunnel, VpcFlag

MOST_HOPS = 4
"""How often a question is passed on: bouncer, divider, bouncer, and one more while tables change."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 10.0
"""Between two questions for the same endpoint: doubled each time that nobody answers."""
MOST_ASKED = 1024
"""Questions of one VPC that are remembered."""
ASKS_PER_S = 200
"""Questions that one VPC may cause here, and paths that it may have learned without one, on the average of a second."""
SWEEP_S, IDLE_SWEEPS = 15.0, 20
"""How often the use of what was learned is looked at, and after how many looks without any it is forgotten."""

Key = tuple[int, bytes]
_GONE = 2  # enum notice_kind
_ENDPOINT_GONE = 4  # enum endpoint_flag
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
    within: int = 0
    """The network that the answer must be of; 0: any."""


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
        self._confirming = Confirming()
        self._confirmed: dict[Key, int] = {}
        self._for: dict[Key, bytes] = {}
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
            self._confirming.learned((vni, address), asyncio.get_running_loop().time())
        async with asyncio.TaskGroup() as group:
            group.create_task(self._sweep_forever())
            group.create_task(self._confirm_forever())
            async for batch in notices.batches():
                await self.handle(batch)

    async def handle(self, batch: Sequence[dict[str, Any]]) -> None:
        """What the data plane has noticed."""
        hints: list[Hint | Learned] = []
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
                case 5:  # NOTICE_ORIGIN
                    far, here, origin = (from_mapped(notice[name]) for name in ("src", "dst", "droplet"))
                    hints += self._set_out(notice["vni"], here, far, origin)
        await self._take([hint for hint in hints if self._expected(hint)])

    # ---- asking

    def _unknown(self, vni: int, src: bytes, dst: bytes) -> list[Hint]:
        """An agent's packet went the long way."""
        state = self._ledger.state
        learned = state.learned.get((vni, dst))
        return [] if learned and state.droplets[learned.host].down else self._ask(vni, src, dst)

    def _set_out(self, vni: int, src: bytes, dst: bytes, origin: bytes) -> list[Hint | Learned]:
        """What came over hops for `src`, which is here, says where it set out.

        A droplet is believed that it hosts what its agents send. A bouncer is asked where that would contradict what is
        known, where the MAC counts (an end without a daemon, whose MTU nobody tells), and for a network that keeps
        others at its divider.
        """
        state = self._ledger.state
        host, learned = state.droplets.get(state.seconds.get(origin, origin)), state.learned.get((vni, dst))
        network = self._asking(vni, src, dst)
        if host is None or network is None or (learned and learned.host == host.address):
            return []
        if network.through_divider or learned or not host.mtu:
            return list(self._ask(vni, src, dst))
        if not self._affordable(vni, asyncio.get_running_loop().time()):
            return []
        near = state.network_at(vni, dst)
        self._for[vni, dst] = src
        return [Learned(vni, dst, near.id if near else 0, UNTOLD_MAC, host.address, Tunnel.GENEVE)]

    def _asking(self, vni: int, src: bytes, dst: bytes) -> Network | None:
        """The network of an endpoint here, where it may learn of `dst`."""
        state = self._ledger.state
        sender = state.at.get((vni, src))
        if sender is None or (vni, dst) in state.at:
            return None
        network = state.networks.get((vni, sender.network_id))
        return None if network is None or _divides(network, dst) else network

    def _ask(self, vni: int, src: bytes, dst: bytes) -> list[Hint]:
        """Where is `dst`? Where this droplet itself is asked, the answer is at hand."""
        state, now = self._ledger.state, asyncio.get_running_loop().time()
        network = self._asking(vni, src, dst)
        if network is None:
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
        mine[dst] = _Asked(nonce, now + pause_s, pause_s, network.id if network.through_divider else 0)
        self._for[vni, dst] = src
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

    def _expected(self, found: Hint | Learned) -> bool:
        """Whether an answer is one to a question of this droplet, and not of a network that may have to be kept out."""
        if isinstance(found, Learned):
            return True
        asked = self._asked.get(found.vni, {}).get(found.dst)
        return asked is not None and asked.nonce == found.nonce and asked.within in (0, found.network_id)

    async def _take(self, said: Sequence[Hint | Learned]) -> None:
        state, now = self._ledger.state, asyncio.get_running_loop().time()
        found, forgotten = [], []
        for one in said:
            new = one
            if isinstance(new, Hint):
                number = new.network_id if (new.vni, new.network_id) in state.networks else 0
                new = Learned(new.vni, new.dst, number, new.mac, new.host, new.tunnel)
                self._answered(new.key, now)
            if new != state.learned.get(new.key) or not self._serves(new.key):
                found.append(new)
                forgotten += self._shares.use(*new.key)
        if not found:
            return
        learned = await self._ledger.learn(found, forgotten)
        for vni, address in forgotten:
            self._changed(vni, address, b"")
        self._hosts = None
        for key in forgotten:
            self._drop(key)
        for one in found:
            if one not in learned:
                self._drop(one.key)
                continue
            self._changed(one.vni, one.address, one.host)
            self._used.pop(one.key, None)
            self._confirming.learned(one.key, now)
            event(_log, logging.DEBUG, "learned", vni=one.vni, address=text_of(one.address), host=text_of(one.host))

    def _serves(self, key: Key) -> bool:
        """Whether the entry is there, and its host has not denied it."""
        value = self._ledger.maps.endpoints.get({"vni": key[0], "addr": to_mapped(key[1])})
        return value is not None and not value["flags"] & _ENDPOINT_GONE

    def _answered(self, key: Key, now: float) -> None:
        """When it turns out to be wrong, the next question shall not wait for this one's sake."""
        asked = self._asked.get(key[0], {}).get(key[1])
        if asked is not None:
            asked.pause_s = FIRST_PAUSE_S
            asked.again = min(asked.again, now + FIRST_PAUSE_S)

    # ---- confirming

    async def _confirm_forever(self) -> None:
        while True:
            await asyncio.sleep(confirming.TICK_S)
            await self.confirm(asyncio.get_running_loop().time())

    async def confirm(self, now: float) -> None:
        """Ask again for what is in use and due."""
        hints: list[Hint] = []
        for key in self._confirming.due(now):
            value = self._ledger.maps.endpoints.get({"vni": key[0], "addr": to_mapped(key[1])})
            if key not in self._ledger.state.learned or value is None:
                continue
            self._confirming.asked(key, now)
            if value["used"] != self._confirmed.get(key, 0):
                self._confirmed[key] = value["used"]
                hints += self._ask(key[0], self._asker(key), key[1])
        await self._take([hint for hint in hints if self._expected(hint)])

    def _asker(self, key: Key) -> bytes:
        """An endpoint here that may ask: the one that did, or another of the VPC."""
        vni, address = key
        before = self._for.get(key, b"")
        if self._asking(vni, before, address):
            return before
        of_vpc = [local.endpoint for local in self._ledger.state.locals.values() if local.endpoint.vni == vni]
        others = (src for endpoint in of_vpc for src in endpoint.addresses if len(src) == len(address))
        return next((src for src in others if self._asking(vni, src, address)), before)

    def _drop(self, key: Key) -> None:
        """It is held no more."""
        self._shares.drop(key[0], [key[1]])
        self._confirming.forget(key)
        for held in (self._used, self._confirmed, self._for):
            held.pop(key, None)

    async def _forget(self, keys: Sequence[Key]) -> None:
        """They were wrong, or nobody uses them."""
        known = [key for key in keys if key in self._ledger.state.learned]
        await self._ledger.learn((), keys)
        self._hosts = None
        for vni, address in known:
            self._changed(vni, address, b"")
        for key in keys:
            self._drop(key)

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
                self._drop(key)
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
        for key in self._for.keys() - state.learned.keys():
            del self._for[key]
        if idle:
            await self._forget(idle)
