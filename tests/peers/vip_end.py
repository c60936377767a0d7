# SPDX-License-Identifier: Apache-2.0
"""A tunnel end that is none of ours and answers clients of a load balancer by what a Geneve option tells it.

It parses the tunnel by contracts/wire.md alone, without a line of the oracle's: the inner packet bears the member's
address, the VIP option what the client wrote. It writes that back and hands the packet to its kernel, whose servers
have the public addresses and answer by the kernel's own routes.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from mizar.kernel.namespaces import Namespace
from mizar.lab.names import LabName
from mizar.lab.probes import readable
from tests.peers.foreign import VNI, on_wire, plugged

TUNSETIFF, TUN_WITHOUT_HEADER = 0x400454CA, 0x1001
_NODAD: dict[bool, tuple[str, ...]] = {False: (), True: ("nodad",)}
CRITICAL_HEADER, VIP = 0x40, (0xFF01, 0x86)


class VipEnd:
    """`learned`: each public address and port that an option told, beside the inner destination and its port."""

    def __init__(self, namespace: Namespace) -> None:
        self.namespace = namespace
        self.learned: set[tuple[str, int, str, int]] = set()
        self._ended = threading.Event()
        self._tun = namespace.run(_open_tun)
        self._socket = namespace.run(partial(socket.socket, socket.AF_INET, socket.SOCK_DGRAM))
        self._socket.bind(("0.0.0.0", 6081))
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends it."""
        self._ended.set()
        self._thread.join()
        self._socket.close()
        os.close(self._tun)

    def _work(self) -> None:
        while not self._ended.is_set():
            if readable([self._socket.fileno()], 0.2):
                packet = self._restored(self._socket.recv(9000))
                if packet:
                    os.write(self._tun, packet)

    def _restored(self, tunnel: bytes) -> bytes:
        first, second, kind, vni = struct.unpack_from("!BBHI", tunnel)
        words = first & 0x3F
        options, frame = tunnel[8 : 8 + 4 * words], tunnel[8 + 4 * words :]
        if (kind, vni >> 8) != (0x6558, VNI) or not second & CRITICAL_HEADER:
            return b""
        port, address = 0, b""
        while options:
            of, number, size = struct.unpack_from("!HBB", options)
            data, options = options[4 : 4 + 4 * (size & 0x1F)], options[4 + 4 * (size & 0x1F) :]
            if (of, number) == VIP:
                port, address = int.from_bytes(data[:2], "big"), data[4:]
        return self._written(frame[14:], address, port) if address else b""

    def _written(self, packet: bytes, vip: bytes, port: int) -> bytes:
        """The packet to the public address; its checksums are summed anew, once they were found right."""
        v4 = packet[0] >> 4 == 4
        at, header = (16, (packet[0] & 15) * 4) if v4 else (24, 40)
        packet = packet[: int.from_bytes(packet[2:4], "big")] if v4 else packet
        protocol, member = packet[9] if v4 else packet[6], packet[at : at + len(vip)]
        upper = packet[header:]
        if protocol not in (6, 17) or _summed(_pseudo(packet[at - len(vip) : at] + member, protocol, upper) + upper):
            return b""
        name = partial(socket.inet_ntop, socket.AF_INET if v4 else socket.AF_INET6)
        self.learned.add((name(vip), port, name(member), int.from_bytes(upper[2:4], "big")))
        check = 16 if protocol == 6 else 6
        upper = upper[:2] + struct.pack("!H", port) + upper[4:check] + bytes(2) + upper[check + 2 :]
        found = _summed(_pseudo(packet[at - len(vip) : at] + vip, protocol, upper) + upper) or 0xFFFF
        upper = upper[:check] + struct.pack("!H", found) + upper[check + 2 :]
        before = packet[:at] + vip + packet[at + len(vip) : header]
        if v4:
            before = before[:10] + bytes(2) + before[12:]
            before = before[:10] + struct.pack("!H", _summed(before)) + before[12:]
        return before + upper


def _pseudo(addresses: bytes, protocol: int, upper: bytes) -> bytes:
    return addresses + struct.pack("!II", len(upper), protocol)


def _summed(data: bytes) -> int:
    """The checksum of data (RFC 1071); 0 where the one within is right."""
    total: int = sum(word for (word,) in struct.iter_unpack("!H", data + bytes(len(data) % 2)))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return 0xFFFF - total


def _open_tun() -> int:
    made = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    fcntl.ioctl(made, TUNSETIFF, struct.pack("16sH22x", b"vip", TUN_WITHOUT_HEADER))
    return made


@contextmanager
def vip_end(lab: LabName, address: str, second: str, public: Sequence[str]) -> Iterator[VipEnd]:
    """On the lab's substrate at an address of each family. It has the public addresses, and answers ARP for none."""
    with plugged(lab, "vipend") as own, Namespace.by_name(own) as namespace:
        for one in (address, second):
            on_wire(own, "wire", one)
        end = VipEnd(namespace)
        try:
            for words in (
                ("ip", "link", "set", "lo", "up"),
                ("ip", "link", "set", "vip", "up"),
                ("sysctl", "-qw", "net.ipv4.conf.all.rp_filter=0", "net.ipv4.conf.vip.rp_filter=0"),
                ("sysctl", "-qw", "net.ipv4.conf.all.arp_ignore=1"),
                *(
                    ("ip", "addr", "add", f"{one}/{128 if ':' in one else 32}", "dev", "lo", *_NODAD[":" in one])
                    for one in public
                ),
            ):
                namespace.run(partial(subprocess.check_call, words))
            yield end
        finally:
            end.close()
