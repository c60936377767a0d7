# SPDX-License-Identifier: Apache-2.0
"""A gateway's host, the fabric's wire, and a DPDK program in a namespace of its own, joined by a veth pair.

The names are those of examples/topologies/dpdk.yaml: veth.kernel on the host, veth.dpdk with the program.
"""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from mizar.kernel import bpffs, interfaces, libbpf, namespaces
from mizar.kernel.bpffs import Pins
from mizar.kernel.gateway_keeper import Keeper
from mizar.kernel.gateway_tables import GatewayTables, created
from mizar.kernel.namespaces import Namespace
from mizar.lab.probes import readable
from tests.peers.foreign import command

_numbers = itertools.count()
_HERE = Path(__file__).parent
ROOT = _HERE.parents[1]
LIMIT_S = 30.0


@dataclass
class Wires:
    """Namespaces by name (host, peers, dpdk), and where the gateway's maps are pinned."""

    prefix: str
    spaces: dict[str, Namespace]
    pins: Pins

    def ifindex(self, space: str, name: str) -> int:
        """Of an interface."""
        return self.spaces[space].run(lambda: socket.if_nametoindex(name))


@dataclass
class Rig(Wires):
    """With maps of their own."""

    tables: GatewayTables
    keeper: Keeper


@contextmanager
def wires() -> Iterator[Wires]:
    """Wire (peers) - gw (host), veth.kernel (host) - veth.dpdk (dpdk)."""
    prefix = f"qwt{os.getpid()}-{next(_numbers)}"
    with ExitStack() as stack:
        spaces = {
            name: stack.enter_context(namespaces.scratch(f"{prefix}-{name}")) for name in ("host", "peers", "dpdk")
        }
        for name, peer, space in (("gw", "wire", "peers"), ("veth.kernel", "veth.dpdk", "dpdk")):
            queues = ["numtxqueues", "1", "numrxqueues", "1"]
            far = ["peer", "name", peer, *queues, "netns", f"{prefix}-{space}"]
            command("ip", "link", "add", name, *queues, "type", "veth", *far, namespace=f"{prefix}-host")
            for own, one in (("host", name), (space, peer)):
                command("ip", "-n", f"{prefix}-{own}", "link", "set", one, "addrgenmode", "none", "up")
                spaces[own].run(partial(interfaces.set_gro, one, on=True))
        yield Wires(prefix, spaces, Pins.of(f"gateway-{prefix}"))


@contextmanager
def rig() -> Iterator[Rig]:
    """Everything but programs."""
    bpffs.ensure_mounted()
    with wires() as made, ExitStack() as stack:
        pins = made.pins
        tables = stack.enter_context(created({"lines4": 4, "lines6": 4}))
        stack.callback(shutil.rmtree, pins.folder, ignore_errors=True)
        pins.make()
        for name, fd in tables.maps.items():
            path = os.fsencode(pins.maps / name)
            libbpf.check(libbpf.lib().bpf_obj_pin(fd, path), f"pin {name}")
        keeper = stack.enter_context(Keeper(tables.maps))
        keeper.pin(pins.progs)
        yield Rig(made.prefix, made.spaces, pins, tables, keeper)


def standin() -> bytes:
    """The gateway's stand-in, compiled as the programs of the data plane are."""
    spec = importlib.util.spec_from_file_location("dataplane_build", ROOT / "dataplane" / "build.py")
    assert spec is not None
    assert spec.loader is not None
    build = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(build)
    output = _HERE / f".standin-{os.getpid()}.o"
    try:
        build.Build(ROOT).compile_c(_HERE / "gateway_standin.c", output)
        return output.read_bytes()
    finally:
        output.unlink(missing_ok=True)


@dataclass
class Worker:
    """The DPDK program at work; `ended` says what became of the frames, once it has been stopped."""

    program: Path
    where: Wires
    ended: dict[str, int] = field(default_factory=dict)
    _process: Any = None

    def __enter__(self) -> Self:
        eal = ["--no-pci", "--no-huge", "--no-shconf", "--no-telemetry", "-m", "64", "--lcores=0@0"]
        eal += [f"--file-prefix={self.where.prefix}", "--vdev=net_af_xdp0,iface=veth.dpdk"]
        argv = ["nsenter", f"--net=/run/netns/{self.where.prefix}-dpdk", str(self.program), *eal]
        argv += ["--", str(self.where.pins.folder), "2"]
        self._process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        said = self._line()
        if said != "ready\n":
            self._process.kill()
            raise AssertionError(f"the worker said {said!r}: {self._process.communicate()[1]}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self.ended:
            self.stop()

    def stop(self) -> None:
        """Ends it, and takes what it says."""
        self._process.terminate()
        said, wrong = self._process.communicate(timeout=LIMIT_S)
        shutil.rmtree(Path("/run/dpdk") / self.where.prefix, ignore_errors=True)
        lines = [line for line in said.splitlines() if line.startswith("{")]
        assert lines, wrong
        self.ended = json.loads(lines[-1])

    def _line(self) -> str:
        """The next line that is not DPDK's own."""
        while True:
            if not readable([self._process.stdout.fileno()], LIMIT_S):
                return "nothing"
            line: str = self._process.stdout.readline()
            if line in ("ready\n", ""):
                return line


class Tap:
    """A packet socket on an interface: sends frames, and collects those that come."""

    def __init__(self, space: Namespace, name: str) -> None:
        def opened() -> socket.socket:
            made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
            made.setsockopt(263, 8, 1)  # SOL_PACKET, PACKET_AUXDATA: a tag that the kernel took out of the frame
            made.bind((name, 3))  # ETH_P_ALL
            return made

        self._socket = space.run(opened)

    def send(self, frame: bytes) -> None:
        """Out of the interface."""
        self._socket.send(frame)

    def wait(self, wanted: bytes, again: bytes | None = None, sender: Tap | None = None) -> None:
        """Until a frame comes that ends with `wanted`; meanwhile `sender` sends `again`."""
        end = time.monotonic() + LIMIT_S
        while time.monotonic() < end:
            if sender is not None and again is not None:
                sender.send(again)
            while readable([self._socket.fileno()], 0.2):
                if self._take().endswith(wanted):
                    return
        raise AssertionError("the frame did not come")

    def close(self) -> None:
        """Ends it."""
        self._socket.close()

    def _take(self) -> bytes:
        return self._socket.recv(4096)


def wait_until(done: Callable[[], bool]) -> None:
    """Until it is so."""
    end = time.monotonic() + LIMIT_S
    while not done():
        assert time.monotonic() < end, "it did not come to that"
        readable([], 0.02)
