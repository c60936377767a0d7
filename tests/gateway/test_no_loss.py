# SPDX-License-Identifier: Apache-2.0
"""Not one packet of an established flow is lost while the process ends, comes back and applies another description."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from mizar.lab.probes import readable
from tests.gateway.rig import LIMIT_S, POOL4, PORT, WORLD4, Rig, nat, rig
from tests.gateway.running import description, running
from tests.gateway.waiting import wait_for

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]
_PACE_S = 0.002
_RCVBUFFORCE = 33  # asm-generic/socket.h
_ROOM = 1 << 22
"""Bytes of a socket's buffer: whatever comes while nobody reads finds room."""


@dataclass
class Numbered:
    """Datagrams with numbers from 0 on, from a tenant to the world, each answered with its number.

    Who sends never waits for an answer. `sent` is how many; the sets are what came."""

    sent: int = 0
    there: set[int] = field(default_factory=set)
    back: set[int] = field(default_factory=set)
    seen_as: set[tuple[str, int]] = field(default_factory=set)

    def lost(self) -> tuple[list[int], list[int]]:
        """On the way there, and on the way back of those that came there."""
        return sorted(set(range(self.sent)) - self.there), sorted(self.there - self.back)


@contextmanager
def numbered(made: Rig) -> Iterator[Numbered]:
    """Sent from the first answer on until the block ends; then what is under way is waited for."""
    found, over = Numbered(), threading.Event()
    near = made.ends["blue"].run(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    far = made.ends["world"].run(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    with near, far:
        for end in (near, far):
            end.setsockopt(socket.SOL_SOCKET, _RCVBUFFORCE, _ROOM)
        far.bind((WORLD4, PORT))
        near.connect((WORLD4, PORT))
        deadline = time.monotonic() + LIMIT_S
        while not readable([near.fileno()], 0.1):  # the first ones may be lost: neighbours are resolved
            assert time.monotonic() < deadline, "no answer"
            near.send(b"hello")
            while readable([far.fileno()], 0.1):
                far.sendto(*far.recvfrom(100))

        def send() -> None:
            while not over.is_set():
                near.send(struct.pack("!I", found.sent))
                found.sent += 1
                over.wait(_PACE_S)

        def answer() -> None:
            while not done.is_set():
                if readable([far.fileno()], 0.05):
                    data, sender = far.recvfrom(100)
                    far.sendto(data, sender)
                    if len(data) == 4:
                        found.there.add(struct.unpack("!I", data)[0])
                        found.seen_as.add(sender)

        def hear() -> None:
            while not done.is_set():
                if readable([near.fileno()], 0.05):
                    data = near.recv(100)
                    if len(data) == 4:
                        found.back.add(struct.unpack("!I", data)[0])

        done = threading.Event()
        sending, *hearing = (threading.Thread(target=call, daemon=True) for call in (send, answer, hear))
        for thread in (sending, *hearing):
            thread.start()
        try:
            yield found
            over.set()
            sending.join(LIMIT_S)
            last = time.monotonic() + 3
            while found.lost() != ([], []) and time.monotonic() < last:
                time.sleep(0.05)
        finally:
            over.set()
            done.set()
            for thread in (sending, *hearing):
                thread.join(LIMIT_S)


def test_a_restart_and_another_description_lose_no_packet(tmp_path: Path) -> None:
    """Each datagram and each answer arrives, and the world sees one and the same end all the time."""
    with rig() as made, running(made, description("in line", made.prefix, nat()), tmp_path) as found:
        with numbered(made) as flow:

            def goes_on() -> None:
                before = flow.sent
                wait_for(lambda: flow.sent > before + 50)

            goes_on()
            found.end()
            goes_on()
            found.begin()
            goes_on()
            other = replace(nat(), forward=(), static=())
            assert found.apply(description("in line", made.prefix, other)) == {"ended": 0}
            goes_on()
        assert flow.lost() == ([], []), f"of {flow.sent}"
        assert {address for address, _ in flow.seen_as} == {POOL4}
        assert len(flow.seen_as) == 1
