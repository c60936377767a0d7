# SPDX-License-Identifier: Apache-2.0
"""Resources as the planner sees them."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from mizar.model.errors import InvalidError
from mizar.model.resources import VPC, Droplet, Endpoint, Network
from mizar.planner.entries import OvsEntry, PrefixEntry, TapEntry, WorkloadEntry
from mizar.planner.facts import DropletFact, droplet_fact, endpoint_fact, network_fact, vpc_fact

BLUE = {"name": "a", "tenant": "blue", "uid": "u-1"}


def vpc(**status: Any) -> VPC:
    spec = {"cidrs": ["10.0.0.0/16"]}
    return VPC.model_validate({"metadata": BLUE, "spec": spec, "status": {"vni": 7, "dividers": ["d1"], **status}})


def network(**status: Any) -> Network:
    spec = {"vpc": "a", "cidrs": ["10.0.1.0/24", "fd00:10:0:1::/64"], "tunnelProtocol": "vxlan"}
    return Network.model_validate({"metadata": BLUE, "spec": spec, "status": {"id": 3, "bouncers": ["d2"], **status}})


def endpoint(spec: dict[str, Any] | None = None, **status: Any) -> Endpoint:
    given = {"network": "a", "droplet": "d4", "workload": {"namespace": "n"}} | (spec or {})
    allocated = {"addresses": ["10.0.1.2", "fd00:10:0:1::2"], "mac": "02:00:00:00:00:05"} | status
    return Endpoint.model_validate({"metadata": BLUE, "spec": given, "status": allocated})


def test_a_droplet_has_a_daemon_unless_it_says_none() -> None:
    for daemon, has in (("unix:///run/x.sock", True), ("host:4000", True), ("none", False)):
        droplet = Droplet.model_validate(
            {"metadata": {"name": "d1"}, "spec": {"address": "172.31.0.1", "daemon": daemon}}
        )
        assert droplet_fact(droplet) == DropletFact("d1", bytes([172, 31, 0, 1]), has)


def test_a_network_has_a_gateway_in_each_prefix() -> None:
    fact = network_fact(network(), vpc())
    assert (fact.vni, fact.id, fact.bouncers) == (7, 3, ("d2",))
    assert fact.prefixes == (
        PrefixEntry(bytes([10, 0, 1, 0]), 24, bytes([10, 0, 1, 1])),
        PrefixEntry(ip_address("fd00:10:0:1::").packed, 64, ip_address("fd00:10:0:1::1").packed),
    )


def test_an_endpoint_speaks_its_own_protocol_or_else_its_networks() -> None:
    assert endpoint_fact(endpoint(), network(), vpc()).tunnel == 2
    assert endpoint_fact(endpoint({"tunnelProtocol": "geneve"}), network(), vpc()).tunnel == 1


@pytest.mark.parametrize(
    ("workload", "entry"),
    [
        ({"namespace": "n"}, WorkloadEntry(namespace="n")),
        ({"path": "/proc/1/ns/net", "interface": "net0"}, WorkloadEntry(path="/proc/1/ns/net", interface="net0")),
        ({"pid": 12}, WorkloadEntry(pid=12)),
        ({"tap": {}}, WorkloadEntry(tap=TapEntry())),
        ({"tap": {"name": "vm1", "owner": 7, "queues": 2}}, WorkloadEntry(tap=TapEntry("vm1", 7, 2))),
        ({"namespace": "n", "pool": True}, WorkloadEntry(namespace="n", pool=True)),
        ({"ovs": {"bridge": "br0"}}, WorkloadEntry(ovs=OvsEntry("br0"))),
        ({"ovs": {"bridge": "br0", "port": "p1", "vlan": 9}}, WorkloadEntry(ovs=OvsEntry("br0", "p1", 9))),
        (None, None),
    ],
)
def test_a_workload(workload: dict[str, Any] | None, entry: WorkloadEntry | None) -> None:
    fact = endpoint_fact(endpoint({"workload": workload}), network(), vpc())
    assert (fact.uid, fact.host, fact.mac, fact.workload) == ("u-1", "d4", bytes.fromhex("020000000005"), entry)


def test_what_is_not_allocated_yet_is_no_fact() -> None:
    with pytest.raises(InvalidError, match=r"VPC blue/a: status\.number"):
        vpc_fact(vpc(vni=None))
    with pytest.raises(InvalidError, match=r"Network blue/a: status\.id"):
        network_fact(network(id=None), vpc())
    with pytest.raises(InvalidError, match="Endpoint blue/a: uid, addresses or MAC"):
        endpoint_fact(endpoint(mac=""), network(), vpc())


def test_a_route_table_leaves_the_vpc_and_the_network_to_themselves() -> None:
    """Unless a route says otherwise of exactly them; without routes there is no table at all."""
    vpc = VPC.model_validate(
        {
            "metadata": {"name": "a", "tenant": "t"},
            "spec": {"cidrs": ["10.0.0.0/16"]},
            "status": {"vni": 7, "number": 7},
        }
    )

    def table(*routes: tuple[str, str]) -> list[tuple[str, int]]:
        spec = {"vpc": "a", "cidrs": ["10.0.1.0/24"], "routes": [{"to": to, "via": via} for to, via in routes]}
        made = Network.model_validate({"metadata": {"name": "n", "tenant": "t"}, "spec": spec, "status": {"id": 1}})
        return [(str(ip_network((one.address, one.length))), one.action) for one in network_fact(made, vpc).routes]

    assert table() == []
    assert table(("0.0.0.0/0", "blackhole")) == [("0.0.0.0/0", 2), ("10.0.0.0/16", 1), ("10.0.1.0/24", 1)]
    assert table(("10.0.0.0/16", "blackhole")) == [("10.0.0.0/16", 2), ("10.0.1.0/24", 1)]
