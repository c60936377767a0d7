# SPDX-License-Identifier: Apache-2.0
"""The end of flows of policed endpoints, and how many each VPC may have.

Runs beside the server, as `service_flows` does for scaled endpoints. The table is shared evenly by the VPCs that have
policed endpoints on this droplet. What is idle longer than its kind may be ends, as does what an endpoint that is gone
has left. What is not confirmed (answered, and taken up again by who began it) ends soon, for a forged source can have
beginnings answered, too; where the share is nearly used up, sooner, and sweeps come more often: so a flood of them
holds no place for long. No established flow gives way for another: only a VPC that has more than
its share, as others came, loses its oldest, first of those that are not confirmed.
"""

import asyncio
import logging
import struct
import time
from collections import Counter, defaultdict
from typing import Any

from mizar.kernel.layout import constant
from mizar.model.errors import MizarError
from mizar.transit.ledger import Ledger
from mizar.transit.logs import event
from mizar.transit.service_flows import CLOSING, OPEN, SWEEP_S, idle_limit_s
from mizar.transit.state import State

UNCONFIRMED_S, PRESSED_S = 60, 4
PRESSED_SWEEP_S = 1.0
_CLOSING, _CONFIRMED = 2, 8  # enum policy_flow_state
_ENDED = 4  # enum policy_flow_begun
_KEY = struct.Struct("=4xI20xB3x")  # struct policy_flow_key: slot, protocol
_VALUE = struct.Struct("=4xI4xI2xBB4x")  # struct policy_flow: stamp, vpc_slot, begun, state
_log = logging.getLogger(__name__)


def limit_s(protocol: int, begun: int, state: int, *, pressed: bool = False) -> int:
    """How long a flow may be without a packet. One that a policy has ended is kept as long as if it went on, so that
    its ends do not begin it again while they try. `pressed`: the VPC has little room left."""
    limit = idle_limit_s(protocol, OPEN | (CLOSING if state & _CLOSING else 0))
    if state & _CONFIRMED or begun & _ENDED:
        return limit
    return PRESSED_S if pressed else min(UNCONFIRMED_S, limit)


def share(state: State) -> int:
    """How many flows each VPC with policed endpoints may have."""
    policed = {state.locals[uid].endpoint.vni for uid in state.judged if uid in state.locals}
    return state.limits.policy_flows // max(1, len(policed))


class PolicyFlows:
    """Ends flows of policed endpoints of one droplet."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._full: set[int] = set()
        self._pressed: set[int] = set()
        self._had = True

    async def run(self) -> None:
        """Sweep until cancelled."""
        while True:
            await asyncio.sleep(PRESSED_SWEEP_S if self._pressed else SWEEP_S)
            try:
                await self._ledger.whole(self._sweep())
            except MizarError as error:
                event(_log, logging.ERROR, "policy_flows_not_swept", error=error)

    async def _sweep(self) -> None:
        async with self._ledger.lock:
            has = bool(self._ledger.state.judged)
            if has or self._had:
                await asyncio.to_thread(self.sweep, self._ledger.state, time.monotonic_ns())
            self._had = has

    def sweep(self, state: State, now_ns: int) -> int:
        """Delete what has ended and set budgets; returns how many flows ended. The caller holds the lock."""
        maps: Any = self._ledger.maps
        now, most = now_ns >> constant("FLOW_STAMP_SHIFT"), share(state)
        vpcs = {vpc.slot: vpc.vni for vpc in state.vpcs.values()}
        policed = {state.locals[uid].slot for uid in state.judged if uid in state.locals}
        inserted = {slot: (maps.policy_counts.get(slot) or {"inserted": 0})["inserted"] for slot in vpcs}
        gone: list[bytes] = []
        live: Counter[int] = Counter()
        oldest: dict[int, list[tuple[bool, int, bytes]]] = defaultdict(list)
        for key, value in maps.policy_flows.raw_items():
            slot, protocol = _KEY.unpack(key)
            stamp, vpc_slot, begun, flags = _VALUE.unpack(value)
            limit = limit_s(protocol, begun, flags, pressed=vpc_slot in self._pressed)
            if vpc_slot not in vpcs or slot not in policed or now - stamp > limit:
                gone.append(key)
                continue
            live[vpc_slot] += 1
            oldest[vpc_slot].append((bool(flags & _CONFIRMED), stamp, key))
        self._pressed = {slot for slot, count in live.items() if 4 * count >= 3 * most}
        for slot, count in live.items():
            if count > most:
                gone += [key for *_, key in sorted(oldest[slot])[: count - most]]
                live[slot] = most
        deleted: int = maps.policy_flows.delete_raw(gone)
        for slot in vpcs:
            maps.policy_budgets.put(slot, {"until": inserted[slot] + max(0, most - live[slot])})
        self._tell({vpcs[slot] for slot, count in live.items() if count >= most})
        return deleted

    def _tell(self, full: set[int]) -> None:
        for vni in full - self._full:
            event(_log, logging.WARNING, "policy_flow_budget_used_up", vni=vni, option="--max-policy-flows")
        self._full = full
