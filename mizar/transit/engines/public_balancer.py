# SPDX-License-Identifier: Apache-2.0
"""The public addresses of a load balancer in mode nat: attracted by the droplet, translated by the kernel of the
instance's namespace (mizar.kernel.nat_balance).

A kind of function. There is no process: rules and connections stay when the daemon ends. How many connections there
are is looked at every second; at the quota nothing new is taken, and in between no more than the quota in a second.
"""

import asyncio
import contextlib
import json
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import TypeVar

from mizar._built import transit_pb2 as pb
from mizar.kernel import nat_balance, nat_guard, nat_way
from mizar.kernel.conntrack import Conntrack
from mizar.kernel.nat_balance import Balance, Listener, Member
from mizar.kernel.nat_way import Way
from mizar.model.errors import InvalidError, MizarError, TemporaryError
from mizar.transit.engines.balance_foretold import foretold
from mizar.transit.engines.engine import Fault, Kind, Place, Sample
from mizar.transit.engines.nat_attracted import INTERFACE, Heralds, attract, record, way_of
from mizar.transit.engines.nat_left import HOME, let_go
from mizar.transit.engines.nat_pipeline import prefix_of
from mizar.transit.engines.turns import Turns

_T = TypeVar("_T")
LOOK_S, REPAIR_S = 1.0, 5.0
MOST_CONNECTIONS = 1 << 17
_STATES = "states.json"
_TCP, _UDP = 6, 17
_HEALTHY, _DRAINING, _UNKNOWN, _DOWN = 1, 2, 3, 4
_KEEPS = {_HEALTHY: {_TCP, _UDP}, _DRAINING: {_TCP, _UDP}, _UNKNOWN: {_TCP, _UDP}, _DOWN: {_TCP}}
"""Whose connections go on with a member in a state: as of services."""


def checked(wanted: pb.PublicBalancer) -> pb.PublicBalancer:
    """The same. Raises InvalidError that says what cannot be."""
    if not 1 <= len(wanted.public) <= 2 or len({len(one) for one in wanted.public}) < len(wanted.public):
        raise InvalidError("a load balancer has one public address of each family at most, and one at least")
    if any(len(one) not in (4, 16) for one in wanted.public):
        raise InvalidError("a public address has 4 or 16 bytes")
    if not 1 <= len(wanted.inside) <= 64 or len(wanted.refused) > 4096:
        raise InvalidError("a load balancer has 1 to 64 prefixes inside, and refuses 4096 at most")
    for subnet in (*wanted.inside, *wanted.refused):
        prefix_of(subnet)
    ports = {(one.protocol, one.port) for one in wanted.listeners}
    if not 1 <= len(wanted.listeners) <= 16 or len(ports) < len(wanted.listeners):
        raise InvalidError("a load balancer has 1 to 16 listeners, no port twice")
    for one in wanted.listeners:
        if one.protocol not in (_TCP, _UDP) or not (0 < one.port < 65536 and 0 < one.target_port < 65536):
            raise InvalidError("a listener is of TCP or UDP, and its ports are from 1 to 65535")
    if len(wanted.members) > 128:
        raise InvalidError("a load balancer has at most 128 members")
    for member in wanted.members:
        lengths = [len(one) for one in member.addresses]
        if len(set(lengths)) < len(lengths) or not set(lengths) <= {4, 16}:
            raise InvalidError("a member has one address of each family at most")
        if not 1 <= member.weight <= 65535 or member.state > _DOWN:
            raise InvalidError("a member has a weight from 1 to 65535, and a state")
    if not 16 <= wanted.connections <= MOST_CONNECTIONS:
        raise InvalidError(f"a load balancer has 16 to {MOST_CONNECTIONS} connections, found {wanted.connections}")
    return wanted


class PublicBalancer:
    """One instance."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._home = place.folder / HOME
        self._wanted = pb.PublicBalancer()
        self._told = pb.NatReport()
        self._full = False
        self._ready = False
        self._reason = ""
        self._looking: asyncio.Task[None] | None = None
        self._turn = asyncio.Lock()
        self._turns = Turns()
        self._heralds = Heralds()

    async def put(self, function: pb.Engine) -> None:
        """Starts it, or changes it while connections go on. Raises MizarError; then what was there stays."""
        wanted = checked(function.public)
        self._heralds.anew()
        async with self._turn:
            await self._do(partial(self._put, wanted))
            self._ready = True
        if self._looking is None:
            self._looking = asyncio.create_task(self._look(), name=f"look at {self._place.uid}")

    async def end(self) -> None:
        """Ends it with its connections, which go with the namespace, and attracts nothing for it any more."""
        self._stop_looking()
        await asyncio.to_thread(self._turns.end, partial(let_go, self._home, self._place.uid))
        await asyncio.to_thread(shutil.rmtree, self._home, ignore_errors=True)

    def close(self) -> None:
        """It goes on without this daemon."""
        self._stop_looking()

    def report(self) -> pb.EngineReport:
        """How it fares."""
        state = pb.EngineReport.RUNNING if self._ready else pb.EngineReport.STARTING
        return pb.EngineReport(state=pb.EngineReport.FAILED if self._reason else state, reason=self._reason,
                               nat=self._told)  # fmt: skip

    async def faults(self, *, repair: bool) -> list[Fault]:
        """Of its rules, and whether its link is there."""
        async with self._turn:
            return await self._do(partial(self._faults, repair)) if self._ready else []

    async def foretell(self, frame: bytes, *, outside: bool) -> pb.TraceEngineReply:
        """What becomes of a frame from outside: which connection has it, or which member a new one would get."""
        if not self._ready:
            raise TemporaryError("it is not ready yet")
        if not outside:
            raise InvalidError("its answers' way back is not foretold")
        return await asyncio.to_thread(self._foretell, frame)

    def log(self) -> Path | None:
        """Nowhere."""
        return None

    def samples(self) -> Iterator[Sample]:
        """Connections, and those that were refused."""
        yield Sample("public_balancer_connections", self._told.connections)
        yield Sample("public_balancer_quota", self._wanted.connections)
        yield Sample("public_balancer_refused", self._told.refused, counter=True)

    async def _do(self, work: Callable[[], _T]) -> _T:
        return await asyncio.to_thread(self._turns.take, work)

    def _put(self, wanted: pb.PublicBalancer) -> None:
        before, self._wanted = self._wanted, wanted
        try:
            states = self._states()
            with self._way() as way:
                self._build(way)
                nat_balance.keep(self._balance(states), way.namespace)
                self._attract(way)
            self._remember(states)
        except (MizarError, OSError):
            self._wanted = before if before.public else wanted
            raise

    def _states(self) -> dict[str, int]:
        """Of members by their addresses; of whom nothing is said, the last that was."""
        known: dict[str, int] = {}
        with contextlib.suppress(OSError, ValueError):
            known = json.loads((self._home / _STATES).read_text())
        return {name: one.state or known.get(name, _UNKNOWN) for one in self._wanted.members if (name := _name(one))}

    def _remember(self, states: dict[str, int]) -> None:
        fresh = self._home / f"{_STATES}.new"
        fresh.write_text(json.dumps(states))
        fresh.replace(self._home / _STATES)

    def _balance(self, states: dict[str, int]) -> Balance:
        wanted = self._wanted
        members = [
            Member(ip_address(address), one.weight, states[_name(one)] == _HEALTHY,
                   frozenset(_KEEPS[states[_name(one)]]))
            for one in wanted.members
            for address in one.addresses
        ]  # fmt: skip
        return Balance(
            INTERFACE,
            tuple(map(ip_address, wanted.public)),
            tuple(Listener(one.protocol, one.port, one.target_port) for one in wanted.listeners),
            tuple(members),
            tuple(map(prefix_of, wanted.refused)),
            wanted.by_client,
            wanted.connections,
            self._full,
        )

    def _way(self) -> contextlib.AbstractContextManager[Way]:
        return way_of(self._place, self._wanted.inside, self._wanted.public)

    def _build(self, way: Way) -> None:
        self._home.mkdir(parents=True, exist_ok=True, mode=0o700)
        nat_way.build_plain(way)
        nat_guard.open_host(way.uplink, nat_way.name_of(way.uid))

    def _attract(self, way: Way) -> None:
        record(self._home, way)
        attract(way, self._heralds)

    async def _look(self) -> None:
        """Keeps to the quota, and makes again what somebody else has undone."""
        waited = 0.0
        while True:
            await asyncio.sleep(LOOK_S)
            waited += LOOK_S
            repair, waited = waited >= REPAIR_S, waited % REPAIR_S
            async with self._turn:
                try:
                    found = await self._do(partial(self._looked, repair))
                    self._say("", found)
                except (MizarError, OSError) as error:
                    self._say(str(error), self._told)

    def _looked(self, repair: bool) -> pb.NatReport:
        with self._way() as way:
            if repair:
                self._build(way)
                self._attract(way)
            held = nat_balance.held(way.namespace)
            full = held >= self._wanted.connections
            if full != self._full:
                self._full = full
                nat_balance.keep(self._balance(self._states()), way.namespace)
            return pb.NatReport(connections=held, refused=nat_balance.refused(way.namespace))

    def _faults(self, repair: bool) -> list[Fault]:
        with self._way() as way:
            balance = self._balance(self._states())
            found = [Fault(f"nftables {chain}", should, there) for chain, should, there in
                     nat_balance.altered(balance, way.namespace)]  # fmt: skip
            if not nat_way.is_linked(way):
                found.append(Fault(f"link {nat_way.name_of(way.uid)}", "there", ""))
            if found and repair:
                self._build(way)
                nat_balance.keep(balance, way.namespace, fresh=True)
                self._attract(way)
            return found

    def _foretell(self, frame: bytes) -> pb.TraceEngineReply:
        with self._way() as way, Conntrack(way.namespace) as table:
            return foretold(frame, self._balance(self._states()), table.find)

    def _say(self, reason: str, found: pb.NatReport) -> None:
        if (reason, found) != (self._reason, self._told):
            self._reason, self._told = reason, found
            self._place.changed()

    def _stop_looking(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
            self._looking = None


def _name(member: pb.PublicMember) -> str:
    return " ".join(sorted(one.hex() for one in member.addresses))


def _check(function: pb.Engine) -> None:
    checked(function.public)


PUBLIC = Kind(PublicBalancer, _check)
"""For the list of kinds."""
