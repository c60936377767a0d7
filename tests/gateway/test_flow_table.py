# SPDX-License-Identifier: Apache-2.0
"""The user-space side of the flow table, over maps that no data plane uses."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from ipaddress import ip_address

import pytest

from mizar.gateway import entries, rules
from mizar.gateway.entries import ANSWERED, Connection
from mizar.gateway.flow_table import FlowTable
from mizar.gateway.judge import allows
from mizar.gateway.sweep import Sweep
from mizar.kernel.gateway_keeper import Keeper
from mizar.kernel.gateway_tables import created, ticks
from mizar.kernel.layout import constant
from mizar.model.errors import ConflictError, ExhaustedError
from mizar.pipeline.interpreter.checksum import updated
from mizar.pipeline.interpreter.connection import Flow
from mizar.pipeline.nat import Forward, Masquerade, NatRules, Quota, Static
from mizar.pipeline.ranges import Ranges

pytestmark = pytest.mark.root

BLUE, GREEN, OUTSIDE = 0x01000005, 0x01000006, 0x02FF0064
INNER4, INNER6 = int(ip_address("10.0.0.5")), int(ip_address("fd00:10::5"))
OUTER4, OUTER6 = int(ip_address("203.0.113.10")), int(ip_address("2001:db8::10"))
SERVER4, SERVER6 = int(ip_address("198.51.100.9")), int(ip_address("2001:db8:1::9"))


def nat(quota: int = 100) -> NatRules:
    return NatRules(
        masquerade=(
            Masquerade(inside=Ranges(32, ((BLUE, GREEN),)), outside=OUTSIDE, addresses=(ip_address(OUTER4),)),
            Masquerade(inside=Ranges(32, ((BLUE, GREEN),)), outside=OUTSIDE, addresses=(ip_address(OUTER6),)),
        ),
        static=(
            Static(
                inside=BLUE,
                inside_address=ip_address("10.0.0.9"),
                outside=OUTSIDE,
                outside_address=ip_address("203.0.113.9"),
            ),
        ),
        forward=(
            Forward(
                outside=OUTSIDE,
                outside_address=ip_address("203.0.113.11"),
                outside_ports=(8080, 8090),
                inside=GREEN,
                inside_address=ip_address(INNER4),
                inside_ports=(80, 90),
            ),
        ),
        quotas=(Quota(inside=Ranges.of(32, [BLUE]), connections=quota),),
    )


def out4(port: int = 4000, protocol: str = "tcp", meta: int = BLUE) -> tuple[Flow, Flow]:
    """A connection of a tenant over IPv4, and what it becomes."""
    first = Flow(meta, 4, protocol, INNER4, SERVER4, port, port if protocol == "icmp4" else 80)
    there = port + 5000 if protocol == "icmp4" else 80
    return first, replace(first, meta=OUTSIDE, source=OUTER4, source_port=port + 5000, destination_port=there)


def out6(port: int = 4000, protocol: str = "udp") -> tuple[Flow, Flow]:
    first = Flow(GREEN, 6, protocol, INNER6, SERVER6, port, 53)
    return first, replace(first, meta=OUTSIDE, source=OUTER6)


@dataclass
class Clock:
    now: int = 1000

    def __call__(self) -> int:
        return self.now


@dataclass(frozen=True)
class Set:
    table: FlowTable
    clock: Clock
    told: list[Connection]


@pytest.fixture
def flows() -> Iterator[Set]:
    with created({"lines4": 4, "lines6": 4}) as tables, Keeper(tables.maps) as keeper:
        rules.write(tables, nat())
        told: list[Connection] = []
        clock = Clock()
        yield Set(FlowTable(tables, keeper, clock, told.append), clock, told)


def in_use(flows: Set, meta: int = BLUE) -> int:
    return int((flows.table.tables.nat_tenants.get(meta) or {})["in_use"])


@pytest.mark.parametrize(("original", "becomes"), [out4(), out4(protocol="icmp4"), out6()])
def test_what_is_installed_is_found_from_both_sides(flows: Set, original: Flow, becomes: Flow) -> None:
    """As one connection, in the tenant's count; a second time it is there already; ended it is gone, both ways."""
    assert flows.table.install(original, becomes, nat(), ANSWERED)
    assert not flows.table.install(original, becomes, nat(), ANSWERED)
    found = flows.table.find(original)
    assert found is not None
    assert (found.original, found.becomes, found.tenant, found.state) == (
        original,
        becomes,
        original.meta,
        "established",
    )
    assert flows.table.find(becomes.reversed()) == found
    assert list(flows.table.listed()) == [found]
    assert in_use(flows, original.meta) == 1
    assert flows.table.end(found)
    assert not flows.table.end(found)
    assert flows.told == [found]
    assert (flows.table.find(original), flows.table.find(becomes.reversed())) == (None, None)
    assert in_use(flows, original.meta) == 0


def test_an_end_that_is_taken_leaves_nothing_behind(flows: Set) -> None:
    """Two tenants' connections cannot have one outer end to one destination."""
    original, becomes = out4()
    flows.table.install(original, becomes, nat())
    other, _ = out4(meta=GREEN)
    with pytest.raises(ConflictError):
        flows.table.install(other, becomes, nat())
    assert flows.table.find(other) is None
    assert in_use(flows, GREEN) == 0


def test_a_quota_holds(flows: Set) -> None:
    """What exceeds it is refused and counted, and a connection that ends makes room."""
    rules.write(flows.table.tables, nat(quota=1), keeper=flows.table.keeper)
    flows.table.install(*out4(1), nat())
    with pytest.raises(ExhaustedError):
        flows.table.install(*out4(9), nat())
    assert (flows.table.tables.nat_tenants.get(BLUE) or {})["refused"] == 1
    flows.table.end(next(flows.table.listed()))
    assert flows.table.install(*out4(9), nat())


def test_a_share_is_the_quota_of_who_has_none(flows: Set) -> None:
    """A tenant that user space makes, too; its own quota is its own."""
    rules.write(flows.table.tables, nat(quota=2), keeper=flows.table.keeper, quota=1)
    for number in (1, 9):
        flows.table.install(*out4(number), nat())
    flows.table.install(*out4(17, meta=GREEN), nat())
    with pytest.raises(ExhaustedError):
        flows.table.install(*out4(25, meta=GREEN), nat())


def test_it_expires_by_state(flows: Set) -> None:
    """A TCP connection that nobody answered after four minutes, an established one after two hours, UDP after five
    minutes; a walk looks at as many as it may and goes on where it stood."""
    flows.table.install(*out4(1), nat())
    flows.table.install(*out4(3), nat(), ANSWERED)
    flows.table.install(*out6(), nat(), ANSWERED)
    flows.clock.now += ticks(241)
    sweep = Sweep(flows.table)
    assert sum(sweep.run(0) for _ in range(8)) == 1
    assert {one.original.source_port for one in flows.table.listed()} == {3, 4000}
    flows.clock.now += ticks(60)
    Sweep(flows.table).run()
    assert [one.original.protocol for one in flows.table.listed()] == ["tcp"]
    flows.clock.now += ticks(7440)
    assert list(flows.table.listed()) == []
    assert Sweep(flows.table).run() == 1
    assert len(flows.told) == 3


@pytest.mark.parametrize("anew", [7000, 7001])
@pytest.mark.parametrize("original", [out4()[0], out6()[0]])
def test_what_began_anew_is_not_ended_for_what_it_was(flows: Set, original: Flow, anew: int) -> None:
    """A packet of the same flow may come between the look at an outlived connection and its end: what it has begun
    stays, with both directions, whether it has the same port outside or another."""
    old, new = (
        replace(replace(original, meta=OUTSIDE, source=OUTER4 if original.version == 4 else OUTER6), source_port=port)
        for port in (7000, anew)
    )
    flows.table.install(original, old, nat())
    outlived = flows.table.find(original)
    value = flows.table._table(original).get(entries.key(original))
    assert outlived is not None
    flows.clock.now += ticks(10_000)
    assert flows.table.end(outlived)
    flows.table.install(original, new, nat())
    assert not flows.table.end(outlived, value)
    assert flows.table.end(outlived) == (new == old)  # an operator's order has no look before it
    assert (flows.table.find(original) is None) == (flows.table.find(new.reversed()) is None) == (new == old)
    assert in_use(flows, original.meta) == (new != old)


def test_a_changed_configuration_ends_what_it_allows_no_more(flows: Set) -> None:
    """Another pool ends those of the old one; a new static rule ends what was masqueraded for its address."""
    flows.table.install(*out4(1), nat())
    flows.table.install(*out6(), nat())
    pinned = Static(
        inside=GREEN, inside_address=ip_address(INNER6), outside=OUTSIDE, outside_address=ip_address("2001:db8::9")
    )
    assert flows.table.judge(replace(nat(), forward=())) == 0
    assert flows.table.judge(replace(nat(), static=(pinned,))) == 1
    assert flows.table.judge(NatRules(masquerade=nat().masquerade[1:])) == 1
    assert list(flows.table.listed()) == []


def test_who_is_allowed() -> None:
    """Static, forward and hairpin connections, and whose they are outside."""
    fixed = Flow(BLUE, 4, "udp", int(ip_address("10.0.0.9")), SERVER4, 7, 9)
    assert allows(nat(), fixed, replace(fixed, meta=OUTSIDE, source=int(ip_address("203.0.113.9"))))
    assert not allows(nat(), fixed, replace(fixed, meta=OUTSIDE, source=OUTER4, source_port=2000))
    asked = Flow(OUTSIDE, 4, "tcp", SERVER4, int(ip_address("203.0.113.11")), 4000, 8081)
    inner = replace(asked, meta=GREEN, destination=INNER4, destination_port=81)
    assert allows(nat(), asked, inner)
    assert not allows(nat(), asked, replace(inner, destination_port=82))
    hairpin = Flow(BLUE, 4, "tcp", INNER4, int(ip_address("203.0.113.11")), 4000, 8080)
    arrived = replace(hairpin, meta=GREEN, source=OUTER4, source_port=4000, destination=INNER4, destination_port=80)
    assert allows(nat(), hairpin, arrived)
    assert not allows(nat(), out4()[0], out4()[0])


def test_rules_are_written_as_the_contract_says(flows: Set) -> None:
    """Pools keep their slots when rules are written again; what is described no more goes; quotas come and go."""
    tables = flows.table.tables
    before = list(tables.nat_sources.items())
    assert rules.write(tables, nat()) == 2
    assert list(tables.nat_sources.items()) == before
    assert (tables.nat_tenants.get(BLUE) or {})["quota"] == 100
    rules.write(tables, NatRules(masquerade=nat().masquerade[:1]))
    assert {value["pool"] for _, value in tables.nat_sources.items()} == {1}
    assert list(tables.nat_ends.items()) == []
    assert (tables.nat_tenants.get(BLUE) or {})["quota"] == constant("QUOTA_NONE")
    assert (tables.nat_settings.get(0) or {})["tcp"] == ticks(7440)


@pytest.mark.parametrize(("original", "becomes"), [out4(), out6()])
def test_sums_are_what_an_incremental_checksum_adds(original: Flow, becomes: Flow) -> None:
    """RFC 1624: a checksum over the old words, changed by the sum, is one over the new words."""
    (_, value), _ = entries.pair(original, becomes, tenant=0, stamp=0, flags=0, rules=0)
    old, new = entries._addresses(original), entries._addresses(becomes)
    changed = updated(0x1234, old, new)
    folded = (~0x1234 & 0xFFFF) + int.from_bytes(value["address_sum"].to_bytes(2, "little"), "big")
    while folded >> 16:
        folded = (folded & 0xFFFF) + (folded >> 16)
    assert ~folded & 0xFFFF == changed


def test_flags_are_those_of_the_contract() -> None:
    names = ("ORIGINAL", "ANSWERED", "FIN", "PEER_FIN", "RESET", "PEER_RESET", "FIXED", "MAPPED", "INSTALLED", "GONE")
    assert all(getattr(entries, name) == constant(f"CONNECTION_{name}") for name in names)
