# SPDX-License-Identifier: Apache-2.0
"""The content of functions' own maps, as bytes: what somebody gives them, written over what is there.

Called by the daemon's functions. What a function writes into its maps itself stays, as long as the key does.
"""

from __future__ import annotations

import mmap
import os
from array import array
from collections.abc import Mapping

from mizar.kernel import libbpf
from mizar.kernel.layout import U32, Codec
from mizar.kernel.libbpf import lib
from mizar.kernel.maps import Table
from mizar.model.errors import InvalidError
from mizar.model.function_object import ENDPOINT_VALUES as ENDPOINT_VALUES

_ARRAY = 2
_MMAPABLE, _INNER_MAP = 1 << 10, 1 << 12
_PLAIN = {1: "HASH", _ARRAY: "ARRAY", 9: "LRU_HASH", 11: "LPM_TRIE"}
"""Of enum bpf_map_type: one value for each key, whatever the CPU."""


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
