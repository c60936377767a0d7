# SPDX-License-Identifier: Apache-2.0
"""What an audit tells of droplets: what was changed behind the manager's back, by name, and no change on its way."""

from __future__ import annotations

import asyncio
import logging

import pytest

from mizar._built import transit_pb2 as pb
from mizar.manager.audit import Audits, DropletAudit
from mizar.manager.manager import Manager
from mizar.model.errors import NotFoundError
from mizar.store.sqlite import SqliteStore
from tests.unit.manager.world import QUICK, World, endpoint, until


async def audit(world: World, name: str, *, repair: bool = False) -> DropletAudit:
    return await world.manager.audit(name, repair=repair)


@pytest.fixture
async def red(world: World) -> World:
    """Two endpoints of one network, which is bounced on d1."""
    world.apply(*world.base("red"), endpoint("red", "e1", "d1"), endpoint("red", "e2", "d2"))
    await world.settled()
    return world


def bouncer(world: World) -> str:
    name: str = world.status("Network", "front", "red")["bouncers"][0]
    return name


async def test_nothing_is_found_where_nothing_is_wrong(red: World) -> None:
    for name in red.daemons:
        found = await audit(red, name)
        assert (found.reason, found.findings) == ("", ())
    told = red.status("Droplet", "d1")["audit"]
    assert (told["findings"], told["repaired"]) == (0, 0)


async def test_what_a_daemon_was_told_by_another_is_found_and_mended(red: World) -> None:
    """An endpoint that it has lost, one that lives elsewhere now, and one that nobody has; each by name."""
    name = bouncer(red)
    tables = red.daemons[name].tables
    remote = next(key for key in tables.endpoints)
    lost = tables.endpoints.pop(remote)
    (network,) = tables.networks.values()
    network.through_divider = True
    foreign = pb.Endpoint()
    foreign.CopyFrom(lost)
    foreign.mac = b"\x02\0\0\0\0\x63"
    del foreign.addresses[:]
    foreign.addresses.append(bytes((10, 0, 1, 99)))
    tables.endpoints[foreign.vni, tuple(foreign.addresses)] = foreign
    found = {(one.kind, one.table): one for one in (await audit(red, name)).findings}
    assert set(found) == {("missing", "endpoints"), ("altered", "networks"), ("foreign", "endpoints")}
    assert found["missing", "endpoints"].object in ("Endpoint red/e1", "Endpoint red/e2")
    altered = found["altered", "networks"]
    assert (altered.object, altered.vpc, altered.at) == ("Network red/front", "red/main", "daemon")
    assert (altered.wanted, altered.found) == ("through_divider False", "through_divider True")
    assert found["foreign", "endpoints"].key == f"10.0.1.99 of VPC {lost.vni}"
    assert red.status("Droplet", name)["audit"] | {"time": ""} == {"time": "", "findings": 3, "repaired": 0}
    mended = await audit(red, name, repair=True)
    assert {one.repair for one in mended.findings} == {"told again", "removed"}
    assert (await audit(red, name)).findings == ()


async def test_what_the_kernel_holds_is_told_by_name(red: World, caplog: pytest.LogCaptureFixture) -> None:
    """The daemon's findings name an endpoint by uid, or by its address in a VPC; each is logged once."""
    uid = red.manager.get(_ref("e1"))["metadata"]["uid"]
    number = red.status("VPC", "main", "red")["vni"]
    row = {"kind": pb.Finding.MISSING, "table": "endpoints", "key": "somewhere", "wanted": "something", "vni": number}
    red.daemons["d1"].faults = [
        pb.Finding(**row, uid=uid),
        pb.Finding(**row, address=bytes((10, 0, 1, 3))),
        pb.Finding(kind=pb.Finding.FOREIGN, table="services", key="slot 3", found="near 7"),
    ]
    with caplog.at_level(logging.WARNING):
        found = await audit(red, "d1")
        await audit(red, "d1")
    assert [one.object for one in found.findings] == ["Endpoint red/e1", "Endpoint red/e2", ""]
    assert [one.vpc for one in found.findings] == ["red/main", "red/main", ""]
    assert sum("audit_found" in record.getMessage() for record in caplog.records) == 3
    assert all(one.repair for one in (await audit(red, "d1", repair=True)).findings)
    assert (await audit(red, "d1")).findings == ()


async def test_changes_on_their_way_are_no_faults(red: World) -> None:
    """A daemon that takes its time has not lost what it has not been told yet."""
    name = bouncer(red)
    red.daemons[name].paused.clear()
    red.apply(*(endpoint("red", f"new{n}", name) for n in range(20)))
    auditing = asyncio.create_task(audit(red, name))
    await until(lambda: "GetState" in red.daemons[name].calls[-3:])
    red.daemons[name].paused.set()
    assert (await auditing).findings == ()
    await red.settled()


async def test_a_droplet_that_cannot_be_reached_is_told(red: World) -> None:
    await red.daemons["d2"].stop()
    await until(lambda: not red.status("Droplet", "d2")["connected"])
    found = await audit(red, "d2")
    assert found.findings == ()
    assert "unreachable" in found.reason
    assert red.status("Droplet", "d2")["audit"]["reason"] == found.reason
    with pytest.raises(NotFoundError):
        await audit(red, "d9")


async def test_the_manager_audits_by_itself_and_mends_if_configured(red: World) -> None:
    """One droplet after the other."""
    await red.crash()
    red.store = SqliteStore(red.directory / "server.db")
    red.manager = Manager(red.store, timing=QUICK, audits=Audits(0.2, repair=True))
    await red.manager.start()
    await red.settled()
    red.daemons["d3"].faults = [pb.Finding(kind=pb.Finding.FOREIGN, table="vpcs", key="VPC 9", found="slot 1")]
    await until(lambda: red.status("Droplet", "d3").get("audit", {}).get("repaired") == 1)
    await until(lambda: red.status("Droplet", "d3")["audit"]["findings"] == 0)


def _ref(name: str):  # type: ignore[no-untyped-def]
    from mizar.model.resources import Ref

    return Ref("Endpoint", "red", name)
