# SPDX-License-Identifier: Apache-2.0
"""Captures are read back by scapy, and by tshark where there is one: frames, times, interfaces and comments."""

from __future__ import annotations

import io
import shutil
import subprocess
from pathlib import Path

from scapy.utils import RawPcapNgReader

from mizar.cli.pcapng import PcapngWriter

T = 1_750_000_000_123_456_789
FRAMES = (bytes(range(61)), bytes(128))
COMMENT = "SPOOFED_ADDRESS: The endpoint sent from an IP address that is not its own. (dropped by agent on d1) äß"


def written() -> bytes:
    stream = io.BytesIO()
    capture = PcapngWriter(stream)
    capture.write("d1/mz1", T, FRAMES[0], 61, COMMENT)
    capture.write("d2/eth0", T + 1, FRAMES[1], 1500, "second")
    capture.write("d1/mz1", T + 2, FRAMES[0], 61, "third")
    return stream.getvalue()


def test_scapy_reads_it(tmp_path: Path) -> None:
    """Frames, their length on the wire, nanoseconds, and a comment on each."""
    path = tmp_path / "a.pcapng"
    path.write_bytes(written())
    with RawPcapNgReader(str(path)) as reader:
        found = list(reader)
    assert [frame for frame, _ in found] == [FRAMES[0], FRAMES[1], FRAMES[0]]
    assert [meta.wirelen for _, meta in found] == [61, 1500, 61]
    assert [(meta.tshigh << 32) + meta.tslow for _, meta in found] == [T, T + 1, T + 2]
    assert [meta.ifname for _, meta in found] == [b"d1/mz1", b"d2/eth0", b"d1/mz1"]
    comments = [getattr(meta, "comments", None) or [meta.comment] for _, meta in found]
    assert [one[0] for one in comments] == [COMMENT.encode(), b"second", b"third"]


def test_a_file_that_is_cut_between_packets_is_whole(tmp_path: Path) -> None:
    """Every block is written at once: what is there after each packet can be read."""
    whole = written()
    first = whole.index(b"d2/eth0")
    assert first > 0
    stream = io.BytesIO()
    capture = PcapngWriter(stream)
    capture.write("d1/mz1", T, FRAMES[0], 61, COMMENT)
    assert whole.startswith(stream.getvalue())


def test_tshark_reads_it(tmp_path: Path) -> None:
    """Where tshark is installed, its comments are ours; elsewhere scapy has been the judge."""
    tshark = shutil.which("tshark")
    if tshark is None:
        return
    path = tmp_path / "a.pcapng"
    path.write_bytes(written())
    fields = ["-e", "frame.comment", "-e", "frame.interface_name", "-e", "frame.len"]
    done = subprocess.run([tshark, "-r", path, "-T", "fields", *fields], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[0].split("\t") == [COMMENT, "d1/mz1", "61"]
    assert len(done.stdout.splitlines()) == 3
