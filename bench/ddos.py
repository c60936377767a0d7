# SPDX-License-Identifier: Apache-2.0
"""A client's handshakes while SYNs flood its server: quiet, flooded with a protection, and flooded without one.

Run as root, in a clone: `.venv/bin/python bench/ddos.py`. A lab of two droplets, of its own. The flood is what one
process on one core can send: tunnel packets with SYNs, put on the wire of the droplet that the client is on, from a
thousand ports of an endpoint there. The same core takes in what comes by the wire, as with a card whose interrupts are
bound to it; on veths it would be whichever had sent last, and keep it from its processes for milliseconds. Figures are
of one run: p50 and p99 of a handshake with one byte said and heard, how many failed, SYNs sent, and how many came to
the server (without a protection, the client's own among them).
"""

from __future__ import annotations

import argparse
import ctypes
import json
import multiprocessing
import os
import socket
import statistics
import struct
import sys
import time
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from mizar.functions.tunnelled import read
from mizar.kernel.namespaces import Namespace
from mizar.lab import lab as labs
from mizar.lab.names import LabName
from mizar.lab.substrate import INTERFACE
from tests.lab.test_ddos import PORT, Bench, bench
from tests.peers.foreign import command

FRAMES, BATCH = 1024, 64
CORES = sorted(os.sched_getaffinity(0))
ATTEMPT_S = 3.0


class _Vector(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class _Header(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_void_p), ("name_length", ctypes.c_uint), ("vectors", ctypes.POINTER(_Vector)),
        ("count", ctypes.c_size_t), ("control", ctypes.c_void_p), ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int), ("sent", ctypes.c_uint),
    )  # fmt: skip


def captured(here: Bench) -> bytes:
    """The tunnel packet with a client's SYN, as it leaves its droplet."""
    with Namespace.by_name(here.lab.droplet_namespace("d2")) as inside:
        wire = inside.run(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)))
    with wire:
        wire.bind((INTERFACE, 0))
        wire.settimeout(1)
        for _ in range(30):
            here.flood("db", 1)
            for _ in range(50):
                frame = wire.recv(65536)
                found = read(frame)
                if found is not None and found.inner is not None and found.inner.ports[1] == PORT:
                    return frame
    raise SystemExit("no SYN was seen on the wire")


def variants(frame: bytes) -> list[bytes]:
    """The same from many ports: the inner checksum follows."""
    found = read(frame)
    assert found is not None
    assert found.inner is not None
    at = len(frame) - len(found.inner_frame) + 34
    made = []
    for number in range(FRAMES):
        port = 2000 + number
        (old,) = struct.unpack_from("!H", frame, at)
        (checksum,) = struct.unpack_from("!H", frame, at + 16)
        total = (~checksum & 0xFFFF) + (~old & 0xFFFF) + port
        total = (total & 0xFFFF) + (total >> 16)
        total = (total & 0xFFFF) + (total >> 16)
        whole = bytearray(frame)
        struct.pack_into("!H", whole, at, port)
        struct.pack_into("!H", whole, at + 16, ~total & 0xFFFF)
        made.append(bytes(whole))
    return made


def flood(namespace: str, frames: list[bytes], stop: Event, sent: Any) -> None:
    """Sends until told to stop, as fast as one core can."""
    os.sched_setaffinity(0, CORES[:1])
    with Namespace.by_name(namespace) as inside:
        wire = inside.run(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0))
    wire.bind((INTERFACE, 0))
    wire.setsockopt(263, 20, 1)  # SOL_PACKET, PACKET_QDISC_BYPASS
    send = ctypes.CDLL(None, use_errno=True).sendmmsg
    buffers = [ctypes.create_string_buffer(frame, len(frame)) for frame in frames]
    vectors = (_Vector * len(frames))(*(_Vector(ctypes.addressof(one), len(one)) for one in buffers))
    headers = (_Header * len(frames))()
    for at in range(len(frames)):
        headers[at].vectors, headers[at].count = ctypes.pointer(vectors[at]), 1
    at = 0
    while not stop.is_set():
        done = send(wire.fileno(), ctypes.byref(headers[at]), BATCH, 0)
        sent.value += max(done, 0)
        at = (at + BATCH) % (len(frames) - BATCH + 1)


def bind_interrupts(here: Bench) -> None:
    """The flood's core takes in what comes by the wire (receive packet steering at the substrate's ports)."""
    steer = f"for queue in /sys/class/net/*/queues/rx-*/rps_cpus; do echo {1 << CORES[0]:x} > $queue; done"
    command("ip", "netns", "exec", here.lab.substrate_namespace, "sh", "-c", steer)


def handshakes(here: Bench, count: int) -> dict[str, float]:
    """Times of connect() in milliseconds, one after the other."""
    target, took, failed = (here.address("blue-web"), PORT), [], 0

    def work() -> None:
        nonlocal failed
        for _ in range(count):
            with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as made:
                made.settimeout(ATTEMPT_S)
                begun = time.monotonic()
                try:
                    made.connect(target)
                    made.sendall(b"?")
                    made.recv(1)
                except OSError:
                    failed += 1
                took.append((time.monotonic() - begun) * 1000)
            time.sleep(0.002)

    with Namespace.by_name(here.namespace("db")) as inside:
        inside.run(work)
    cuts = statistics.quantiles(took, n=100)
    return {"p50_ms": round(cuts[49], 3), "p99_ms": round(cuts[98], 3), "failed": failed, "tried": count}


def flooded(here: Bench, frames: list[bytes], count: int) -> dict[str, float]:
    """The same while SYNs flood."""
    stop, sent = multiprocessing.Event(), multiprocessing.Value("Q", 0, lock=False)
    here.frames()
    process = multiprocessing.Process(target=flood, args=(here.lab.droplet_namespace("d2"), frames, stop, sent))
    process.start()
    while not sent.value:
        time.sleep(0.01)
    before, begun = sent.value, time.monotonic()
    try:
        found = handshakes(here, count)
        rate = (sent.value - before) / (time.monotonic() - begun)
    finally:
        stop.set()
        process.join(10)
    return {**found, "syns_per_s": round(rate), "syns_at_server": here.syns()}


def main() -> None:
    """Prints JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=500, help="handshakes of each kind")
    count = parser.parse_args().count
    lab = LabName(f"ddosbench{os.getpid()}")
    try:
        with bench(lab) as here:
            bind_interrupts(here)
            frames = variants(captured(here))
            quiet = handshakes(here, count)
            unprotected = flooded(here, frames, max(count // 20, 10))
            here.apply(synCookies={"mode": "always"})
            time.sleep(2)
            protected_quiet = handshakes(here, count)
            protected = flooded(here, frames, count)
            time.sleep(3.5)
            counts = here.told().get("counts", {})
            ratio = round(protected["p99_ms"] / quiet["p99_ms"], 2)
            found = {"quiet": quiet, "flooded_without": unprotected, "quiet_with": protected_quiet}
            print(json.dumps({**found, "flooded_with": protected, "p99_ratio": ratio, "counts": counts}, indent=1))
    finally:
        labs.down(lab)


if __name__ == "__main__":
    main()
