# SPDX-License-Identifier: Apache-2.0
"""Captures are read as scapy, an independent writer, writes them."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from scapy.layers.l2 import Ether
from scapy.utils import wrpcap, wrpcapng

from mizar.model.errors import InvalidError
from mizar.trace.capture import frames

FRAMES = [bytes(range(14)) + bytes([n]) * (40 + n) for n in range(3)]


@pytest.mark.parametrize(("write", "options"), [(wrpcap, {}), (wrpcap, {"endianness": ">"}), (wrpcapng, {})])
def test_frames_come_back_as_they_were_written(tmp_path: Path, write: object, options: dict[str, str]) -> None:
    """pcap in both byte orders, and pcapng."""
    path = tmp_path / "capture"
    write(str(path), [Ether(frame) for frame in FRAMES], **options)  # type: ignore[operator]
    assert frames(path.read_bytes()) == FRAMES


def test_what_is_no_capture_of_whole_ethernet_frames_is_refused(tmp_path: Path) -> None:
    """Noise, other link types, and frames that were cut off each say so."""
    path = tmp_path / "capture"
    wrpcap(str(path), [Ether(FRAMES[0])], linktype=101)
    for data, said in (
        (b"noise" * 9, "no capture"),
        (path.read_bytes(), "link type 101"),
        (path.read_bytes()[:22], "cut off"),
    ):
        with pytest.raises(InvalidError, match=said):
            frames(data)
    wrpcap(str(path), [Ether(FRAMES[0])])
    raw = bytearray(path.read_bytes())
    raw[24 + 12 : 24 + 16] = (9000).to_bytes(4, "little")
    with pytest.raises(InvalidError, match="cut off at 54 of 9000 bytes"):
        frames(bytes(raw))


@pytest.mark.parametrize("write", [wrpcap, wrpcapng])
def test_a_file_that_ends_early_is_no_shorter_packet(tmp_path: Path, write: object) -> None:
    """Whoever traces it would trace another packet."""
    path = tmp_path / "capture"
    write(str(path), [Ether(frame) for frame in FRAMES])  # type: ignore[operator]
    with pytest.raises(InvalidError, match="frame 3 of the capture was cut off"):
        frames(path.read_bytes()[:-10])


def test_a_block_that_says_more_than_it_has_is_refused() -> None:
    """No bytes of another block are taken for the frame's."""
    section = struct.pack("<IIIHHqI", 0x0A0D0D0A, 28, 0x1A2B3C4D, 1, 0, -1, 28)
    interface = struct.pack("<IIHHII", 1, 20, 1, 0, 0, 20)
    packet = struct.pack("<IIIIIIII", 6, 32, 0, 0, 0, 16, 16, 32)
    with pytest.raises(InvalidError, match="cut off at 0 of 16"):
        frames(section + interface + packet * 2)
    with pytest.raises(InvalidError, match="cut off at 0 of 16"):
        frames(section + interface + struct.pack("<IIII", 3, 16, 16, 16) * 2)
