# SPDX-License-Identifier: Apache-2.0
"""A simulated lab: the examples' matrices, over tables as the planner wants them, without droplets."""

from __future__ import annotations

from pathlib import Path

import pytest

from mizar.lab.findings import pairs
from mizar.lab.simulated import Simulated, simulate
from mizar.model.errors import InvalidError
from mizar.model.manifest import parse_texts
from mizar.oracle.fleet import End
from mizar.simulation import packets
from mizar.simulation.reach import reach

EXAMPLES = Path(__file__).parents[3] / "examples"
LABS = sorted(path.name for path in EXAMPLES.glob("*.yaml") if "kind: Lab" in path.read_text())


def simulated(text: str) -> Simulated:
    return simulate(parse_texts([("test", text)]).resources)


def lab(*more: str, droplets: int = 3) -> str:
    """Two networks of tenant red on three droplets, and what is added."""
    objects = [
        f"{{apiVersion: mizar/v1, kind: Lab, metadata: {{name: t}}, spec: {{droplets: {droplets}}}}}",
        "{apiVersion: mizar/v1, kind: Tenant, metadata: {name: red}}",
        "{apiVersion: mizar/v1, kind: VPC, metadata: {name: main, tenant: red}, spec: {cidrs: [10.0.0.0/16]}}",
        "{apiVersion: mizar/v1, kind: Network, metadata: {name: front, tenant: red}, "
        "spec: {vpc: main, cidrs: [10.0.1.0/24]}}",
        *(
            f"{{apiVersion: mizar/v1, kind: Endpoint, metadata: {{name: e{number}, tenant: red}}, "
            f"spec: {{network: front, droplet: d{number}}}}}"
            for number in (1, 2)
        ),
    ]
    return "\n---\n".join((*objects, *more))


@pytest.mark.parametrize("name", LABS)
def test_every_example_works_in_a_simulation_as_the_demo_expects(name: str) -> None:
    """Each pair of a VPC and of peers, both families, all protocols; services are answered; nobody hears a stranger."""
    found = simulated((EXAMPLES / name).read_text())
    assert found.ok, found
    assert [(cell.source, cell.destination) for cell in found.cells] == pairs(found.members)
    for cell in found.cells:
        families = {"6" if ":" in address else "4" for address in cell.destination.addresses}
        ways = {protocol + family for protocol in ("icmp", "udp", "tcp") for family in families}
        assert {outcome.way for outcome in cell.outcomes} == ways
    assert found.isolation.heard == found.isolation.expected
    assert found.isolation.foreign == ()


def test_the_demo_has_the_matrix_of_the_real_one() -> None:
    """What tests/lab/test_demo.py finds in the real lab."""
    found = simulated((EXAMPLES / "two-tenants.yaml").read_text())
    assert (len(found.cells), sum(cell.ok for cell in found.cells)) == (60, 60)
    assert found.longest is not None
    programs = [hop[1] for hop in found.longest.hops]
    assert (programs[0], programs[-1]) == ("agent", "deliver")
    assert set(programs[1:-1]) == {"transit"}


def test_all_services_of_the_examples_are_asked() -> None:
    """A scaled endpoint by its members too, and a chain of proxied ones from each of its VPCs."""
    scaled = simulated((EXAMPLES / "scaled.yaml").read_text())
    assert [(one.name, one.kind, sorted(one.cells)) for one in scaled.served] == [
        ("web", "scaled", ["client", "web-1", "web-2", "web-3"])
    ]
    linked = simulated((EXAMPLES / "private-link.yaml").read_text())
    assert [(one.name, sorted(one.cells)) for one in linked.served] == [
        ("db", ["app-1", "app-2"]),
        ("dev-db", ["test-1"]),
    ]


def test_what_the_tables_refuse_is_red_and_says_why() -> None:
    """A network whose route table leads nowhere for half of its VPC: cells name droplet and reason."""
    found = simulated(
        lab(
            "{apiVersion: mizar/v1, kind: Network, metadata: {name: back, tenant: red}, spec: {vpc: main, "
            "cidrs: [10.0.2.0/24], routes: [{to: 10.0.1.0/25, via: blackhole}]}}",
            "{apiVersion: mizar/v1, kind: Endpoint, metadata: {name: e3, tenant: red}, "
            "spec: {network: back, droplet: d3}}",
        )
    )
    assert not found.ok
    cells = {(cell.source.name, cell.destination.name): cell for cell in found.cells}
    assert cells["e1", "e2"].ok
    assert all(one.detail.startswith("d3: ROUTE_BLACKHOLE: ") for one in cells["e3", "e1"].outcomes)
    answers = cells["e1", "e3"].outcomes
    assert all(one.detail.startswith("the answer: d3: ROUTE_BLACKHOLE: ") for one in answers)


def test_wrong_manifests_are_refused_as_a_server_would() -> None:
    """The very checks of a server."""
    wrong = lab(
        "{apiVersion: mizar/v1, kind: Endpoint, metadata: {name: e9, tenant: red}, "
        "spec: {network: nowhere, droplet: d1}}"
    )
    with pytest.raises(InvalidError, match="nowhere"):
        simulated(wrong)
    with pytest.raises(InvalidError, match="exactly one object of kind Lab"):
        simulated((EXAMPLES / "ovs-port.yaml").read_text())


@pytest.mark.parametrize("protocol", packets.PROTOCOLS)
@pytest.mark.parametrize("pair", [("10.0.1.1", "10.0.1.2"), ("fd00::1", "fd00::2")])
def test_packets_and_answers_have_right_checksums(protocol: str, pair: tuple[str, str]) -> None:
    """As scapy, which knows nothing of ours, computes them."""
    from ipaddress import ip_address

    from scapy.layers.inet import Ether

    source, destination = (ip_address(text).packed for text in pair)
    frame = packets.request(protocol, b"\x02\0\0\0\0\x01", source, destination)
    for each in (frame, packets.answer(frame)):
        parsed = Ether(each)
        layer = parsed.getlayer(2)
        for part in (parsed.getlayer(1), layer):
            for name in ("chksum", "cksum"):
                if name in part.fields:
                    delattr(part, name)
        assert bytes(Ether(bytes(parsed))) == each
        assert bytes(parsed) == each


def test_a_request_to_nobody_is_no_reach() -> None:
    """It ends at a bouncer, whose reason is told."""
    from mizar.lab.plan import plan
    from mizar.lab.simulated import Laboratory

    made = Laboratory(plan(parse_texts([("test", lab())]).resources))
    station = next(iter(made.deployed.stations.values()))
    found = reach(made.deployed, station, bytes([10, 0, 1, 99]), "udp")
    assert (found.ok, found.reason, found.there.end) == (False, "ENDPOINT_UNKNOWN", End.DROPPED)
