# SPDX-License-Identifier: Apache-2.0
"""Hostile requests: whatever the bytes, the answer is a value that is valid or InvalidError."""

from typing import Any

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from mizar._built import transit_pb2 as pb
from mizar.model.errors import InvalidError
from mizar.transit import requests
from mizar.transit.requests import endpoints, fields, networks, workloads
from mizar.transit.values import Droplet

A4, A6, MAC = bytes((10, 0, 1, 2)), bytes.fromhex("fd00001000000001" + "00" * 7 + "02"), bytes((2, 0, 0, 0, 0, 1))
HOST = bytes((172, 30, 9, 1))


@given(st.binary(max_size=200))
def test_any_bytes_give_a_change_or_invalid(data: bytes) -> None:
    message = pb.Change()
    try:
        message.ParseFromString(data)
    except DecodeError:
        return
    try:
        requests.change(message)
    except InvalidError:
        return


@given(st.binary(max_size=20))
def test_an_address_has_one_form(data: bytes) -> None:
    try:
        found = fields.address(data, "it")
    except InvalidError:
        return
    assert len(found) in (4, 16)
    assert not found.startswith(bytes(10) + b"\xff\xff")


def endpoint(**fields: object) -> pb.Endpoint:
    wanted: dict[str, object] = {
        "vni": 7, "network_id": 1, "addresses": [A4, A6], "mac": MAC, "host": HOST, "tunnel": 1,
    }  # fmt: skip
    return pb.Endpoint(**{**wanted, **fields})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fields", "part"),
    [
        ({"vni": 0}, "VPC 0"),
        ({"network_id": 0}, "network id 0"),
        ({"addresses": []}, "there is no address"),
        ({"addresses": [A4, A4]}, "more than one address"),
        ({"addresses": [A4[:3]]}, "3 bytes"),
        ({"addresses": [bytes(10) + b"\xff\xff" + A4]}, "IPv4-mapped"),
        ({"addresses": [bytes((224, 0, 0, 1))]}, "unicast"),
        ({"addresses": [bytes(16)]}, "unicast"),
        ({"mac": MAC[:5]}, "5 bytes"),
        ({"mac": bytes((1, 0, 0, 0, 0, 1))}, "unicast"),
        ({"mac": bytes.fromhex("024d5a000001")}, "virtual router"),
        ({"mac": bytes.fromhex("024d5a000005")}, "virtual router"),
        ({"host": bytes(15) + b"\1"}, "other hosts can reach"),
        ({"host": bytes.fromhex("fe80" + "00" * 13 + "01")}, "other hosts can reach"),
        ({"host": b""}, "0 bytes"),
        ({"tunnel": 0}, "tunnel protocol is 0"),
        ({"tunnel": 77}, "tunnel protocol is 77"),
    ],
)
def test_endpoints_that_contradict_themselves(fields: dict[str, object], part: str) -> None:
    with pytest.raises(InvalidError, match=part):
        endpoints.endpoint(endpoint(**fields))


@pytest.mark.parametrize(
    ("address", "length", "gateway", "part"),
    [
        (bytes((10, 0, 1, 0)), 33, A4, "allows 0 to 32"),
        (bytes((10, 0, 1, 1)), 24, A4, "host bits"),
        (bytes((10, 0, 2, 0)), 24, A4, "outside of the prefix"),
        (bytes((10, 0, 1, 0)), 24, A6, "outside of the prefix"),
        (bytes(16), 0, A6, "IPv4-mapped addresses"),
        (bytes(16), 80, b"\0" * 15 + b"\1", "IPv4-mapped addresses"),
        (b"", 0, A4, "0 bytes"),
    ],
)
def test_prefixes_that_contradict_themselves(address: bytes, length: int, gateway: bytes, part: str) -> None:
    with pytest.raises(InvalidError, match=part):
        fields.prefix(pb.Prefix(address=address, length=length, gateway=gateway))


@pytest.mark.parametrize(
    ("fields", "part"),
    [
        ({}, "names no place"),
        ({"name": ""}, "no name of a namespace"),
        ({"name": "../evil"}, "no name of a namespace"),
        ({"name": ".."}, "no name of a namespace"),
        ({"path": "relative"}, "absolute"),
        ({"path": "/" + "x" * 200}, "at most 120"),
        ({"path": "/a\nb"}, "printable"),
        ({"pid": 0}, "pid 0"),
        ({"pid": 1 << 31}, "outside of"),
        ({"name": "red", "interface": "a/b"}, "cannot name an interface"),
        ({"name": "red", "interface": "x" * 16}, "cannot name an interface"),
        ({"name": "red", "interface": "lo"}, "cannot name an interface"),
        ({"tap": pb.Tap(name="a.b")}, "cannot name a tap"),
        ({"tap": pb.Tap(name="a b")}, "cannot name a tap"),
        ({"tap": pb.Tap(name="-")}, "cannot name a tap"),
        ({"tap": pb.Tap(name="x" * 16)}, "cannot name a tap"),
        ({"tap": pb.Tap(owner=2**32 - 1)}, "no user id"),
        ({"tap": pb.Tap(queues=17)}, "17 queues"),
        ({"ovs": pb.OvsPort()}, "cannot name a bridge"),
        ({"ovs": pb.OvsPort(bridge="a/b")}, "cannot name a bridge"),
        ({"ovs": pb.OvsPort(bridge="br0", port="x" * 16)}, "cannot name a port"),
        ({"ovs": pb.OvsPort(bridge="br0", vlan=4095)}, "VLAN 4095"),
    ],
)
def test_workloads_that_cannot_be(fields: dict[str, object], part: str) -> None:
    with pytest.raises(InvalidError, match=part):
        workloads.workload(pb.Workload(**fields))  # type: ignore[arg-type]


@pytest.mark.parametrize("uid", ["", "x" * 65, "with space", "tab\t", "ümlaut", "a\x00b"])
def test_uids_that_no_alias_can_hold(uid: str) -> None:
    with pytest.raises(InvalidError, match="printable ASCII"):
        fields.uid(uid)


def test_mtu_has_room_for_the_families() -> None:
    """IPv6 needs 1280 bytes (RFC 8200 5)."""
    message = pb.LocalEndpoint(uid="u", endpoint=endpoint(), workload=pb.Workload(pid=1), mtu=1279)
    with pytest.raises(InvalidError, match="1280 to"):
        endpoints.wanted(message)
    message.endpoint.addresses[:] = [A4]
    assert endpoints.wanted(message).mtu == 1279


@pytest.mark.parametrize(
    "wrong",
    [
        {"mtu": 1400},
        {"workload": pb.Workload(tap=pb.Tap())},
        {"workload": pb.Workload(ovs=pb.OvsPort(bridge="br"))},
        {"workload": pb.Workload(pid=1, self_configured=True)},
    ],
)
def test_bypass_needs_a_veth_of_the_droplets_size(wrong: dict[str, Any]) -> None:
    """The workload's end of which nobody else sets up."""
    right: dict[str, Any] = {"uid": "u", "endpoint": endpoint(), "workload": pb.Workload(pid=1), "bypass": True}
    assert endpoints.wanted(pb.LocalEndpoint(**right)).bypass
    with pytest.raises(InvalidError, match="bypasses decapsulation"):
        endpoints.wanted(pb.LocalEndpoint(**(right | wrong)))


def test_a_droplets_name_is_no_part_of_what_it_is() -> None:
    assert Droplet(HOST, "a") == Droplet(HOST, "b")


@pytest.mark.parametrize(
    ("dhcp", "words"),
    [
        (pb.Dhcp(dns=[b"\x0a\0\0\x02"] * 5), "at most 4"),
        (pb.Dhcp(dns=[b"xyz"]), "3 bytes"),
        (pb.Dhcp(domain="a" * 64), "ASCII letters"),
        (pb.Dhcp(domain="a..b"), "ASCII letters"),
        (pb.Dhcp(domain="\u00fc.de"), "ASCII letters"),
    ],
)
def test_what_endpoints_are_told_by_dhcp_is_checked(dhcp: pb.Dhcp, words: str) -> None:
    """What cannot be written into an option is refused."""
    with pytest.raises(InvalidError, match=words):
        networks.dhcp(dhcp)
