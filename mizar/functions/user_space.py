# SPDX-License-Identifier: Apache-2.0
"""The base of functions in user space: a process behind an endpoint with `bypassDecapsulation`, which gets tunnel
packets whole and may send plain frames. With `plain`, the endpoint is an ordinary one, a member of a scaled endpoint
perhaps, and what comes are inner frames.

    class Echo(UserSpaceFunction):
        def packet(self, packet):
            if packet.inner is not None:
                self.send(packet.inner.back())

    Echo("eth0").run()                                   # in the endpoint's namespace, until SIGTERM or stop()

Frames come by one of two wires: AF_XDP, past the namespace's stack, or a packet socket on the veth, which sees a copy
of what the stack gets too. An exception in packet() costs that packet, and is counted and told once each kind. One
thread.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import signal
import socket
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from types import FrameType
from typing import Literal, Protocol

from mizar.functions.tunnelled import Inner, TunnelPacket, completed, read, read_inner
from mizar.kernel.attach import XdpMode
from mizar.kernel.namespaces import Namespace
from mizar.kernel.xsk import XskSocket
from mizar.kernel.xsk_redirect import Redirect
from mizar.model.errors import MizarError

Wire = Literal["xdp", "veth"]
_EVERYTHING = 0x0003  # ETH_P_ALL
_OUTGOING = 4  # PACKET_OUTGOING: what the namespace itself sends
_LOG = logging.getLogger("mizar.functions")


@dataclass(slots=True)
class Counters:
    """Since it runs. `others`: frames that are no tunnel packets. `unsent`: for which there was no room."""

    received: int = 0
    received_bytes: int = 0
    others: int = 0
    failed: int = 0
    sent: int = 0
    unsent: int = 0


class _Frames(Protocol):
    def fileno(self) -> int: ...
    def receive(self, most: int = 64) -> list[bytes]: ...
    def send(self, frames: Sequence[bytes]) -> int: ...


class UserSpaceFunction:
    """A function at work on one interface. `queue`: of AF_XDP; each queue has a process of its own. `plain`: inner
    frames come; over AF_XDP the namespace's stack then gets none at all."""

    def __init__(
        self,
        interface: str = "eth0",
        *,
        wire: Wire = "xdp",
        queue: int = 0,
        plain: bool = False,
        namespace: Namespace | None = None,
    ) -> None:
        self.interface, self.wire, self.queue, self.plain = interface, wire, queue, plain
        self.counters = Counters()
        self.mode: str = wire
        """How frames come, once it runs: driver or generic (of XDP), or veth."""
        self._namespace = namespace
        self._frames: _Frames | None = None
        self._waiting: list[bytes] = []
        self._told: set[str] = set()
        self._wake, self._woken = socket.socketpair()
        self._wake.setblocking(False)
        self._stopping = False

    # ---- for who writes a function

    def packet(self, packet: TunnelPacket) -> None:
        """Called for each tunnel packet; may send any number of frames."""
        raise NotImplementedError

    def inner(self, packet: Inner) -> None:
        """The same for each plain packet of IP, with `plain`."""
        raise NotImplementedError

    def started(self) -> None:
        """Called when frames come in from now on."""

    def idle(self) -> None:
        """Called about once a second, and when nothing came in."""

    def send(self, frame: bytes) -> None:
        """A plain frame from the endpoint: its agent looks at it as at any other (docs/endpoint-options.md)."""
        self._waiting.append(frame)

    # ---- for who runs it

    def run(self, *, signals: bool = True) -> Counters:
        """Works until stop(), or SIGTERM or SIGINT where `signals`. What it has counted."""
        with self._signals() if signals else contextlib.nullcontext(), self._opened() as frames:
            self._frames = frames
            self.started()
            try:
                while not self._stopping:
                    self._turn(frames)
            finally:
                self._frames = None
        return self.counters

    def stop(self) -> None:
        """Ends run() soon; from any thread, or a handler of signals."""
        self._stopping = True
        with contextlib.suppress(OSError):
            self._wake.send(b"\0")

    def counted(self) -> str:
        """The counters as a line of JSON."""
        return json.dumps(asdict(self.counters))

    def _turn(self, frames: _Frames) -> None:
        waiting = select.poll()
        for fd in (frames.fileno(), self._woken.fileno()):
            waiting.register(fd, select.POLLIN)
        if not any(fd == frames.fileno() for fd, _ in waiting.poll(1000)):
            self.idle()
            return
        for frame in frames.receive():
            found = read_inner(completed(frame)) if self.plain else read(frame)
            if found is None:
                self.counters.others += 1
                continue
            self.counters.received += 1
            self.counters.received_bytes += len(frame)
            try:
                self.inner(found) if isinstance(found, Inner) else self.packet(found)
            except Exception as error:  # noqa: BLE001 - one packet must not end the function for all others
                self._failed(error)
        self._flush(frames)

    def _flush(self, frames: _Frames) -> None:
        if self._waiting:
            sent = frames.send(self._waiting)
            self.counters.sent += sent
            self.counters.unsent += len(self._waiting) - sent
            self._waiting = []

    def _failed(self, error: Exception) -> None:
        self.counters.failed += 1
        if (kind := type(error).__name__) not in self._told:
            self._told.add(kind)
            _LOG.exception("a packet was lost: %s failed", type(self).__name__)

    @contextlib.contextmanager
    def _opened(self) -> Iterator[_Frames]:
        if self.wire == "veth":
            with _Veth(self.interface, self._namespace) as frames:
                yield frames
            return
        with (
            XskSocket(self.interface, self.queue, namespace=self._namespace) as sock,
            self._redirect() as redirect,
        ):
            redirect.add(sock)
            self.mode = redirect.mode
            yield sock

    def _redirect(self) -> Redirect:
        """What `deliver` hands over by bpf_redirect_peer() passes no driver: only XDP in generic mode sees it."""
        force: XdpMode | None = "generic" if self.plain else None
        return Redirect(self.interface, everything=self.plain, force=force, namespace=self._namespace)

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        def ended(_number: int, _frame: FrameType | None) -> None:
            self.stop()

        before = {number: signal.signal(number, ended) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class _Veth:
    """A packet socket: what comes in by an interface."""

    def __init__(self, interface: str, namespace: Namespace | None) -> None:
        def opened() -> socket.socket:
            return socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.htons(_EVERYTHING))

        try:
            self._socket = namespace.run(opened) if namespace else opened()
            self._socket.bind((interface, 0))
            self._socket.setblocking(False)
        except OSError as error:
            raise MizarError(f"open a packet socket on {interface}: {os.strerror(error.errno or 0)}") from error

    def fileno(self) -> int:
        return self._socket.fileno()

    def receive(self, most: int = 64) -> list[bytes]:
        found: list[bytes] = []
        with contextlib.suppress(BlockingIOError):
            while len(found) < most:
                frame, address = self._socket.recvfrom(65536)
                if address[2] != _OUTGOING:
                    found.append(frame)
        return found

    def send(self, frames: Sequence[bytes]) -> int:
        for place, frame in enumerate(frames):
            try:
                self._socket.send(frame)
            except OSError:
                return place
        return len(frames)

    def __enter__(self) -> _Veth:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
