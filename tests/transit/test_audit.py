# SPDX-License-Identifier: Apache-2.0
"""What somebody does to maps, interfaces and programs behind the daemon's back is found, named and mended; what the
daemon itself does meanwhile is not taken for it."""

from __future__ import annotations

import threading

import pytest

from mizar._built import transit_pb2 as pb
from mizar.kernel import attach
from mizar.kernel.bpffs import Pins
from mizar.model.addresses import to_mapped
from tests.meddling import detach_agent, flush, maps_of, set_mtu
from tests.transit.rig import FRONT, VNI, Droplet, Rig, endpoint, packed, put_droplet, put_network, put_vpc, until
from tests.transit.test_traffic import two_droplets
from tests.transit.traffic import ping

MISSING, FOREIGN, ALTERED = pb.Finding.MISSING, pb.Finding.FOREIGN, pb.Finding.ALTERED


def audit(droplet: Droplet, *, repair: bool = False) -> list[pb.Finding]:
    found: list[pb.Finding] = []
    looked_at = 0
    for reply in droplet.client.Audit(pb.AuditRequest(kernel=True, repair=repair), timeout=60):
        found += reply.findings
        looked_at += reply.looked_at
    assert looked_at
    return found


def key(address: str) -> dict[str, object]:
    return {"vni": VNI, "addr": to_mapped(packed(address))}


@pytest.mark.long
def test_each_fault_is_found_named_and_mended(made: Rig) -> None:
    """Entries that are gone, changed or somebody else's; a wrong MTU, a lost address; an agent and a pin taken away."""
    one, _two, first, second = two_droplets(made)
    until(lambda: ping(second, "10.0.1.11") is not None, "the first answer")
    until(lambda: one.pins() == [f"agent_{name}" for name in one.links()], "the agent is attached for good")
    assert audit(one) == []
    (name,) = one.links()
    with maps_of(one.name) as maps:
        maps.endpoints.delete(key("10.0.1.12"))
        mine = maps.endpoints.get(key("10.0.1.11"))
        assert mine is not None
        maps.endpoints.put(key("10.0.1.11"), {**mine, "mac": b"\x02\0\0\0\0\x99"})
        maps.endpoints.put(key("10.0.1.77"), mine)
        network = next(at for at, _ in maps.networks.items() if at["prefix_bits"] == 32 + 96 + 24)
        maps.networks.delete(network)
        maps.services.put(3, {"near": 7})
    set_mtu(first, "eth0", 1300)
    detach_agent(one.name, name)
    found = audit(one)
    told = {(row.kind, row.table, row.key): row for row in found}
    assert {(kind, table) for kind, table, _ in told} == {
        (MISSING, "endpoints"), (ALTERED, "endpoints"), (FOREIGN, "endpoints"), (MISSING, "networks"),
        (FOREIGN, "services"), (ALTERED, "interface"), (MISSING, "program"),
    }, found  # fmt: skip
    gone = told[MISSING, "endpoints", f"10.0.1.12 of VPC {VNI}"]
    assert (gone.vni, gone.address, gone.found) == (VNI, packed("10.0.1.12"), "")
    altered = told[ALTERED, "endpoints", f"10.0.1.11 of VPC {VNI}"]
    assert (altered.wanted, altered.found) == ("mac 02:00:00:00:01:01", "mac 02:00:00:00:00:99")
    assert altered.uid == "uid-1"
    size = told[ALTERED, "interface", "eth0 MTU"]
    assert (size.uid, size.wanted, size.found) == ("uid-1", "1450", "1300")
    assert told[MISSING, "networks", f"10.0.1.0/24 of VPC {VNI}"].network_id == FRONT
    assert len(audit(one)) == len(found), "a look mends nothing"
    assert all(row.repair and not row.error for row in audit(one, repair=True))
    assert audit(one) == []
    assert until(lambda: ping(second, "10.0.1.11"), "traffic flows again")


@pytest.mark.long
def test_a_lost_address_and_the_droplets_own_programs(made: Rig) -> None:
    """The workload's address comes back with its route; a pin of a map and the program on the wire as well."""
    one, _two, first, second = two_droplets(made)
    until(lambda: ping(second, "10.0.1.11") is not None, "the first answer")
    flush(first, "eth0")
    attach.detach_xdp(Pins.of(one.name).links / "transit")
    (Pins.of(one.name).maps / "vpcs").unlink()
    found = audit(one, repair=True)
    assert {(row.table, row.key) for row in found} >= {
        ("program", "transit at sub0"), ("pin", "pin of vpcs"), ("interface", "eth0 address"),
        ("interface", "eth0 default route"),
    }, found  # fmt: skip
    assert all(row.repair for row in found), found
    assert audit(one) == []
    assert until(lambda: ping(second, "10.0.1.11"), "traffic flows again")


@pytest.mark.long
def test_changes_in_progress_are_no_faults(made: Rig) -> None:
    """Endpoints come and go by hundreds while audits run: nothing is found, and nothing is hurt by mending."""
    one = made.add_droplet()
    one.start()
    one.apply(put_droplet(one), pb.Change(put_droplet=pb.Droplet(address=packed("172.30.9.77"), name="other")))
    one.apply(put_vpc(one), put_network(FRONT, one))
    over = threading.Event()

    def others(number: int) -> list[pb.Endpoint]:
        made = endpoint(1, FRONT, one)
        rows = []
        for place in range(200):
            row = pb.Endpoint()
            row.CopyFrom(made)
            row.host, row.mac = packed("172.30.9.77"), bytes((2, 0, 0, 1, number, place))
            del row.addresses[:]
            row.addresses.append(packed(f"10.0.1.{20 + place}"))
            rows.append(row)
        return rows

    def change() -> None:
        while not over.is_set():
            one.apply(*(pb.Change(put_endpoint=row) for row in others(1)))
            gone = [pb.EndpointKey(vni=VNI, addresses=row.addresses) for row in others(1)]
            one.apply(*(pb.Change(delete_endpoint=row) for row in gone))

    changing = threading.Thread(target=change)
    changing.start()
    try:
        for _ in range(8):
            assert audit(one, repair=True) == []
    finally:
        over.set()
        changing.join()
