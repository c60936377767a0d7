# SPDX-License-Identifier: Apache-2.0
"""Objects are valid when built, frozen, and found by the names that people type."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from mizar.model.errors import InvalidError, NotFoundError
from mizar.model.manifest import parse_resource
from mizar.model.resources import KINDS, Droplet, Endpoint, Lab, Ref, Scope, Tenant, dump, kind_named


def build(kind: str, spec: dict[str, Any], tenant: str | None = None) -> Any:
    metadata = {"name": "a"} | ({"tenant": tenant} if tenant else {})
    return KINDS[kind].model.model_validate({"metadata": metadata, "spec": spec})


@pytest.mark.parametrize(
    ("typed", "kind"),
    [
        ("vpcs", "VPC"),
        ("VPC", "VPC"),
        ("ep", "Endpoint"),
        ("Endpoints", "Endpoint"),
        ("net", "Network"),
        ("d", "Droplet"),
    ],
)
def test_a_kind_is_found_by_any_of_its_names(typed: str, kind: str) -> None:
    assert kind_named(typed).name == kind


def test_an_unknown_kind_names_the_known_ones() -> None:
    with pytest.raises(NotFoundError, match="known are droplets, tenants, vpcs, "):
        kind_named("pods")


def test_no_two_kinds_share_a_name() -> None:
    names = [name for k in KINDS.values() for name in {k.name.lower(), k.plural, k.singular, *k.short}]
    assert len(names) == len(set(names))


def test_kinds_belong_to_a_tenant_or_to_none() -> None:
    assert {k.name for k in KINDS.values() if k.scope is Scope.TENANT} >= {"VPC", "Network", "Endpoint"}
    for kind in KINDS.values():
        assert kind.model.model_fields["kind"].default == kind.name
    with pytest.raises(ValidationError, match="expected the tenant"):
        build("VPC", {"cidrs": ["10.0.0.0/8"]})
    with pytest.raises(ValidationError, match="belongs to no tenant"):
        build("Tenant", {}, tenant="blue")


def test_a_reference_reads_as_people_write_it() -> None:
    assert str(build("VPC", {"cidrs": ["10.0.0.0/8"]}, "blue").ref) == "VPC blue/a"
    assert build("Tenant", {}).ref == Ref("Tenant", "", "a")
    assert str(build("Tenant", {}).ref) == "Tenant a"


def test_values_are_frozen_and_equal_when_they_mean_the_same() -> None:
    one = build("VPC", {"cidrs": ["10.0.0.0/8", "FD00:0:0::/48"]}, "t")
    assert one == build("VPC", {"cidrs": ["10.0.0.0/8", "fd00::/48"]}, "t")
    with pytest.raises(ValidationError, match="frozen"):
        one.spec.dividers = 3


def test_a_dump_is_camel_case_and_omits_what_is_not_set() -> None:
    endpoint = build(
        "Endpoint", {"network": "n", "droplet": "d1", "tunnelProtocol": "vxlan", "mac": "02:AB:00:00:00:01"}, "t"
    )
    document = dump(endpoint)
    assert document["spec"] == {
        "network": "n",
        "type": "simple",
        "droplet": "d1",
        "addresses": [],
        "grants": [],
        "members": [],
        "selector": {},
        "selection": "hash",
        "listeners": [],
        "affinity": "flow",
        "health": {"type": "none", "intervalMs": 1000, "timeoutMs": 500, "healthyAfter": 2, "unhealthyAfter": 3},
        "mac": "02:ab:00:00:00:01",
        "tunnelProtocol": "vxlan",
        "geneveOptions": [],
        "bypassDecapsulation": False,
        "forwarding": False,
        "qos": {},
    }
    assert document["status"]["phase"] == "Init"
    assert parse_resource(document) == endpoint


@pytest.mark.parametrize(
    ("address", "daemon", "right"),
    [
        ("172.31.0.1", "unix:///run/mizar.sock", True),
        ("172.31.0.1", "droplet-1.example:4000", True),
        ("172.31.0.1", "none", True),
        ("172.31.0.1", "unix://relative", False),
        ("172.31.0.1", "unix:///", False),
        ("172.31.0.1", "host", False),
        ("172.31.0.1", "host:0", False),
        ("172.31.0.1", "host:65536", False),
        ("172.31.0.1", "http://host:80", False),
        ("fd00::1", "none", True),
        ("fe80::1", "none", False),
        ("::1", "none", False),
        ("ff02::1", "none", False),
        ("::ffff:172.31.0.1", "none", False),
        ("127.0.0.1", "none", False),
        ("224.0.0.1", "none", False),
        ("0.0.0.0", "none", False),
    ],
)
def test_a_droplet_has_a_unicast_address_and_a_daemon_or_none(address: str, daemon: str, right: bool) -> None:
    if right:
        droplet = build("Droplet", {"address": address, "daemon": daemon})
        assert isinstance(droplet, Droplet)
        assert droplet.spec.has_daemon == (daemon != "none")
    else:
        with pytest.raises(ValidationError, match="expected"):
            build("Droplet", {"address": address, "daemon": daemon})


@pytest.mark.parametrize(
    ("workload", "right"),
    [
        ({"namespace": "blue-1"}, True),
        ({"path": "/proc/7/ns/net"}, True),
        ({"pid": 7, "interface": "eth1"}, True),
        ({}, False),
        ({"namespace": "a", "pid": 7}, False),
        ({"namespace": "a/b"}, False),
        ({"namespace": ".."}, False),
        ({"path": "relative"}, False),
        ({"pid": 0}, False),
        ({"pid": "7"}, False),
        ({"namespace": "a", "interface": "longer-than-fifteen"}, False),
        ({"namespace": "a", "interface": "a/b"}, False),
        ({"namespace": "a", "interface": ".."}, False),
        ({"namespace": "a", "interface": "a b"}, False),
        ({"namespace": "a", "pool": True}, True),
        ({"pool": True}, False),
        ({"pid": 7, "pool": True}, False),
        ({"tap": {}, "pool": True}, False),
        ({"tap": {}}, True),
        ({"tap": {"name": "vm-web_1", "owner": 1000, "queues": 4}}, True),
        ({"tap": {}, "pid": 7}, False),
        ({"tap": {}, "interface": "eth1"}, False),
        ({"tap": {"name": "a.b"}}, False),
        ({"tap": {"name": "-a"}}, False),
        ({"tap": {"name": "longer-than-fifteen"}}, False),
        ({"tap": {"owner": -1}}, False),
        ({"tap": {"queues": 17}}, False),
        ({"tap": {"queues": 0}}, False),
        ({"ovs": {"bridge": "br-int"}}, True),
        ({"ovs": {"bridge": "br0", "port": "p", "vlan": 4094}}, True),
        ({"ovs": {}}, False),
        ({"ovs": {"bridge": "br0"}, "tap": {}}, False),
        ({"ovs": {"bridge": "br0"}, "interface": "eth1"}, False),
        ({"ovs": {"bridge": "br0", "vlan": 4095}}, False),
    ],
)
def test_a_workload_is_named_in_exactly_one_way(workload: dict[str, Any], right: bool) -> None:
    spec = {"network": "n", "droplet": "d", "workload": workload}
    if right:
        assert isinstance(build("Endpoint", spec, "t"), Endpoint)
    else:
        with pytest.raises(ValidationError, match=r"expected|Input|required"):
            build("Endpoint", spec, "t")


@pytest.mark.parametrize("name", ["", "-a", "a-", "A", "a.b", "a_b", "a" * 64, "ä", "a\n"])
def test_a_name_is_a_dns_label(name: str) -> None:
    with pytest.raises(ValidationError, match="expected a DNS label"):
        Tenant.model_validate({"metadata": {"name": name}})


def test_a_droplet_may_have_an_address_of_each_family() -> None:
    """In any order; the IPv4 one names it. Two of one family are refused."""
    for address, second in (("172.31.0.1", "fd00::1"), ("fd00::1", "172.31.0.1")):
        droplet = build("Droplet", {"address": address, "secondAddress": second, "daemon": "none"})
        assert isinstance(droplet, Droplet)
        assert droplet.spec.addresses == ("172.31.0.1", "fd00::1")
        assert droplet.spec.families == {4, 6}
    with pytest.raises(ValidationError, match="at most one per address family"):
        build("Droplet", {"address": "fd00::1", "secondAddress": "fd00::2", "daemon": "none"})


def test_a_lab_has_defaults_for_its_substrate() -> None:
    lab = build("Lab", {"droplets": 4})
    assert isinstance(lab, Lab)
    assert (lab.spec.substrate.cidr, lab.spec.substrate.mtu) == ("172.31.0.0/24", 1500)
    for substrate in (
        {"cidr": "fd00::/16"},
        {"cidr": "172.31.0.1/24"},
        {"cidr": "172.31.0.0/31"},
        {"mtu": 1000},
        {"cidr": "fd00::/64", "mtu": 1340},
        {"secondCidr": "172.30.0.0/24"},
        {"only": {"d1": "ipv4"}},
        {"secondCidr": "fd00::/64", "only": {"d1": "ipx"}},
    ):
        with pytest.raises(ValidationError, match=r"expected|greater|should be"):
            build("Lab", {"droplets": 4, "substrate": substrate})


@pytest.mark.parametrize(
    ("dhcp", "words"),
    [
        ({"dnsServers": ["10.0.0.300"]}, "dnsServers"),
        ({"dnsServers": ["224.0.0.1"]}, "addresses of hosts"),
        ({"dnsServers": ["10.0.0.2", "10.0.0.2"]}, "no address twice"),
        ({"dnsServers": [f"10.0.0.{n}" for n in range(2, 8)]}, "dnsServers"),
        ({"domain": "no spaces.here"}, "a domain name"),
        ({"leaseTime": 5}, "leaseTime"),
        ({"dns": "10.0.0.2"}, "dns"),
    ],
)
def test_what_a_network_tells_by_dhcp_is_checked(dhcp: dict[str, object], words: str) -> None:
    """Servers that are addresses of hosts, a name that is one, a lease that is worth asking for."""
    manifest = {
        "apiVersion": "mizar/v1",
        "kind": "Network",
        "metadata": {"name": "front", "tenant": "red"},
        "spec": {"vpc": "main", "cidrs": ["10.0.1.0/24"], "dhcp": dhcp},
    }
    with pytest.raises(InvalidError, match=words):
        parse_resource(manifest)
