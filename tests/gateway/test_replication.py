# SPDX-License-Identifier: Apache-2.0
"""Replication between two gateways, with tables in memory and real TLS over loopback."""

from __future__ import annotations

import asyncio
import contextlib
import random
import ssl
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from pathlib import Path
from unittest.mock import AsyncMock, Mock

import pytest

from mizar.gateway.replication import frames, leader, trust
from mizar.gateway.replication.follower import Follower
from mizar.gateway.replication.frames import Pair
from mizar.gateway.replication.leader import Leader
from mizar.kernel.layout import parse, struct
from mizar.model.errors import InvalidError
from mizar.pki import authority
from mizar.pki.identity import Identity, Role


class Memory:
    """Connections of a gateway whose clock is at `now`."""

    def __init__(self, now: int) -> None:
        self.now = now
        self.maps: dict[int, dict[bytes, Pair]] = {4: {}, 6: {}}

    def tick(self) -> int:
        return self.now

    def walk(self, version: int) -> Iterator[Pair]:
        yield from list(self.maps[version].values())

    def find(self, version: int, packed: bytes) -> Pair | None:
        return self.maps[version].get(packed)

    def adopt(self, version: int, pairs: Iterable[Pair]) -> int:
        taken = 0
        for pair in pairs:
            have = self.maps[version].get(pair[0])
            if have is None or frames.newer(frames.stamp(version, pair), frames.stamp(version, have)):
                self.maps[version][pair[0]] = pair
                taken += 1
        return taken

    def put(self, number: int, age: int = 0, version: int = 4) -> bytes:
        """A connection of its own for each number, used `age` ticks ago."""
        ends = {"src_be": number, "dst_be": 1} if version == 4 else {"src": number.to_bytes(16), "dst": bytes(16)}
        key = struct(f"connection{version}_key", meta=7, src_port_be=number % 65536, protocol=6, **ends)
        value = struct(f"connection{version}", meta=8, stamp=(self.now - age) % 2**32, **ends)
        self.maps[version][key] = key, value, key, value
        return key

    def age(self, key: bytes, version: int = 4) -> int:
        return (self.now - int(parse(f"connection{version}", self.maps[version][key][1])["stamp"])) % 2**32


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pki")
    authority.initialise(folder, ["127.0.0.1"])
    return folder


@contextlib.asynccontextmanager
async def pair(one: Memory, other: Memory, pki: Path) -> AsyncIterator[tuple[Leader, Follower]]:
    """`other` follows `one`."""
    tells = Leader(one)
    server = await tells.serve("127.0.0.1", 0, trust.leading(pki))
    follows = Follower(other, "127.0.0.1", server.sockets[0].getsockname()[1], trust.following(pki))
    task = asyncio.create_task(follows.run())
    try:
        yield tells, follows
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        server.close()
        await tells.end()
        await server.wait_closed()


async def until(met: Callable[[], bool]) -> None:
    """Raises TimeoutError if it does not come true."""
    async with asyncio.timeout(30):
        while not met():
            await asyncio.sleep(0.01)


async def test_all_connections_then_changes_are_told(pki: Path) -> None:
    one, other = Memory(now=1000), Memory(now=4_294_967_290)
    keys = [one.put(number, age=number % 50) for number in range(3000)]
    six = one.put(5, age=9, version=6)
    async with pair(one, other, pki) as (tells, follows):
        await until(lambda: follows.state.whole)
        assert [other.age(key) for key in keys] == [number % 50 for number in range(3000)]
        assert other.age(six, 6) == 9
        later = one.put(70_000)
        tells.changed(4, later)
        await until(lambda: later in other.maps[4])
        assert follows.state.adopted == 3002


async def test_what_is_in_use_stays_young(pki: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leader, "REFRESH_S", 0.1)
    one, other = Memory(now=100), Memory(now=5)
    used, idle = one.put(1), one.put(2)
    async with pair(one, other, pki) as (_, follows):
        await until(lambda: follows.state.whole)
        one.now += 50
        other.now += 50
        one.put(1)
        await until(lambda: other.age(used) == 0)
        assert other.age(idle) == 50


async def test_a_slow_follower_is_told_all_again(pki: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leader, "MAX_CHANGES", 10)
    one, other = Memory(now=100), Memory(now=100)
    async with pair(one, other, pki) as (tells, follows):
        await until(lambda: follows.state.whole)
        keys = [one.put(number) for number in range(500)]
        for key in keys:
            tells.changed(4, key)
        await until(lambda: other.maps[4].keys() >= set(keys))


@pytest.mark.parametrize("turns", range(6))
async def test_who_is_to_end_ends_while_there_is_news(turns: int) -> None:
    """Fails where a cancellation is lost that comes with the event that was waited for."""
    one = Memory(now=100)
    writer = Mock(drain=AsyncMock())
    follower = leader._Follower(one, writer)
    task = asyncio.create_task(follower.tell())
    await until(lambda: frames.frame(frames.Kind.WHOLE) in [call.args[0] for call in writer.write.call_args_list])
    await asyncio.sleep(0.01)  # it waits for news
    follower.note(4, one.put(1))
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    await until(task.done)


async def test_the_newer_of_two_stays_and_nothing_goes_round(pki: Path) -> None:
    one, other = Memory(now=100), Memory(now=100)
    shared = one.put(1, age=20)
    other.put(1, age=3)
    async with pair(one, other, pki) as (_, there), pair(other, one, pki) as (_, back):
        await until(lambda: there.state.whole and back.state.whole)
        assert one.age(shared) == other.age(shared) == 3
        assert there.state.adopted == 0
        assert back.state.adopted == 1


async def test_a_leader_that_ends_leaves_its_connections_behind_and_may_come_back(pki: Path) -> None:
    one, other = Memory(now=100), Memory(now=100)
    first = one.put(1)
    tells = Leader(one)
    server = await tells.serve("127.0.0.1", 0, trust.leading(pki))
    port = server.sockets[0].getsockname()[1]
    follows = Follower(other, "127.0.0.1", port, trust.following(pki))
    task = asyncio.create_task(follows.run())
    try:
        await until(lambda: follows.state.whole)
        server.close()
        await tells.end()
        await until(lambda: not follows.state.connected)
        assert first in other.maps[4]
        assert "cannot follow" in follows.state.problem
        second = one.put(2)
        server = await tells.serve("127.0.0.1", port, trust.leading(pki))
        await until(lambda: second in other.maps[4])
        assert follows.state.problem == ""
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        server.close()
        await tells.end()


async def test_reports_are_on_while_somebody_follows(pki: Path) -> None:
    said: list[bool] = []
    tells = Leader(Memory(now=1), said.append)
    server = await tells.serve("127.0.0.1", 0, trust.leading(pki))
    follows = Follower(Memory(now=1), "127.0.0.1", server.sockets[0].getsockname()[1], trust.following(pki))
    task = asyncio.create_task(follows.run())
    await until(lambda: follows.state.whole)
    assert said == [True]
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await until(lambda: said == [True, False])
    server.close()
    await tells.end()


async def test_nobody_without_a_gateways_certificate_is_told_or_believed(pki: Path, tmp_path: Path) -> None:
    one, other = Memory(now=1), Memory(now=1)
    one.put(1)
    authority.issue(pki, Identity(Role.TENANT, "mallory"), stem="mallory")
    tenant = tmp_path / "tenant"
    tenant.mkdir()
    for name, found in (("ca.crt", "ca.crt"), ("gateway.crt", "mallory.crt"), ("gateway.key", "mallory.key")):
        (tenant / name).write_bytes((pki / found).read_bytes())
    strangers = tmp_path / "strangers"
    strangers.mkdir()
    authority.initialise(strangers, ["127.0.0.1"])
    tells = Leader(one)
    server = await tells.serve("127.0.0.1", 0, trust.leading(pki))
    try:
        for folder in (tenant, strangers):
            follows = Follower(other, "127.0.0.1", server.sockets[0].getsockname()[1], trust.following(pki))
            follows._tls = _trusting(pki, folder)  # it would believe the leader
            task = asyncio.create_task(follows.run())
            await until(lambda follows=follows: bool(follows.state.problem))  # type: ignore[misc]
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert other.maps[4] == {}
    finally:
        server.close()
        await tells.end()
    with pytest.raises(InvalidError, match=r"lacks one of ca\.crt"):
        trust.leading(tmp_path)


def _trusting(pki: Path, own: Path) -> ssl.SSLContext:
    context = trust.following(own)
    context.load_verify_locations(pki / "ca.crt")
    return context


@pytest.mark.parametrize("body", [b"", b"\x04\0\0\0", b"\x05\0\0\0\0", b"\x04\0\0\0\0" + bytes(63), b"\x06\0\0\0\0\0"])
def test_entries_that_are_none_are_refused(body: bytes) -> None:
    with pytest.raises(InvalidError):
        frames.parse_entries(body)


@pytest.mark.parametrize("body", [b"", b"\x02" + bytes(32), b"\x01" + bytes(32)])
def test_another_version_or_layout_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidError):
        frames.check_hello(body)


async def test_any_bytes_end_the_connection_at_most(pki: Path) -> None:
    one, noise = Memory(now=1), random.Random(7)
    tells = Leader(one)
    server = await tells.serve("127.0.0.1", 0, trust.leading(pki))
    port = server.sockets[0].getsockname()[1]
    for _ in range(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trust.following(pki))
        writer.write(noise.randbytes(100))
        with contextlib.suppress(OSError):
            async with asyncio.timeout(30):
                await reader.read()
        writer.close()
    await until(lambda: tells.followers == 0)
    server.close()
    await tells.end()


async def test_an_entry_from_the_future_is_not_believed(pki: Path) -> None:
    one, other = Memory(now=100), Memory(now=100)
    key = one.put(1, age=-5)
    async with pair(one, other, pki) as (_, follows):
        await until(lambda: follows.state.whole)
        assert key not in other.maps[4]
