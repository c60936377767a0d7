# SPDX-License-Identifier: Apache-2.0
"""The emulated switch inside of a testpmd, as tests see it: rules in through the prompt, frames over a socket."""

from __future__ import annotations

import re
import socket
import struct
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Self

from tests.pipeline.testpmd import Testpmd

LIMIT_S = 30.0
_HEAD = struct.Struct("=5I")
_WRONG = re.compile(r"error|[Bb]ad|[Ii]nvalid|fail")


class Ending(IntEnum):
    """Where a frame ended; the numbers are those of switch.h."""

    REPRESENTED_PORT = 1
    PORT_REPRESENTOR = 2
    DROPPED = 3
    QUEUED = 4
    DROPPED_BY_METER = 5
    BROKEN = 6


@dataclass(frozen=True, slots=True)
class Answer:
    """What the rules did with a frame: `port` is a meter's number where a meter dropped it."""

    ending: Ending
    port: int
    queue: int
    meta: int
    counted: tuple[int, ...]
    frame: bytes


class EmulatedSwitch:
    """A testpmd with a switch of two ports: 0 the uplink and the application's own, 1 the kernel's representor."""

    def __init__(self, driver: Path) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="mizar-switch-")
        path = Path(self._folder.name) / "frames"
        self._undo: list[str] = []
        devices = (f"net_switch0,frames={path}", "net_switch1")
        self.testpmd = Testpmd(devices, plugin=driver)
        self._frames = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._frames.settimeout(LIMIT_S)
        self._frames.connect(str(path))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._frames.close()
        self.testpmd.__exit__()
        self._folder.cleanup()

    def add(self, commands: Sequence[str]) -> list[int]:
        """Gives commands to testpmd, all of which the driver has to take; the numbers of the rules that came."""
        made = []
        for command in commands:
            said = self.testpmd.say(command)
            assert not _WRONG.search(said), f"{command}\n{said}"
            self._undo += _undoing(command)
            number = re.search(r"Flow rule #(\d+) created", said)
            assert (number is not None) == command.startswith("flow create"), f"{command}\n{said}"
            if number is not None:
                made.append(int(number[1]))
        return made

    def why_not(self, command: str) -> str:
        """What the driver says to a command that it refuses; it has to."""
        said = self.testpmd.say(command)
        assert "error" in said.lower(), f"{command}\n{said}"
        return said

    def run(self, frame: bytes, now_ns: int = 0) -> Answer:
        """What the rules do with a frame at a time."""
        self._frames.send(struct.pack("=Q", now_ns) + frame)
        said = self._frames.recv(1 << 17)
        ending, port, queue, meta, count = _HEAD.unpack_from(said)
        end = _HEAD.size + 4 * count
        counted = struct.unpack_from(f"={count}I", said, _HEAD.size)
        return Answer(Ending(ending), port, queue, meta, counted, said[end:])

    def tick(self, now_ns: int) -> None:
        """Time goes on without a frame."""
        self._frames.send(struct.pack("=Q", now_ns))
        assert struct.unpack("=Q", self._frames.recv(64)) == (now_ns,)

    def clear(self) -> None:
        """Takes off all rules, and what `add` made for them."""
        commands = ["flow flush 0", *reversed(self._undo)]
        self._undo = []
        for command in commands:
            said = self.testpmd.say(command)
            assert not _WRONG.search(said), f"{command}\n{said}"

    def dump(self) -> list[str]:
        """The rules as the driver received them, in the order of making."""
        file = Path(self._folder.name) / f"dump-{time.monotonic_ns()}"
        self.testpmd.say(f"flow dump 0 all {file}")
        return file.read_text().splitlines()


def _undoing(command: str) -> list[str]:
    """What takes an object off again that a command makes; none for rules, which are flushed."""
    words = command.split()
    if words[:3] == ["add", "port", "meter"]:
        port, number = words[5:7] if words[3] == "profile" else words[4:6]  # a profile's algorithm stands in front
        return [f"del port meter {words[3]} {port} {number}"]
    if words[:3] == ["create", "port", "meter"]:
        return [f"del port meter {words[3]} {words[4]}"]
    if words[:2] == ["flow", "indirect_action"] and words[3] == "create":
        return [f"flow indirect_action {words[2]} destroy action_id {words[5]}"]
    return []
