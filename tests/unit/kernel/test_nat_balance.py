# SPDX-License-Identifier: Apache-2.0
"""Which connections of a load balancer in mode nat may go on when listeners or members change."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from mizar.kernel.conntrack import Entry, Tuple
from mizar.kernel.nat_balance import Balance, Listener, Member, rules, stands

PUBLIC, CLIENT, MEMBER, OWN = (ip_address(text) for text in ("203.0.113.10", "198.51.100.7", "10.0.1.5", "10.0.1.9"))
TCP, UDP = 6, 17
BALANCE = Balance(
    "eth0", (PUBLIC,), (Listener(TCP, 80, 8080), Listener(UDP, 53, 8080)),
    (Member(MEMBER, 3, takes=False, keeps=frozenset({TCP})),), (), by_client=False, connections=16,
)  # fmt: skip


def entry(protocol: int, port: int, target: int = 8080, member: str = str(MEMBER)) -> Entry:
    there = Tuple(protocol, CLIENT.packed, PUBLIC.packed, 4000, port)
    back = Tuple(protocol, ip_address(member).packed, OWN.packed, target, 4000)
    return Entry(there, back, 0, 0, 100, b"")


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (entry(TCP, 80), True),
        (entry(UDP, 53), False),  # of a member that is down
        (entry(TCP, 81), False),  # no listener
        (entry(TCP, 80, target=8081), False),  # another port of members by now
        (entry(TCP, 80, member="10.0.1.6"), False),  # no member
    ],
)
def test_who_stays(found: Entry, expected: bool) -> None:
    """A listener and a member that keeps the protocol are needed."""
    assert stands(BALANCE, found) is expected


def test_nobody_takes_what_nobody_can_take() -> None:
    """Without a member that takes new connections there is no translation."""
    assert "dnat ip to" not in rules(BALANCE)
    assert f"ip daddr {PUBLIC} tcp dport 80 drop" in rules(BALANCE)
