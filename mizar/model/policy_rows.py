# SPDX-License-Identifier: Apache-2.0
"""Rows of compiled policies as messages bear them (PolicySet of contracts/transit.proto), and their digest.

Called by the planner, which makes them, and by the daemon, which takes them. Pure.
"""

from __future__ import annotations

import hashlib
import struct

PEER, GROUP, VERDICT = struct.Struct(">16sBI"), struct.Struct(">II"), struct.Struct(">IBHBIBI")


def digest(peers: bytes, groups: bytes, verdicts: bytes) -> bytes:
    """Of all rows of a set, 16 bytes."""
    found = hashlib.blake2b(struct.pack("!QQ", len(peers), len(groups)), digest_size=16)
    for part in (peers, groups, verdicts):
        found.update(part)
    return found.digest()
