# SPDX-License-Identifier: Apache-2.0
"""What replication does to the maps of the gateway that follows; no data plane uses them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from ipaddress import ip_address

import pytest

from mizar.gateway import rules
from mizar.gateway.entries import ANSWERED, MAPPED
from mizar.gateway.flow_table import FlowTable
from mizar.gateway.replication import frames
from mizar.gateway.replication.shared import SharedConnections
from mizar.kernel.gateway_keeper import Keeper
from mizar.kernel.gateway_tables import created
from mizar.kernel.layout import constant
from mizar.model.errors import InvalidError
from mizar.pipeline.interpreter.connection import Flow
from mizar.pipeline.nat import Filtering, Mapping, Masquerade, NatRules, Quota
from mizar.pipeline.ranges import Ranges
from tests.gateway.test_flow_table import BLUE, GREEN, OUTSIDE, nat, out4, out6

pytestmark = pytest.mark.root


@dataclass
class Gateway:
    """A gateway's tables, with a clock of its own."""

    flows: FlowTable
    shared: SharedConnections
    now: int = 1000

    def follow(self, other: Gateway) -> int:
        """Takes all that another has; returns how many."""
        moved = self.now - other.now
        return sum(
            self.shared.adopt(version, [frames.restamped(version, pair, moved) for pair in other.shared.walk(version)])
            for version in frames.VERSIONS
        )

    def flows_there(self) -> set[Flow]:
        return {found.original for found in self.flows.listed()}


@pytest.fixture
def gateways() -> Iterator[tuple[Gateway, Gateway]]:
    """Two with the same rules."""
    with ExitStack() as stack:
        yield make(stack, nat()), make(stack, nat())


def make(stack: ExitStack, wanted: NatRules) -> Gateway:
    tables = stack.enter_context(created({"lines4": 4, "lines6": 4}))
    keeper = stack.enter_context(Keeper(tables.maps))
    flows = FlowTable(tables, keeper)
    rules.write(tables, wanted)
    made = Gateway(flows, SharedConnections(flows, wanted))
    flows.clock = lambda: made.now
    return made


def in_use(gateway: Gateway, meta: int) -> int:
    return int((gateway.flows.tables.nat_tenants.get(meta) or {"in_use": 0})["in_use"])


def test_both_families_are_taken_with_their_age_and_count(gateways: tuple[Gateway, Gateway]) -> None:
    one, other = gateways
    one.flows.install(*out4(), nat(), ANSWERED)
    one.flows.install(*out6(), nat(), ANSWERED)
    one.now += 30
    other.now = 5
    assert other.follow(one) == 2
    assert other.flows_there() == {out4()[0], out6()[0]}
    assert {found.stamps for found in other.flows.listed()} == {((5 - 30) % 2**32,) * 2}
    assert in_use(other, BLUE) == in_use(other, GREEN) == 1
    found = other.flows.find(out4()[1].reversed())
    assert found is not None
    assert found.becomes == out4()[1]
    assert found.state == "established"
    assert other.follow(one) == 0


def test_a_later_packet_there_counts_here_and_an_earlier_one_does_not(gateways: tuple[Gateway, Gateway]) -> None:
    one, other = gateways
    one.flows.install(*out4(), nat())
    other.follow(one)
    one.now = other.now = 1100
    one.flows.end(next(one.flows.listed()))
    one.flows.install(*out4(), nat(), ANSWERED)
    assert other.follow(one) == 1
    assert next(other.flows.listed()).stamps == (1100, 1100)
    one.now = 1200
    other.now = 1300  # what the other has is older by its own clock
    assert one.follow(other) == 0
    assert in_use(other, BLUE) == 1


def test_what_the_rules_here_do_not_allow_is_passed_over(gateways: tuple[Gateway, Gateway]) -> None:
    one, other = gateways
    one.flows.install(*out4(), nat())
    other.shared.nat = NatRules()
    assert other.follow(one) == 0
    assert other.flows_there() == set()


def test_a_port_that_both_gave_away_stays_with_whoever_has_it(gateways: tuple[Gateway, Gateway]) -> None:
    one, other = gateways
    original, becomes = out4(4000)
    rival = replace(original, source_port=4001)
    one.flows.install(original, becomes, nat())
    other.flows.install(rival, becomes, nat())
    assert other.follow(one) == 0
    assert other.flows_there() == {rival}
    assert in_use(other, BLUE) == 1


def test_a_quota_holds_for_what_another_tells_too() -> None:
    tight = replace(nat(), quotas=(Quota(inside=Ranges.of(32, [BLUE]), connections=3),))
    with ExitStack() as stack:
        one, other = make(stack, nat()), make(stack, tight)
        for port in range(5000, 5010):
            one.flows.install(*out4(port), nat())
        assert other.follow(one) == 3
        assert in_use(other, BLUE) == 3


@pytest.mark.parametrize("filtering", [Filtering.ADDRESS, Filtering.ENDPOINT_INDEPENDENT])
def test_an_inner_end_keeps_its_outer_end(filtering: Filtering) -> None:
    """The endpoint-independent mapping comes with its connection."""
    rule = replace(nat().masquerade[0], mapping=Mapping.ENDPOINT_INDEPENDENT, filtering=filtering)
    wanted = NatRules(masquerade=(only_address(rule),))
    with ExitStack() as stack:
        one, other = make(stack, wanted), make(stack, wanted)
        one.flows.install(*out4(protocol="udp"), wanted, MAPPED)
        assert other.follow(one) == 1
        kinds = sorted(key["kind"] for key, _ in other.flows.tables.nat_mappings.items())
        names = ["MAPPING_INNER", "MAPPING_OUTER", *(["MAPPING_CONTACT"] if filtering is Filtering.ADDRESS else [])]
        assert kinds == sorted(constant(name) for name in names)
        values = {key["kind"]: value for key, value in other.flows.tables.nat_mappings.items()}
        assert values[constant("MAPPING_INNER")]["meta"] == OUTSIDE
        assert values[constant("MAPPING_OUTER")]["meta"] == BLUE
        assert {value["pool"] for value in values.values()} == {1}


def only_address(rule: Masquerade) -> Masquerade:
    return replace(rule, addresses=(ip_address(out4()[1].source),))


def test_halves_that_do_not_fit_are_refused(gateways: tuple[Gateway, Gateway]) -> None:
    one, other = gateways
    one.flows.install(*out4(4000), nat())
    one.flows.install(*out4(4001), nat())
    first, second = one.shared.walk(4)
    with pytest.raises(InvalidError, match="do not fit"):
        other.shared.adopt(4, [(first[0], first[1], second[2], second[3])])
    protocol = len(first[0]) - 4
    foreign = first[0][:protocol] + b"\x84" + first[0][protocol + 1 :]
    with pytest.raises(InvalidError, match="protocol 132"):
        other.shared.adopt(4, [(foreign, first[1], first[2], first[3])])
    assert other.flows_there() == set()
