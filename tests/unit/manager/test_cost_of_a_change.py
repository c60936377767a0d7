# SPDX-License-Identifier: Apache-2.0
"""What a change of one endpoint asks of droplets does not grow with its VPC: as many of them, as many bytes."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from mizar.manager.translate import attachment, delete_change, put_change
from mizar.planner.entries import LocalEntry, PrefixEntry, WorkloadEntry
from mizar.planner.facts import DropletFact, EndpointFact, NetworkFact, VpcFact
from mizar.planner.plan import Change
from mizar.planner.topology import Topology

DROPLETS, BOUNCERS, DIVIDERS, VNI = 12, ("d0", "d1", "d2"), ("d3", "d4"), 7


def endpoint(number: int) -> EndpointFact:
    """On one of all droplets; names, MACs and addresses are equally long."""
    address, mac = (0x0A000002 + number).to_bytes(4, "big"), b"\x02\x00" + (1 + number).to_bytes(4, "big")
    workload = WorkloadEntry(namespace=f"w{number:09}")
    return EndpointFact(f"{number:032x}", VNI, 1, (address,), mac, f"d{number % DROPLETS}", 1, workload)


def told(changes: Sequence[Change]) -> tuple[set[str], int]:
    """The droplets, and the bytes of the messages to them."""
    size = 0
    for change in changes:
        if change.after is None:
            assert change.before is not None
            local = isinstance(change.before, LocalEntry)
            size += len(change.before.uid) if isinstance(change.before, LocalEntry) else 0
            size += 0 if local else delete_change(change.before).ByteSize()
        elif isinstance(change.after, LocalEntry):
            size += attachment(change.after).ByteSize()
        else:
            size += put_change(change.after).ByteSize()
    return {change.droplet for change in changes}, size


@pytest.mark.parametrize("others", [DROPLETS * 2, DROPLETS * 250])
def test_a_change_tells_the_host_and_the_bouncers_however_large_the_vpc(others: int) -> None:
    """Creation and end of an endpoint: its host, its network's bouncers, a few hundred bytes."""
    topology = Topology()
    for number in range(DROPLETS):
        topology.put_droplet(DropletFact(f"d{number}", bytes((172, 31, 0, 10 + number)), True, 1500))
    topology.put_vpc(VpcFact(VNI, DIVIDERS))
    prefix = PrefixEntry(bytes((10, 0, 0, 0)), 8, bytes((10, 0, 0, 1)))
    topology.put_network(NetworkFact(VNI, 1, (prefix,), BOUNCERS))
    for number in range(others):
        topology.put_endpoint(endpoint(number))
    fact = endpoint(0xF00000 // DROPLETS * DROPLETS + 5)
    assert told(topology.put_endpoint(fact)) == ({"d5", *BOUNCERS}, 166)
    assert told(topology.remove_endpoint(fact.uid)) == ({"d5", *BOUNCERS}, 62)
