# SPDX-License-Identifier: Apache-2.0
"""Which tunnels the kernel's GRO merges where Transit runs at tc ingress: those of endpoints that the droplet knows.

Runs beside the server, as `shaping` does. One is better than both: while a namespace has one tunnel's socket of a
family, the kernel takes it for every frame of its port; of two, it looks for the right one frame by frame
(udp_tunnel_update_gro_lookup(), newer kernels). A droplet that knows no endpoint, as one that divides alone may, merges
both.
"""

import asyncio
import logging

from mizar.kernel import tunnel_gro
from mizar.kernel.netlink import Netlink
from mizar.model.errors import MizarError
from mizar.transit.ledger import Ledger
from mizar.transit.logs import event
from mizar.transit.state import State
from mizar.transit.values import Tunnel

_PORTS = {Tunnel.GENEVE: tunnel_gro.GENEVE_PORT, Tunnel.VXLAN: tunnel_gro.VXLAN_PORT}
_log = logging.getLogger(__name__)


def ports_in_use(state: State) -> frozenset[int]:
    """UDP ports of the tunnels that endpoints have."""
    used = frozenset(port for tunnel, port in _PORTS.items() if state.uses["tunnel", tunnel])
    return used or frozenset(tunnel_gro.PORTS)


class Merging:
    """Keeps the devices for GRO as the ledger's state wants them."""

    def __init__(self, ledger: Ledger, instance: str) -> None:
        self._ledger = ledger
        self._instance = instance

    async def run(self) -> None:
        """Follow the ledger, until cancelled."""
        wake = asyncio.Event()
        loop = asyncio.get_running_loop()

        def changed() -> None:
            loop.call_soon_threadsafe(wake.set)

        self._ledger.followers.append(changed)
        done: frozenset[int] = frozenset()
        while True:
            async with self._ledger.lock:  # what is in the middle of a change may be taken back
                wanted = ports_in_use(self._ledger.state)
            if wanted != done:
                await asyncio.to_thread(self._arrange, wanted)
                done = wanted
            await wake.wait()
            wake.clear()

    def _arrange(self, ports: frozenset[int]) -> None:
        try:
            with Netlink() as netlink:
                failed = tunnel_gro.ensure(netlink, self._instance, ports)
        except (MizarError, OSError) as error:  # packets come singly; nothing else is lost
            failed = dict.fromkeys(ports, str(error))
        for port, reason in failed.items():
            event(_log, logging.WARNING, "not_merged", port=port, reason=reason)
