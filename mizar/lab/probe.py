# SPDX-License-Identifier: Apache-2.0
"""One endpoint's side of the traffic: sends, answers, and remembers whom it heard.

Runs as a program of its own inside an endpoint's network namespace (started by mizar.lab.probes), told what to do by
lines of JSON on stdin, answering each with a line on stdout, and ends when stdin does. It must never import anything
but the standard library: it starts a dozen times at once, isolated (`python -I -S`).

Everything that it sends begins with its token, and everything that it answers carries its own: so a sender knows
who answered, and a listener knows who was heard. A token is `mizar:`, 8 bytes of the run, 2 bytes of the endpoint.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import selectors
import socket
import struct
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

TCP_PORT, UDP_ECHO_PORT, UDP_SINK_PORT = 7001, 7002, 7003
TOKEN_PREFIX, TOKEN_BYTES = b"mizar:", 16
ICMP_ECHO_REQUEST = {socket.AF_INET: 8, socket.AF_INET6: 128}
ICMP_ECHO_REPLY = {socket.AF_INET: 0, socket.AF_INET6: 129}
ICMP_PROTOCOL = {socket.AF_INET: socket.IPPROTO_ICMP, socket.AF_INET6: socket.IPPROTO_ICMPV6}
ETH_P_ALL = 3
SOCKET_BUFFER_BYTES = 1 << 22
DATAGRAM_BYTES = (TOKEN_BYTES, 512, 1200)
"""Sizes of payloads of one ICMP or UDP check; the last, with all headers and an answerer's token, fits 1330 bytes."""

Reply = dict[str, Any]


class CheckError(Exception):
    """What came back was not what was sent."""


def family_of(address: str) -> socket.AddressFamily:
    """The family of a written address."""
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071) of data of even length."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def echo_request(family: socket.AddressFamily, ident: int, sequence: int, payload: bytes) -> bytes:
    """An ICMP or ICMPv6 echo request; the kernel fills in the checksum of the latter."""
    kind = ICMP_ECHO_REQUEST[family]
    head = struct.pack("!BBHHH", kind, 0, 0, ident, sequence)
    if family == socket.AF_INET:
        head = struct.pack("!BBHHH", kind, 0, checksum(head + payload), ident, sequence)
    return head + payload


def icmp_of(family: socket.AddressFamily, packet: bytes) -> bytes:
    """The ICMP message of what a raw socket received: IPv4 comes with its header, IPv6 without."""
    return packet[(packet[0] & 0xF) * 4 :] if family == socket.AF_INET else packet


def raw_icmp(family: socket.AddressFamily) -> socket.socket:
    """A raw socket for ICMP with room for bursts."""
    made = socket.socket(family, socket.SOCK_RAW, ICMP_PROTOCOL[family])
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SOCKET_BUFFER_BYTES)
    return made


class Listener:
    """Answers TCP and UDP, and counts by (way, sender's number) what it hears by any way, ICMP and sniffing too."""

    def __init__(self, token: bytes) -> None:
        self.token = token
        self.heard: Counter[tuple[str, int]] = Counter()
        self._lock = threading.Lock()
        self._selector = selectors.DefaultSelector()
        for family in (socket.AF_INET, socket.AF_INET6):
            self._watch(self._bound(family, socket.SOCK_STREAM, TCP_PORT), self._accept)
            self._watch(self._bound(family, socket.SOCK_DGRAM, UDP_ECHO_PORT), self._echo)
            self._watch(self._bound(family, socket.SOCK_DGRAM, UDP_SINK_PORT), self._sink)
            self._watch(raw_icmp(family), self._icmp)
        threading.Thread(target=self._serve, daemon=True).start()

    def sniff(self) -> None:
        """From now on also hears every frame that arrives on any interface but lo, whoever it is addressed to."""
        packets = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        packets.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SOCKET_BUFFER_BYTES)
        self._watch(packets, self._sniffed)

    def snapshot(self) -> list[list[Any]]:
        """What was heard so far: [way, number, count]."""
        with self._lock:
            return [[way, number, count] for (way, number), count in sorted(self.heard.items())]

    def _watch(self, made: socket.socket, on_readable: Callable[[socket.socket], None]) -> None:
        self._selector.register(made, selectors.EVENT_READ, on_readable)

    @staticmethod
    def _bound(family: socket.AddressFamily, kind: socket.SocketKind, port: int) -> socket.socket:
        made = socket.socket(family, kind)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SOCKET_BUFFER_BYTES)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.bind(("", port))
        if kind == socket.SOCK_STREAM:
            made.listen(64)
        return made

    def _serve(self) -> None:
        while True:
            for key, _ in self._selector.select():
                key.data(key.fileobj)

    def _hear(self, way: str, data: bytes) -> None:
        start = data.find(TOKEN_PREFIX)
        if start >= 0 and data[start : start + TOKEN_BYTES - 2] == self.token[:-2]:
            number = int.from_bytes(data[start + TOKEN_BYTES - 2 : start + TOKEN_BYTES], "big")
            with self._lock:
                self.heard[way, number] += 1

    def _sink(self, readable: socket.socket) -> None:
        self._hear("sink", readable.recv(65535))

    def _echo(self, readable: socket.socket) -> None:
        data, sender = readable.recvfrom(65535)
        self._hear("udp", data)
        with contextlib.suppress(OSError):
            readable.sendto(self.token + data, sender)

    def _icmp(self, readable: socket.socket) -> None:
        family = readable.family
        message = icmp_of(socket.AddressFamily(family), readable.recv(65535))
        if message[0] == ICMP_ECHO_REQUEST[socket.AddressFamily(family)]:
            self._hear("icmp", message)

    def _sniffed(self, readable: socket.socket) -> None:
        frame, (_, _, packet_type, *_) = readable.recvfrom(65535)
        if packet_type != socket.PACKET_OUTGOING:
            self._hear("frame", frame)

    def _accept(self, readable: socket.socket) -> None:
        connection, _ = readable.accept()
        threading.Thread(target=self._receive, args=(connection,), daemon=True).start()

    def _receive(self, connection: socket.socket) -> None:
        """Reads length (8 bytes) and that many bytes; answers with its token and their SHA-256."""
        with connection, contextlib.suppress(OSError), connection.makefile("rb") as stream:
            connection.settimeout(30)
            left = int.from_bytes(stream.read(8), "big")
            digest, first = hashlib.sha256(), b""
            while left and (piece := stream.read(min(left, 1 << 16))):
                first = first or piece
                digest.update(piece)
                left -= len(piece)
            self._hear("tcp", first)
            connection.sendall(self.token + digest.digest())


def check_icmp(token: bytes, address: str, limit_s: float) -> str:
    """Echo requests of several sizes, each answered with the same payload. Who answered shows in what it heard."""
    family = family_of(address)
    ident = int.from_bytes(os.urandom(2), "big")
    with raw_icmp(family) as icmp:
        for sequence, size in enumerate(DATAGRAM_BYTES):
            payload = token + os.urandom(size - len(token))
            icmp.sendto(echo_request(family, ident, sequence, payload), (address, 0))
            head = ICMP_ECHO_REPLY[family], ident, sequence
            for packet, sender in _arriving(icmp, limit_s):
                message = icmp_of(family, packet)
                if struct.unpack_from("!BxxxHH", message) == head and sender == address:
                    break
            else:
                raise CheckError(f"no echo reply to {size} bytes")
            if message[8:] != payload:
                raise CheckError(f"the echo of {size} bytes differs from what was sent")
    return ""


def check_udp(token: bytes, address: str, limit_s: float) -> str:
    """Datagrams of several sizes, each echoed behind the token of who answered; returns that token in hex."""
    with socket.socket(family_of(address), socket.SOCK_DGRAM) as udp:
        udp.connect((address, UDP_ECHO_PORT))
        for size in DATAGRAM_BYTES:
            payload = token + os.urandom(size - len(token))
            udp.send(payload)
            packet, _ = next(_arriving(udp, limit_s), (b"", ""))
            if not packet:
                raise CheckError(f"no answer to {len(payload)} bytes")
            if packet[TOKEN_BYTES:] != payload:
                raise CheckError(f"the echo of {len(payload)} bytes differs from what was sent")
    return packet[:TOKEN_BYTES].hex()


def check_tcp(token: bytes, address: str, limit_s: float, size: int) -> str:
    """A transfer whose SHA-256 the receiver returns with its token; returns that token in hex."""
    data = token + os.urandom(size - len(token))
    with socket.create_connection((address, TCP_PORT), timeout=limit_s) as connection:
        connection.sendall(size.to_bytes(8, "big"))
        connection.sendall(data)
        with connection.makefile("rb") as stream:
            answer = stream.read(TOKEN_BYTES + 32)
    if len(answer) != TOKEN_BYTES + 32:
        raise CheckError("the connection ended before the checksum came back")
    if answer[TOKEN_BYTES:] != hashlib.sha256(data).digest():
        raise CheckError(f"the checksum of {size} bytes differs from what was sent")
    return answer[:TOKEN_BYTES].hex()


def _arriving(readable: socket.socket, limit_s: float) -> Iterator[tuple[bytes, str]]:
    """(packet, sender) as they come, until the time is up."""
    end = time.monotonic() + limit_s
    while (left := end - time.monotonic()) > 0:
        readable.settimeout(left)
        try:
            packet, sender = readable.recvfrom(65535)
        except TimeoutError:
            break
        yield packet, sender[0]


def run_check(token: bytes, order: Reply) -> Reply:
    """One check of the order's `way` to its `address`: {"ok", "ms", "answered_by", "detail"}."""
    begun = time.monotonic()
    answered_by, detail = "", ""
    try:
        if order["way"] == "icmp":
            answered_by = check_icmp(token, order["address"], order["limit_s"])
        elif order["way"] == "udp":
            answered_by = check_udp(token, order["address"], order["limit_s"])
        else:
            answered_by = check_tcp(token, order["address"], order["limit_s"], order["bytes"])
    except (CheckError, OSError) as error:
        detail = str(error) or type(error).__name__
    elapsed_ms = round((time.monotonic() - begun) * 1e3, 3)
    return {"ok": not detail, "ms": elapsed_ms, "answered_by": answered_by, "detail": detail}


def send(token: bytes, order: Reply) -> Reply:
    """`count` datagrams of `bytes` to the sink (and as many echo requests when `icmp`) of `address`, unanswered; one
    every `interval_s`, or as fast as it goes."""
    family, sent = family_of(order["address"]), 0
    payload = token + bytes(order["bytes"] - len(token))
    with socket.socket(family, socket.SOCK_DGRAM) as udp, raw_icmp(family) as icmp:
        for sequence in range(order["count"]):
            with contextlib.suppress(OSError):  # an address that nobody has may be refused locally
                udp.sendto(payload, (order["address"], UDP_SINK_PORT))
                sent += 1
            if order.get("interval_s"):
                time.sleep(order["interval_s"])
            if order.get("icmp"):
                with contextlib.suppress(OSError):
                    icmp.sendto(echo_request(family, 1, sequence, payload), (order["address"], 0))
    return {"sent": sent}


def main() -> None:
    """Argument: the token in hex. Orders: check, send, sniff, heard."""
    token = bytes.fromhex(sys.argv[1])
    listener = Listener(token)
    for line in sys.stdin:
        order = json.loads(line)
        reply: Reply = {}
        if order["op"] == "check":
            reply = run_check(token, order)
        elif order["op"] == "send":
            reply = send(token, order)
        elif order["op"] == "sniff":
            listener.sniff()
        elif order["op"] == "heard":
            reply = {"heard": listener.snapshot()}
        print(json.dumps(reply), flush=True)


if __name__ == "__main__":
    main()
