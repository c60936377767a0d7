# SPDX-License-Identifier: Apache-2.0
"""When a member counts as healthy or down, what is told of it, and what a hostile one can do to its check."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from mizar._built import transit_pb2 as pb
from mizar.transit.asking_members import failure_of
from mizar.transit.events import Hub
from mizar.transit.ledger import Ledger
from mizar.transit.member_health import MemberHealth, Verdict
from mizar.transit.service_values import HealthCheck, Member, MemberState, PutService, Service
from mizar.transit.state import Limits
from mizar.transit.values import (
    Droplet,
    Endpoint,
    Network,
    Prefix,
    PutDroplet,
    PutNetwork,
    PutVpc,
    Tunnel,
    Vpc,
    Wanted,
)
from mizar.transit.workloads import InNamespace, NamespaceBy, Tap, Workload
from tests.unit.transit.fakes import FakeMaps

# This droplet is 172.30.9.1; members are 10.0.1.11 (a, here) and 10.0.1.12 (b, on 172.30.9.2); the service .100.
OWN, OTHER = bytes((172, 30, 9, 1)), bytes((172, 30, 9, 2))
A, B, SERVICE = (bytes((10, 0, 1, last)) for last in (11, 12, 100))
MACS = {A: bytes.fromhex("02000000010b"), B: bytes.fromhex("02000000010c")}
CHECK = HealthCheck(False, 80, "", 0.001, 0.5, healthy_after=2, unhealthy_after=3)
HERE = InNamespace(NamespaceBy.PATH, "/proc/self/ns/net", "eth0")
LIMIT_S = 20.0


def verdicts(answers: str, state: MemberState = MemberState.UNKNOWN) -> str:
    """H, D or U after each answer: "+" good, "-" bad."""
    verdict = Verdict(state)
    found = ""
    for answer in answers:
        verdict.take(CHECK, "" if answer == "+" else "refused")
        found += verdict.state.name[0]
    return found


def test_hysteresis() -> None:
    """A good answer of an unknown one is enough; three bad ones in a row take a member out, two good ones back in."""
    assert verdicts("+") == "H"
    assert verdicts("---") == "UUD"
    assert verdicts("--+--+---", MemberState.HEALTHY) == "HHHHHHHHD"
    assert verdicts("+-+-++", MemberState.DOWN) == "DDDDDH"


class Rig:
    """A ledger over maps in memory with one service, and members that answer what the test says."""

    def __init__(self) -> None:
        self.ledger = Ledger(FakeMaps(), OWN, Limits(8, 4, 8, 8, 4), list)
        self.hub = Hub(_NoDrops())
        self.failures: dict[bytes, str] = {}
        self.asked: list[bytes] = []
        self.health = MemberHealth(self.ledger, self.hub, self.ask)

    async def ask(self, _workload: InNamespace, address: bytes, _check: HealthCheck) -> str:
        self.asked.append(address)
        return self.failures.get(address, "")

    async def begin(self, state: MemberState = MemberState.UNKNOWN, workload: Workload = HERE) -> None:
        prefix = Prefix(bytes((10, 0, 1, 0)), 24, bytes((10, 0, 1, 1)))
        known = [PutDroplet(Droplet(one)) for one in (OWN, OTHER)]
        await self.ledger.apply([*known, PutVpc(Vpc(7, ())), PutNetwork(Network(7, 1, (prefix,), ()))])
        await self.put(state)
        endpoint = Endpoint(7, 1, (A,), MACS[A], OWN, Tunnel.GENEVE)
        async with self.ledger.lock:
            self.ledger.put_local(Wanted("a", endpoint, workload, 0), "mza", 5)

    async def put(self, state: MemberState = MemberState.KEPT, check: HealthCheck | None = CHECK) -> None:
        members = tuple(
            Member((address,), MACS[address], host, Tunnel.GENEVE, 1, state) for address, host in ((A, OWN), (B, OTHER))
        )
        await self.ledger.apply([PutService(Service(7, 1, (SERVICE,), members, health=check))])
        self.health.tables_changed()

    @property
    def held(self) -> list[MemberState]:
        return [member.state for member in self.ledger.state.services[7, SERVICE].members]

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Callable[[], Awaitable[tuple[str, str]]]]:
        """While it checks: what is told next, as (state, reason)."""
        with self.hub.subscribed(drops=False) as told:
            task = asyncio.create_task(self.health.run())

            async def news() -> tuple[str, str]:
                async with asyncio.timeout(LIMIT_S):
                    row = (await told.next()).member_health
                assert (row.vni, row.service, row.mac) == (7, SERVICE, MACS[A])
                return pb.Member.State.Name(row.state), row.reason

            yield news
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


class _NoDrops:
    def switch(self, on: bool) -> None:
        raise AssertionError(on)

    async def suppressed(self) -> Any:
        raise AssertionError

    def __aiter__(self) -> Any:
        raise AssertionError


async def test_only_changes_are_told() -> None:
    """Unknown → healthy → down → healthy, each once, of the member that lives here; tables stay."""
    rig = Rig()
    await rig.begin()
    async with rig.running() as news:
        assert await news() == ("HEALTHY", "")
        rig.failures[A] = "refused"
        assert await news() == ("DOWN", "refused")
        rig.failures[A] = "slow"
        assert await news() == ("DOWN", "slow")
        del rig.failures[A]
        assert await news() == ("HEALTHY", "")
        assert [row.mac for row in rig.health.rows()] == [MACS[A]]
    assert set(rig.asked) == {A}
    assert rig.held == [MemberState.UNKNOWN] * 2


async def test_a_restart_begins_with_what_the_tables_say() -> None:
    """A member that was healthy is so still with the first bad answer; one that was down is not up with a good one."""
    rig = Rig()
    await rig.begin(MemberState.HEALTHY)
    rig.failures[A] = "refused"
    async with rig.running() as news:
        assert await news() == ("HEALTHY", "")
        assert await news() == ("DOWN", "refused")
    assert rig.held == [MemberState.HEALTHY] * 2


async def test_a_state_that_nobody_told_stays() -> None:
    """Whoever does not know leaves what is held; a new member gets no flow yet."""
    rig = Rig()
    await rig.begin(MemberState.DOWN)
    await rig.put(MemberState.KEPT)
    assert rig.held == [MemberState.DOWN] * 2
    service = rig.ledger.state.services[7, SERVICE]
    async with rig.ledger.lock:
        rig.ledger.reread()
    assert rig.ledger.state.services[7, SERVICE] == service
    assert service.health == CHECK


async def test_without_a_check_nobody_is_asked() -> None:
    """Taking the check away ends it."""
    rig = Rig()
    await rig.begin()
    async with rig.running() as news:
        assert await news() == ("HEALTHY", "")
        await rig.put(check=None)
        rig.asked.clear()
        for _ in range(50):
            await asyncio.sleep(0)
        assert rig.health.rows() == []
        assert rig.asked == []


async def test_no_namespace() -> None:
    """A tap cannot be asked, and says so."""
    rig = Rig()
    await rig.begin(workload=Tap("", 0, 1))
    async with rig.running() as news:
        state, reason = await news()
        assert (state, "not in a namespace" in reason) == ("UNKNOWN", True)


LOCAL = bytes((127, 0, 0, 1))


@contextlib.asynccontextmanager
async def server(answer: bytes, *, close: bool = True) -> AsyncIterator[int]:
    """Something on a port of the loopback that says this to everybody."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if close:
            await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        with contextlib.suppress(OSError):
            await writer.drain()
        if close:
            writer.close()

    made = await asyncio.start_server(serve, "127.0.0.1", 0)
    yield made.sockets[0].getsockname()[1]
    made.close()


@pytest.mark.parametrize(
    ("answer", "failure"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", ""),
        (b"HTTP/1.0 302", ""),
        (b"HTTP/1.1 503 Service Unavailable\r\n\r\n", "HTTP status 503"),
        (b"SSH-2.0-OpenSSH_9.9\r\n", "its answer is not HTTP"),
        (b"HTTP/1.1 2\xff\x00" + bytes(64), "its answer is not HTTP"),
        (b"HTTP/1.1", "it closed the connection without an answer"),
        (b"", "it closed the connection without an answer"),
    ],
)
async def test_answers(answer: bytes, failure: str) -> None:
    """Only the status is understood."""
    check = replace(CHECK, http=True, path="/ready", timeout_s=LIMIT_S)
    async with server(answer) as port:
        found = await failure_of(HERE, LOCAL, replace(check, port=port))
    assert found.removeprefix(f"127.0.0.1 port {port}: ") == failure


async def test_nobody_and_somebody_silent() -> None:
    """Refused, or a connection on which nothing is ever said."""
    async with server(b"", close=False) as port:
        assert await failure_of(HERE, LOCAL, replace(CHECK, port=port)) == ""
        silent = replace(CHECK, http=True, path="/", port=port, timeout_s=0.02)
        assert await failure_of(HERE, LOCAL, silent) == f"127.0.0.1 port {port}: no answer within 20 ms"
    assert await failure_of(HERE, LOCAL, replace(CHECK, port=port)) == f"127.0.0.1 port {port}: connection refused"
    nowhere = InNamespace(NamespaceBy.NAME, "mizar-none", "eth0")
    assert "cannot be entered" in await failure_of(nowhere, LOCAL, replace(CHECK, port=port))
