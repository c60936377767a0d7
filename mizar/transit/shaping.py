# SPDX-License-Identifier: Apache-2.0
"""The shaper's classes, as limits of this droplet want them.

Runs beside the server, as `stack` does: every pass compares with what the kernel has. While no limiter is of bits there
is no shaper at all. Where the kernel cannot make one, its table says so, and the data plane drops what is over a limit.
"""

import asyncio
import contextlib
import logging

from mizar.kernel import attach, shaper
from mizar.kernel.bpffs import Pins
from mizar.kernel.interfaces import Interface
from mizar.kernel.netlink import Netlink
from mizar.kernel.shaper import ShapedClass
from mizar.kernel.tables import Tables
from mizar.model.errors import MizarError
from mizar.transit.ledger import Ledger
from mizar.transit.limits import shaped_classes
from mizar.transit.logs import event
from mizar.transit.options import Options

RECHECK_S = 5.0
"""While there are classes, how long what somebody else has undone may stay undone."""
_PIN = "shaped"
_log = logging.getLogger(__name__)


class Shaping:
    """Keeps the shaper as the ledger's state wants it. `paced`: what goes to other droplets waits in the
    interface's queue."""

    def __init__(
        self, ledger: Ledger, tables: Tables, program_fd: int, pins: Pins, options: Options, *, paced: bool
    ) -> None:
        self._ledger = ledger
        self._tables = tables
        self._program_fd = program_fd
        self._pin = pins.links / _PIN
        self._options = options
        self._paced = paced
        self._guarded = 0
        self._done: dict[int, ShapedClass] = {}
        self._complaint = ""

    @property
    def mode(self) -> str:
        """How bits are limited: `paced`, `shaped` or `policed`."""
        if self._paced:
            return "paced"
        return "policed" if self._complaint else "shaped"

    @property
    def reason(self) -> str:
        """Why so, in words."""
        if self._paced:
            return "the queue of the droplet's interface is fq, which keeps departure times"
        return self._complaint or "the queue of the droplet's interface is not fq; htb shapes"

    async def run(self) -> None:
        """Follow the ledger, until cancelled."""
        wake = asyncio.Event()
        loop = asyncio.get_running_loop()

        def changed() -> None:
            loop.call_soon_threadsafe(wake.set)

        self._ledger.followers.append(changed)
        wake.set()
        again, first = False, True
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RECHECK_S if again else None):
                    await wake.wait()
            woken = wake.is_set()
            wake.clear()
            async with self._ledger.lock:
                wanted = shaped_classes(self._ledger.state)
            if woken and not first and wanted == self._done and not self._complaint:
                continue
            first = False
            try:
                await asyncio.to_thread(self.arrange, wanted)
                self._done, self._complaint = wanted, ""
            except MizarError as error:
                self._tables.shaper.put(0, 0)
                self._done = {}
                if str(error) != self._complaint:  # it is tried again and again
                    event(_log, logging.WARNING, "limits_are_not_shaped", error=error)
                self._complaint = str(error)
            again = bool(wanted)

    def arrange(self, wanted: dict[int, ShapedClass]) -> None:
        """One pass: the kernel is made to have what is wanted, and nothing else."""
        with Netlink() as netlink:
            if not wanted:
                self._tables.shaper.put(0, 0)
                if shaper.remove(netlink, self._options.instance):
                    attach.detach_tc(0, self._pin)
                self._guarded = 0
                return
            near = shaper.ensure(netlink, self._options.instance, self._guard)
            shaper.arrange(netlink, near.index, wanted, self._done)
            self._tables.shaper.put(0, near.index)

    def _guard(self, far: Interface) -> None:
        if self._guarded != far.index:
            attach.attach_tc(self._program_fd, far.index, self._pin, force=self._options.tc)
            self._guarded = far.index
