# SPDX-License-Identifier: Apache-2.0
"""What the restoring and the empty programs of bench/program_cost/ are told: see template.h there, which it mirrors."""

from __future__ import annotations

import struct
from dataclasses import dataclass

TEMPLATE_BYTES = 112
_FORM = struct.Struct("=IiiIIIIIIIIII")


@dataclass(frozen=True)
class Template:
    """The frame that each run begins with, and what an empty program does in place of ours.

    `room`: bytes by which an XDP program moves the frame's beginning; `tc_room`: those of a tc program; `metadata`:
    bytes that are left in front of it then; `cb`: what a tc program finds in the first word of skb->cb. `vary`: where a
    word of the frame differs from run to run, how many there are less one, and the first of them. `ifindex`: where the
    empty tc program sends the frame; `to_peer`: into the namespace of that interface's other end.
    """

    frame: bytes
    room: int = 0
    tc_room: int = 0
    metadata: int = 0
    cb: int = 0
    vary: tuple[int, int, int] = (0, 0, 0)
    verdict: int = 0
    ifindex: int = 0
    to_peer: bool = False

    def packed(self) -> bytes:
        """As the map `template` holds it; nothing has arrived yet."""
        words = self.frame[:TEMPLATE_BYTES].ljust(TEMPLATE_BYTES, b"\0")
        numbers = len(self.frame), self.room, self.tc_room, self.metadata, self.cb, *self.vary, 0
        return _FORM.pack(*numbers, self.verdict, self.ifindex, self.to_peer, 0) + words


def arrived(packed: bytes) -> int:
    """How many frames the sinks have taken since the template was written."""
    return int(_FORM.unpack_from(packed)[-1])
