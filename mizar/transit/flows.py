# SPDX-License-Identifier: Apache-2.0
"""The end of flows of proxied endpoints: what is idle or closed is deleted, so that its ports and its place are free.

Runs beside the server. The data plane stamps each of a flow's two entries about once a second while packets pass; here
the stamps are compared with the clock. What a flow may be idle for follows RFC 5382 (TCP), 4787 (UDP) and 5508 (ICMP).
It must never begin a flow nor touch one that is in use.
"""

import asyncio
import logging
import time
from collections.abc import Mapping
from typing import Any

from mizar.kernel.layout import constant
from mizar.model.addresses import to_mapped
from mizar.model.errors import MizarError
from mizar.transit.ledger import Ledger
from mizar.transit.logs import event
from mizar.transit.state import State

SWEEP_S = 5.0
ESTABLISHED_S, UNANSWERED_S, UDP_S, ECHO_S = 7440, 30, 300, 60
CLOSED_S, RESET_S = 120, 10
TCP, UDP = 6, 17
FIN, RESET = 1, 2  # enum proxy_flow_state

_log = logging.getLogger(__name__)

FlowKey = tuple[Any, ...]


def idle_limit_s(protocol: int, states: tuple[int, int], answered: bool) -> int:
    """How long a flow may be without a packet: `states` is what each side has sent (enum proxy_flow_state)."""
    if not answered:
        return UNANSWERED_S
    if protocol == TCP:
        if any(state & RESET for state in states):
            return RESET_S
        return CLOSED_S if all(state & FIN for state in states) else ESTABLISHED_S
    return UDP_S if protocol == UDP else ECHO_S


class FlowAger:
    """Ends flows of one droplet."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._orphans: set[FlowKey] = set()

    async def run(self) -> None:
        """Sweep until cancelled."""
        while True:
            await asyncio.sleep(SWEEP_S)
            try:
                await self._ledger.whole(self._sweep())
            except MizarError as error:
                event(_log, logging.ERROR, "flows_not_swept", error=error)

    async def _sweep(self) -> None:
        async with self._ledger.lock:
            await asyncio.to_thread(self.sweep, self._ledger.state, time.monotonic_ns())

    def sweep(self, state: State, now_ns: int) -> int:
        """Delete what has ended; returns how many flows. The caller holds the lock."""
        maps = self._ledger.maps
        now = (now_ns >> constant("FLOW_STAMP_SHIFT")) + 1
        flows = {_frozen(key): (key, value) for key, value in maps.proxy_flows.items()}
        live = {(proxy.slot, proxy.instance): proxy for proxy in state.proxies.values()}
        ended: dict[int, int] = {}
        paired: set[FlowKey] = set()
        gone: list[Any] = []
        for name, (key, flow) in flows.items():
            proxy = live.get((flow["slot"], flow["instance"]))
            if proxy is None:
                gone.append(key)
                paired.add(name)
                continue
            if not _is_of(proxy.client.vni, proxy.client.addresses, key):
                continue
            answer_key = _answer_key(proxy.source.vni, proxy.source.addresses, key, flow)
            paired |= {name, _frozen(answer_key)}
            answer = flows.get(_frozen(answer_key), (None, None))[1]
            stamps, states = [flow["stamp"]], (flow["state"], answer["state"] if answer else 0)
            if answer and answer["stamp"]:
                stamps.append(answer["stamp"])
            if now - max(stamps) > idle_limit_s(key["protocol"], states, answered=len(stamps) > 1):
                ended[flow["slot"]] = ended.get(flow["slot"], 0) + maps.proxy_flows.delete(key)
                maps.proxy_flows.delete(answer_key)
        orphans = flows.keys() - paired
        for name in orphans & self._orphans:  # younger ones may just be waiting for their other half
            gone.append(flows[name][0])
        for key in gone:
            maps.proxy_flows.delete(key)
        self._orphans = set(orphans)
        for slot, count in ended.items():
            maps.proxy_ended.put(slot, (maps.proxy_ended.get(slot) or 0) + count & 0xFFFFFFFF)
        return sum(ended.values())


def _frozen(key: Mapping[str, Any]) -> FlowKey:
    return tuple(key.values())


def _is_of(vni: int, addresses: tuple[bytes, ...], key: Mapping[str, Any]) -> bool:
    return key["vni"] == vni and key["local"] in map(to_mapped, addresses)


def _answer_key(vni: int, addresses: tuple[bytes, ...], key: Mapping[str, Any], flow: Mapping[str, Any]) -> Any:
    """The key of the other entry, on the target's side."""
    mapped = key["local"].startswith(bytes(10) + b"\xff\xff")
    local = next((to_mapped(one) for one in addresses if (len(one) == 4) == mapped), bytes(16))
    return {
        "vni": vni,
        "local": local,
        "remote": flow["remote"],
        "local_port_be": flow["local_port_be"],
        "remote_port_be": flow["remote_port_be"],
        "protocol": key["protocol"],
    }
