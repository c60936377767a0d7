# SPDX-License-Identifier: Apache-2.0
"""A TCP transfer and a stream of numbered datagrams between two namespaces, for as long as a test wants; and a look at
the headers that a droplet sends."""

from __future__ import annotations

import contextlib
import hashlib
import socket
import threading
import time
from collections.abc import Callable, Iterator

from mizar.kernel.namespaces import Namespace

PORT = 4100
CHUNK = bytes(range(256)) * 256
GAP_S = 0.002
LIMIT_S = 30.0


def opened(namespace: str, kind: int) -> socket.socket:
    """A socket in a namespace."""
    with Namespace.by_name(namespace) as inside:
        return inside.run(lambda: socket.socket(socket.AF_INET, kind))


def _grows(count: Callable[[], int]) -> bool:
    before, end = count(), time.monotonic() + LIMIT_S
    while count() <= before and time.monotonic() < end:
        time.sleep(0.01)
    return count() > before


class Transfer:
    """One long connection: what was sent, and whether all of it arrived in order."""

    def __init__(self, source: str, destination: str, address: str) -> None:
        self._stop = threading.Event()
        self.sent = self.received = 0
        self._digests = hashlib.sha256(), hashlib.sha256()
        listener = opened(destination, socket.SOCK_STREAM)
        listener.bind((address, PORT))
        listener.listen()
        self._client = opened(source, socket.SOCK_STREAM)
        self._client.settimeout(LIMIT_S)
        self._client.connect((address, PORT))
        self._server, _ = listener.accept()
        self._server.settimeout(LIMIT_S)
        listener.close()
        self._threads = [threading.Thread(target=self._send), threading.Thread(target=self._receive)]
        for thread in self._threads:
            thread.start()

    def _send(self) -> None:
        while not self._stop.is_set():
            self._client.sendall(CHUNK)
            self._digests[0].update(CHUNK)
            self.sent += len(CHUNK)
        self._client.shutdown(socket.SHUT_WR)

    def _receive(self) -> None:
        while data := self._server.recv(1 << 20):
            self._digests[1].update(data)
            self.received += len(data)

    def goes_on(self) -> bool:
        """Waits until more has arrived than now."""
        return _grows(lambda: self.received)

    def end(self) -> bool:
        """Stops, and tells whether every byte arrived."""
        self._stop.set()
        for thread in self._threads:
            thread.join(LIMIT_S)
        self._client.close()
        self._server.close()
        return self.sent == self.received > 0 and self._digests[0].digest() == self._digests[1].digest()


class Numbered:
    """Numbered datagrams at an even pace: which of them arrived."""

    def __init__(self, source: str, destination: str, address: str) -> None:
        self._stop = threading.Event()
        self._to = (address, PORT)
        self.sent = 0
        self.arrived: set[int] = set()
        self._sender, self._receiver = opened(source, socket.SOCK_DGRAM), opened(destination, socket.SOCK_DGRAM)
        self._receiver.bind(self._to)
        self._receiver.settimeout(0.2)
        self._threads = [threading.Thread(target=self._send), threading.Thread(target=self._receive)]
        for thread in self._threads:
            thread.start()

    def _send(self) -> None:
        while not self._stop.wait(GAP_S):
            self._sender.sendto(self.sent.to_bytes(4, "big"), self._to)
            self.sent += 1

    def _receive(self) -> None:
        end = None
        while end is None or (len(self.arrived) < self.sent and time.monotonic() < end):
            with contextlib.suppress(TimeoutError):
                self.arrived.add(int.from_bytes(self._receiver.recv(64), "big"))
            if end is None and self._stop.is_set() and not self._threads[0].is_alive():
                end = time.monotonic() + LIMIT_S

    def goes_on(self) -> bool:
        """Waits until some more have arrived."""
        return _grows(lambda: len(self.arrived) // 20)

    def end(self) -> int:
        """Stops, and tells how many are missing."""
        self._stop.set()
        for thread in self._threads:
            thread.join(2 * LIMIT_S)
        self._sender.close()
        self._receiver.close()
        return self.sent - len(self.arrived)


class Capture:
    """Headers of what leaves or reaches an interface."""

    def __init__(self, namespace: str, interface: str) -> None:
        with Namespace.by_name(namespace) as inside:
            self._socket = inside.run(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)))
        self._socket.bind((interface, 0))
        self._socket.settimeout(LIMIT_S)

    def tunnels(self) -> Iterator[tuple[int, int, bytes]]:
        """Of each tunnel packet over IPv4: UDP port, first word of the tunnel's header, options and what follows. Ends
        after a while: there are always probes."""
        end = time.monotonic() + LIMIT_S
        while time.monotonic() < end:
            frame = self._socket.recv(65536)
            if frame[12:14] == b"\x08\x00" and frame[23] == 17 and frame[36:38] in (b"\x17\xc1", b"\x12\xb5"):
                yield int.from_bytes(frame[36:38], "big"), int.from_bytes(frame[42:46], "big"), frame[50:]

    def forget(self) -> None:
        """What was captured so far."""
        self._socket.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                self._socket.recv(65536)
        self._socket.settimeout(LIMIT_S)

    def close(self) -> None:
        """Ends it."""
        self._socket.close()
