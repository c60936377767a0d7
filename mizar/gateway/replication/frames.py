# SPDX-License-Identifier: Apache-2.0
"""The frames of contracts/replication.md, and a connection's bytes. Pure: no socket, no map."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import struct
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

from mizar.kernel.layout import offsets, size
from mizar.model.errors import InvalidError

VERSION = 1
MAX_FRAME_BYTES = 1 << 20
MAX_PAIRS = 512
_HEAD = struct.Struct("!BI")
_ENTRIES = struct.Struct("!BI")
_STAMP = struct.Struct("=I")
_TICKS = 1 << 32
VERSIONS = (4, 6)

Pair = tuple[bytes, bytes, bytes, bytes]
"""A connection as it lies in the map: key and value of the ORIGINAL direction, and of its twin."""


class Kind(IntEnum):
    """What a frame is."""

    HELLO = 1
    ENTRIES = 2
    WHOLE = 3
    ALIVE = 4


@dataclass(frozen=True, slots=True)
class Told:
    """Connections of one version of IP, with stamps by the clock of who sent them, which said `tick`."""

    version: int
    tick: int
    pairs: tuple[Pair, ...]


def layout_digest() -> bytes:
    """What two ends must have in common: 32 bytes."""
    lines: list[str] = [sys.byteorder]
    for name in ("connection4_key", "connection4", "connection6_key", "connection6"):
        lines += [f"{name} {size(name)}", *(f"{field} {at} {width}" for field, at, width in offsets(name))]
    return hashlib.sha256("\n".join(lines).encode()).digest()


def hello() -> bytes:
    """The first frame of both ends."""
    return frame(Kind.HELLO, bytes([VERSION]) + layout_digest())


def check_hello(body: bytes) -> None:
    """Raises InvalidError unless the other end speaks as this one does."""
    if len(body) < 1 or body[0] != VERSION:
        raise InvalidError(f"the other gateway speaks version {body[:1].hex() or 'none'}, this one {VERSION}")
    if body[1:33] != layout_digest():
        raise InvalidError("the other gateway's connections have another layout; both need the same release of Mizar")


def frame(kind: Kind, body: bytes = b"") -> bytes:
    """A whole frame."""
    return _HEAD.pack(kind, len(body)) + body


def entries_frame(version: int, tick: int, pairs: Iterable[Pair]) -> bytes:
    """At most MAX_PAIRS of one version of IP."""
    return frame(Kind.ENTRIES, _ENTRIES.pack(version, tick) + b"".join(b"".join(pair) for pair in pairs))


def parse_entries(body: bytes) -> Told:
    """Raises InvalidError for what no leader says."""
    if len(body) < _ENTRIES.size:
        raise InvalidError("entries without a beginning")
    version, tick = _ENTRIES.unpack_from(body)
    if version not in VERSIONS:
        raise InvalidError(f"entries of version {version} of IP")
    key_size, value_size = size(f"connection{version}_key"), size(f"connection{version}")
    pair = struct.Struct(f"={key_size}s{value_size}s{key_size}s{value_size}s")
    whole, rest = divmod(len(body) - _ENTRIES.size, pair.size)
    if rest or whole > MAX_PAIRS:
        raise InvalidError(f"{len(body)} bytes are no whole number of connections, or more than {MAX_PAIRS}")
    return Told(version, tick, tuple(pair.iter_unpack(memoryview(body)[_ENTRIES.size :])))


async def read_frame(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """The next one. Raises asyncio.IncompleteReadError at the end, InvalidError for one that is too long."""
    kind, length = _HEAD.unpack(await reader.readexactly(_HEAD.size))
    if length > MAX_FRAME_BYTES:
        raise InvalidError(f"a frame of {length} bytes, at most {MAX_FRAME_BYTES} are taken")
    return kind, await reader.readexactly(length)


def stamp(version: int, pair: Pair) -> int:
    """When the connection was last used: the later one of both stamps."""
    first, second = (int(_STAMP.unpack_from(value, _stamp_at(version))[0]) for value in (pair[1], pair[3]))
    return second if newer(second, first) else first


def restamped(version: int, pair: Pair, ticks: int) -> Pair:
    """The connection with its stamps moved on by so many ticks, or back."""
    return pair[0], _moved(version, pair[1], ticks), pair[2], _moved(version, pair[3], ticks)


def newer(one: int, other: int) -> bool:
    """Whether one stamp is later than the other; they wrap."""
    return 0 < (one - other) % _TICKS < _TICKS // 2


def _moved(version: int, value: bytes, ticks: int) -> bytes:
    changed, at = bytearray(value), _stamp_at(version)
    _STAMP.pack_into(changed, at, (_STAMP.unpack_from(value, at)[0] + ticks) % _TICKS)
    return bytes(changed)


@functools.cache
def _stamp_at(version: int) -> int:
    return next(at for field, at, _ in offsets(f"connection{version}") if field == "stamp")
