# SPDX-License-Identifier: Apache-2.0
"""Asking, answering, learning: daemons without programs, whose control packets are handed from one to the other."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mizar.model.addresses import to_mapped
from mizar.transit.confirming import Confirming
from mizar.transit.direct import ASKS_PER_S, MOST_ASKED, Direct
from mizar.transit.ledger import Ledger
from mizar.transit.shares import Shares
from mizar.transit.state import Limits
from mizar.transit.values import (
    DeleteDroplet,
    DeleteEndpoint,
    DeleteNetwork,
    DeleteVpc,
    Droplet,
    Endpoint,
    Learned,
    Network,
    Prefix,
    PutDroplet,
    PutEndpoint,
    PutNetwork,
    PutVpc,
    Tunnel,
    Vpc,
)
from tests.unit.transit.fakes import FakeMaps

# Droplets are 172.30.9.1 (hosts a), .2 (bounces "front"), .3 (divides), .4 (bounces "back"), .5 (hosts s). In VPC 7,
# "front" is 10.0.1.0/24 with the endpoint a, "back" is 10.0.2.0/24 with the endpoint s.
HERE, FRONTS, DIVIDER, BACKS, THERE = ADDRESSES = [bytes((172, 30, 9, number)) for number in range(1, 6)]
VNI, FRONT, BACK = 7, 1, 2
A, S, GHOST = bytes((10, 0, 1, 11)), bytes((10, 0, 2, 22)), bytes((10, 0, 2, 99))
UNKNOWN, GONE, ASK, HINT, ORIGIN = 1, 2, 3, 4, 5


def network(number: int, bouncer: bytes) -> PutNetwork:
    prefix = Prefix(bytes((10, 0, number, 0)), 24, bytes((10, 0, number, 1)))
    return PutNetwork(Network(VNI, number, (prefix,), (bouncer,)))


def endpoint(address: bytes, number: int, host: bytes) -> PutEndpoint:
    mac = bytes((2, 0, 0, 0, number, address[3]))
    return PutEndpoint(Endpoint(VNI, number, (address,), mac, host, Tunnel.VXLAN))


class Fleet:
    """The daemons. A control packet is handed over as the programs do, from `sent` to a notice."""

    def __init__(self, learned: int = 8) -> None:
        self.at: dict[bytes, tuple[Ledger, Direct]] = {}
        self.sent: list[tuple[bytes, bytes, bytes, int]] = []
        self.told: list[tuple[int, bytes, bytes]] = []
        for own in ADDRESSES:
            ledger = Ledger(FakeMaps(), own, Limits(8, 4, 8, 8, 4, learned), list)
            self.at[own] = ledger, Direct(ledger, _Sender(self, own), lambda *told: self.told.append(told))

    async def begin(self) -> None:
        """As the planner tells them. (Where a lives, its entry stands for the attached endpoint.)"""
        for own, (ledger, _) in self.at.items():
            changes: list[Any] = [PutDroplet(Droplet(address, mtu=1500)) for address in ADDRESSES]
            changes.append(PutVpc(Vpc(VNI, (DIVIDER,))))
            changes += [network(FRONT, FRONTS)] * (own in (HERE, FRONTS, DIVIDER))
            changes += [network(BACK, BACKS)] * (own in (THERE, BACKS, DIVIDER))
            changes += [endpoint(A, FRONT, THERE)] * (own == HERE) + [endpoint(A, FRONT, HERE)] * (own == FRONTS)
            changes += [endpoint(S, BACK, THERE)] * (own == BACKS)
            await ledger.apply(changes)

    async def notice(self, own: bytes, kind: int, src: bytes = A, dst: bytes = S) -> None:
        """The data plane of a droplet notices a packet."""
        await self.at[own][1].handle([blank(kind) | {"src": to_mapped(src), "dst": to_mapped(dst)}])

    async def settle(self) -> list[tuple[bytes, bytes, int]]:
        """Hand over what is sent until nobody says anything more; returns who sent what to whom."""
        said = []
        while self.sent:
            source, to, data, vni = self.sent.pop(0)
            assert vni == VNI
            said.append((source, to, data[0]))
            await self.at[to][1].handle([as_notice(data)])
        return said

    def learned(self, own: bytes = HERE) -> dict[bytes, bytes]:
        return {address: one.host for (_, address), one in self.at[own][0].state.learned.items()}


class _Sender:
    def __init__(self, fleet: Fleet, own: bytes) -> None:
        self.fleet, self.own = fleet, own

    def send(self, to: bytes, data: bytes, vni: int = 0, identity: bytes = b"") -> bool:
        self.fleet.sent.append((self.own, to, data, vni))
        return True


def blank(kind: int) -> dict[str, Any]:
    zero = bytes(16)
    return {
        "kind": kind, "vni": VNI, "network_id": 0, "nonce": 0, "src": zero, "dst": zero, "droplet": zero,
        "mac": bytes(6), "tunnel": 0, "hops": 0,
    }  # fmt: skip


def as_notice(data: bytes) -> dict[str, Any]:
    """The fields of contracts/wire.md, "Control packets"."""
    kind, tunnel, hops, mac, number, nonce, src, dst, droplet = struct.unpack("!BBBx6s2xII16s16s16s", data)
    places = {"src": src, "dst": dst, "droplet": droplet}
    return blank(kind) | places | {"tunnel": tunnel, "hops": hops, "mac": mac, "network_id": number, "nonce": nonce}


@pytest.fixture
async def fleet() -> Fleet:
    made = Fleet()
    await made.begin()
    return made


async def test_the_question_goes_the_way_of_the_packet(fleet: Fleet) -> None:
    """Bouncer, divider, bouncer; the answer comes straight back, and is written for agents."""
    await fleet.notice(HERE, UNKNOWN)
    assert await fleet.settle() == [
        (HERE, FRONTS, ASK), (FRONTS, DIVIDER, ASK), (DIVIDER, BACKS, ASK), (BACKS, HERE, HINT),
    ]  # fmt: skip
    assert fleet.learned() == {S: THERE}
    ledger = fleet.at[HERE][0]
    found = ledger.maps.endpoints.get({"vni": VNI, "addr": to_mapped(S)})
    assert (found["flags"], found["network"], found["tunnel"], found["mac"]) == (8, 0xFFFFFFFF, 2, b"\2\0\0\0\2\x16")
    assert found["droplet"] == ledger.state.droplets[THERE].slot
    assert set(fleet.at[HERE][1].hosts()) == {THERE}


async def test_nobody_answers_for_an_address_that_nobody_has(fleet: Fleet) -> None:
    """And the question is not repeated at once."""
    await fleet.notice(HERE, UNKNOWN, dst=GHOST)
    assert len(await fleet.settle()) == 3
    await fleet.notice(HERE, UNKNOWN, dst=GHOST)
    assert await fleet.settle() == []
    assert fleet.learned() == {}


@pytest.mark.parametrize("kept", ["source", "destination"])
async def test_a_network_may_keep_others_at_its_divider(fleet: Fleet, kept: str) -> None:
    """Neither its own endpoints learn of others, nor others of them; within the network all is as ever."""
    number, bouncer = (FRONT, FRONTS) if kept == "source" else (BACK, BACKS)
    wanted = PutNetwork(replace(network(number, bouncer).network, through_divider=True))
    for ledger, _ in fleet.at.values():
        if (VNI, number) in ledger.state.networks:
            await ledger.apply([wanted])
    await fleet.notice(HERE, UNKNOWN)
    passed = await fleet.settle()
    assert HINT not in [kind for _, _, kind in passed]
    assert len(passed) == (0 if kept == "source" else 3)
    assert fleet.learned() == {}
    neighbour = bytes((10, 0, 1, 12))
    await fleet.at[FRONTS][0].apply([endpoint(neighbour, FRONT, THERE)])
    await fleet.notice(HERE, UNKNOWN, dst=neighbour)
    await fleet.settle()
    assert fleet.learned() == {neighbour: THERE}


async def test_only_answers_to_questions_are_believed(fleet: Fleet) -> None:
    """An answer that nobody asked for, one with another number, and one with a host that is no droplet."""
    mac, host = b"\2\0\0\0\2\x16", to_mapped(THERE)
    said = blank(HINT) | {"dst": to_mapped(S), "droplet": host, "mac": mac, "tunnel": 1}
    direct = fleet.at[HERE][1]
    await direct.handle([said])
    await fleet.notice(HERE, UNKNOWN)
    nonce = as_notice(fleet.sent.pop()[2])["nonce"]
    await direct.handle([said | {"nonce": nonce ^ 1}])
    await direct.handle([said | {"nonce": nonce, "droplet": to_mapped(bytes((172, 30, 9, 99)))}])
    await direct.handle([said | {"nonce": nonce, "droplet": to_mapped(HERE)}])
    await direct.handle([said | {"nonce": nonce, "tunnel": 9}])
    assert fleet.learned() == {}
    await direct.handle([said | {"nonce": nonce}])
    assert fleet.learned() == {S: THERE}


async def test_a_question_of_a_stranger_is_not_answered(fleet: Fleet) -> None:
    """Who asks must be a droplet: an answer goes to no other address."""
    asked = {"src": to_mapped(A), "dst": to_mapped(S), "droplet": to_mapped(bytes((8, 8, 8, 8)))}
    await fleet.at[BACKS][1].handle([blank(ASK) | asked])
    assert fleet.sent == []


async def test_a_question_does_not_circle(fleet: Fleet) -> None:
    """A divider and a bouncer that contradict one another pass it on a few times, no more."""
    await fleet.at[BACKS][0].apply([DeleteEndpoint(VNI, (S,)), DeleteNetwork(VNI, BACK), network(BACK, DIVIDER)])
    await fleet.notice(HERE, UNKNOWN)
    assert len(await fleet.settle()) < 8


async def test_a_denied_endpoint_is_asked_for_again(fleet: Fleet) -> None:
    """It is forgotten, and found where it is now."""
    await fleet.notice(HERE, UNKNOWN)
    await fleet.settle()
    await fleet.at[BACKS][0].apply([endpoint(S, BACK, DIVIDER)])
    fleet.at[HERE][1]._asked.clear()
    await fleet.notice(HERE, GONE)
    assert fleet.learned() == {}
    await fleet.settle()
    assert fleet.learned() == {S: DIVIDER}


async def test_an_answer_that_took_long_delays_no_later_question(fleet: Fleet) -> None:
    """However often it was asked before: what was learned may be wrong at once."""
    await fleet.notice(HERE, UNKNOWN)
    asked = fleet.at[HERE][1]._asked[VNI][S]
    asked.again, asked.pause_s = asked.again + 1000, 1000.0
    await fleet.settle()
    assert asked.again < asyncio.get_running_loop().time() + 1


async def test_the_planners_word_comes_first(fleet: Fleet) -> None:
    """A known endpoint is not asked for; one that was learned becomes the planner's, and is not learned again."""
    await fleet.notice(HERE, UNKNOWN)
    await fleet.settle()
    ledger = fleet.at[HERE][0]
    await ledger.apply([network(BACK, HERE), endpoint(S, BACK, THERE)])
    assert fleet.learned() == {}
    assert ledger.maps.endpoints.get({"vni": VNI, "addr": to_mapped(S)})["flags"] == 0
    await fleet.notice(HERE, UNKNOWN)
    assert fleet.sent == []


@pytest.mark.parametrize("what", ["network", "vpc", "droplet"])
async def test_what_was_learned_goes_with_what_it_refers_to(fleet: Fleet, what: str) -> None:
    """Nobody has to delete it first, and nothing of it stays in the map."""
    await fleet.notice(HERE, UNKNOWN)
    await fleet.settle()
    ledger = fleet.at[HERE][0]
    if what == "network":
        await ledger.apply([network(BACK, BACKS)])
    elif what == "vpc":
        await ledger.apply([DeleteEndpoint(VNI, (A,)), DeleteNetwork(VNI, FRONT), DeleteVpc(VNI)])
    else:
        await ledger.apply([DeleteEndpoint(VNI, (A,)), DeleteDroplet(THERE)])
    assert fleet.learned() == {}
    assert ledger.maps.endpoints.get({"vni": VNI, "addr": to_mapped(S)}) is None


async def test_what_is_not_used_for_long_is_forgotten(fleet: Fleet) -> None:
    """As long as agents stamp the entry it stays."""
    await fleet.notice(HERE, UNKNOWN)
    await fleet.settle()
    ledger, direct = fleet.at[HERE]
    key = {"vni": VNI, "addr": to_mapped(S)}
    for use in range(40):
        ledger.maps.endpoints.put(key, ledger.maps.endpoints.get(key) | {"used": use})
        await direct.sweep()
    assert fleet.learned() == {S: THERE}
    for _ in range(21):
        await direct.sweep()
    assert fleet.learned() == {}


async def test_a_new_daemon_takes_over_what_is_whole(fleet: Fleet) -> None:
    """An entry that was denied, and one that leads to nobody, are dropped; the others stay, stamps and all."""
    ledger = fleet.at[HERE][0]
    others = [Learned(VNI, bytes((10, 0, 2, n)), 0, b"\2" * 6, THERE, Tunnel.GENEVE) for n in (30, 31, 32)]
    await ledger.learn(others)
    table = ledger.maps.endpoints
    keys = [{"vni": VNI, "addr": to_mapped(one.address)} for one in others]
    table.put(keys[0], table.get(keys[0]) | {"used": 77})
    table.put(keys[1], table.get(keys[1]) | {"flags": 12})
    table.put(keys[2], table.get(keys[2]) | {"droplet": 99})
    again = Ledger(ledger.maps, HERE, ledger.state.limits, list)
    again.reread()
    assert list(again.state.learned.values()) == others[:1]
    assert table.get(keys[0])["used"] == 77
    assert [table.get(key) for key in keys[1:]] == [None, None]


async def test_one_tenant_cannot_make_the_daemon_ask_without_end(fleet: Fleet) -> None:
    """So many questions in a second, and so many remembered."""
    for n in range(4 * MOST_ASKED):
        await fleet.notice(HERE, UNKNOWN, dst=bytes((10, 3, n >> 8, n & 255)))
    assert ASKS_PER_S <= len(fleet.sent) < 4 * MOST_ASKED
    assert len(fleet.at[HERE][1]._asked[VNI]) <= MOST_ASKED


async def told(fleet: Fleet, origin: bytes = THERE, src: bytes = S) -> None:
    """What came over hops for a says where it set out."""
    said = {"src": to_mapped(src), "dst": to_mapped(A), "droplet": to_mapped(origin)}
    await fleet.at[HERE][1].handle([blank(ORIGIN) | said])


async def test_the_way_back_is_learned_from_where_a_packet_set_out(fleet: Fleet) -> None:
    """Nobody is asked; what only the bouncer knows follows when the entry is in use."""
    await told(fleet)
    assert fleet.sent == []
    assert fleet.learned() == {S: THERE}
    ledger, direct = fleet.at[HERE]
    key = {"vni": VNI, "addr": to_mapped(S)}
    found = ledger.maps.endpoints.get(key)
    assert (found["flags"], found["network"], found["tunnel"]) == (8, 0xFFFFFFFF, 1)
    assert found["mac"] == bytes.fromhex("024d5a000005")
    ledger.maps.endpoints.put(key, found | {"used": 5})
    await direct.confirm(asyncio.get_running_loop().time() + 3)
    await fleet.settle()
    found = ledger.maps.endpoints.get(key)
    assert (found["tunnel"], found["mac"]) == (2, b"\2\0\0\0\2\x16")


async def test_one_tenant_cannot_make_the_daemon_learn_without_end(fleet: Fleet) -> None:
    """Each path is written under the lock that all changes wait for: so many in a second, as of questions."""
    ledger, direct = fleet.at[HERE]
    taken = 0
    learn = ledger.learn

    async def counting(found: Sequence[Learned], forgotten: Iterable[tuple[int, bytes]] = ()) -> list[Learned]:
        nonlocal taken
        taken += len(found)
        return await learn(found, forgotten)

    ledger.learn = counting  # type: ignore[method-assign]
    said = blank(ORIGIN) | {"dst": to_mapped(A), "droplet": to_mapped(THERE)}
    addresses = [bytes((10, 2, n >> 8, n & 255)) for n in range(10 * ASKS_PER_S)]
    await direct.handle([said | {"src": to_mapped(address)} for address in addresses])
    assert ASKS_PER_S <= taken < 5 * ASKS_PER_S


@pytest.mark.parametrize("origin", [bytes((172, 30, 9, 99)), HERE])
async def test_who_is_no_other_droplet_hosts_nothing(fleet: Fleet, origin: bytes) -> None:
    """A stranger, and this droplet itself."""
    await told(fleet, origin)
    assert (fleet.learned(), fleet.sent) == ({}, [])


async def test_the_planners_word_counts_more_than_an_origin(fleet: Fleet) -> None:
    """What it put is not changed, and nobody is asked."""
    await fleet.at[HERE][0].apply([network(BACK, HERE), endpoint(S, BACK, THERE)])
    await told(fleet, DIVIDER)
    assert (fleet.learned(), fleet.sent) == ({}, [])


@pytest.mark.parametrize("why", ["contradicted", "without a daemon", "kept at a divider"])
async def test_what_an_origin_does_not_settle_is_asked(fleet: Fleet, why: str) -> None:
    """The bouncer has the word; a network that keeps others at its divider does not even ask for them."""
    neighbour = bytes((10, 0, 1, 12))
    ledger, direct = fleet.at[HERE]
    if why == "contradicted":
        await fleet.notice(HERE, UNKNOWN)
        await fleet.settle()
        direct._asked.clear()
        await told(fleet, DIVIDER)
    elif why == "without a daemon":
        ledger.state.droplets[THERE] = replace(ledger.state.droplets[THERE], mtu=0)
        await told(fleet)
    else:
        await ledger.apply([PutNetwork(replace(network(FRONT, FRONTS).network, through_divider=True))])
        await told(fleet)
        assert fleet.sent == []
        await fleet.at[FRONTS][0].apply([endpoint(neighbour, FRONT, THERE)])
        await told(fleet, DIVIDER, neighbour)
    assert await fleet.settle()
    assert fleet.learned() == {neighbour if why == "kept at a divider" else S: THERE}


async def test_a_network_inside_of_one_that_keeps_others_is_another(fleet: Fleet) -> None:
    """The asker does not know it; the answer says that the endpoint is of it, and is not taken."""
    inside = bytes((10, 0, 1, 200))
    prefix = Prefix(bytes((10, 0, 1, 192)), 26, bytes((10, 0, 1, 193)))
    hidden = PutNetwork(Network(VNI, 3, (prefix,), (BACKS,)))
    await fleet.at[HERE][0].apply([PutNetwork(replace(network(FRONT, FRONTS).network, through_divider=True))])
    for own in (FRONTS, DIVIDER, BACKS):
        await fleet.at[own][0].apply([hidden])
    await fleet.at[BACKS][0].apply([endpoint(inside, 3, THERE)])
    await fleet.notice(HERE, UNKNOWN, dst=inside)
    assert (BACKS, HERE, HINT) in await fleet.settle()
    assert fleet.learned() == {}


async def test_what_is_in_use_is_asked_for_again(fleet: Fleet) -> None:
    """Its host serves on, and another one is to serve now: within seconds that one does. What is idle, nobody asks for;
    nothing is written where the answer is the same."""
    await fleet.notice(HERE, UNKNOWN)
    await fleet.settle()
    ledger, direct = fleet.at[HERE]
    key, now = {"vni": VNI, "addr": to_mapped(S)}, asyncio.get_running_loop().time()
    await direct.confirm(now + 3)
    assert fleet.sent == [], "nobody has used it"
    direct._asked.clear()
    ledger.maps.endpoints.put(key, ledger.maps.endpoints.get(key) | {"used": 5})
    await direct.confirm(now + 20)
    assert HINT in [kind for _, _, kind in await fleet.settle()]
    assert ledger.maps.endpoints.get(key)["used"] == 5, "not written again"
    direct._asked.clear()
    await fleet.at[BACKS][0].apply([endpoint(S, BACK, DIVIDER)])
    await direct.confirm(now + 40)
    assert fleet.sent == [], "not used since"
    ledger.maps.endpoints.put(key, ledger.maps.endpoints.get(key) | {"used": 6})
    await direct.confirm(now + 60)
    await fleet.settle()
    assert fleet.learned() == {S: DIVIDER}


def test_confirmations_are_paced_and_fair() -> None:
    """So many at a time, of each VPC alike, and none that is not due."""
    waiting = Confirming()
    for number in range(1000):
        waiting.learned((1, number.to_bytes(4, "big")), 0.0)
    for vni in (2, 3):
        waiting.learned((vni, A), 0.0)
    assert waiting.due(1.0) == []
    found = waiting.due(3.0)
    assert len(found) <= 64
    assert {(2, A), (3, A)} < set(found)
    waiting.forget((1, (999).to_bytes(4, "big")))
    seen = set(found)
    for _ in range(50):
        seen |= set(waiting.due(3.0))
    assert len(seen) == 1001


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(0, 9)), max_size=60))
def test_shares_are_fair(uses: list[tuple[int, int]]) -> None:
    """Never more than the limit; nobody loses an entry to another who holds at least as much."""
    shares: Shares[int] = Shares(9)
    for vni, key in uses:
        before = [owner for owner, _ in shares.held()]
        gone = shares.use(vni, key)
        assert (vni, key) in shares.held()
        assert len(shares) == len(shares.held()) <= 9
        for victim, _ in gone:
            assert victim == vni or before.count(victim) > before.count(vni)
            assert len(before) == 9


def test_the_least_recently_used_goes_first() -> None:
    """Use counts, not age."""
    shares: Shares[str] = Shares(2)
    shares.use(1, "old")
    shares.use(1, "new")
    shares.use(1, "old")
    assert shares.use(1, "third") == [(1, "new")]


async def test_watchers_hear_of_paths(fleet: Fleet) -> None:
    """When one is learned and when it is given up; of what was never learned, nothing."""
    await fleet.notice(HERE, UNKNOWN)
    await fleet.settle()
    assert fleet.told == [(VNI, S, THERE)]
    await fleet.notice(HERE, GONE)
    assert fleet.told[1:] == [(VNI, S, b"")]
    await fleet.notice(HERE, GONE, dst=GHOST)
    assert len(fleet.told) == 2
