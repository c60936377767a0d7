# SPDX-License-Identifier: Apache-2.0
"""Real traffic from inside of network namespaces, with the kernel's own stack at both ends."""

import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from mizar.kernel.namespaces import Namespace
from mizar.lab.probes import readable

UDP_SEGMENT = 103  # <linux/udp.h>


def _socket(namespace: str, family: int, kind: int, protocol: int = 0) -> socket.socket:
    with Namespace.by_name(namespace) as entered:
        return entered.run(lambda: socket.socket(family, kind, protocol))


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _checksum(data: bytes) -> int:
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xFFFF)
    return int(~(total + (total >> 16)) & 0xFFFF)


def ping(namespace: str, address: str, limit_s: float = 10.0) -> int | None:
    """One echo; returns the TTL of the reply (0 for IPv6, where it is not read), None when there is none."""
    v6 = ":" in address
    protocol = socket.IPPROTO_ICMPV6 if v6 else socket.IPPROTO_ICMP
    body = struct.pack("!HH", 0x4D5A, 1) + b"mizar mizar mizar mizar!"
    head = bytes((128 if v6 else 8, 0))
    packet = head + struct.pack("!H", _checksum(head + b"\0\0" + body)) + body
    with _socket(namespace, _family(address), socket.SOCK_RAW, protocol) as sock:
        sock.settimeout(limit_s)
        sock.sendto(packet, (address, 0))
        while True:
            try:
                answer, sender = sock.recvfrom(2048)
            except TimeoutError:
                return None
            if sender[0] == address and (answer[0] == 129 if v6 else answer[20] == 0):
                return 0 if v6 else int(answer[8])


@contextmanager
def sink(namespace: str, address: str, port: int) -> Iterator[list[bytes]]:
    """A TCP server in a namespace that takes one connection; what came is in the list after the block."""
    received: list[bytes] = []
    listener = _socket(namespace, _family(address), socket.SOCK_STREAM)
    listener.bind((address, port))
    listener.listen()
    listener.settimeout(30)

    def take() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.settimeout(30)
            while data := connection.recv(1 << 16):
                received.append(data)

    thread = threading.Thread(target=take, daemon=True)
    thread.start()
    try:
        yield received
        thread.join(30)
    finally:
        listener.close()


def send_tcp(namespace: str, address: str, port: int, data: bytes) -> None:
    """Send data over one TCP connection."""
    with _socket(namespace, _family(address), socket.SOCK_STREAM) as sock:
        sock.settimeout(30)
        sock.connect((address, port))
        sock.sendall(data)


def send_udp(namespace: str, address: str, data: bytes) -> None:
    """Send a datagram that nobody has to answer."""
    with _socket(namespace, _family(address), socket.SOCK_DGRAM) as sock:
        sock.sendto(data, (address, 7009))


def exchange_udp(source: str, target: str, address: str, data: bytes) -> None:
    """A datagram and its echo. Raises TimeoutError."""
    family = _family(address)
    with _socket(target, family, socket.SOCK_DGRAM) as there, _socket(source, family, socket.SOCK_DGRAM) as here:
        there.bind((address, 0))
        there.settimeout(30)
        here.settimeout(30)
        here.sendto(data, (address, there.getsockname()[1]))
        received, sender = there.recvfrom(65535)
        there.sendto(received, sender)
        assert here.recv(65535) == data


def send_superpacket(source: str, target: str, address: str, segments: int = 8, limit_s: float = 30.0) -> None:
    """Datagrams that the kernel takes as one large piece, until all of a piece have arrived singly."""
    family, end = _family(address), time.monotonic() + limit_s
    with _socket(target, family, socket.SOCK_DGRAM) as there, _socket(source, family, socket.SOCK_DGRAM) as here:
        there.bind((address, 0))
        here.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, 1000)
        while True:
            pieces = {bytes([number]) * 1000 for number in range(segments)}
            here.sendto(b"".join(sorted(pieces)), (address, there.getsockname()[1]))
            while pieces and readable([there.fileno()], 1.0):
                pieces.discard(there.recv(65535))
            if not pieces:
                return
            assert time.monotonic() < end, f"of {segments} segments, {len(pieces)} have not arrived"
