# SPDX-License-Identifier: Apache-2.0
"""Entries of other droplets' endpoints, read back as bytes: what is whole is kept, what is not is mended or removed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mizar.kernel.layout import parse, struct
from mizar.model.addresses import to_mapped
from mizar.transit.execute import execute
from mizar.transit.readback import read
from mizar.transit.values import Endpoint, PutEndpoint, Tunnel
from tests.unit.transit.batches import LIMITS, OWN, START, Bench, prefix6

OTHER = bytes((172, 30, 9, 2))
BOTH = (bytes((10, 0, 1, 2)), prefix6(1).address[:15] + b"\2")
ONE = Endpoint(1, 1, BOTH, bytes((2, 0, 0, 0, 0, 1)), OTHER, Tunnel.GENEVE)
TWO = replace(ONE, addresses=(bytes((10, 0, 1, 3)),), mac=bytes((2, 0, 0, 0, 0, 2)), tunnel=Tunnel.VXLAN)
KEYS = [struct("endpoint_key", vni=1, addr=to_mapped(one)) for one in BOTH]


@pytest.fixture
def bench() -> Bench:
    made = Bench(START)
    made.do(PutEndpoint(ONE), PutEndpoint(TWO))
    return made


def altered(bench: Bench, key: bytes, **fields: object) -> None:
    entries = bench.maps.tables["endpoints"].entries
    entries[key] = struct("endpoint", **{**parse("endpoint", entries[key]), **fields})


def mended(bench: Bench) -> list[Endpoint]:
    """Once the repairs are made there are none any more; the endpoints that are known then."""
    execute(bench.maps, read(bench.maps, OWN, LIMITS, []).repairs)
    again = read(bench.maps, OWN, LIMITS, [])
    assert again.repairs == []
    return sorted(again.state.remotes(), key=lambda one: one.mac)


def test_addresses_of_one_endpoint_come_together(bench: Bench) -> None:
    """By MAC and place; each is found by its address, and counted once."""
    state = read(bench.maps, OWN, LIMITS, []).state
    assert sorted(state.remotes(), key=lambda one: one.mac) == [ONE, TWO]
    assert state.at[1, BOTH[0]] is state.at[1, BOTH[1]]
    assert (state.uses[OTHER], state.uses[1, 1]) == (2, 2)
    bench.check()


def test_the_stamp_is_the_data_plane_s_own(bench: Bench) -> None:
    """It is nothing to repair."""
    altered(bench, KEYS[0], used=77)
    assert read(bench.maps, OWN, LIMITS, []).repairs == []


@pytest.mark.parametrize("fields", [{"vpc_slot": 3}, {"flags": 1}, {"slot": 2}])
def test_what_follows_from_the_state_is_written_again(bench: Bench, fields: dict[str, int]) -> None:
    """Only the entry that differs."""
    before = bench.maps.contents()
    altered(bench, KEYS[0], **fields)
    repairs = read(bench.maps, OWN, LIMITS, []).repairs
    assert len(repairs) == 1
    assert mended(bench) == [ONE, TWO]
    assert bench.maps.contents() == before


@pytest.mark.parametrize(
    "fields", [{"network": 7}, {"droplet": 7}, {"tunnel": 0}, {"tunnel": 9}, {"ifindex": 5}, {"droplet": 1}]
)
def test_what_refers_to_nothing_is_removed(bench: Bench, fields: dict[str, int]) -> None:
    """The other address of its endpoint stays."""
    altered(bench, KEYS[0], **fields)
    assert mended(bench) == [replace(ONE, addresses=BOTH[1:]), TWO]
    assert KEYS[0] not in bench.maps.tables["endpoints"].entries


@pytest.mark.parametrize(
    "key", [struct("endpoint_key", vni=2, addr=to_mapped(BOTH[0])),
            struct("endpoint_key", vni=1, addr=to_mapped(bytes((10, 0, 2, 2))))]
)  # fmt: skip
def test_what_is_outside_of_its_network_is_removed(bench: Bench, key: bytes) -> None:
    """In another VPC, or with an address that the network has not."""
    entries = bench.maps.tables["endpoints"].entries
    entries[key] = entries[KEYS[0]]
    assert mended(bench) == [ONE, TWO]
    assert key not in entries
