# SPDX-License-Identifier: Apache-2.0
"""The tunnels of this droplet's endpoints: kept as told, found again by the next daemon, and how they are.

Beside the server, one task for each tunnel. Tunnels do not depend on the daemon: their processes go on when it ends.
What it was told, keys included, is in files that only root can read, under /run, and goes with the tunnel. A failure
of one is its own: it is told as its status, tried again, and touches no other. Keys must never be logged or told.
"""

import asyncio
import contextlib
import logging
import shutil
import time
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

from google.protobuf.message import DecodeError

from mizar._built import transit_pb2 as pb
from mizar.functions.wireguard import uapi
from mizar.kernel import tunnel_kernel, tunnel_outer
from mizar.kernel.interfaces import Interface
from mizar.kernel.namespaces import Namespace
from mizar.model.errors import MizarError, TemporaryError
from mizar.transit import told
from mizar.transit.cgroups import NONE, Cgroups
from mizar.transit.events import Hub
from mizar.transit.keeping import Keeper
from mizar.transit.ledger import Ledger
from mizar.transit.logs import event
from mizar.transit.processes import Process, end_recorded
from mizar.transit.vpn_engines import Engine, Found, device_of, engine_of
from mizar.transit.vpn_ports import VpnPorts
from mizar.transit.vpn_values import Vpn, vpn
from mizar.transit.workloads import InNamespace

LOOK_S = 1.0
"""How often a tunnel is looked at."""
TELL_S = 5.0
"""How often counts are told while nothing else changes."""
_DONE = "configured"
_STATES = {"connecting": pb.VpnStatus.CONNECTING, "up": pb.VpnStatus.UP, "down": pb.VpnStatus.DOWN}
_log = logging.getLogger(__name__)


class Vpns:
    """All tunnels. `folder` is theirs alone; `uplink` tells of the droplet's interface, `own` are its addresses."""

    def __init__(
        self,
        folder: Path,
        ledger: Ledger,
        hub: Hub,
        uplink: Callable[[], Interface],
        own: Sequence[bytes],
        ports: VpnPorts,
        groups: Cgroups = NONE,
    ) -> None:
        self.groups = groups
        self._folder = folder
        self._ledger = ledger
        self._hub = hub
        self.uplink = uplink
        self.ports = ports
        self.own: dict[int, IPv4Address | IPv6Address] = {one.version: one for one in map(ip_address, own)}
        self._kept: dict[str, _Tunnel] = {}

    def load(self) -> None:
        """Take over what the daemon before was told."""
        for folder in told.folders(self._folder):
            try:
                message = pb.Vpn.FromString(told.kept(folder))
                self._kept[message.uid] = _Tunnel(self, folder, vpn(message))
            except Exception as error:  # noqa: BLE001 - a file of another version: the manager tells it anew
                event(_log, logging.WARNING, "vpn_unreadable", folder=folder.name, error=type(error).__name__)
                told.clear(folder)

    def check(self, changes: Sequence[pb.Vpn | str]) -> None:
        """Raises InvalidError for what cannot be kept, before anything is done."""
        for one in changes:
            if isinstance(one, pb.Vpn):
                vpn(one)

    async def apply(self, changes: Sequence[pb.Vpn | str]) -> int:
        """Keep tunnels as told, or no more; returns how many changes were not there already."""
        changed = 0
        await asyncio.to_thread(tunnel_kernel.probe)
        for one in changes:
            if isinstance(one, str):
                keeper = self._kept.pop(one, None)
                if keeper is not None:
                    await keeper.end()
                    changed += 1
                continue
            wanted, keeper = vpn(one), self._kept.get(one.uid)
            if keeper is not None and keeper.vpn == wanted:
                continue
            folder = await asyncio.to_thread(told.keep, self._folder, device_of(one.uid), one.SerializeToString())
            if keeper is None:
                self._kept[one.uid] = keeper = _Tunnel(self, folder, wanted)
                keeper.start()
            else:
                keeper.change(wanted)
            changed += 1
        return changed

    async def run(self) -> None:
        """Keep them until cancelled; then let go of them: they go on."""
        for keeper in self._kept.values():
            keeper.start()
        try:
            await asyncio.Event().wait()
        finally:
            for keeper in self._kept.values():
                keeper.let_go()

    def rows(self) -> tuple[list[pb.Vpn], list[pb.VpnStatus]]:
        """What is kept, without keys, and how it is."""
        held = [k.vpn for k in self._kept.values()]
        messages = [pb.Vpn(uid=one.uid, revision=one.revision, endpoint=one.endpoint, name=one.name) for one in held]
        return messages, [keeper.status for keeper in self._kept.values() if keeper.status is not None]

    def tell(self, status: pb.VpnStatus) -> None:
        """News of a tunnel."""
        self._hub.vpn_status(status)

    def place_of(self, uid: str) -> InNamespace:
        """Where an endpoint of this droplet is. Raises TemporaryError where it is not here, or in no namespace."""
        local = self._ledger.state.locals.get(uid)
        if local is None or local.wanted.standby:
            raise TemporaryError("the endpoint that carries it is not on this droplet")
        if not isinstance(local.wanted.workload, InNamespace):
            raise TemporaryError("the endpoint that carries it has no namespace")
        return local.wanted.workload


def remove_all(folder: Path, uplink: str = "") -> None:
    """End all tunnels that an instance has left. Blocks. What they had in namespaces goes with these."""
    held = [told.kept(one) for one in told.folders(folder)]
    for one in told.folders(folder):
        end_recorded(one)
        uapi.path_of(one.name).unlink(missing_ok=True)
    for message in held:
        with contextlib.suppress(MizarError, OSError, DecodeError):
            tunnel_outer.remove(pb.Vpn.FromString(message).uid, uplink)
    shutil.rmtree(folder, ignore_errors=True)


class _Tunnel:
    """One tunnel."""

    def __init__(self, owner: Vpns, folder: Path, wanted: Vpn) -> None:
        self.vpn = wanted
        self.status: pb.VpnStatus | None = None
        self._owner = owner
        self._folder = folder
        self._process = Process(folder, self._say, hand=lambda: self._engine.hand(), groups=owner.groups)
        self._engine = engine_of(owner, folder, wanted)
        self._former: list[Engine] = []
        """Of another kind, whose device or way out is still there."""
        self._keeper = Keeper(f"vpn {wanted.uid}", self._look, self._failed, LOOK_S)
        self._told_s, self._since_unix_s = 0.0, 0

    def start(self) -> None:
        """Begin to keep it."""
        self._keeper.wake()

    def change(self, wanted: Vpn) -> None:
        """Keep it otherwise from now on."""
        former, self.vpn = self._engine, wanted
        self._engine = engine_of(self._owner, self._folder, wanted)
        if type(former) is not type(self._engine):
            self._former.append(former)
        self._keeper.wake()

    def let_go(self) -> None:
        """The daemon ends, the tunnel does not."""
        self._keeper.let_go()
        self._process.close()

    async def end(self) -> None:
        """The tunnel ends, with all that belongs to it."""
        await self._keeper.end()
        await self._process.stop()
        self._process.close()
        for engine in (*self._former, self._engine):
            await asyncio.to_thread(engine.clear)
        await asyncio.to_thread(told.clear, self._folder)
        event(_log, logging.INFO, "vpn_ended", vpn=self.vpn)

    async def _look(self) -> None:
        self._tell(await self._settled())

    def _failed(self, trouble: str) -> None:
        if trouble:
            beginning = self.status is None and self._process.standing.running
            self._tell(Found("connecting" if beginning else "down", trouble))

    async def _settled(self) -> Found:
        """Everything as wanted; how it is. Raises what is in the way."""
        while self._former:  # what that kept of keys and peer is over before anything of the next is there
            await self._process.stop()
            await asyncio.to_thread(self._former[0].clear)
            self._former.pop(0)
        wanted, engine = self.vpn, self._engine  # both change together, also while this waits
        port = wanted.tunnel.port
        if port not in self._owner.ports:
            await self._process.stop()
            raise TemporaryError(f"UDP port {port} of the droplet is not for tunnels; those are {self._owner.ports}")
        place = self._owner.place_of(wanted.endpoint)
        program = await asyncio.to_thread(engine.program, place)
        if program is None:
            await self._process.stop()
        else:
            await self._process.run(program)
        if program is not None and not self._process.standing.running:
            raise TemporaryError(f"{engine.name}: {self._process.standing.reason or 'it does not run'}")
        mark = f"{self._process.standing.pid} {wanted.revision}"
        return await asyncio.to_thread(self._settle_now, engine, place, mark)

    def _settle_now(self, engine: Engine, place: InNamespace, mark: str) -> Found:
        """`mark`: of process and revision, which tells whether they are configured already."""
        done = self._folder / _DONE
        with Namespace.open_spec(place.spec) as namespace:
            if not engine.settle(place, namespace):
                if (
                    done.exists()
                ):  # it was there: the namespace is another, and the engine's device went with the former
                    done.unlink()
                    end_recorded(self._folder)
                raise TemporaryError("the tunnel's device is not there yet")
        if not done.exists() or done.read_text() != mark:
            engine.configure()
            done.write_text(mark)
            event(_log, logging.INFO, "vpn_configured", vpn=self.vpn, revision=mark.split()[1])
        return engine.look()

    def _tell(self, found: Found) -> None:
        before, now = self.status, time.monotonic()
        self.status = pb.VpnStatus(
            uid=self.vpn.uid,
            state=_STATES[found.state],
            detail=found.detail,
            engine=self._engine.name,
            handshake_unix_s=found.handshake_unix_s,
            sent_bytes=found.sent_bytes,
            received_bytes=found.received_bytes,
        )
        other = before is None or before.state != self.status.state
        self._since_unix_s = int(time.time()) if other else self._since_unix_s
        self.status.since_unix_s = self._since_unix_s
        if other:
            level = logging.WARNING if found.state == "down" else logging.INFO
            event(_log, level, "vpn_state", vpn=self.vpn, state=found.state, detail=found.detail)
        if other or (now - self._told_s >= TELL_S and before != self.status):
            self._told_s = now
            self._owner.tell(self.status)

    def _say(self, line: str) -> None:
        if "│" not in line and "──" not in line:  # the banner with which wireguard-go begins
            event(_log, logging.DEBUG, "vpn_said", vpn=self.vpn, line=line)
