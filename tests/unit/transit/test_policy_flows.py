# SPDX-License-Identifier: Apache-2.0
"""Flows of policed endpoints end when they are idle, and no sooner; who has answered comes before who has not."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from mizar.kernel.layout import constant
from mizar.transit.policy_flows import PRESSED_S, UNCONFIRMED_S, PolicyFlows
from tests.unit.transit.fakes import FakeMaps

NOW, SLOT, VPC, VNI = 100_000, 3, 2, 7
TCP, UDP = 6, 17
ANSWERED, CLOSING, CONFIRMED, INGRESS, ENDED = 1, 2, 9, 1, 4


class Bench:
    """A droplet with one policed endpoint, whose VPC may have `share` flows."""

    def __init__(self, share: int = 100) -> None:
        self.maps = FakeMaps()
        self.flows = PolicyFlows(cast(Any, SimpleNamespace(maps=self.maps, lock=asyncio.Lock())))
        local = SimpleNamespace(slot=SLOT, endpoint=SimpleNamespace(vni=VNI))
        self.state = SimpleNamespace(
            vpcs={VNI: SimpleNamespace(slot=VPC, vni=VNI)}, locals={"a": local}, judged={"a": None},
            limits=SimpleNamespace(policy_flows=share),
        )  # fmt: skip

    def put(self, port: int, idle_s: int, protocol: int = TCP, slot: int = SLOT, **fields: int) -> None:
        key = {"vni": VNI, "slot": slot, "peer": bytes(16), "peer_port_be": port, "protocol": protocol}
        value = {"generation": 1, "stamp": NOW - idle_s, "vpc_slot": VPC, "begun": INGRESS} | fields
        self.maps.policy_flows.put(key, value)

    def sweep(self, inserted: int = 0) -> set[int]:
        """The ports of the flows that are left."""
        self.maps.policy_counts.put(VPC, {"inserted": inserted})
        self.flows.sweep(cast(Any, self.state), NOW << constant("FLOW_STAMP_SHIFT"))
        return {key["peer_port_be"] for key, _ in self.maps.policy_flows.items()}


@pytest.mark.parametrize(
    ("protocol", "fields", "limit"),
    [
        (TCP, {}, UNCONFIRMED_S),
        (UDP, {}, UNCONFIRMED_S),
        (TCP, {"state": ANSWERED}, UNCONFIRMED_S),
        (UDP, {"state": ANSWERED}, UNCONFIRMED_S),
        (TCP, {"state": CONFIRMED}, 7440),
        (TCP, {"state": ANSWERED | CLOSING}, 30),
        (TCP, {"state": CONFIRMED | CLOSING}, 30),
        (UDP, {"state": CONFIRMED}, 300),
        (TCP, {"begun": INGRESS | ENDED}, 7440),
    ],
)
def test_a_flow_lives_as_long_as_its_kind(protocol: int, fields: dict[str, int], limit: int) -> None:
    """To the second. What a policy has ended is no exception: its ends may try for long."""
    bench = Bench()
    bench.put(1, limit, protocol, **fields)
    bench.put(2, limit + 1, protocol, **fields)
    assert bench.sweep() == {1}


def test_what_an_endpoint_that_is_gone_has_left() -> None:
    bench = Bench()
    bench.put(1, 0, slot=SLOT + 1)
    bench.put(2, 0)
    assert bench.sweep() == {2}


def test_the_budget_follows_what_is_left() -> None:
    bench = Bench(share=10)
    bench.put(1, 0)
    bench.sweep(inserted=55)
    assert bench.maps.policy_budgets.get(VPC) == {"until": 55 + 9}


def test_beginnings_go_first_and_sooner_where_room_is_short() -> None:
    """Established flows stay, however old."""
    bench = Bench(share=4)
    for port in (1, 2):
        bench.put(port, 1000, state=CONFIRMED)
    for port, idle_s in ((3, PRESSED_S + 1), (4, 1), (5, 0)):
        bench.put(port, idle_s)
    assert bench.sweep() == {1, 2, 4, 5}, "the oldest beginning goes for the share"
    bench.put(3, PRESSED_S + 1)
    assert bench.sweep() == {1, 2, 4, 5}, "and is too old from now on"


def test_a_flood_takes_nothing_from_another_vpc() -> None:
    """With forged sources whom the server answers, more than the whole table has room for: the other VPC keeps each of
    its flows, older ones too, and all of its budget; in the flooded one what is confirmed stays."""
    bench = Bench(share=8)
    bench.state.vpcs[8] = SimpleNamespace(slot=5, vni=8)
    bench.state.locals["b"] = SimpleNamespace(slot=4, endpoint=SimpleNamespace(vni=8))
    bench.state.judged["b"] = None
    for port in (1, 2):
        bench.put(port, 1000, slot=4, vpc_slot=5, state=CONFIRMED)
    bench.put(3, 50, slot=4, vpc_slot=5)
    bench.put(10, 1000, state=CONFIRMED)
    for port in range(11, 21):
        bench.put(port, 0, state=ANSWERED)
    left = bench.sweep()
    assert left >= {1, 2, 3, 10}
    assert len(left) == 3 + 4
    assert bench.maps.policy_budgets.get(5) == {"until": 1}
    assert bench.maps.policy_budgets.get(VPC) == {"until": 0}
