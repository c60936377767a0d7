# SPDX-License-Identifier: Apache-2.0
"""A stand-in for a virtual machine: what QEMU does with a tap (IFF_VNET_HDR, offloads), frame by frame, in Python."""

from __future__ import annotations

import fcntl
import os
import struct
import time
from collections.abc import Callable
from types import TracebackType

from mizar.kernel.namespaces import Namespace
from mizar.lab.probes import readable

LIMIT_S = 10.0
NEEDS_CSUM, GSO_NONE, GSO_TCPV4 = 1, 0, 1  # linux/virtio_net.h
_TUNSETIFF, _TUNSETOFFLOAD = 0x400454CA, 0x400454D0
_IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR, _IFF_MULTI_QUEUE = 0x2, 0x1000, 0x4000, 0x100
_TUN_F_CSUM, _TUN_F_TSO4, _TUN_F_TSO6 = 1, 2, 4
_HEADER = struct.Struct("=BBHHHH")  # struct virtio_net_hdr: flags, gso_type, hdr_len, gso_size, csum_start, csum_offset


class Machine:
    """Opens a tap that is there already, as a machine's monitor does. `queues`: how many file descriptors."""

    def __init__(self, namespace: str, tap: str, *, offloads: bool = False, queues: int = 1) -> None:
        self._fds: list[int] = []
        with Namespace.by_name(namespace) as entered:
            for _ in range(queues):
                self._fds.append(entered.run(lambda: os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)))
        flags = _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR | (_IFF_MULTI_QUEUE if queues > 1 else 0)
        try:
            for fd in self._fds:
                fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", tap.encode(), flags))
                fcntl.ioctl(fd, _TUNSETOFFLOAD, _TUN_F_CSUM | _TUN_F_TSO4 | _TUN_F_TSO6 if offloads else 0)
        except OSError:
            self.close()
            raise

    def send(self, frame: bytes, *, checksum_at: tuple[int, int] | None = None, segment_bytes: int = 0) -> None:
        """One frame; `checksum_at`: where the sum that is left to hardware begins, and where it belongs from there;
        `segment_bytes`: the payload of each TCP segment that it is to be cut into."""
        start, offset = checksum_at or (0, 0)
        gso = GSO_TCPV4 if segment_bytes else GSO_NONE
        head = start + 20 if segment_bytes else 0
        header = _HEADER.pack(NEEDS_CSUM if checksum_at else 0, gso, head, segment_bytes, start, offset)
        os.write(self._fds[0], header + frame)

    def receive(self, wanted: Callable[[bytes], bool], limit_s: float = LIMIT_S) -> bytes:
        """The next frame that is wanted; others are thrown away."""
        end = time.monotonic() + limit_s
        while True:
            ready = readable(self._fds, end - time.monotonic())
            assert ready, f"nothing came within {limit_s} s"
            frame = os.read(ready[0], 1 << 17)[_HEADER.size :]
            if wanted(frame):
                return frame

    @property
    def fd(self) -> int:
        """Of its first queue: frames behind a struct virtio_net_hdr."""
        return self._fds[0]

    def close(self) -> None:
        """Power off: the tap stays."""
        for fd in self._fds:
            os.close(fd)
        self._fds = []

    def __enter__(self) -> Machine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
