# SPDX-License-Identifier: Apache-2.0
"""Control packets as contracts/wire.md has them."""

from __future__ import annotations

from mizar.kernel.control import packet


def test_a_control_packet() -> None:
    """The O bit, and the C bit, because both options are critical (RFC 8926 3.4); the identity first."""
    assert packet(bytes.fromhex("01000000"), 0) == bytes.fromhex("02c0 6558 00000000 ff018501 01000000")
    data, identity = bytes.fromhex("03000200"), bytes(range(16))
    assert packet(data, 0x123456, identity) == (
        bytes.fromhex("07c0 6558 12345600 ff018304") + identity + bytes.fromhex("ff018501") + data
    )
