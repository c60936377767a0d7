# SPDX-License-Identifier: Apache-2.0
"""What ends say to one another through a gateway, and what they hear of errors. Each repeats what may be lost."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator

from scapy.packet import Packet

from mizar.kernel.namespaces import Namespace
from mizar.lab.probes import readable
from tests.gateway.rig import LIMIT_S

_RECVERR = {4: (socket.IPPROTO_IP, 11), 6: (socket.IPPROTO_IPV6, 25)}
_TTL = {4: (socket.IPPROTO_IP, socket.IP_TTL), 6: (socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS)}
_DISCOVER = {4: (socket.IPPROTO_IP, 10, 2), 6: (socket.IPPROTO_IPV6, 23, 2)}
"""IP_MTU_DISCOVER and IPV6_MTU_DISCOVER, always."""
REFUSED, EXCEEDED, TOO_BIG = "refused", "exceeded", "too big"
_KINDS = {
    (4, 3, 3): REFUSED,
    (4, 11, 0): EXCEEDED,
    (4, 3, 4): TOO_BIG,
    (6, 1, 4): REFUSED,
    (6, 3, 0): EXCEEDED,
    (6, 2, 0): TOO_BIG,
}


@contextlib.contextmanager
def stream(
    client: Namespace, server: Namespace, address: str, port: int
) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A TCP connection: the client's end and the server's."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with server.run(lambda: socket.create_server((address, port), family=family)) as listening:
        listening.settimeout(LIMIT_S)
        with client.run(lambda: socket.create_connection((address, port), LIMIT_S)) as near:
            far, _ = listening.accept()
            with far:
                for end in (near, far):
                    end.settimeout(LIMIT_S)
                yield near, far


def bulk(near: socket.socket, far: socket.socket, size: int = 1 << 18) -> None:
    """Everything sent is heard, unaltered, in each direction."""
    for source, sink in ((near, far), (far, near)):
        data = os.urandom(size)
        sending = threading.Thread(target=source.sendall, args=(data,))
        sending.start()
        heard = b""
        while len(heard) < size:
            part = sink.recv(1 << 16)
            assert part, f"the connection ended after {len(heard)} bytes"
            heard += part
        sending.join()
        assert heard == data


def told(
    client: Namespace,
    address: str,
    *,
    size: int = 3,
    ttl: int = 64,
    port: int = 9,
    source: tuple[str, int] = ("", 0),
    then: Callable[[], None] = lambda: None,
    kinds: tuple[str, ...] = (REFUSED, EXCEEDED, TOO_BIG),
) -> tuple[str, str]:
    """The ICMP error that a datagram of this size and TTL brings, to a port that nobody has, and who sent it; `then` is
    done behind each that is sent. Errors of other kinds are those of an earlier one."""
    version = 6 if ":" in address else 4
    family = socket.AF_INET6 if version == 6 else socket.AF_INET
    level, option = _RECVERR[version]
    with client.run(lambda: socket.socket(family, socket.SOCK_DGRAM)) as probe:
        probe.setsockopt(level, option, 1)
        probe.setsockopt(*_TTL[version], ttl)
        probe.setsockopt(*_DISCOVER[version])
        probe.bind(source)
        probe.connect((address, port))
        for _ in range(int(LIMIT_S / 0.25)):
            with contextlib.suppress(OSError):  # what the one before brought
                probe.send(bytes(size))
            then()
            if readable([probe.fileno()], 0.25):
                with contextlib.suppress(BlockingIOError):
                    _, notes, _, _ = probe.recvmsg(2048, 512, socket.MSG_ERRQUEUE)
                    found = next((data for at, kind, data in notes if (at, kind) == (level, option)), b"")
                    if len(found) >= 24 and found[4] in (2, 3):  # SO_EE_ORIGIN_ICMP, of a packet on its way
                        begin, known = (20, socket.AF_INET) if version == 4 else (24, socket.AF_INET6)
                        who = socket.inet_ntop(known, found[begin : begin + (4 if version == 4 else 16)])
                        if (kind := _KINDS.get((version, found[5], found[6]), "")) in kinds:
                            return kind, who
    raise AssertionError(f"no error came for a datagram to {address}")


def complain(client: Namespace, packet: Packet) -> None:
    """Sends an ICMP message from a raw socket, which lets the kernel route it; `packet` begins with IP or IPv6."""
    version = packet.version
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    protocol = socket.IPPROTO_ICMP if version == 4 else socket.IPPROTO_ICMPV6
    with client.run(lambda: socket.socket(family, socket.SOCK_RAW, protocol)) as sock:
        sock.sendto(bytes(packet.payload), (packet.dst, 0))


def ping(client: Namespace, address: str) -> None:
    """An echo request and its answer, over a raw socket."""
    version = 6 if ":" in address else 4
    kind, protocol, reply = (8, socket.IPPROTO_ICMP, 0) if version == 4 else (128, socket.IPPROTO_ICMPV6, 129)
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    with client.run(lambda: socket.socket(family, socket.SOCK_RAW, protocol)) as sock:
        for number in range(int(LIMIT_S / 0.5)):
            body = struct.pack("!BBHHH", kind, 0, 0, 77, number) + b"echo"
            if version == 4:
                total = sum(struct.unpack(f"!{len(body) // 2}H", body))
                total = (total & 0xFFFF) + (total >> 16)
                body = body[:2] + struct.pack("!H", ~(total + (total >> 16)) & 0xFFFF) + body[4:]
            sock.sendto(body, (address, 0))
            while readable([sock.fileno()], 0.5):
                data = sock.recv(2048)
                at = (data[0] & 15) * 4 if version == 4 else 0
                if data[at] == reply and data[at + 4 : at + 6] == b"\0M":
                    return
    raise AssertionError(f"no echo from {address}")
