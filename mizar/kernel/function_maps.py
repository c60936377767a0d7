# SPDX-License-Identifier: Apache-2.0
"""The content of functions' own maps, as bytes: what somebody gives them, written over what is there.

Called by the daemon's functions. What a function writes into its maps itself stays, as long as the key does.
"""

from __future__ import annotations

from collections.abc import Mapping

from mizar.kernel import libbpf
from mizar.kernel.layout import Codec
from mizar.kernel.maps import Table
from mizar.model.errors import InvalidError

_ARRAY = 2
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


def _raw(size: int) -> Codec[bytes]:
    return Codec(f"{size} bytes", size, bytes, bytes)
