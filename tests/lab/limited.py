# SPDX-License-Identifier: Apache-2.0
"""A lab for limits, and traffic in it whose rate is looked at where it arrives."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

from mizar.api.client import Client
from mizar.kernel.namespaces import Namespace
from mizar.lab import processes
from mizar.lab.names import LabName
from mizar.lab.probes import readable
from mizar.model.manifest import parse_resource
from tests.lab.conftest import wait_until
from tests.lab.transfer import opened

MANIFESTS = (Path(__file__).parent / "qos.yaml").read_text()
RATE = 20_000_000
BURST_BYTES = 128 * 1024
WINDOW_S = 1.0
LEAST, MOST = 0.7, 1.2
"""Of a limit: as near as a test may ask for beside others. bench/qos.py measures."""
PORT = 4300
DATAGRAM = bytes(1200)
HEADERS = {"tcp": 66 / 1384, "udp": 42 / 1200}
"""Of a segment, as a part of its payload."""


class Bench:
    """The lab, and traffic in it."""

    def __init__(self, lab: LabName, client: Client) -> None:
        self.lab, self.client = lab, client
        self.ports = itertools.count(PORT)

    def namespace(self, name: str) -> str:
        return self.lab.endpoint_namespace("blue", name)

    def address(self, name: str) -> str:
        return str(self.client.get("Endpoint", name, "blue")["status"]["addresses"][0])

    def limit(self, kind: str, name: str, **qos: Any) -> None:
        manifest = self.client.get(kind, name, "blue")
        manifest["spec"]["qos"] = qos
        resource = parse_resource(manifest)
        self.client.apply([resource])
        self.client.wait([resource.ref], 30)

    def restart(self, *options: str, how: signal.Signals = signal.SIGTERM) -> None:
        """The daemon of d1 anew, with more options; returns when the server has heard of it."""
        (before,) = [one.pid for one in processes.marked(self.lab.name) if one.name == "d1"]
        words = Path(f"/proc/{before}/cmdline").read_bytes().decode().rstrip("\0").split("\0")
        os.kill(before, how)
        wait_until(lambda: not self.connected())
        argv = [sys.executable, *words[1:], *options]
        with Namespace.by_name(self.lab.droplet_namespace("d1")) as host:
            processes.start(self.lab.name, "d1", argv, self.lab.log("d1"), host)
        wait_until(self.connected)

    def connected(self) -> bool:
        """Whether the server talks to the daemon of d1."""
        return bool(self.client.get("Droplet", "d1")["status"]["connected"])

    def bits(self, source: str, target: str, kind: str, reach: float = LEAST * RATE) -> float:
        """What arrives in a second, of inner frames, once the burst is used up; sent is what the sender can. Of the
        first second in which `reach` bits arrive, or of the tenth: beside others a sender may lack a processor."""
        return self.together([(source, target, kind)], reach)[0]

    def together(self, ways: list[tuple[str, str, str]], reach: float = LEAST * RATE) -> list[float]:
        """The same for several at once, which reach that between them."""
        with contextlib.ExitStack() as stack:
            streams = [stack.enter_context(contextlib.closing(Stream(self, *way))) for way in ways]
            for stream in streams:
                wait_until(lambda stream=stream: stream.received > 3 * BURST_BYTES)  # type: ignore[misc]
            for _ in range(10):
                got = rates(*streams)
                if sum(got) > reach:
                    break
            return got


class Stream:
    """As much as can be sent from one endpoint to another, and how many bytes have arrived."""

    def __init__(self, bench: Bench, source: str, target: str, kind: str) -> None:
        self.kind, self.received, self._over = kind, 0, threading.Event()
        address = bench.address(target), next(bench.ports)
        of = socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM
        self._ends = [opened(bench.namespace(source), of), opened(bench.namespace(target), of)]
        self._ends[1].bind(address)
        if kind == "tcp":
            self._ends[1].listen()
            self._ends[0].settimeout(30)
            self._ends[0].connect(address)
            listener = self._ends[1]
            self._ends[1], _ = listener.accept()
            listener.close()
        else:
            self._ends[0].connect(address)
        self._threads = [threading.Thread(target=self._send), threading.Thread(target=self._receive)]
        for thread in self._threads:
            thread.start()

    def _send(self) -> None:
        """Datagrams come to twice the limit, however late this thread is woken, and not to the whole processor."""
        data, due = DATAGRAM if self.kind == "udp" else bytes(65536), time.monotonic()
        while not self._over.is_set():
            with contextlib.suppress(OSError):
                self._ends[0].send(data)
            if self.kind == "udp":
                due += len(DATAGRAM) * 8 / (2 * RATE)
                time.sleep(max(0.0, due - time.monotonic()))

    def _receive(self) -> None:
        while not self._over.is_set():
            if readable([self._ends[1].fileno()], 0.1):
                self.received += len(self._ends[1].recv(1 << 18))

    def close(self) -> None:
        """Ends it."""
        self._over.set()
        with contextlib.suppress(OSError):
            self._ends[0].shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(30)
        for end in self._ends:
            end.close()


def rates(*streams: Stream) -> list[float]:
    """What arrives of each in a second from now on, of inner frames."""
    begin, before = time.monotonic(), [stream.received for stream in streams]
    time.sleep(WINDOW_S)  # what is measured
    took = time.monotonic() - begin
    return [
        (stream.received - was) * 8 * (1 + HEADERS[stream.kind]) / took
        for stream, was in zip(streams, before, strict=True)
    ]


def near(got: float, wanted: float = RATE) -> bool:
    """Whether that is about what the limit allows."""
    return LEAST * wanted < got < MOST * wanted
