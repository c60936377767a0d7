# SPDX-License-Identifier: Apache-2.0
"""The rings of an AF_XDP socket, over memory that is shared with the kernel (linux/if_xdp.h).

Owns their layout and the counting of free running 32-bit indexes. Called by xsk alone. Indexes are read and written as
whole words. Nothing here is a memory barrier: what is told by an index lies thousands of the interpreter's
instructions before its write and behind its read, and where the kernel is asked to send it looks within the same
thread.
"""

from __future__ import annotations

import mmap
import socket
import struct
from collections.abc import Sequence
from enum import IntEnum

SOL_XDP = 283
_MMAP_OFFSETS = 1
_OFFSETS = struct.Struct("=16Q")  # struct xdp_mmap_offsets: producer, consumer, descriptors, flags of each ring
DESCRIPTOR = struct.Struct("=QII")  # struct xdp_desc: address, bytes, options
_ADDRESS = struct.Struct("=Q")
_WORD = 1 << 32


class Kind(IntEnum):
    """A ring: its number is that of the socket option which sets its size (XDP_RX_RING and so on)."""

    RX = 2
    TX = 3
    FILL = 5
    COMPLETION = 6


_PLACES = {Kind.RX: (0, 0), Kind.TX: (1, 0x80000000), Kind.FILL: (2, 0x100000000), Kind.COMPLETION: (3, 0x180000000)}
"""Of each ring: its place in struct xdp_mmap_offsets, and the offset at which it is mapped (XDP_PGOFF_*)."""


class Ring:
    """One ring of a socket. `entries`: a power of two."""

    def __init__(self, sock: socket.socket, kind: Kind, entries: int) -> None:
        sock.setsockopt(SOL_XDP, kind, struct.pack("=I", entries))
        offsets = _OFFSETS.unpack(sock.getsockopt(SOL_XDP, _MMAP_OFFSETS, _OFFSETS.size))
        place, page = _PLACES[kind]
        producer, consumer, descriptors, _ = offsets[4 * place : 4 * place + 4]
        self._descriptors: int = descriptors
        self._item = DESCRIPTOR if kind in (Kind.RX, Kind.TX) else _ADDRESS
        self._memory = mmap.mmap(
            sock.fileno(), self._descriptors + entries * self._item.size, mmap.MAP_SHARED | mmap.MAP_POPULATE,
            mmap.PROT_READ | mmap.PROT_WRITE, offset=page,
        )  # fmt: skip
        self._whole = memoryview(self._memory)
        self._words = self._whole[: self._descriptors // 4 * 4].cast("I")
        self._producer, self._consumer = producer // 4, consumer // 4
        self._entries = entries

    @property
    def waiting(self) -> int:
        """Entries that were produced and not consumed yet."""
        produced: int = self._words[self._producer]
        consumed: int = self._words[self._consumer]
        return (produced - consumed) % _WORD

    @property
    def room(self) -> int:
        """Entries that may be produced."""
        return self._entries - self.waiting

    def produce(self, items: Sequence[tuple[int, ...]]) -> None:
        """Adds entries, for which there must be room: (address,), or address, bytes and options."""
        at = self._words[self._producer]
        for number, item in enumerate(items):
            self._item.pack_into(self._memory, self._place(at + number), *item)
        self._words[self._producer] = (at + len(items)) % _WORD

    def consume(self, most: int) -> list[tuple[int, ...]]:
        """Takes at most so many entries."""
        at, count = self._words[self._consumer], min(most, self.waiting)
        items = [self._item.unpack_from(self._memory, self._place(at + number)) for number in range(count)]
        self._words[self._consumer] = (at + count) % _WORD
        return items

    def close(self) -> None:
        """Lets go of the memory."""
        self._words.release()
        self._whole.release()
        self._memory.close()

    def _place(self, index: int) -> int:
        return self._descriptors + index % self._entries * self._item.size
