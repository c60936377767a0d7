# SPDX-License-Identifier: Apache-2.0
"""The frames of contracts/replication.md, and an entry's bytes. Pure: no socket, no map."""

from __future__ import annotations

import asyncio
import hashlib
import struct
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum

from mizar.kernel.layout import offsets, size
from mizar.model.errors import InvalidError

VERSION = 1
MAX_FRAME_BYTES = 1 << 20
MAX_ENTRIES = 1024
_HEAD = struct.Struct("!BI")
_ENTRIES = struct.Struct("!BI")
_STAMP = struct.Struct("=I")
_TICKS = 1 << 32
VERSIONS = (4, 6)

Entry = tuple[bytes, bytes]
"""Key and value, as they lie in the map."""


class Kind(IntEnum):
    """What a frame is."""

    HELLO = 1
    ENTRIES = 2
    WHOLE = 3
    ALIVE = 4


@dataclass(frozen=True, slots=True)
class Entries:
    """Connections of one version of IP, with stamps by the clock of who sent them, which said `tick`."""

    version: int
    tick: int
    entries: tuple[Entry, ...]


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


def entries_frame(version: int, tick: int, entries: Iterable[Entry]) -> bytes:
    """At most MAX_ENTRIES of one version of IP."""
    return frame(Kind.ENTRIES, _ENTRIES.pack(version, tick) + b"".join(key + value for key, value in entries))


def parse_entries(body: bytes) -> Entries:
    """Raises InvalidError for what no leader says."""
    if len(body) < _ENTRIES.size:
        raise InvalidError("entries without a beginning")
    version, tick = _ENTRIES.unpack_from(body)
    if version not in VERSIONS:
        raise InvalidError(f"entries of version {version} of IP")
    key_size, value_size = size(f"connection{version}_key"), size(f"connection{version}")
    whole, rest = divmod(len(body) - _ENTRIES.size, key_size + value_size)
    if rest or whole > MAX_ENTRIES:
        raise InvalidError(f"{len(body)} bytes are no whole number of entries, or more than {MAX_ENTRIES}")
    return Entries(version, tick, tuple(_split(body, _ENTRIES.size, key_size, value_size)))


def _split(body: bytes, at: int, key_size: int, value_size: int) -> Iterator[Entry]:
    while at < len(body):
        yield body[at : at + key_size], body[at + key_size : at + key_size + value_size]
        at += key_size + value_size


async def read_frame(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """The next one. Raises asyncio.IncompleteReadError at the end, InvalidError for one that is too long."""
    kind, length = _HEAD.unpack(await reader.readexactly(_HEAD.size))
    if length > MAX_FRAME_BYTES:
        raise InvalidError(f"a frame of {length} bytes, at most {MAX_FRAME_BYTES} are taken")
    return kind, await reader.readexactly(length)


def stamp(version: int, value: bytes) -> int:
    """When the connection was last used, as its entry says."""
    return int(_STAMP.unpack_from(value, _stamp_at(version))[0])


def restamped(version: int, value: bytes, ticks: int) -> bytes:
    """The entry with its stamp moved on by so many ticks, or back."""
    changed = bytearray(value)
    _STAMP.pack_into(changed, _stamp_at(version), (stamp(version, value) + ticks) % _TICKS)
    return bytes(changed)


def newer(one: int, other: int) -> bool:
    """Whether one stamp is later than the other; they wrap."""
    return 0 < (one - other) % _TICKS < _TICKS // 2


def _stamp_at(version: int) -> int:
    return next(at for field, at, _ in offsets(f"connection{version}") if field == "stamp")
