# SPDX-License-Identifier: Apache-2.0
"""What this droplet's own stack has to do with endpoints: routes into the substrate, and back from there.

Runs beside the server. The state says which endpoints those are: the local ones whose network's table leads into the
substrate. For these it keeps the pair into the stack, the stack's routes, and the table by which the data plane knows
whose an address is. It remembers nothing: every pass compares with what the kernel has, so that one after a restart is
like any other. It must never route to an address that the state does not give to an endpoint here.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from ipaddress import ip_address

from mizar.kernel import attach, stack_link
from mizar.kernel.bpffs import Pins
from mizar.kernel.interfaces import Interface
from mizar.kernel.netlink import Netlink
from mizar.kernel.tables import Tables
from mizar.model.addresses import from_mapped, to_mapped
from mizar.model.errors import MizarError
from mizar.transit.ledger import Ledger
from mizar.transit.logs import event
from mizar.transit.options import Options
from mizar.transit.state import State
from mizar.transit.values import RouteAction

RECHECK_S = 5.0
"""While there are routes, how long what somebody else has undone may stay undone."""
_PIN = "substrate"
_log = logging.getLogger(__name__)


def stack_endpoints(state: State) -> dict[bytes, int]:
    """Addresses of endpoints that live here and whose network has a route of that family there, and their VPC."""
    families = {
        key: {len(route.address) for route in network.routes if route.action is RouteAction.SUBSTRATE}
        for key, network in state.networks.items()
        if network.routes
    }
    if not any(families.values()):
        return {}
    return {
        address: local.endpoint.vni
        for local in state.locals.values()
        if not local.wanted.standby
        for address in local.endpoint.addresses
        if len(address) in families.get((local.endpoint.vni, local.endpoint.network_id), ())
    }


class Stack:
    """Keeps the stack's side as the ledger's state wants it. `mtu`: of the pair, what endpoints have room for."""

    def __init__(
        self, ledger: Ledger, tables: Tables, program_fd: int, pins: Pins, options: Options, mtu: Callable[[], int]
    ) -> None:
        self._ledger = ledger
        self._tables = tables
        self._program_fd = program_fd
        self._pin = pins.links / _PIN
        self._options = options
        self._mtu = mtu
        self._guarded = 0
        self._complaint = ""

    async def run(self) -> None:
        """Follow the ledger, until cancelled."""
        wake = asyncio.Event()
        loop = asyncio.get_running_loop()

        def changed() -> None:
            loop.call_soon_threadsafe(wake.set)

        self._ledger.followers.append(changed)
        wake.set()
        active = False
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RECHECK_S if active else None):
                    await wake.wait()
            wake.clear()
            async with self._ledger.lock:
                wanted = stack_endpoints(self._ledger.state)
            try:
                await asyncio.to_thread(self.arrange, wanted)
                self._complaint = ""
            except MizarError as error:
                if str(error) != self._complaint:  # it is tried again and again
                    event(_log, logging.WARNING, "substrate_routes_not_made", error=error)
                self._complaint = str(error)
            active = bool(wanted) or bool(self._complaint)

    def arrange(self, wanted: dict[bytes, int]) -> None:
        """One pass: the kernel is made to have what is wanted, and nothing else."""
        with Netlink() as netlink:
            if not wanted:
                self._tables.substrate_link.put(0, 0)
                self._fill(wanted)
                attach.detach_tc(0, self._pin)
                stack_link.remove(netlink, self._options.instance)
                self._guarded = 0
                return
            own, stack = stack_link.ensure(netlink, self._options.instance, self._mtu(), self._guard)
            self._fill(wanted)
            self._tables.substrate_link.put(0, own.index)
            addresses = {ip_address(address) for address in wanted}
            routed = stack_link.routed(netlink, stack)
            stack_link.route(netlink, stack, addresses - routed, routed - addresses)

    def _fill(self, wanted: dict[bytes, int]) -> None:
        held = {from_mapped(key["addr"]): vni for key, vni in self._tables.substrate_endpoints.items()}
        for address in held.keys() - wanted.keys():
            self._tables.substrate_endpoints.delete({"addr": to_mapped(address)})
        for address, vni in wanted.items():
            if held.get(address) != vni:
                self._tables.substrate_endpoints.put({"addr": to_mapped(address)}, vni)

    def _guard(self, own: Interface) -> None:
        if self._guarded != own.index:
            attach.attach_tc(self._program_fd, own.index, self._pin, force=self._options.tc)
            self._guarded = own.index
