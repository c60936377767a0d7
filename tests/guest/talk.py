# SPDX-License-Identifier: Apache-2.0
"""Both ends of conversations by the guest's own stacks: `serve`, and `ask SERVER`, which prints JSON.

The server answers a TCP stream with the digest of what came and as much again, and UDP with what came; either answer
begins with the address that it saw. The asking end provokes errors too, and says what its sockets heard of them. Runs
in a guest with the standard library alone.
"""

from __future__ import annotations

import hashlib
import json
import selectors
import socket
import struct
import sys
import threading
import time
from contextlib import suppress

PORT, CLOSED, FROM = 7000, 7001, 40000
BULK = 2_000_000
LIMIT_S = 30.0
_RECVERR = {socket.AF_INET: (socket.IPPROTO_IP, 11), socket.AF_INET6: (socket.IPPROTO_IPV6, 25)}
_DISCOVER = {socket.AF_INET: (socket.IPPROTO_IP, 10), socket.AF_INET6: (socket.IPPROTO_IPV6, 23)}
_HOPS = {socket.AF_INET: (socket.IPPROTO_IP, 2), socket.AF_INET6: (socket.IPPROTO_IPV6, 16)}
_PROBE = 3  # IP_PMTUDISC_PROBE: DF, whatever is known of the way
_ICMP_ORIGINS = (2, 3)  # linux/errqueue.h: SO_EE_ORIGIN_ICMP, SO_EE_ORIGIN_ICMP6


def pattern(size: int) -> bytes:
    """Bytes in which nothing can be missing or twice without a trace."""
    return b"".join(number.to_bytes(4, "big") for number in range(size // 4))


def serve() -> None:
    """Until it is ended."""
    stream = socket.create_server(("::", PORT), family=socket.AF_INET6, dualstack_ipv6=True)
    threading.Thread(target=_streams, args=(stream,), daemon=True).start()
    datagrams = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    datagrams.bind(("::", PORT))
    print("serving", flush=True)
    while True:
        data, peer = datagrams.recvfrom(1 << 16)
        datagrams.sendto(f"{_plain(peer[0])} ".encode() + data, peer)


def _streams(listener: socket.socket) -> None:
    while True:
        stream, peer = listener.accept()
        with stream:
            digest, size = hashlib.sha256(), 0
            while data := stream.recv(1 << 16):
                digest.update(data)
                size += len(data)
            stream.sendall(f"{_plain(peer[0])} {digest.hexdigest()} ".encode() + pattern(size))


def _plain(address: str) -> str:
    return address.removeprefix("::ffff:")


def bulk(server: str) -> dict[str, object]:
    """Both directions of one connection; whether every byte came, and the address that the server saw."""
    sent = pattern(BULK)
    with socket.create_connection((server, PORT), LIMIT_S) as stream:
        stream.sendall(sent)
        stream.shutdown(socket.SHUT_WR)
        came = b""
        while data := stream.recv(1 << 16):
            came += data
    seen, digest, back = came.split(b" ", 2)
    return {"seen": seen.decode(), "there": digest.decode() == hashlib.sha256(sent).hexdigest(), "back": back == sent}


def datagram(server: str, size: int) -> dict[str, object]:
    """An echo by UDP, asked again while nothing comes."""
    end, data = time.monotonic() + LIMIT_S, pattern(size)
    with _udp(server) as asking:
        while time.monotonic() < end:
            asking.sendto(data, (server, PORT))
            asking.settimeout(1.0)
            try:
                seen, came = asking.recv(1 << 16).split(b" ", 1)
            except TimeoutError:
                continue
            return {"seen": seen.decode(), "equal": came == data}
    return {"seen": ""}


def error(server: str, port: int, size: int, hops: int = 64) -> list[object]:
    """What the socket hears about a datagram: the ICMP error's type and code, what it tells, and who sent it."""
    end = time.monotonic() + LIMIT_S
    with _udp(server) as asking, selectors.DefaultSelector() as waits:
        asking.setsockopt(*_RECVERR[asking.family], 1)
        asking.setsockopt(*_DISCOVER[asking.family], _PROBE)
        asking.setsockopt(*_HOPS[asking.family], hops)
        waits.register(asking, selectors.EVENT_READ)
        while time.monotonic() < end:
            with suppress(OSError):  # an error that came before
                asking.sendto(bytes(size), (server, port))
            waits.select(1.0)
            try:
                _, told, _, _ = asking.recvmsg(1 << 16, 512, socket.MSG_ERRQUEUE | socket.MSG_DONTWAIT)
            except BlockingIOError:
                continue
            for _, _, data in told:
                _, origin, kind, code, _, info, _ = struct.unpack("=IBBBBII", data[:16])
                if origin in _ICMP_ORIGINS:
                    at, long = (20, 4) if asking.family == socket.AF_INET else (24, 16)
                    return [kind, code, info, socket.inet_ntop(asking.family, data[at : at + long])]
    return []


def _udp(server: str) -> socket.socket:
    found = socket.socket(socket.AF_INET6 if ":" in server else socket.AF_INET, socket.SOCK_DGRAM)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    found.bind(("", FROM))
    return found


def ask(server: str) -> None:
    """Everything that a tenant tries."""
    found = {
        "datagram": datagram(server, 1200),
        "closed": error(server, CLOSED, 100),
        "hops": error(server, PORT, 100, hops=1),
        "big": error(server, PORT, 1440),
        "bulk": bulk(server),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    serve() if sys.argv[1] == "serve" else ask(sys.argv[2])
