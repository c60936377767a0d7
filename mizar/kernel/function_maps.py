# SPDX-License-Identifier: Apache-2.0
"""The content of functions' own maps, as bytes: what somebody gives them, written over what is there; what they hold.

Called by the daemon's functions. What a function writes into its maps itself stays, as long as the key does.
"""

from __future__ import annotations

import errno
import mmap
import os
from array import array
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from mizar.kernel import libbpf
from mizar.kernel.layout import U32, Codec
from mizar.kernel.libbpf import ffi, lib
from mizar.kernel.maps import Table
from mizar.model.errors import InvalidError
from mizar.model.function_object import ENDPOINT_VALUES as ENDPOINT_VALUES

_ARRAY = 2
_MMAPABLE, _INNER_MAP = 1 << 10, 1 << 12
_PLAIN = {1: "HASH", _ARRAY: "ARRAY", 9: "LRU_HASH", 11: "LPM_TRIE"}
"""Of enum bpf_map_type: one value for each key, whatever the CPU."""
_PER_CPU = {5: "PERCPU_HASH", 6: "PERCPU_ARRAY", 10: "LRU_PERCPU_HASH"}
_ARRAYS = (_ARRAY, 6)
_TYPES = {
    **_PLAIN, **_PER_CPU, 3: "PROG_ARRAY", 4: "PERF_EVENT_ARRAY", 7: "STACK_TRACE", 8: "CGROUP_ARRAY",
    12: "ARRAY_OF_MAPS", 13: "HASH_OF_MAPS", 14: "DEVMAP", 15: "SOCKMAP", 16: "CPUMAP", 17: "XSKMAP", 18: "SOCKHASH",
    22: "QUEUE", 23: "STACK", 24: "SK_STORAGE", 25: "DEVMAP_HASH", 27: "RINGBUF", 30: "BLOOM_FILTER", 33: "ARENA",
}  # fmt: skip
_MOST_LOOKED_AT = 1 << 16
"""Entries, for one answer: of a large array nearly all may be zero."""
_MOST_BYTES, _LONGEST = 1 << 20, 1 << 16


def fill(name: str, fd: int, entries: Mapping[bytes, bytes], before: Mapping[bytes, bytes]) -> None:
    """From now on the map has these keys and no others (of an array: the rest is zero). `before`: what was given the
    last time; a value that is the same is left as the function may have made it. Raises InvalidError."""
    info = libbpf.info("map", fd)
    if info.type not in _PLAIN:
        raise InvalidError(f"map {name} cannot be given content: expected a map of type {', '.join(_PLAIN.values())}")
    for key, value in entries.items():
        if (len(key), len(value)) != (info.key_size, info.value_size):
            raise InvalidError(
                f"map {name} has keys of {info.key_size} and values of {info.value_size} bytes, "
                f"not of {len(key)} and {len(value)}"
            )
    table = Table(name, fd, _raw(info.key_size), _raw(info.value_size))
    there = {key for key, _ in table.raw_items()}
    if info.type == _ARRAY:
        zero = bytes(info.value_size)
        table.put_raw([(key, zero) for key in before.keys() - entries.keys()])
    else:
        table.delete_raw(there - entries.keys())
    table.put_raw([(key, value) for key, value in entries.items() if key not in there or before.get(key) != value])


def replace_table(outer: int, number: int, cells: array[int] | None) -> None:
    """From the next packet on, this is the table with that number (MIZAR_TABLES of uint64_t); None: there is none."""
    key = U32.pack(number)
    if cells is None:
        lib().bpf_map_delete_elem(outer, key)  # there may be none
        return
    fd = libbpf.make_map(_ARRAY, 4, cells.itemsize, len(cells), _INNER_MAP | _MMAPABLE)
    try:
        with mmap.mmap(fd, len(cells) * cells.itemsize) as memory:
            memory[:] = memoryview(cells).cast("B")
        libbpf.check(lib().bpf_map_update_elem(outer, key, U32.pack(fd), 0), "put a table in its place")
    finally:
        os.close(fd)


def raw_table(name: str, fd: int) -> Table[bytes, bytes]:
    """A map of a function's own, in bytes."""
    info = libbpf.info("map", fd)
    return Table(name, fd, _raw(info.key_size), _raw(info.value_size))


def _raw(size: int) -> Codec[bytes]:
    return Codec(f"{size} bytes", size, bytes, bytes)


def type_of(info: Any) -> str:
    """What the kernel calls the type of a map (libbpf.info)."""
    return _TYPES.get(info.type, f"type {info.type}")


def held(name: str, fd: int, most: int) -> tuple[list[tuple[bytes, list[bytes]]], bool]:
    """At most so many of a map's entries, of an array those that are not zero, and whether there may be others. Each
    has one value, or one for each CPU. Raises InvalidError for a map whose entries nobody can read one by one."""
    info = libbpf.info("map", fd)
    if info.type not in _PLAIN | _PER_CPU or info.value_size > _LONGEST:
        what = f"a {type_of(info)} with values of {info.value_size} bytes"
        raise InvalidError(f"map {name} is {what}, whose entries cannot be told one by one")
    found: dict[bytes, list[bytes]] = {}
    room = _MOST_BYTES
    for key in islice(_keys(fd, info.key_size), _MOST_LOOKED_AT):
        values = _values(fd, key, info)
        if values and key not in found and (info.type not in _ARRAYS or any(map(any, values))):
            room -= len(key) + sum(map(len, values))
            if len(found) == most or room < 0:
                return list(found.items()), True
            found[key] = values
    return list(found.items()), info.type in _ARRAYS and info.max_entries > _MOST_LOOKED_AT


def _keys(fd: int, size: int) -> Iterator[bytes]:
    """Those that it has; one that comes or goes meanwhile may be missed, or come twice."""
    key, following = ffi.NULL, ffi.new("char[]", size)
    while lib().bpf_map_get_next_key(fd, key, following) == 0:
        found = ffi.buffer(following)[:]
        yield found
        key = ffi.new("char[]", found)


def _values(fd: int, key: bytes, info: Any) -> list[bytes]:
    """Of one key; none: it has gone meanwhile."""
    cpus = libbpf.possible_cpus() if info.type in _PER_CPU else 1
    stride = (info.value_size + 7) // 8 * 8 if info.type in _PER_CPU else info.value_size
    out = ffi.new("char[]", stride * cpus)
    result = lib().bpf_map_lookup_elem(fd, key, out)
    if result == -errno.ENOENT:
        return []
    libbpf.check(result, "read an entry of a map")
    data = ffi.buffer(out)[:]
    return [data[at : at + info.value_size] for at in range(0, len(data), stride)]
