# SPDX-License-Identifier: Apache-2.0
"""Reading the entries of connections of one version of IP: those in lines, and those that are far, in the hash map.

contracts/gateway.h says which entry stands where. Lines are read as memory that the data plane writes meanwhile: an
entry is seen whole or not at all. Writing is the keeper's business. Called through GatewayTables.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator
from typing import Any

from mizar.kernel import libbpf
from mizar.kernel.layout import U32, Codec, Fields, constant, offsets, size, struct_codec
from mizar.kernel.maps import Table

_CHUNK = 4096
"""Lines that are looked at together."""
_KEYS = 12
_U32 = struct.Struct("=I")


class ConnectionTable:
    """Entries of IPv4 or IPv6 over open maps, which stay the caller's."""

    def __init__(self, version: int, maps: Any) -> None:
        name = f"connection{version}"
        self.version = version
        self._keys, self._values = struct_codec(f"{name}_key"), struct_codec(name)
        self.far: Table[Fields, Fields] = Table(
            f"connections{version}", maps[f"connections{version}"], self._keys, self._values
        )
        places = (
            Table("connection_places", maps["connection_places"], U32, struct_codec("connection_places")).get(0) or {}
        )
        self.groups: int = places[f"groups{version}"]
        self._line = size(f"{name}_line")
        self._multipliers: tuple[int, ...] = places["keys"]
        at = {field: offset for field, offset, _ in offsets(f"{name}_line")}
        self._key_at, self._state_at, self._value_at = at["meta"], at["state"], at["value"]
        self._memory: memoryview | None = None
        if self.groups:
            length = self.groups * constant("LINE_WAYS") * self._line
            length += -length % mmap.PAGESIZE
            self._memory = memoryview(mmap.mmap(maps[f"lines{version}"], length, mmap.MAP_SHARED, mmap.PROT_READ))

    @property
    def codecs(self) -> tuple[Codec[Fields], Codec[Fields]]:
        """Of keys and of values, for who reads entries as bytes."""
        return self._keys, self._values

    @property
    def room(self) -> int:
        """Connections that it is made for, of two entries each."""
        return self.groups + self.far.max_entries // 2

    def get(self, key: Fields) -> Fields | None:
        """The value of a key, None when it is not there."""
        packed = self._keys.pack(key)
        for place in self._lines_of(packed):
            found = self._entry(place)
            if found is not None and found[0] == packed:
                return self._values.unpack(found[1])
        return self.far.get(key)

    def items(self) -> Iterator[tuple[Fields, Fields]]:
        """Every entry; those that come or go meanwhile may be missed or seen."""
        for key, value in self.raw_items():
            yield self._keys.unpack(key), self._values.unpack(value)

    def raw_items(self) -> Iterator[tuple[bytes, bytes]]:
        """As items(), as bytes."""
        return (found for found in self.walk() if found is not None)

    def walk(self) -> Iterator[tuple[bytes, bytes] | None]:
        """As raw_items(), with None each time that many lines have been looked at: for who has to do something else
        meanwhile."""
        if self._memory is not None:
            words = self._memory.cast("I")
            stride, state = self._line // 4, self._state_at // 4
            lines = self.groups * constant("LINE_WAYS")
            for first in range(0, lines, _CHUNK):
                last = min(first + _CHUNK, lines)
                states = words[first * stride + state : last * stride : stride].tolist()
                for place, found in enumerate(states, first):
                    if found & 0xFF:
                        entry = self._entry(place)
                        if entry is not None:
                            yield entry
                yield None
        yield from self.far.raw_items()

    @property
    def lines(self) -> int:
        """How many there are; their places are below."""
        return self.groups * constant("LINE_WAYS")

    def group(self, key: Fields) -> int:
        """The group that a key belongs to; there are `groups`."""
        return self._hash(self._keys.pack(key)) * self.groups >> 32

    def word(self, group: int) -> int:
        """What is told of a group: enum group_bits."""
        assert self._memory is not None
        at = group * constant("LINE_WAYS") * self._line
        return int(_U32.unpack_from(self._memory, at)[0])

    def _lines_of(self, packed: bytes) -> range:
        if self._memory is None:
            return range(0)
        ways = constant("LINE_WAYS")
        first = (self._hash(packed) * self.groups >> 32) * ways
        return range(first, first + ways)

    def _hash(self, packed: bytes) -> int:
        end = len(packed) - (4 if self.version == 4 else 8)
        words = [*struct.unpack(f"={end // 4}I", packed[:end]), packed[end]]
        total: int = self._multipliers[0] + sum(a * b for a, b in zip(self._multipliers[1:], words, strict=False))
        return total >> 32 & 0xFFFFFFFF

    def _entry(self, place: int) -> tuple[bytes, bytes] | None:
        """Key and value of a line as they were together; None when it has none, or is about to change."""
        assert self._memory is not None
        at = place * self._line
        for _ in range(4):
            state: int = _U32.unpack_from(self._memory, at + self._state_at)[0]
            if not state & 0xFF:
                return None
            line = bytes(self._memory[at : at + self._line])
            if _U32.unpack_from(self._memory, at + self._state_at)[0] == state:
                key = line[self._key_at : self._state_at] + bytes([state & 0xFF])
                return key.ljust(self._keys.size, b"\0"), line[self._value_at : self._value_at + self._values.size]
        return None


def settle(maps: Any) -> None:
    """Says where entries stand, in maps that nobody has used yet: in lines, as many as there are.

    A hash with entries of a program that knew no lines stays the only place. Called before a program is attached; a
    second time it does nothing.
    """
    table = Table("connection_places", maps["connection_places"], U32, struct_codec("connection_places"))
    if any((table.get(0) or {})["keys"]):
        return
    groups = {}
    for version in (4, 6):
        far = libbpf.info("map", maps[f"connections{version}"])
        empty = libbpf.lib().bpf_map_get_next_key(
            maps[f"connections{version}"], libbpf.ffi.NULL, libbpf.ffi.new("char[]", far.key_size)
        )
        lines = libbpf.info("map", maps[f"lines{version}"]).max_entries
        groups[f"groups{version}"] = lines // constant("LINE_WAYS") if empty else 0
    keys = struct.unpack(f"={_KEYS}Q", os.urandom(8 * _KEYS))
    table.put(0, {**groups, "keys": keys})
