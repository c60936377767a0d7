# SPDX-License-Identifier: Apache-2.0
"""A table of prefixes answers as a look at every prefix would."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

from hypothesis import given
from hypothesis import strategies as st

from mizar.model.addresses import Prefix, within
from mizar.model.prefixes import PrefixTable
from tests.unit.planner.budget import examples


def _four(bits: int, length: int) -> Prefix:
    return ip_network((10 << 24 | bits << 8, length), strict=False)


def _six(bits: int, length: int) -> Prefix:
    return ip_network((0xFD << 120 | bits << 8, 96 + length), strict=False)


prefixes = st.builds(_four, st.integers(0, 0xFFFF), st.integers(0, 30)) | st.builds(
    _six, st.integers(0, 0xFFFF), st.integers(4, 30)
)


@examples()
@given(st.lists(prefixes, max_size=12), st.lists(prefixes, max_size=4), prefixes)
def test_a_table_answers_as_a_look_at_every_prefix_would(put: list[Prefix], gone: list[Prefix], asked: Prefix) -> None:
    table: PrefixTable[str] = PrefixTable()
    for prefix in put:
        table.put(prefix, str(prefix))
    for prefix in gone:
        table.remove(prefix)
    left = set(put) - set(gone)
    assert [found for found, _ in table.around(asked)] == sorted(
        (p for p in left if p != asked and within(asked, p)), key=lambda p: -p.prefixlen
    )
    inside = [found for found, value in table.inside(asked) if value == str(found)]
    assert set(inside) == {p for p in left if p != asked and within(p, asked)}
    assert len(inside) == len(set(inside))
    assert table.get(asked) == (str(asked) if asked in left else None)
    holding = [p for p in left if asked.network_address in p]
    longest = max(holding, key=lambda p: p.prefixlen, default=None)
    found = table.longest(asked.network_address)
    assert (found and found[0]) == longest


def test_families_do_not_mix() -> None:
    table: PrefixTable[int] = PrefixTable()
    table.put(ip_network("0.0.0.0/0"), 4)
    assert table.longest(ip_address("::")) is None
    table.put(ip_network("::/0"), 6)
    assert table.longest(ip_address("10.0.0.1")) == (ip_network("0.0.0.0/0"), 4)
