# SPDX-License-Identifier: Apache-2.0
"""Addresses: the mapped form, the gateway, and which prefixes a tenant may use."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mizar.model import addresses
from mizar.model.addresses import from_mapped, mapped_length, parse_mac, parse_prefix, parse_tenant_prefix, to_mapped
from tests.unit.planner.budget import examples


@examples()
@given(st.ip_addresses(v=4) | st.ip_addresses(v=6, network="fc00::/7"))
def test_the_mapped_form_is_16_bytes_and_comes_back(address: addresses.Address) -> None:
    mapped = to_mapped(address.packed)
    assert len(mapped) == 16
    assert from_mapped(mapped) == address.packed
    if address.version == 4:
        assert mapped == ip_address(f"::ffff:{address}").packed


def test_a_length_counts_within_the_mapped_address() -> None:
    assert mapped_length(bytes(4), 24) == 120
    assert mapped_length(bytes(16), 64) == 64


@pytest.mark.parametrize("length", [0, 3, 5, 15, 17])
def test_other_lengths_are_no_address(length: int) -> None:
    with pytest.raises(ValueError, match="expected"):
        to_mapped(bytes(length))
    with pytest.raises(ValueError, match="expected"):
        from_mapped(bytes(length))


@pytest.mark.parametrize(
    ("text", "gateway"),
    [("10.0.1.0/24", "10.0.1.1"), ("10.0.1.4/30", "10.0.1.5"), ("fd00:10:0:1::/64", "fd00:10:0:1::1")],
)
def test_the_gateway_is_the_first_host_address(text: str, gateway: str) -> None:
    assert addresses.gateway_of(ip_network(text)) == ip_address(gateway)


@pytest.mark.parametrize(
    "text", ["10.0.0.0/8", "10.0.0.4/30", "fd00::/32", "fd00::/126", "2001:db8::/64", "192.168.0.0/16"]
)
def test_prefixes_that_a_tenant_may_use(text: str) -> None:
    assert parse_tenant_prefix(text) == ip_network(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10.0.0.0", "as address/length"),
        ("10.0.0.1/24", r"zero host bits \(10.0.0.0/24\)"),
        ("10.0.0.0/7", "/8 to /30"),
        ("10.0.0.0/31", "/8 to /30"),
        ("10.0.0.0/33", "0 to 32"),
        ("10.0.0.0/255.0.0.0", "number of bits"),
        ("10.0.0.0/", "number of bits"),
        ("10.0/16", "IPv4 or IPv6 address"),
        ("fd00::/31", r"zero host bits|/32 to /126"),
        ("fd00::/127", "/32 to /126"),
        ("fd00::1/64", "zero host bits"),
        ("::ffff:10.0.0.0/104", "overlaps ::/32"),
        ("fe80::/64", "overlaps fe80::/10"),
        ("ff02::/64", "overlaps ff00::/8"),
        ("fe80::%1/64", "without a scope"),
        ("127.0.0.0/16", "overlaps 127.0.0.0/8"),
        ("169.254.0.0/16", "overlaps 169.254.0.0/16"),
        ("224.0.0.0/8", "overlaps 224.0.0.0/3"),
        ("0.0.0.0/8", "overlaps 0.0.0.0/8"),
        ("text", "as address/length"),
    ],
)
def test_prefixes_that_it_may_not(text: str, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        parse_tenant_prefix(text)


def test_families_never_overlap_nor_contain_one_another() -> None:
    four, six = parse_prefix("10.0.0.0/8"), parse_prefix("fd00::/32")
    assert not addresses.overlap(four, six)
    assert not addresses.within(four, six)
    assert addresses.containing([four, six], ip_address("fd00::1")) == six
    assert addresses.containing([four], ip_address("fd00::1")) is None


@pytest.mark.parametrize("text", ["02:00:00:00:00:01", "02:AB:cd:00:00:01"])
def test_a_mac_is_read_and_written_in_one_form(text: str) -> None:
    assert addresses.mac_text(parse_mac(text)) == text.lower()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "02-00-00-00-00-01",
        "01:00:00:00:00:01",
        "00:00:00:00:00:00",
        "02:4d:5a:00:00:01",
        "02:4d:5a:00:00:05",
        "2:0:0:0:0:1",
    ],
)
def test_a_mac_that_no_endpoint_can_have(text: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        parse_mac(text)


def test_text_of_packed_addresses() -> None:
    assert addresses.text_of(bytes([10, 0, 0, 1])) == "10.0.0.1"
    assert addresses.text_of(ip_address("fd00::1").packed) == "fd00::1"
