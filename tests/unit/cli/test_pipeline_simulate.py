# SPDX-License-Identifier: Apache-2.0
"""`mizar pipeline simulate`: a capture in, a capture out, each frame with verdict and way."""

from __future__ import annotations

import io
import json
import struct
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.all import PcapNgReader, wrpcap

from mizar.cli.captures import read_frames
from mizar.cli.pcapng import PcapngWriter
from mizar.model.errors import InvalidError
from tests.unit.cli.conftest import Done
from tests.unit.pipeline import frames as f

Run = Callable[..., Done]
INLINE = str(f.EXAMPLES / "gateway-inline.yaml")


def classic(frames: list[bytes], order: str = "<", nanoseconds: bool = False, link: int = 1, cut: int = 0) -> bytes:
    """A pcap file, a second from frame to frame."""
    magic = 0xA1B23C4D if nanoseconds else 0xA1B2C3D4
    head = struct.pack(order + "IHHiIII", magic, 2, 4, 0, 0, 65535, link)
    parts = [
        struct.pack(order + "IIII", second, 5, len(frame) - cut, len(frame)) + frame[: len(frame) - cut]
        for second, frame in enumerate(frames, 100)
    ]
    return head + b"".join(parts)


@pytest.fixture
def capture(tmp_path: Path) -> str:
    """A query from the fabric, its answer from the world, a stranger, a neighbour."""
    path = tmp_path / "in.pcap"
    back = f.udp(f.SERVER, outer(), 53, 40000)
    path.write_bytes(
        classic([f.in_vxlan(f.udp()), f.in_vlan(back), f.in_vlan(f.tcp(f.SERVER, flags="A")), f.in_vxlan(f.arp())])
    )
    return str(path)


def outer() -> str:
    """10.0.0.1 modulo the pool of 24 addresses."""
    pool = [f"203.0.113.{last}" for last in (*range(16, 32), *range(64, 72))]
    return pool[0x0A000001 % len(pool)]


def test_each_frame_has_its_verdict_and_its_way(mizar: Run, capture: str, tmp_path: Path) -> None:
    """JSON has everything; the capture that comes out has what left, with the end as interface and the way beside."""
    out = tmp_path / "out.pcapng"
    done = mizar("pipeline", "simulate", INLINE, "--pcap", capture, "--out", str(out), "-o", "json")
    assert done.code == 0
    found = json.loads(done.out)
    assert [one["verdict"] for one in found["frames"]] == ["egress", "egress", "drop", "kernel"]
    assert found["frames"][0]["way"][0] == "Decap, case 1, step 1: set metadata f(vni)"
    assert found["frames"][0]["way"][-1] == "Egress, step 1: stop"
    assert found["frames"][2]["reason"] == "NAT, case 1, case 3, step 2: drop"
    assert found["frames"][1]["time_ns"] == 101_000_005_000
    assert found["reasons"] == {"TCP_WITHOUT_CONNECTION": 1}
    (connection,) = found["connections"]
    assert connection["becomes"]["source"] == outer()
    assert {"name": "invalid", "meta": None, "packets": 1, "bytes": 59} in found["counters"]
    written = [bytes.fromhex(one["out"]) for one in found["frames"] if one["out"]]
    assert [bytes(packet) for packet in PcapNgReader(str(out))] == written
    text = out.read_bytes()
    assert all(word in text for word in (b"egress", b"kernel", b"Decap 1 > NAT 1.1 > Re-tag/encap 3 > Egress"))


def test_the_table(mizar: Run, capture: str) -> None:
    """A line for each frame and a summary."""
    done = mizar("pipeline", "simulate", INLINE, "--pcap", capture)
    assert done.code == 0
    assert "4 frames, 3 left, 1 connections" in done.out


def test_from_stdin(mizar: Run, capture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """- reads the capture."""
    stdin = SimpleNamespace(buffer=io.BytesIO(Path(capture).read_bytes()))
    monkeypatch.setattr(sys, "stdin", stdin)
    done = mizar("pipeline", "simulate", INLINE, "--pcap", "-", "-o", "json")
    assert len(json.loads(done.out)["frames"]) == 4


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("nanoseconds", [False, True])
def test_every_kind_of_capture_is_read(order: str, nanoseconds: bool, tmp_path: Path) -> None:
    """Classic in both orders and resolutions; scapy's; our own pcapng."""
    frames = [bytes(f.udp()), bytes(f.arp())]
    times = [100_000_000_005 if nanoseconds else 100_000_005_000, 101_000_000_005 if nanoseconds else 101_000_005_000]
    assert read_frames(classic(frames, order, nanoseconds), "x") == list(zip(times, frames, strict=True))
    wrpcap(str(tmp_path / "scapy.pcap"), [f.udp(), f.arp()])
    assert [frame for _, frame in read_frames((tmp_path / "scapy.pcap").read_bytes(), "x")] == frames
    stream = io.BytesIO()
    writer = PcapngWriter(stream)
    for number, frame in enumerate(frames):
        writer.write("eth0", times[number], frame, len(frame), "a comment")
    assert read_frames(stream.getvalue(), "x") == list(zip(times, frames, strict=True))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "neither as pcap nor as pcapng"),
        (b"GIF89a" + bytes(40), "neither as pcap nor as pcapng"),
        (classic([b"x" * 60], link=101), "found link type 101"),
        (classic([b"x" * 60])[:-1], "a frame of 60 bytes, of which 59 are there"),
        (classic([b"x" * 60], cut=10), "captured with 50: capture whole frames"),
        (classic([b"x" * 60])[:30], "is no capture that can be read"),
    ],
)
def test_what_is_no_capture_is_refused(mizar: Run, tmp_path: Path, data: bytes, message: str) -> None:
    """With the reason, and exit code 1."""
    path = tmp_path / "bad.pcap"
    path.write_bytes(data)
    done = mizar("pipeline", "simulate", INLINE, "--pcap", str(path))
    assert (done.code, done.out) == (1, "")
    assert message in done.err
    assert mizar("pipeline", "simulate", INLINE, "--pcap", str(tmp_path / "none")).code == 1


@given(st.binary(max_size=200), st.sampled_from([classic([])[:24], b"\x0a\x0d\x0d\x0a", b""]))
def test_any_bytes_are_read_or_refused(data: bytes, begin: bytes) -> None:
    """Never another error."""
    with suppress(InvalidError):
        read_frames(begin + data, "x")
