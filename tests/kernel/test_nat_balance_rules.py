# SPDX-License-Identifier: Apache-2.0
"""Rules of a load balancer in mode nat, as the kernel has them: what somebody has altered is told, and mended."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from mizar.kernel import nat_balance
from mizar.kernel.namespaces import Namespace, anonymous
from mizar.kernel.nat_balance import Balance, Listener, Member

from .altered_rules import Kept

pytestmark = pytest.mark.root
TABLE = "inet mizar_balance"
BALANCE = Balance(
    "eth0",
    (ip_address("203.0.113.10"), ip_address("2001:db8:1::a")),
    (Listener(6, 80, 8080), Listener(17, 53, 8080)),
    tuple(
        Member(ip_address(one), 2, True, frozenset({6, 17})) for one in ("10.0.1.2", "10.0.1.3", "fd00::2", "fd00::3")
    ),
    (ip_network("10.0.0.0/16"), ip_network("fd00::/48")),
    False,
    1000,
)
KEPT = Kept(
    lambda namespace, balance: nat_balance.altered(balance, namespace),
    lambda namespace, balance, fresh: nat_balance.keep(balance, namespace, fresh=fresh),
)


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    """With the rules."""
    with anonymous() as made:
        nat_balance.keep(BALANCE, made)
        yield made


def test_what_is_as_it_was_told_differs_in_nothing(namespace: Namespace) -> None:
    """Also after it was told something else in between."""
    others = replace(BALANCE, full=True), replace(BALANCE, by_client=True), replace(BALANCE, members=())
    KEPT.take_turns(namespace, BALANCE, *others)


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (f"flush chain {TABLE} choose", ("chain choose", "dnat", 1)),
        (f"add rule {TABLE} through accept", ("chain through", "accept", 2)),
        (f"add chain {TABLE} more", ("chain more", "there", 2)),
        (f"delete table {TABLE}", ("chain leave", "masquerade", 1)),
    ],
)
def test_what_is_altered_is_told_and_written_again(
    namespace: Namespace, command: str, told: tuple[str, str, int]
) -> None:
    """By its chain: what is missing there, or what is foreign."""
    KEPT.is_told_and_mended(namespace, BALANCE, command, told)
