# SPDX-License-Identifier: Apache-2.0
"""An instance of a NAT gateway: `mizar gateway run` in the namespace of its endpoint, and the ways to it.

A kind of function. Frames are translated by the gateway's program, in maps of its own, so that no gateway takes room
from another; program and connections stay when its process or the daemon ends. The droplet attracts addresses only
once the program is there, and with them what keeps tenants from droplets (mizar.kernel.nat_guard).
"""

import asyncio
import contextlib
import shutil
import sys
from collections.abc import Callable, Iterator
from functools import partial
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

from mizar._built import transit_pb2 as pb
from mizar.gateway import control
from mizar.kernel import nat_guard, nat_way
from mizar.kernel.nat_guard import Limits
from mizar.kernel.nat_way import Address, Way
from mizar.model.addresses import NOT_PUBLIC
from mizar.model.errors import MizarError, NotFoundError, TemporaryError
from mizar.pki import authority
from mizar.pki.identity import Identity, Role
from mizar.transit.engines import nat_foretold
from mizar.transit.engines.bounded_log import BoundedLog
from mizar.transit.engines.engine import Fault, Kind, Place, Sample
from mizar.transit.engines.nat_attracted import Heralds, attract, record, way_of
from mizar.transit.engines.nat_left import HOME, forget, let_go, name_of
from mizar.transit.engines.nat_pipeline import INSIDE, OUTSIDE, checked, description, prefix_of
from mizar.transit.engines.turns import Turns
from mizar.transit.processes import Process, Program
from mizar.transit.told import PROCESS

PAIR_PORT = 7799
"""Of an instance's endpoint, for the other one of its pair alone."""
READY_S, LOOK_S = 60.0, 5.0
_POLL_S = 0.05
_CAPABILITIES = ("bpf", "perfmon", "net_admin", "net_raw", "sys_admin", "ipc_lock")
_RUN = (sys.executable, "-c", "from mizar.cli.main import main; main()", "gateway", "run")
_LOADED = "loaded"


class NatGateway:
    """One instance."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._name = name_of(place.uid)
        self._home = place.folder / HOME
        self._process = Process(place.folder / PROCESS, self._say, place.changed, groups=place.groups)
        self._log: BoundedLog | None = None
        self._told = pb.NatReport()
        self._nat = pb.NatGateway()
        self._rules = ""
        self._ready = False
        self._turns = Turns()
        self._heralds = Heralds()
        self._paired: Any = None
        self._looking: asyncio.Task[None] | None = None

    async def put(self, function: pb.Engine) -> None:
        """Starts it, or changes it while connections go on. Raises MizarError; then what ran runs on."""
        nat = self._nat = checked(function.nat)
        self._heralds.anew()
        if self._log is None:
            self._log = BoundedLog(self._place.logs / nat.tenant / nat.name / f"{nat.instance}.log", 1 << 20)
        text = description(nat)
        await self._do(partial(self._write, text))
        await self._do(self._build)
        if self._ready:  # one that stood by goes on at once: its program is there
            await self._do(self._attract)
        kept = await self._process.run(self._program(nat))
        await self._until_ready()
        if kept and self._loaded() != text:
            await asyncio.to_thread(control.ask, self._name, "apply", text=text, file="nat.json")
        (self._home / _LOADED).write_text(text)
        await self._do(self._attract)
        await self._do(self._pair)
        self._ready = True
        if self._looking is None:
            self._looking = asyncio.create_task(self._look(), name=f"look at {self._place.uid}")
        await self._ask()

    async def end(self) -> None:
        """Ends it with its connections, and attracts nothing for it any more."""
        self._stop_looking()
        await asyncio.to_thread(self._turns.end, partial(let_go, self._home, self._place.uid))
        await self._process.stop()
        self._process.close()
        await asyncio.to_thread(self._forget)
        if self._log is not None:
            self._log.remove()

    def close(self) -> None:
        """It goes on without this daemon."""
        self._stop_looking()
        self._process.close()
        if self._log is not None:
            self._log.close()

    def report(self) -> pb.EngineReport:
        """How it fares."""
        standing = self._process.standing
        if standing.running:
            state = pb.EngineReport.RUNNING if self._ready else pb.EngineReport.STARTING
        else:
            state = pb.EngineReport.FAILED if standing.reason else pb.EngineReport.STARTING
        return pb.EngineReport(state=state, reason=standing.reason, restarts=standing.restarts, nat=self._told)

    async def foretell(self, frame: bytes, *, outside: bool) -> pb.TraceEngineReply:
        """By the rules of its namespace, and by its process. Raises MizarError where it cannot say."""
        if not self._ready:
            raise TemporaryError("the instance does not run yet")
        return await asyncio.to_thread(self._foretell, frame, outside)

    async def faults(self, *, repair: bool) -> list[Fault]:
        """Of the rules of its namespace and of the host's, and whether its links are there."""
        work = partial(self._faults, repair)
        return await asyncio.to_thread(self._turns.take, work) if self._ready else []

    def log(self) -> Path | None:
        """Nowhere."""
        return None

    def samples(self) -> Iterator[Sample]:
        """Connections, and those that were refused."""
        yield Sample("nat_gateway_restarts", self._process.standing.restarts, counter=True)
        yield Sample("nat_gateway_connections", self._told.connections)
        yield Sample("nat_gateway_quota", self._nat.connections)
        yield Sample("nat_gateway_begun", self._told.begun, counter=True)
        for reason in ("refused", "exhausted"):
            value = getattr(self._told, reason)
            yield Sample("nat_gateway_refused", value, (("reason", reason),), counter=True)

    async def _do(self, work: Callable[[], None]) -> None:
        await asyncio.to_thread(self._turns.take, work)

    def _program(self, nat: pb.NatGateway) -> Program:
        own = ("-f", str(self._home / "nat.json"), "--name", self._name, "--max-connections", str(nat.connections))
        argv = (*_RUN, *own, "--interface", nat_way.INNER, "--egress", nat_way.OUTER)
        return Program(argv, self._place.namespace, capabilities=_CAPABILITIES, confined=False)

    def _loaded(self) -> str:
        """What the process has read last: a daemon may end in between."""
        with contextlib.suppress(OSError):
            return (self._home / _LOADED).read_text()
        return ""

    def _write(self, text: str) -> None:
        self._home.mkdir(parents=True, exist_ok=True, mode=0o700)
        fresh = self._home / "nat.json.new"
        fresh.write_text(text)
        fresh.replace(self._home / "nat.json")

    def _way(self) -> contextlib.AbstractContextManager[Way]:
        return way_of(self._place, self._nat.inside, self._nat.public)

    def _build(self) -> None:
        with self._way() as way:
            record(self._home, way)
            self._guard(way)
            nat_way.build(way)
            nat_guard.open_host(way.uplink, nat_way.name_of(way.uid))

    def _guard(self, way: Way) -> None:
        """What tenants may not reach: other droplets, this host, its networks, and what is nobody's."""
        text = nat_guard.rules(way.interface, way.inside, self._limits(way), self._peer())
        if text != self._rules:
            nat_guard.keep(way.namespace, text)
            self._rules = text
        if not nat_guard.is_kept(way.namespace, text):
            nat_guard.keep(way.namespace, text, fresh=True)

    def _limits(self, way: Way) -> Limits:
        hosts, networks = nat_guard.own_prefixes()
        never = (*hosts, *map(prefix_of, self._nat.never))
        reach = (*map(prefix_of, self._nat.reach), *map(ip_network, way.public))
        return Limits(never, (*NOT_PUBLIC, *networks), reach)

    def _faults(self, repair: bool) -> list[Fault]:
        with self._way() as way:
            found = [Fault(f"link {name}", "there", "") for name in nat_way.missing(way)]
            rules = list(nat_guard.altered(way.namespace, self._rules))
            if rules and repair:
                nat_guard.keep(way.namespace, self._rules, fresh=True)
        host = nat_guard.host_altered()
        if host and repair:
            nat_guard.keep_host()
        if found and repair:
            self._build()
        found += [Fault(f"nftables {block}", should, there) for block, should, there in rules]
        return found + [Fault(f"nftables of the droplet: {block}", should, there) for block, should, there in host]

    def _peer(self) -> tuple[int, Address] | None:
        return (PAIR_PORT, ip_address(self._nat.pair.other)) if self._nat.HasField("pair") else None

    def _attract(self) -> None:
        if self._nat.standby:
            return
        with self._way() as way:
            attract(way, self._heralds)

    def _pair(self) -> None:
        """It tells the other instance of its connections, and is told."""
        found = {"lead": "", "follow": "", "pki": ""}
        if self._nat.HasField("pair"):
            pair, pki = self._nat.pair, self._home / "pair"
            own, other = ip_address(pair.own), ip_address(pair.other)
            authority.share(pki, bytes.fromhex(pair.key), Identity(Role.GATEWAY, "nat"), [str(own)])
            found = {"lead": _at(own), "follow": _at(other), "pki": str(pki)}
        control.ask(self._name, "pair", 10.0, **found)

    async def _until_ready(self) -> None:
        deadline = asyncio.get_running_loop().time() + READY_S
        while not await self._ask():
            if asyncio.get_running_loop().time() > deadline:
                reason = self._process.standing.reason or "it did not answer in time"
                raise TemporaryError(f"the gateway's process is not ready: {reason}")
            await asyncio.sleep(_POLL_S)

    async def _ask(self) -> bool:
        try:
            shown: dict[str, Any] = await asyncio.to_thread(control.ask, self._name, "show", 10.0)
        except (NotFoundError, TemporaryError, OSError):
            return False
        found = pb.NatReport(connections=shown["connections"], whole=shown["pair"].get("whole", False))
        for tenant in shown["tenants"]:
            found.begun += tenant["begun"]
            found.refused += tenant["refused"]
            found.exhausted += tenant["exhausted"]
        pair = shown["pair"].get("followers"), found.whole
        if pair != self._paired:  # the other one has come, or come back: it may have been heard
            self._paired = pair
            self._heralds.anew()
        if found != self._told:
            self._told = found
            if self._ready:
                self._place.changed()
        return True

    async def _look(self) -> None:
        """What somebody else has undone is made again."""
        while True:
            await asyncio.sleep(LOOK_S)
            with contextlib.suppress(MizarError, OSError):
                await self._do(self._build)
                await self._do(self._attract)
                await self._do(self._pair)
            await self._ask()

    def _stop_looking(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
            self._looking = None

    def _forget(self) -> None:
        forget(self._name)
        shutil.rmtree(self._home, ignore_errors=True)

    def _foretell(self, frame: bytes, outside: bool) -> pb.TraceEngineReply:
        with self._way() as way:
            limits = self._limits(way)
        if not outside and (refused := nat_foretold.refused(frame, way.inside, limits)) is not None:
            return refused
        meta = OUTSIDE if outside else INSIDE
        said = control.ask(self._name, "foretell", 10.0, frame=frame.hex(), meta=meta)
        return nat_foretold.reply(said, way.inside, outside=outside)

    def _say(self, line: str) -> None:
        if self._log is not None:
            self._log.write(line)


def _at(address: Address) -> str:
    return f"[{address}]:{PAIR_PORT}" if address.version == 6 else f"{address}:{PAIR_PORT}"


def _check(function: pb.Engine) -> None:
    checked(function.nat)


NAT = Kind(NatGateway, _check)
"""For the list of kinds."""
