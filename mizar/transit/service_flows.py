# SPDX-License-Identifier: Apache-2.0
"""The end of flows of scaled endpoints, and how many each VPC may have.

Runs beside the server. The data plane stamps a flow about once a second while packets pass; what is idle longer than
its kind may be ends here (RFC 5382, 4787, 5508). The table is shared evenly by the VPCs that have scaled endpoints
on this droplet; one that has more, as others came, loses its oldest. It must never touch a flow in use of a VPC that is
within its share.
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
from mizar.transit.state import State

SWEEP_S = 5.0
ESTABLISHED_S, OPENING_S, CLOSING_S, UDP_S, ECHO_S = 7440, 240, 30, 300, 60
TCP, UDP = 6, 17
OPEN, CLOSING = 1, 2  # enum flow_state

_KEY = struct.Struct("=40xB3x")  # struct flow_key: protocol
_VALUE = struct.Struct("=20xII6xBx")  # struct flow: vpc_slot, stamp, state
_log = logging.getLogger(__name__)


def idle_limit_s(protocol: int, state: int) -> int:
    """How long a flow may be without a packet."""
    if protocol == TCP:
        return CLOSING_S if state & CLOSING else ESTABLISHED_S if state & OPEN else OPENING_S
    return UDP_S if protocol == UDP else ECHO_S


def share(state: State) -> int:
    """How many flows each VPC with scaled endpoints may have."""
    return state.limits.flows // max(1, len({service.vni for service in state.services.values()}))


class ServiceFlows:
    """Ends flows of scaled endpoints of one droplet."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._full: set[int] = set()

    async def run(self) -> None:
        """Sweep until cancelled."""
        while True:
            await asyncio.sleep(SWEEP_S)
            try:
                await self._ledger.whole(self._sweep())
            except MizarError as error:
                event(_log, logging.ERROR, "service_flows_not_swept", error=error)

    async def _sweep(self) -> None:
        async with self._ledger.lock:
            if self._ledger.state.services:
                await asyncio.to_thread(self.sweep, self._ledger.state, time.monotonic_ns())

    def sweep(self, state: State, now_ns: int) -> int:
        """Delete what has ended and set budgets; returns how many flows ended. The caller holds the lock."""
        maps: Any = self._ledger.maps
        now, most = now_ns >> constant("FLOW_STAMP_SHIFT"), share(state)
        slots = {vpc.slot: vpc.vni for vpc in state.vpcs.values()}
        inserted = {slot: (maps.flow_counts.get(slot) or {"inserted": 0})["inserted"] for slot in slots}
        gone: list[bytes] = []
        live: Counter[int] = Counter()
        oldest: dict[int, list[tuple[int, bytes]]] = defaultdict(list)
        for key, value in maps.flows.raw_items():
            vpc_slot, stamp, flags = _VALUE.unpack(value)
            (protocol,) = _KEY.unpack(key)
            if vpc_slot not in slots or now - stamp > idle_limit_s(protocol, flags):
                gone.append(key)
                continue
            live[vpc_slot] += 1
            oldest[vpc_slot].append((stamp, key))
        for slot, count in live.items():
            if count > most:
                gone += [key for _, key in sorted(oldest[slot])[: count - most]]
                live[slot] = most
        deleted: int = maps.flows.delete_raw(gone)
        for slot in slots:
            maps.flow_budgets.put(slot, {"until": inserted[slot] + max(0, most - live[slot])})
        self._tell({slots[slot] for slot, count in live.items() if count >= most})
        return deleted

    def _tell(self, full: set[int]) -> None:
        for vni in full - self._full:
            event(_log, logging.WARNING, "flow_budget_used_up", vni=vni, option="--max-flows")
        self._full = full
