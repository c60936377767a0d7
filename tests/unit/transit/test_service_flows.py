# SPDX-License-Identifier: Apache-2.0
"""When flows of scaled endpoints end, and that no VPC has more of the table than its share."""

from __future__ import annotations

import pytest

from mizar.kernel.layout import constant, struct_codec
from mizar.transit.ledger import Ledger
from mizar.transit.service_flows import CLOSING, ECHO_S, ESTABLISHED_S, OPEN, OPENING_S, TCP, UDP, ServiceFlows, share
from mizar.transit.service_values import PutService, Service
from mizar.transit.state import Limits
from mizar.transit.values import Droplet, PutDroplet, PutVpc, Vpc
from tests.unit.transit.fakes import FakeMaps

# This droplet is 172.30.9.1; VPCs 1 and 2 have a scaled endpoint each, 10.0.1.100. VPC 3 has none.
OWN, SERVICE = bytes((172, 30, 9, 1)), bytes((10, 0, 1, 100))
FLOWS, NOW = 20, 100_000


class Rig:
    """The ledger of a droplet, and flows as the data plane writes them."""

    def __init__(self) -> None:
        self.maps = FakeMaps()
        self.ledger = Ledger(self.maps, OWN, Limits(8, 4, 8, 8, 4, flows=FLOWS), list)
        self.flows = ServiceFlows(self.ledger)
        self.count = 0

    async def begin(self) -> None:
        vpcs = [PutVpc(Vpc(vni, ())) for vni in (1, 2, 3)]
        services = [PutService(Service(vni, 1, (SERVICE,), ())) for vni in (1, 2)]
        await self.ledger.apply([PutDroplet(Droplet(OWN)), *vpcs, *services])

    def slot(self, vni: int) -> int:
        return self.ledger.state.vpcs[vni].slot

    def add(self, vpc_slot: int, idle_s: int, protocol: int = UDP, state: int = 0) -> bytes:
        """A flow that has been without a packet for so long; its key."""
        self.count += 1
        key, value = struct_codec("flow_key"), struct_codec("flow")
        blank_key = key.unpack(bytes(key.size)) | {"protocol": protocol}
        packed = self.count.to_bytes(4, "big") + key.pack(blank_key)[4:]
        blank = value.unpack(bytes(value.size)) | {"vpc_slot": vpc_slot, "stamp": NOW - idle_s, "state": state}
        self.maps.flows.entries[packed] = value.pack(blank)
        return packed

    def sweep(self) -> set[bytes]:
        """What is left."""
        self.flows.sweep(self.ledger.state, NOW << constant("FLOW_STAMP_SHIFT"))
        return set(self.maps.flows.entries)

    def until(self, vni: int) -> int:
        found: int = self.maps.flow_budgets.get(self.slot(vni))["until"]
        return found


@pytest.mark.parametrize(
    ("protocol", "state", "limit_s"),
    [(TCP, OPEN, ESTABLISHED_S), (TCP, 0, OPENING_S), (TCP, OPEN | CLOSING, 30), (UDP, 0, 300), (1, 0, ECHO_S)],
)
async def test_ageing(protocol: int, state: int, limit_s: int) -> None:
    """A flow lives as long as its kind may be idle, and no longer."""
    rig = Rig()
    await rig.begin()
    kept = rig.add(rig.slot(1), limit_s, protocol, state)
    rig.add(rig.slot(1), limit_s + 1, protocol, state)
    assert rig.sweep() == {kept}


async def test_a_vpc_over_its_share_loses_its_oldest() -> None:
    """And the other nothing."""
    rig = Rig()
    await rig.begin()
    assert share(rig.ledger.state) == FLOWS // 2
    greedy = [rig.add(rig.slot(1), idle_s) for idle_s in range(15)]
    modest = {rig.add(rig.slot(2), 299) for _ in range(5)}
    assert rig.sweep() == {*greedy[:10], *modest}


async def test_budgets() -> None:
    """As many more as the share leaves, counted from what was inserted ever; none when it is used up."""
    rig = Rig()
    await rig.begin()
    for idle_s in range(12):
        rig.add(rig.slot(1), idle_s)
    for _ in range(4):
        rig.add(rig.slot(2), 0)
    rig.maps.flow_counts.put(rig.slot(2), rig.maps.flow_counts.get(rig.slot(2)) | {"inserted": 70})
    rig.sweep()
    assert (rig.until(1), rig.until(2)) == (0, 70 + 10 - 4)


async def test_flows_of_a_vpc_that_is_gone() -> None:
    """Nobody's flows end at once."""
    rig = Rig()
    await rig.begin()
    rig.add(3 + max(rig.slot(vni) for vni in (1, 2, 3)), 0)
    assert rig.sweep() == set()
