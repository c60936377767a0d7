# SPDX-License-Identifier: Apache-2.0
"""An audit over maps in memory: after any changes it finds nothing; whatever happens to an entry of any table is found
at its place, and mending brings the very bytes back."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from mizar.kernel.tables import Tables
from mizar.model.errors import MizarError
from mizar.model.policy_rows import GROUP, PEER, VERDICT
from mizar.transit.audit import ARRAYS, HASHES, TRIES, Audit, wanted_entries
from mizar.transit.findings import Finding, Kind
from mizar.transit.ledger import Ledger
from mizar.transit.limit_values import UNLIMITED, Qos, Rate
from mizar.transit.policy_audit import RowsAudit
from mizar.transit.policy_values import TABLES, Binding, NetworkAcl, PolicySet, PutNetworkAcl, PutPolicySet
from mizar.transit.service_values import Listener, Member, MemberState, PutService, Service
from mizar.transit.values import (
    Change,
    Droplet,
    Endpoint,
    Learned,
    Network,
    Peering,
    Proxy,
    PutDroplet,
    PutEndpoint,
    PutGroupSet,
    PutNetwork,
    PutPeering,
    PutProxy,
    PutVpc,
    Route,
    RouteAction,
    Tunnel,
    Vpc,
    Wanted,
)
from mizar.transit.workloads import InNamespace, NamespaceBy
from tests.unit.transit.batches import IDENTITY, LIMITS, OWN, SHARED, changes, prefix4, prefix6
from tests.unit.transit.fakes import FakeMaps

FAR = bytes((172, 30, 9, 2))
STAMPS = ("used", "heard", "answered")
"""Fields of entries that the data plane writes."""


PUBLIC = bytes((203, 0, 113, 10))
PEERS = PEER.pack(bytes(10) + b"\xff\xff\n\0\0\0", 104, 5) + PEER.pack(b"\xfd" + bytes(15), 8, 6)
GROUPS = GROUP.pack(7, 6)
VERDICTS = VERDICT.pack(5, 6, 80, 24, 0, 1, 65536) + VERDICT.pack(6, 0, 0, 0, 1, 2, 65537)


def address(network: int, host: int) -> bytes:
    return bytes((10, 0, network, host))


def end(number: int, host: bytes = FAR, vni: int = 1) -> Endpoint:
    return Endpoint(vni, 1, (address(1, number),), bytes((2, 0, 0, 0, 1, number)), host, Tunnel.GENEVE)


def whole() -> list[Change]:
    """Something in every table that changes alone can fill."""
    routed = Network(1, 1, (prefix4(1), prefix6(1)), (OWN,), routes=(Route(bytes(4), 0, RouteAction.SUBSTRATE),))
    members = tuple(
        Member((address(1, n),), bytes((2, 0, 0, 0, 1, n)), FAR, Tunnel.GENEVE, 1, MemberState.HEALTHY)
        for n in (21, 22)
    )
    source = Endpoint(2, 1, (address(1, 40),), bytes((2, 0, 0, 0, 2, 40)), OWN, Tunnel.GENEVE)
    return [
        PutDroplet(Droplet(OWN)), PutDroplet(Droplet(FAR, second=bytes(15) + b"\2")),
        PutVpc(Vpc(1, (OWN, FAR))), PutVpc(Vpc(2, ())), PutVpc(Vpc(SHARED, (FAR,), wire_vni=1, identity=IDENTITY)),
        PutPolicySet(PolicySet(1, 9, PEERS, GROUPS, VERDICTS)),
        PutNetworkAcl(NetworkAcl(1, 1, ((address(1, 0), 24),), ingress=9)),
        PutNetwork(routed), PutNetwork(Network(2, 1, (prefix4(1),), (FAR,))), PutGroupSet(1, 7, (3, 9)),
        PutPeering(Peering(1, 2, ((address(9, 0), 24),))), PutEndpoint(end(21)), PutEndpoint(end(22)),
        PutProxy(Proxy(end(41, OWN), source, (address(1, 42),))),
        PutService(Service(1, 1, (address(1, 31),), members, colocated=True)),
        PutService(Service(1, 1, (address(1, 33),), members, listeners=(Listener(6, 80, 8080),), public=(PUBLIC,),
                           attracted=True, inside=((address(0, 0), 16),))),
    ]  # fmt: skip


QOS = Qos(
    egress=(Rate(10**6, 0, 10**5), Rate(0, 100, 0, 10), UNLIMITED),
    ingress=(UNLIMITED, UNLIMITED, Rate(10**7, 1000, 10**6, 100)),
    guarantee=Rate(10**5, 0, 10**5),
    dscp=46,
)


class Bench:
    """A ledger over maps in memory."""

    def __init__(self) -> None:
        self.maps = FakeMaps()
        self.ledger = Ledger(self.maps, OWN, LIMITS, list)
        self.audit = Audit(self.ledger, (RowsAudit(self.ledger),))

    async def fill(self) -> None:
        await self.ledger.apply(whole())
        workload = InNamespace(NamespaceBy.NAME, "here", "eth0")
        options, policy = bytes.fromhex("01020100aabbccdd"), Binding(egress=9)
        wanted = Wanted("uid-1", end(11, OWN), workload, 0, options=options, group_set=7, policy=policy, qos=QOS)
        self.ledger.put_local(wanted, "veth1", 5)
        member = Member(end(11).addresses, end(11).mac, OWN, Tunnel.GENEVE, 1, MemberState.HEALTHY)
        await self.ledger.apply([PutService(Service(1, 1, (address(1, 32),), (member,), colocated=True))])
        await self.ledger.learn([Learned(1, address(5, 5), 0, b"\2\0\0\0\5\5", FAR, Tunnel.VXLAN)])
        for op in wanted_entries(self.ledger.state).values():
            if op.table == "substrate_endpoints":
                self.maps.substrate_endpoints.put(op.key, op.value)

    async def found(self, *, repair: bool = False) -> list[Finding]:
        return (await self.audit.run(repair=repair)).findings


async def test_whatever_happens_to_an_entry_is_found_and_mended() -> None:
    """Each entry of each table: gone, altered in one field, and one more beside it that nobody wants."""
    bench = Bench()
    await bench.fill()
    assert await bench.found() == []
    before, tables = bench.maps.contents(), set()
    for table in (*HASHES, *TRIES, *ARRAYS, *TABLES):
        for raw_key, raw in list(before[table].items()):
            entries, fake = bench.maps.tables[table].entries, bench.maps.tables[table]
            tables.add(table)
            value = fake.value.unpack(raw)
            del entries[raw_key]
            await check(bench, table, Kind.MISSING)
            for number in range(len(raw)):
                entries[raw_key] = raw[:number] + bytes([raw[number] ^ 0x40]) + raw[number + 1 :]
                if number % (7 if len(raw) <= 300 else 997) == 0 and altered(
                    value, fake.value.unpack(entries[raw_key])
                ):
                    await check(bench, table, Kind.ALTERED)
            entries[raw_key] = raw
            other = bytes([raw_key[0] ^ 3]) + raw_key[1:]
            if other not in entries:
                entries[other] = raw
                await check(bench, table, Kind.FOREIGN)
            assert bench.maps.contents() == before
    assert tables == {*HASHES, *TRIES, *ARRAYS, *TABLES}


def altered(value: Any, now: Any) -> bool:
    """Beyond what the data plane itself writes."""
    if not isinstance(value, dict):
        return bool(value != now)
    return any(part != now[name] for name, part in value.items() if name not in STAMPS)


async def check(bench: Bench, table: str, kind: Kind) -> None:
    (found,) = await bench.found(repair=True)
    assert (found.table, found.kind) == (table, kind), found
    assert found.repair, found
    assert bool(found.wanted) == (kind is not Kind.FOREIGN)
    assert bool(found.found) == (kind is not Kind.MISSING)


async def test_marks_of_the_data_plane_are_no_faults() -> None:
    """That a learned endpoint has gone, when it was used, when a droplet was heard."""
    bench = Bench()
    await bench.fill()
    for key, value in list(bench.maps.endpoints.items()):
        gone = 4 if value["flags"] & 8 else 0
        bench.maps.endpoints.put(key, {**value, "used": 77, "flags": value["flags"] | gone})
    for key, sender in list(bench.maps.droplet_slots.items()):
        bench.maps.droplet_slots.put(key, {**sender, "heard": 9, "answered": 9})
    assert await bench.found() == []


@settings(max_examples=60, deadline=None)
@given(st.lists(changes, max_size=25))
def test_after_any_changes_nothing_is_found(sequence: list[Change]) -> None:
    """Refused ones included: what the state means is what the maps hold."""

    async def go() -> None:
        bench = Bench()
        for change in sequence:
            with contextlib.suppress(MizarError):  # the state does not allow it
                await bench.ledger.apply([change])
        found = [one for one in await bench.found() if one.table != "substrate_endpoints"]
        assert found == []

    asyncio.run(go())


NOT_LOOKED_AT = {
    "substrate_link", "droplet_switches", "event_limits", "trace_marks",  # made right again by who writes them
    "proxy_flows", "proxy_usage", "proxy_ended", "flows", "flow_budgets", "flow_counts",  # the data plane's own
    "policy_peers", "policy_groups", "policy_verdicts",  # as bytes, by RowsAudit
    "policy_flows", "policy_budgets", "policy_counts", "limiter_states", "shaper",
    "endpoint_counters", "vpc_counters", "public_counters", "drop_counters",
}  # fmt: skip


def test_every_table_is_looked_at_or_has_a_reason_not_to_be() -> None:
    assert {*HASHES, *TRIES, *ARRAYS} | NOT_LOOKED_AT == set(Tables.__dataclass_fields__)
