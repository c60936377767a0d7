# SPDX-License-Identifier: Apache-2.0
"""AF_XDP sockets for functions in user space: whole frames in and out of one queue of an interface.

    with XskSocket("eth0") as sock, Redirect("eth0") as redirect:  # xsk_redirect.py
        redirect.add(sock)
        while sock.wait(1.0):
            for frame in sock.receive():
                sock.send([answer_to(frame)])

For functions behind an endpoint that bypasses decapsulation, and for whatever else takes frames from a queue. A
socket's memory is bounded and its own: one half holds what comes in, one half what goes out. Frames are copied in and
out, so nothing that a caller holds is ever written by the kernel. Where a function is slow the kernel drops and counts
(`statistics`); it never waits. Closing frees all; so does the end of the process. One thread at a time.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import mmap
import select
import socket
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from mizar.kernel import libbpf
from mizar.kernel.libbpf import ffi
from mizar.kernel.namespaces import Namespace
from mizar.kernel.xsk_rings import SOL_XDP, Kind, Ring
from mizar.model.errors import InvalidError

AF_XDP = 44
_UMEM_REG, _STATISTICS = 4, 7  # socket options of linux/if_xdp.h
_COPY, _USE_SG = 1 << 1, 1 << 4  # of sockaddr_xdp; frames in several chunks: Linux 6.6
_CONTINUES = 1  # XDP_PKT_CONTD
_SIZES = (2048, 4096)
_MOST_FRAMES = 1 << 16
_KICKS = 64
"""Asks at most: each makes the kernel send about 32."""
_LETTING_GO_S = 1.0
"""The kernel lets go of a queue in the background, once nobody holds a packet of its last socket."""
_BUSY = (errno.EAGAIN, errno.EBUSY, errno.ENOBUFS)

ffi.cdef("int bind(int sockfd, const void *address, uint32_t length);")


@dataclass(frozen=True, slots=True)
class XskStatistics:
    """What the kernel counts of a socket (struct xdp_statistics), in frames, but for the last two: in attempts."""

    rx_dropped: int
    rx_invalid: int
    tx_invalid: int
    rx_ring_full: int
    fill_ring_empty: int
    tx_ring_empty: int


class XskSocket:
    """An AF_XDP socket, in copy mode, which every driver has. Frames come once a Redirect knows it."""

    def __init__(
        self,
        interface: str,
        queue: int = 0,
        *,
        frames: int = 1024,
        frame_bytes: int = 4096,
        namespace: Namespace | None = None,
    ) -> None:
        """On an interface of `namespace`, or of the calling thread's. `frames`: chunks of memory, a power of two from 2
        to 65536; `frame_bytes`: of each, 2048 or 4096. A frame that is longer takes several.

        Raises NotFoundError when there is no such interface, ConflictError when the queue has a socket already,
        InvalidError for what cannot be (a queue that the interface does not have), and MizarError for lack of rights.
        """
        if frames not in (1 << bit for bit in range(1, _MOST_FRAMES.bit_length())):
            raise InvalidError(f"{frames} frames; expected a power of two from 2 to {_MOST_FRAMES}")
        if frame_bytes not in _SIZES:
            raise InvalidError(f"frames of {frame_bytes} bytes; expected {' or '.join(map(str, _SIZES))}")
        self.interface, self.queue, self.namespace = interface, queue, namespace
        self._frame_bytes = frame_bytes
        self._what = f"open an AF_XDP socket on queue {queue} of {interface}"
        self._closing = contextlib.ExitStack()
        self._partial, self._note = b"", b""
        half = frames // 2
        try:
            self._open(frames, half)
        except OSError as error:
            self._closing.close()
            # Python gives no number for the one reason that is its own: there is no such interface.
            raise libbpf.error_of(error.errno or errno.ENODEV, self._what) from error
        except BaseException:
            self._closing.close()
            raise
        self._free = [(half + number) * frame_bytes for number in range(half)]
        self._fill.produce([(number * frame_bytes,) for number in range(half)])

    def _open(self, frames: int, half: int) -> None:
        def opened() -> tuple[socket.socket, int]:
            return socket.socket(AF_XDP, socket.SOCK_RAW | socket.SOCK_CLOEXEC), socket.if_nametoindex(self.interface)

        self._socket, ifindex = self.namespace.run(opened) if self.namespace else opened()
        self._closing.callback(self._socket.close)
        self._memory = mmap.mmap(-1, frames * self._frame_bytes, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._closing.callback(self._memory.close)
        with ffi.from_buffer(self._memory) as memory:
            address = int(ffi.cast("uintptr_t", memory))
        region = struct.pack("=QQII", address, len(self._memory), self._frame_bytes, 0)  # struct xdp_umem_reg
        self._socket.setsockopt(SOL_XDP, _UMEM_REG, region)
        self._fill, self._completion = self._ring(Kind.FILL, half), self._ring(Kind.COMPLETION, half)
        self._rx, self._tx = self._ring(Kind.RX, half), self._ring(Kind.TX, half)
        self._in_several = True
        try:
            self._bind(ifindex, _COPY | _USE_SG)
        except InvalidError:  # before Linux 6.6
            self._in_several = False
            self._bind(ifindex, _COPY)

    def _ring(self, kind: Kind, entries: int) -> Ring:
        ring = Ring(self._socket, kind, entries)
        self._closing.callback(ring.close)
        return ring

    def _bind(self, ifindex: int, flags: int) -> None:
        """Python knows no addresses of this family. A queue is free again some time after its socket was closed."""
        address = struct.pack("=HHIII", AF_XDP, flags, ifindex, self.queue, 0)  # struct sockaddr_xdp
        deadline = time.monotonic() + _LETTING_GO_S
        while _libc().bind(self._socket.fileno(), address, len(address)) < 0:
            number = ffi.errno
            if number != errno.EBUSY or time.monotonic() > deadline:
                raise libbpf.error_of(number, self._what)
            time.sleep(0.005)

    def fileno(self) -> int:
        """For poll: readable when a frame has come in."""
        return self._socket.fileno()

    def wait(self, limit_s: float) -> bool:
        """Whether a frame has come in within the time."""
        waiting = select.poll()
        waiting.register(self.fileno(), select.POLLIN)
        return bool(waiting.poll(max(0, round(limit_s * 1000))))

    def receive(self, most: int = 64) -> list[bytes]:
        """The frames that have come in, from at most so many chunks; never waits. Ethernet header first."""
        return [frame for _, frame in self._received(most, 0)]

    def receive_noted(self, size: int, most: int = 64) -> list[tuple[bytes, bytes]]:
        """As receive(), each with the `size` bytes of XDP metadata that stood in front of it, which are zero again
        then."""
        return self._received(most, size)

    def _received(self, most: int, size: int) -> list[tuple[bytes, bytes]]:
        frames, emptied = [], []
        for address, length, options in self._rx.consume(most):
            if not self._partial:
                self._note = self._memory[address - size : address]
                self._memory[address - size : address] = bytes(size)
            data = self._partial + self._memory[address : address + length]
            self._partial = data if options & _CONTINUES else b""
            if not options & _CONTINUES:
                frames.append((self._note, data))
            emptied.append((address - address % self._frame_bytes,))
        self._fill.produce(emptied)
        return frames

    def send(self, frames: Sequence[bytes]) -> int:
        """Sends frames, Ethernet header included; how many of them, from the first on, there was room for.

        Raises InvalidError for a frame that no memory could hold, and NotFoundError or TemporaryError when the
        interface is gone or down.
        """
        sent = 0
        for frame in frames:
            chunks = self._chunks(frame)
            if len(self._free) < len(chunks) or self._tx.room < len(chunks):
                self._flush()
            if len(self._free) < len(chunks) or self._tx.room < len(chunks):
                break
            items = []
            for number, chunk in enumerate(chunks, 1):
                address = self._free.pop()
                self._memory[address : address + len(chunk)] = chunk
                items.append((address, len(chunk), _CONTINUES if number < len(chunks) else 0))
            self._tx.produce(items)
            sent += 1
        self._flush()
        return sent

    def statistics(self) -> XskStatistics:
        """What the kernel has counted since the socket was opened."""
        raw = self._socket.getsockopt(SOL_XDP, _STATISTICS, 48)
        return XskStatistics(*struct.unpack("=6Q", raw))

    def close(self) -> None:
        """Ends it; a queue can have another socket then. May be called twice."""
        self._closing.close()

    def _chunks(self, frame: bytes) -> list[bytes]:
        size = self._frame_bytes
        chunks = [frame[at : at + size] for at in range(0, len(frame), size)]
        if not chunks or len(chunks) > (len(self._memory) // size // 2 if self._in_several else 1):
            raise InvalidError(f"a frame of {len(frame)} bytes cannot be sent by a socket with chunks of {size}")
        return chunks

    def _flush(self) -> None:
        """Makes the kernel send what waits, and takes back the chunks of what it has sent."""
        for _ in range(_KICKS):
            if not self._tx.waiting:
                break
            try:
                self._socket.send(b"", socket.MSG_DONTWAIT)
            except OSError as error:
                if error.errno not in _BUSY:
                    raise libbpf.error_of(
                        error.errno or 0, f"send on queue {self.queue} of {self.interface}"
                    ) from error
        done = self._completion.consume(len(self._memory) // self._frame_bytes)
        self._free += [address - address % self._frame_bytes for (address,) in done]

    def __enter__(self) -> XskSocket:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@functools.cache
def _libc() -> Any:
    return ffi.dlopen(None)
