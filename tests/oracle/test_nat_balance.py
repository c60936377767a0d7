# SPDX-License-Identifier: Apache-2.0
"""The choice of a load balancer in mode nat, as the oracle makes it: what the kernel does is compared in
tests/lab/test_load_balancer_nat.py."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest

from mizar.oracle.nat_balance import Choice, Client, NatBalancer, choose, jhash

MEMBERS = tuple((bytes((10, 0, 1, host)), weight) for host, weight in ((11, 1), (12, 3)))
BALANCER = NatBalancer((bytes((203, 0, 113, 10)),), {(6, 80): 8080}, MEMBERS, ((bytes((10, 0, 0, 0)), 16),))
CLIENT = Client(6, bytes((198, 51, 100, 7)), bytes((203, 0, 113, 10)), 40000, 80)


@pytest.mark.parametrize(
    ("count", "value"),
    [(0, 3735948361), (8, None), (12, None), (20, None)],
)
def test_the_hash_is_of_all_bytes(count: int, value: int | None) -> None:
    """Each of them changes it; of none it is what it began with."""
    data = bytes(range(count))
    assert value in (None, jhash(data, 0x4D5A))
    others = {jhash(data[:at] + b"\xff" + data[at + 1 :], 0x4D5A) for at in range(count)}
    assert len(others | {jhash(data, 0x4D5A)}) == count + 1


def test_members_are_chosen_by_their_weights() -> None:
    """Over many ports; by the client's address alone there is one."""
    clients = [replace(CLIENT, source_port=port) for port in range(1024, 5120)]
    shares = [sum(choose(BALANCER, one).member == member for one in clients) for member, _ in MEMBERS]
    assert 0.22 < shares[0] / len(clients) < 0.28
    assert len({choose(replace(BALANCER, by_client=True), one) for one in clients}) == 1


@pytest.mark.parametrize(
    ("balancer", "client", "why"),
    [
        (BALANCER, replace(CLIENT, source=bytes((10, 0, 3, 4))), "nobody outside"),
        (BALANCER, replace(CLIENT, destination_port=81), "No listener"),
        (BALANCER, replace(CLIENT, protocol=17), "No listener"),
        (replace(BALANCER, full=True), CLIENT, "quota"),
        (replace(BALANCER, members=()), CLIENT, "No member"),
        (BALANCER, CLIENT, ""),
    ],
)
def test_why_none_is_chosen(balancer: NatBalancer, client: Client, why: str) -> None:
    """In the order of the rules."""
    found = choose(balancer, client)
    assert (why in found.why) if why else (found == Choice(found.member, 8080) and struct.unpack("!I", found.member))
