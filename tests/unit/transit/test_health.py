# SPDX-License-Identifier: Apache-2.0
"""Who is down: ticks without a clock, over the maps as the data plane stamps them."""

from __future__ import annotations

from typing import Any

from mizar.model.addresses import to_mapped
from mizar.transit.events import Hub
from mizar.transit.health import Health
from mizar.transit.ledger import Ledger
from mizar.transit.options import ProbeTiming
from mizar.transit.state import Limits
from mizar.transit.values import Droplet, PutDroplet, PutVpc, Vpc
from tests.unit.transit.fakes import FakeMaps

# Droplets are 172.30.9.1 (this one) to .3; .2 divides VPC 1, .3 hosts learned endpoints at most.
OWN, DIVIDER, OTHER = (bytes((172, 30, 9, number)) for number in (1, 2, 3))


class Rig:
    """A ledger over maps in memory; probes that are sent, and events that are told, are kept."""

    def __init__(self, also: tuple[bytes, ...] = ()) -> None:
        self.maps = FakeMaps()
        self.ledger = Ledger(self.maps, OWN, Limits(8, 4, 8, 8, 4), list)
        self.hub = Hub(_NoDrops())
        self.probed: list[bytes] = []
        self.health = Health(self.ledger, self, self.hub, ProbeTiming(count=3), lambda: also)

    def send(self, to: bytes, data: bytes, vni: int = 0, identity: bytes = b"") -> bool:
        assert (data, vni, identity) == (b"\1\0\0\0", 0, b"")
        self.probed.append(to)
        return True

    async def begin(self) -> None:
        """Three droplets, one VPC; the first tick only notes the stamps."""
        put = [PutDroplet(Droplet(address)) for address in (OWN, DIVIDER, OTHER)]
        await self.ledger.apply([*put, PutVpc(Vpc(1, (DIVIDER,)))])
        self.health.tables_changed()
        await self.health.tick()

    def stamp(self, address: bytes, **fields: int) -> None:
        key = {"addr": to_mapped(address)}
        self.maps.droplet_slots.put(key, self.maps.droplet_slots.get(key) | fields)

    def is_down(self, address: bytes) -> bool:
        droplet = self.ledger.state.droplets[address]
        assert self.maps.droplets.get(droplet.slot)["down"] == droplet.down
        return droplet.down


class _NoDrops:
    def switch(self, on: bool) -> None:
        raise AssertionError(on)

    async def suppressed(self) -> Any:
        raise AssertionError

    def __aiter__(self) -> Any:
        raise AssertionError


async def test_one_that_is_heard_is_not_probed() -> None:
    """Traffic alone keeps it up."""
    rig = Rig()
    await rig.begin()
    for tick in range(1, 10):
        rig.stamp(DIVIDER, heard=tick)
        await rig.health.tick()
    assert rig.probed == []
    assert not rig.is_down(DIVIDER)


async def test_three_probes_without_an_answer_and_one_answer() -> None:
    """Down with the third interval after the first probe; up with the first answer; both are told."""
    rig = Rig()
    await rig.begin()
    with rig.hub.subscribed(drops=False) as told:
        for tick in range(4):
            assert not rig.is_down(DIVIDER), tick
            await rig.health.tick()
        assert rig.is_down(DIVIDER)
        assert rig.probed == [DIVIDER] * 4
        await rig.health.tick()
        assert rig.probed == [DIVIDER] * 5, "one that is down is probed on"
        rig.stamp(DIVIDER, heard=7, answered=7)
        await rig.health.tick()
        assert not rig.is_down(DIVIDER)
        changes = [(await told.next()).droplet_changed for _ in range(2)]
    assert [(change.address, change.down) for change in changes] == [(DIVIDER, True), (DIVIDER, False)]


async def test_a_stall_is_no_silence() -> None:
    """After a tick that came late, the probe before it tells nothing: what answers may have stalled too. A machine that
    is always late calls a dead droplet down all the same, with twice as many probes."""
    rig = Rig()
    await rig.begin()
    for _ in range(3):
        await rig.health.tick()
    rig.health._looked -= 1.0
    await rig.health.tick()
    assert not rig.is_down(DIVIDER)
    for _ in range(4):
        rig.health._looked -= 1.0
        await rig.health.tick()
    assert rig.is_down(DIVIDER)


async def test_a_foreign_end_is_passed_over_but_not_called_dead() -> None:
    """It may know no probes; once it has answered one, it is told of like any other."""
    rig = Rig(also=(OTHER,))
    await rig.begin()
    with rig.hub.subscribed(drops=False) as told:
        for tick in range(8):
            rig.stamp(DIVIDER, heard=tick + 1)
            await rig.health.tick()
        assert rig.is_down(OTHER)
        rig.stamp(OTHER, heard=5, answered=5)
        for tick in range(5):
            rig.stamp(DIVIDER, heard=tick + 20)
            await rig.health.tick()
        assert rig.is_down(OTHER)
        changes = [(await told.next()).droplet_changed for _ in range(2)]
    assert [(change.address, change.down) for change in changes] == [(OTHER, False), (OTHER, True)]


async def test_one_that_matters_no_more_is_up() -> None:
    """A mark that nobody would take back is taken back."""
    rig = Rig()
    await rig.begin()
    for _ in range(4):
        await rig.health.tick()
    assert rig.is_down(DIVIDER)
    await rig.ledger.apply([PutVpc(Vpc(1, ()))])
    rig.health.tables_changed()
    await rig.health.tick()
    assert not rig.is_down(DIVIDER)


async def test_the_mark_outlives_the_daemon() -> None:
    """A new one reads it from the maps, repairs nothing, and leaves the stamps alone."""
    rig = Rig()
    await rig.begin()
    for _ in range(4):
        await rig.health.tick()
    rig.stamp(DIVIDER, heard=9, answered=4)
    before = rig.maps.contents()
    again = Ledger(rig.maps, OWN, Limits(8, 4, 8, 8, 4), list)
    again.reread()
    assert again.state.droplets[DIVIDER].down
    assert rig.maps.contents() == before
