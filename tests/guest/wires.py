# SPDX-License-Identifier: Apache-2.0
"""Sends frames on an interface, one after the other, and notes what each of them makes come out where.

Runs in a guest with the standard library alone: `python -m tests.guest.wires ORDER`, where ORDER is a JSON file with
`send` (interface), `frames` (hex), `listen` (interfaces) and `out` (the file for the answers: for each frame a list of
[interface, hex]). Everything is done on one CPU, in whose queue a fence follows each frame: once the fence has come
around a few times, nothing of the frame is still under way.
"""

from __future__ import annotations

import json
import os
import selectors
import socket
import struct
import sys
from pathlib import Path

_ALL, _IGNORE_OUTGOING, _AUXDATA, _TAGGED = 3, 23, 8, 1 << 4  # ETH_P_ALL; if_packet.h: PACKET_*, TP_STATUS_VLAN_VALID
_SOL_PACKET = 263
_FENCE = "fence"
_ROUNDS = 5
_LIMIT_S = 30


def opened(name: str) -> socket.socket:
    """A socket that hears what comes in at an interface."""
    found = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    found.setsockopt(_SOL_PACKET, _IGNORE_OUTGOING, 1)
    found.setsockopt(_SOL_PACKET, _AUXDATA, 1)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
    found.bind((name, _ALL))
    found.setblocking(False)
    return found


def heard(listener: socket.socket) -> list[bytes]:
    """Frames that wait, each with the tag that the kernel keeps beside it."""
    frames: list[bytes] = []
    while True:
        try:
            frame, told, _, _ = listener.recvmsg(1 << 16, 256)
        except BlockingIOError:
            return frames
        for level, kind, data in told:
            if (level, kind) == (_SOL_PACKET, _AUXDATA):
                status, _, _, _, _, tag, protocol = struct.unpack("=IIIHHHH", data[:20])
                if status & _TAGGED:
                    frame = frame[:12] + struct.pack(">HH", protocol or 0x8100, tag) + frame[12:]
        frames.append(frame)


def main(order: Path) -> None:
    """Carries out an order."""
    os.sched_setaffinity(0, {0})
    told = json.loads(order.read_text())
    listeners = {name: opened(name) for name in told["listen"]}
    fence, waits = opened(f"{_FENCE}1"), selectors.DefaultSelector()
    waits.register(fence, selectors.EVENT_READ)
    out, turn = opened(told["send"]), opened(f"{_FENCE}0")  # closing one takes the kernel a while
    answers = []
    for text in told["frames"]:
        for listener in listeners.values():
            heard(listener)
        try:
            out.send(bytes.fromhex(text))
        except OSError as error:
            answers.append([["", str(error)]])
            continue
        for _ in range(_ROUNDS):
            heard(fence)
            turn.send(b"\xff" * 12 + b"\x88\xb5" + bytes(46))
            if not waits.select(_LIMIT_S):
                raise TimeoutError("the fence does not come around")
        answers.append([[name, frame.hex()] for name, one in listeners.items() for frame in heard(one)])
    Path(told["out"]).write_text(json.dumps(answers))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
