# SPDX-License-Identifier: Apache-2.0
"""AF_XDP sockets on a veth: every frame as it was sent, both ways; bounded, and free again when they are closed."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator

import pytest

from mizar.kernel.attach import XdpMode
from mizar.kernel.namespaces import Namespace
from mizar.kernel.xsk import XskSocket
from mizar.kernel.xsk_redirect import Redirect
from mizar.lab.probes import readable
from mizar.model.errors import ConflictError, InvalidError, MizarError, NotFoundError

FUNCTION, OUTSIDE = "fn0", "out0"
MACS = b"\x02\0\0\0\0\x01" + b"\x02\0\0\0\0\x02"
OTHER = MACS + b"\x88\xb5"  # an ethertype for experiments: IEEE 802 local 1
LIMIT_S = 30.0


def tunnel(port: int, body: bytes, ipv6: bool = False) -> bytes:
    """A UDP datagram to a port. Nobody looks at the rest of its headers."""
    udp = (4001).to_bytes(2, "big") + port.to_bytes(2, "big") + (8 + len(body)).to_bytes(2, "big") + bytes(2)
    if ipv6:
        return (
            MACS
            + b"\x86\xdd\x60\0\0\0"
            + (len(udp) + len(body)).to_bytes(2, "big")
            + b"\x11\x40"
            + bytes(32)
            + udp
            + body
        )
    total = 28 + len(body)
    return MACS + b"\x08\0\x45\0" + total.to_bytes(2, "big") + bytes(4) + b"\x40\x11" + bytes(10) + udp + body


@pytest.fixture(params=[1500, 9000])
def wire(request: pytest.FixtureRequest, host: Namespace, workload: Namespace) -> Iterator[socket.socket]:
    """The other end of the function's veth, as a packet socket; MTUs of one chunk and of several."""
    mtu = str(request.param)

    def make() -> socket.socket:
        peer = ["peer", "name", FUNCTION, "mtu", mtu, "netns", f"/proc/self/fd/{workload.fd}"]
        run("ip", "link", "add", OUTSIDE, "mtu", mtu, "type", "veth", *peer, keep=workload.fd)
        run("ip", "link", "set", OUTSIDE, "up")
        made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        made.bind((OUTSIDE, 0))
        return made

    with host.run(make) as made:
        workload.run(lambda: run("ip", "link", "set", FUNCTION, "up"))
        with workload.run(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))) as heard:
            heard.bind((FUNCTION, 0))
            for _ in range(600):  # until the link is up for the kernel too, packets are lost
                made.send(OTHER + b"hello" + bytes(50))
                if readable([heard.fileno()], 0.05) and heard.recv(65536).startswith(OTHER):
                    break
        yield made


def run(*command: str, keep: int = -1) -> None:
    subprocess.run(command, check=True, pass_fds=[keep] if keep >= 0 else [])


def came(sock: XskSocket, count: int) -> list[bytes]:
    """So many frames of those that a test sends: the kernel's own multicast is passed over."""
    found: list[bytes] = []
    while len(found) < count:
        assert sock.wait(LIMIT_S), f"{len(found)} of {count} came"
        found += [frame for frame in sock.receive() if frame.startswith(MACS)]
    return found


@pytest.mark.parametrize("force", [None, "generic"])
def test_frames_come_in_as_they_are(wire: socket.socket, workload: Namespace, force: XdpMode | None) -> None:
    """Many times more than there is memory for, and as long as the wire takes where it is driver mode."""
    longest = 8900 if force is None and wire.getsockname() and mtu_of(wire) == 9000 else 1400
    with (
        XskSocket(FUNCTION, namespace=workload, frames=32) as sock,
        Redirect(FUNCTION, namespace=workload, everything=True, force=force) as redirect,
    ):
        assert redirect.mode == (force or "driver")
        redirect.add(sock)
        for number in range(100):
            frame = OTHER + number.to_bytes(2, "big") + bytes(46 + number * (longest - 62) // 99)
            wire.send(frame)
            assert came(sock, 1) == [frame]


def mtu_of(wire: socket.socket) -> int:
    """Frames of this size may be sent."""
    try:
        wire.send(OTHER + bytes(8000))
    except OSError:
        return 1500
    return 9000


def test_frames_go_out_as_they_are(wire: socket.socket, workload: Namespace) -> None:
    """The same; those that there is no room for are the caller's still."""
    long = 8900 if mtu_of(wire) == 9000 else 1400
    with XskSocket(FUNCTION, namespace=workload, frames=32) as sock:
        for number in range(100):
            frame = OTHER + number.to_bytes(2, "big") + bytes(46 + number * (long - 62) // 99)
            while not sock.send([frame]):
                pass
            got = b""
            while got != frame:
                assert readable([wire.fileno()], LIMIT_S)
                got = wire.recv(65536)
        assert sock.send([]) == 0
        for wrong in (b"", bytes(4096 * 17)):
            with pytest.raises(InvalidError, match="cannot be sent"):
                sock.send([wrong])


@pytest.mark.parametrize("wire", [1500], indirect=True)
def test_tunnel_packets_alone_are_taken(wire: socket.socket, workload: Namespace) -> None:
    """Over both families; all else goes to the namespace's own stack, and so does everything without a socket."""
    taken = [tunnel(6081, b"one"), tunnel(4789, b"two"), tunnel(6081, b"three", ipv6=True)]
    left = [tunnel(53, b"dns"), tunnel(53, b"dns", ipv6=True), OTHER + bytes(50), MACS + b"\x08\0"]
    with workload.run(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))) as stack:
        stack.bind((FUNCTION, 0))
        with XskSocket(FUNCTION, namespace=workload) as sock, Redirect(FUNCTION, namespace=workload) as redirect:
            redirect.add(sock)
            for frame in (*left, *taken):
                wire.send(frame)
            assert came(sock, len(taken)) == taken
            redirect.remove(0)
            wire.send(taken[0])
            seen: list[bytes] = []
            while len(seen) <= len(left):
                assert readable([stack.fileno()], LIMIT_S), seen
                frame = stack.recv(65536)
                seen += [frame] if frame.startswith(MACS) else []
            assert seen == [*left, taken[0]]


@pytest.mark.parametrize("wire", [1500], indirect=True)
def test_a_slow_function_loses_frames_and_nothing_else(wire: socket.socket, workload: Namespace) -> None:
    """Its half of the memory and no more is held for it; the rest is counted, and what comes later comes."""
    with (
        XskSocket(FUNCTION, namespace=workload, frames=32) as sock,
        Redirect(FUNCTION, namespace=workload, everything=True) as redirect,
    ):
        redirect.add(sock)
        for number in range(200):
            wire.send(OTHER + bytes([number]) * 50)
        held = len(came(sock, 1) + sock.receive())
        assert held <= 16
        counted = sock.statistics()
        assert counted.rx_dropped + counted.rx_ring_full + counted.fill_ring_empty > 0
        last = OTHER + b"last" + bytes(50)
        wire.send(last)
        while came(sock, 1)[-1] != last:
            pass


@pytest.mark.parametrize("wire", [1500], indirect=True)
def test_what_is_taken_is_said_and_free_again_after_the_end(wire: socket.socket, workload: Namespace) -> None:
    """Queue and interface have one owner; a closed one leaves nothing behind."""
    frame = OTHER + bytes(50)
    for _ in range(3):
        with (
            XskSocket(FUNCTION, namespace=workload) as sock,
            Redirect(FUNCTION, namespace=workload, everything=True) as one,
        ):
            with pytest.raises(ConflictError, match=f"queue 0 of {FUNCTION}"):
                XskSocket(FUNCTION, namespace=workload)
            with pytest.raises(ConflictError, match="another XDP program"):
                Redirect(FUNCTION, namespace=workload)
            one.add(sock)
            wire.send(frame)
            assert came(sock, 1) == [frame]
        sock.close()
        one.close()
        with pytest.raises(InvalidError, match=f"redirect of {FUNCTION} is closed"):
            one.add(sock)


def test_what_cannot_be(workload: Namespace) -> None:
    """Each for its own reason."""
    with pytest.raises(NotFoundError, match="nothing0"):
        XskSocket("nothing0", namespace=workload)
    with pytest.raises(NotFoundError, match="nothing0"):
        Redirect("nothing0", namespace=workload)
    with pytest.raises(MizarError, match="queue 7 of lo"):
        XskSocket("lo", 7, namespace=workload)
    for wrong in ({"frames": 3}, {"frames": 1}, {"frames": 1 << 17}, {"frame_bytes": 1000}):
        with pytest.raises(InvalidError, match="expected"):
            XskSocket("lo", namespace=workload, **wrong)
