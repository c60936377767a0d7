# SPDX-License-Identifier: Apache-2.0
"""Rules between objects: a network within its VPC, an endpoint within its network, and what may not change."""

from __future__ import annotations

from typing import Any

import pytest

from mizar.model.checks import check_endpoint, check_immutable, check_network
from mizar.model.errors import Problem
from mizar.model.resources import VPC, Droplet, Endpoint, Network

VPC_A = VPC.model_validate(
    {
        "metadata": {"name": "a", "tenant": "t"},
        "spec": {"cidrs": ["10.0.0.0/16", "fd00:10::/48"]},
        "status": {"vni": 7},
    }
)


def network(name: str, *cidrs: str, vpc: str = "a", **spec: Any) -> Network:
    return Network.model_validate(
        {"metadata": {"name": name, "tenant": "t"}, "spec": {"vpc": vpc, "cidrs": cidrs, **spec}}
    )


def endpoint(*addresses: str, status: dict[str, Any] | None = None, **spec: Any) -> Endpoint:
    given = {"network": "n", "droplet": "d1", "addresses": addresses, "workload": {"pid": 1}, **spec}
    return Endpoint.model_validate({"metadata": {"name": "e", "tenant": "t"}, "spec": given, "status": status or {}})


def droplet(daemon: str = "unix:///run/d") -> Droplet:
    return Droplet.model_validate({"metadata": {"name": "d1"}, "spec": {"address": "172.31.0.1", "daemon": daemon}})


def found(problems: list[Problem]) -> list[tuple[str, str]]:
    return [(problem.field, problem.message) for problem in problems]


def test_a_network_within_its_vpc_beside_others_is_right() -> None:
    siblings = [network("m", "10.0.1.0/24"), network("n", "10.0.2.0/24"), network("o", "10.0.2.0/24", vpc="other")]
    assert check_network(network("n", "10.0.2.0/24", "fd00:10:0:2::/64"), VPC_A, siblings) == []


def test_a_network_outside_its_vpc_or_across_another_is_told_of_each_prefix() -> None:
    siblings = [network("m", "fd00:10:0:3::/64")]
    problems = check_network(network("n", "10.1.0.0/24", "fd00:10:0:3::/64"), VPC_A, siblings)
    assert found(problems) == [
        ("spec.cidrs[0]", "expected a prefix within VPC t/a (10.0.0.0/16, fd00:10::/48), found 10.1.0.0/24"),
        (
            "spec.cidrs[1]",
            "fd00:10:0:3::/64 is network m's in the same VPC already; choose a longer or a shorter one",
        ),
    ]
    assert {problem.resource for problem in problems} == {"Network t/n"}


def test_a_network_may_lie_inside_of_another_and_around_others() -> None:
    siblings = [network("m", "10.0.0.0/20", "fd00:10:0:2::/63"), network("o", "10.0.2.128/25")]
    assert check_network(network("n", "10.0.2.0/24", "fd00:10:0:3::/64"), VPC_A, siblings) == []


def test_a_network_wider_than_its_vpc_is_not_within_it() -> None:
    assert [field for field, _ in found(check_network(network("n", "10.0.0.0/15"), VPC_A, []))] == ["spec.cidrs[0]"]


@pytest.mark.parametrize("address", ["10.0.1.0", "10.0.1.1", "10.0.1.255", "fd00:10:0:1::", "fd00:10:0:1::1"])
def test_an_endpoint_has_no_reserved_address(address: str) -> None:
    net = network("n", "10.0.1.0/24", "fd00:10:0:1::/64")
    ((field, message),) = found(check_endpoint(endpoint(address), net, droplet()))
    assert field == "spec.addresses[0]"
    assert message.startswith(f"{address} is reserved")


def test_an_endpoint_lies_within_its_network() -> None:
    net = network("n", "10.0.1.0/24")
    problems = check_endpoint(endpoint("10.0.2.5", "fd00::5"), net, droplet())
    assert found(problems) == [
        ("spec.addresses[0]", "expected an address within Network t/n (10.0.1.0/24), found 10.0.2.5"),
        ("spec.addresses[1]", "expected an address within Network t/n (10.0.1.0/24), found fd00::5"),
    ]
    assert check_endpoint(endpoint("10.0.1.5"), net, droplet()) == []


def test_an_endpoint_has_a_workload_exactly_where_a_daemon_can_make_its_interface() -> None:
    net = network("n", "10.0.1.0/24")
    assert found(check_endpoint(endpoint(workload=None), net, droplet())) == [
        ("spec.workload", "missing; expected a namespace, path, pid, tap or ovs on droplet d1")
    ]
    assert found(check_endpoint(endpoint(), net, droplet("none"))) == [
        ("spec.workload", "unexpected: droplet d1 has no daemon that could make its interface")
    ]
    assert check_endpoint(endpoint(workload=None), net, droplet("none")) == []


def test_fields_that_may_change() -> None:
    assert (
        check_immutable(network("n", "10.0.1.0/24"), network("n", "10.0.1.0/24", bouncers=4, tunnelProtocol="vxlan"))
        == []
    )
    assert check_immutable(endpoint(), endpoint(tunnelProtocol="vxlan")) == []
    assert check_immutable(droplet(), droplet("host:4000")) == []


def test_fields_that_may_not() -> None:
    changed = network("n", "10.0.2.0/24", vpc="b")
    assert found(check_immutable(network("n", "10.0.1.0/24"), changed)) == [
        ("spec.vpc", "cannot change from a to b: delete the Network and make another"),
        ("spec.cidrs", "cannot change from 10.0.1.0/24 to 10.0.2.0/24: delete the Network and make another"),
    ]
    fields = [field for field, _ in found(check_immutable(endpoint(), endpoint("10.0.1.9", droplet="d2", network="m")))]
    assert fields == ["spec.network", "spec.droplet", "spec.addresses"]
    assert [field for field, _ in found(check_immutable(droplet(), droplet("none")))] == ["spec.daemon"]


def test_what_the_server_chose_may_be_named_or_left_open_again() -> None:
    chosen = endpoint(status={"addresses": ["10.0.1.2"], "mac": "02:00:00:00:00:05"})
    assert check_immutable(chosen, endpoint("10.0.1.2", mac="02:00:00:00:00:05")) == []
    assert found(check_immutable(chosen, endpoint("10.0.1.3")))[0][0] == "spec.addresses"
    asked = endpoint("10.0.1.2", status={"addresses": ["10.0.1.2"]})
    assert check_immutable(asked, endpoint()) == []
    with_vni = VPC_A.model_copy(update={"spec": VPC_A.spec.model_copy(update={"vni": 7})})
    other_vni = VPC_A.model_copy(update={"spec": VPC_A.spec.model_copy(update={"vni": 8})})
    assert check_immutable(VPC_A, with_vni) == []
    assert found(check_immutable(VPC_A, other_vni)) == [
        ("spec.vni", "cannot change from nothing to 8: delete the VPC and make another")
    ]


def test_what_was_asked_for_cannot_be_taken_back() -> None:
    """Only what the server may choose can be left to it again: an endpoint without its workload is another endpoint."""
    assert found(check_immutable(endpoint(), endpoint(workload=None))) == [
        (
            "spec.workload",
            "cannot change from pid 1, interface eth0, configure static to nothing: "
            "delete the Endpoint and make another",
        )
    ]
