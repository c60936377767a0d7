# SPDX-License-Identifier: Apache-2.0
"""Addresses: every usable one is given once, none that is reserved, and given-back ones rest."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mizar.model.addresses import ROUTER_MAC, Address, Prefix, gateway_of, is_reserved
from mizar.model.errors import ConflictError, ExhaustedError, InvalidError
from mizar.planner.ipam import allocate, capacity, check_requested, derive_mac
from tests.unit.planner.budget import examples

SMALL = [ip_network(f"10.0.1.0/{length}") for length in range(26, 31)]
SMALL += [ip_network(f"fd00::/{length}") for length in range(122, 127)]


@examples()
@given(st.sampled_from(SMALL))
def test_a_prefix_gives_every_usable_address_once_and_is_then_exhausted(prefix: Prefix) -> None:
    taken: set[Address] = set()
    cursor = None
    for _ in range(capacity(prefix)):
        cursor = allocate(prefix, taken.__contains__, cursor=cursor)
        assert cursor not in taken
        taken.add(cursor)
    assert taken == {address for address in prefix if not is_reserved(prefix, address)}
    with pytest.raises(ExhaustedError, match="all"):
        allocate(prefix, taken.__contains__, cursor=cursor)


@examples()
@given(st.sampled_from(SMALL), st.data())
def test_the_only_free_address_is_found_from_any_cursor(prefix: Prefix, data: st.DataObject) -> None:
    usable = [address for address in prefix if not is_reserved(prefix, address)]
    free = data.draw(st.sampled_from(usable))
    cursor = data.draw(st.sampled_from([None, ip_address("192.0.2.1"), *prefix]))
    assert allocate(prefix, lambda address: address != free, cursor=cursor) == free


def test_the_first_address_follows_the_gateway() -> None:
    for text, first in (("10.0.1.0/24", "10.0.1.2"), ("fd00:10:0:1::/64", "fd00:10:0:1::2")):
        assert allocate(ip_network(text), lambda _: False) == ip_address(first)


def test_one_call_asks_once_when_nothing_is_requested_by_hand() -> None:
    """O(1): with a cursor at the last allocated address, the next is free at the first try."""
    prefix = ip_network("10.0.0.0/8")
    taken: set[Address] = set()
    asked = 0

    def is_taken(address: Address) -> bool:
        nonlocal asked
        asked += 1
        return address in taken

    cursor = None
    for _ in range(5000):
        cursor = allocate(prefix, is_taken, cursor=cursor)
        taken.add(cursor)
    assert asked == 5000


def test_an_address_that_was_given_back_rests_until_all_others_were_given() -> None:
    prefix = ip_network("10.0.1.0/29")
    first = allocate(prefix, lambda _: False)
    given_now = [first]
    for _ in range(capacity(prefix) - 1):
        given_now.append(allocate(prefix, lambda _: False, cursor=given_now[-1]))
    assert len(set(given_now)) == capacity(prefix) == 5
    assert allocate(prefix, lambda _: False, cursor=given_now[-1]) == first


@pytest.mark.parametrize("address", ["10.0.1.0", "10.0.1.1", "10.0.1.255", "10.0.2.5", "fd00::5"])
def test_a_requested_address_that_no_endpoint_can_have_is_invalid(address: str) -> None:
    with pytest.raises(InvalidError, match=address):
        check_requested(ip_network("10.0.1.0/24"), ip_address(address), lambda _: False)


def test_a_requested_address_is_given_or_a_conflict() -> None:
    prefix, address = ip_network("10.0.1.0/24"), ip_address("10.0.1.7")
    assert check_requested(prefix, address, lambda _: False) == address
    with pytest.raises(ConflictError, match="taken by another endpoint"):
        check_requested(prefix, address, lambda _: True)


@examples()
@given(st.text(max_size=64))
def test_a_mac_is_local_unicast_stable_and_never_the_routers(uid: str) -> None:
    mac = derive_mac(uid)
    assert len(mac) == 6
    assert mac[0] == 2
    assert mac == derive_mac(uid) != ROUTER_MAC
    assert derive_mac(uid, taken={mac}.__contains__) != mac


def test_a_gateway_is_reserved_in_both_families() -> None:
    for text in ("10.0.1.0/30", "fd00::/126"):
        prefix = ip_network(text)
        assert is_reserved(prefix, gateway_of(prefix))
    assert not is_reserved(ip_network("fd00::/126"), ip_address("fd00::3"))
    assert is_reserved(ip_network("10.0.1.0/30"), ip_address("10.0.1.3"))


def test_no_mac_free_is_exhaustion() -> None:
    with pytest.raises(ExhaustedError, match="no MAC"):
        derive_mac("x", taken=lambda _: True)


def test_addresses_of_a_network_inside_are_passed_over_as_a_whole() -> None:
    """All others are given once, whatever the cursor; a prefix that lies inside costs one question."""
    prefix, inner = ip_network("10.0.0.0/16"), ip_network("10.0.0.128/25")
    asked: list[Address] = []

    def other(address: Address) -> Prefix | None:
        asked.append(address)
        return inner if address in inner else None

    assert allocate(prefix, lambda _: False, cursor=ip_address("10.0.0.127"), other=other) == ip_address("10.0.1.0")
    assert asked == [ip_address("10.0.0.128"), ip_address("10.0.1.0")]
    whole = ip_network("10.0.0.0/29")
    parts = {first: ip_network(f"10.0.0.{first}/30") for first in (0, 4)}
    with pytest.raises(ExhaustedError):
        allocate(whole, lambda _: False, other=lambda address: parts[int(address) & 4])
