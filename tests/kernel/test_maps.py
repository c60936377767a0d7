# SPDX-License-Identifier: Apache-2.0
"""Tables keep what is written, in batches as one by one, and say clearly what is wrong."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from mizar.kernel import libbpf
from mizar.kernel.layout import U32, struct_codec
from mizar.kernel.maps import CounterTable, Table
from mizar.kernel.programs import Programs
from mizar.kernel.tables import Tables, network_key
from mizar.model.errors import ConflictError, ExhaustedError, InvalidError, NotFoundError

pytestmark = pytest.mark.root

HASH, ARRAY, PERCPU_ARRAY, LPM_TRIE = 1, 2, 6, 11  # enum bpf_map_type
MAC = bytes.fromhex("020000000001")


@pytest.fixture
def tables(programs: Programs) -> Tables:
    return Tables.of(programs.maps)


@pytest.fixture
def large() -> Iterator[Table[int, int]]:
    fd = libbpf.make_map(HASH, 4, 4, 50_000)
    yield Table("large", fd, U32, U32)
    os.close(fd)


def key(number: int) -> dict[str, object]:
    return {"vni": 7, "addr": number.to_bytes(16, "big")}


def test_one_entry_lives_and_dies(tables: Tables) -> None:
    """put, get, delete; a missing key is None or False, not an error."""
    assert tables.endpoints.get(key(1)) is None
    tables.endpoints.put(key(1), {"droplet": 3, "mac": MAC, "tunnel": 1})
    assert tables.endpoints.get(key(1)) == {
        "droplet": 3, "ifindex": 0, "slot": 0, "vpc_slot": 0, "network": 0, "mac": MAC, "tunnel": 1, "flags": 0,
        "used": 0,
    }  # fmt: skip
    assert tables.endpoints.delete(key(1))
    assert not tables.endpoints.delete(key(1))


def test_a_write_can_insist_on_new_or_existing(tables: Tables) -> None:
    """So that nobody overwrites, or resurrects, by accident."""
    with pytest.raises(NotFoundError):
        tables.vpcs.put(7, {"slot": 1}, only="existing")
    tables.vpcs.put(7, {"slot": 1}, only="new")
    with pytest.raises(ConflictError):
        tables.vpcs.put(7, {"slot": 2}, only="new")
    tables.vpcs.put(7, {"slot": 3}, only="existing")
    assert list(tables.vpcs.items()) == [(7, {"slot": 3, "dividers": 0, "flags": 0, "wire_vni": 0})]


def test_a_full_table_says_so(tables: Tables) -> None:
    """With the number that it holds."""
    tables.endpoints.put_many((key(n), {"droplet": 1}) for n in range(64))
    with pytest.raises(ExhaustedError, match=r"full.*64"):
        tables.endpoints.put(key(64), {"droplet": 1})
    with pytest.raises(ExhaustedError, match=r"full.*64"):
        tables.endpoints.put_many([(key(n), {"droplet": 1}) for n in range(64, 80)])
    tables.networks.put_many((network_key(1, bytes([0xFD, n, *bytes(14)]), 16), {"slot": 1}) for n in range(64))
    with pytest.raises(ExhaustedError, match=r"full.*64"):
        tables.networks.put(network_key(2, bytes(16), 16), {"slot": 1})


def test_batches_equal_single_writes(large: Table[int, int]) -> None:
    """More entries than fit into one system call come back complete."""
    wanted = {n: n * 7 % 65521 for n in range(20_000)}
    assert large.put_many(iter(wanted.items())) == len(wanted)
    assert dict(large.items()) == wanted
    assert large.get(19_999) == wanted[19_999]


def test_deleting_many_skips_what_is_not_there(large: Table[int, int]) -> None:
    """Every third key is there, in every order of hits and misses."""
    large.put_many((n, n) for n in range(0, 9_000, 3))
    assert large.delete_many(range(6_000)) == 2_000
    assert sorted(number for number, _ in large.items()) == list(range(6_000, 9_000, 3))
    assert large.delete_many([]) == 0


@pytest.mark.parametrize("kind", [HASH, LPM_TRIE, ARRAY])
def test_a_map_without_batches_is_served_one_by_one(kind: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The result is the same; only the number of system calls differs."""
    fd = libbpf.make_map(kind, 4 if kind != LPM_TRIE else 8, 4, 16, 1 if kind == LPM_TRIE else 0)
    real = libbpf.lib()

    class NoBatches:
        def __getattr__(self, name: str) -> object:
            return (lambda *_: -libbpf.ENOTSUPP) if name.endswith("_batch") else getattr(real, name)

    monkeypatch.setattr("mizar.kernel.maps.lib", lambda: NoBatches())
    codec = struct_codec("droplet_switches")
    try:
        if kind == LPM_TRIE:
            trie = Table("trie", fd, codec, U32)
            trie.put_many(({"events": 32}, n) for n in (1, 2))
            assert [value for _, value in trie.items()] == [2]
            assert trie.delete_many([{"events": 32}, {"events": 31}]) == 1
        else:
            table = Table("table", fd, U32, U32)
            table.put_many((n, n + 1) for n in range(16))
            assert dict(table.items()) == {n: n + 1 for n in range(16)}
            if kind == HASH:
                assert table.delete_many(range(8, 24)) == 8
    finally:
        os.close(fd)


def test_an_array_has_all_places_and_none_to_delete(tables: Tables) -> None:
    """Slots are never missing; taking one away makes no sense."""
    tables.hop_sets.put(5, {"droplet": (1,) * 16, "vni": 7})
    found = dict(tables.hop_sets.items())
    assert len(found) == 64
    assert found[5] == {"droplet": (1,) * 16, "vni": 7, "network_id": 0}
    with pytest.raises(InvalidError):
        tables.hop_sets.delete(5)


def test_counters_are_summed_and_zeroed() -> None:
    """What each CPU counted, added up; untouched slots are not listed."""
    fd = libbpf.make_map(PERCPU_ARRAY, 4, 16, 8)
    try:
        counters = CounterTable("drops", fd, struct_codec("drop_counter"))
        per_cpu = b"".join((cpu + 1).to_bytes(8, "little") + (100).to_bytes(8, "little") for cpu in range(_cpus()))
        libbpf.check(libbpf.lib().bpf_map_update_elem(fd, U32.pack(3), per_cpu, 0), "write")
        sums = {"packets": _cpus() * (_cpus() + 1) // 2, "bytes": 100 * _cpus()}
        assert counters.get(3) == sums
        assert list(counters.items()) == [(3, sums)]
        counters.zero([3])
        assert list(counters.items()) == []
        assert counters.get(8) is None
    finally:
        os.close(fd)


def _cpus() -> int:
    return libbpf.possible_cpus()


def test_a_map_of_another_shape_is_refused() -> None:
    """Reading it with the wrong struct would give nonsense that looks right."""
    fd = libbpf.make_map(HASH, 4, 8, 8)
    try:
        with pytest.raises(InvalidError, match="values of 8 bytes"):
            Table("table", fd, U32, U32)
    finally:
        os.close(fd)


def test_every_map_must_be_there(programs: Programs) -> None:
    """A program that lacks one belongs to another version."""
    with pytest.raises(InvalidError, match="no map vpcs"):
        Tables.of({name: fd for name, fd in programs.maps.items() if name != "vpcs"})
