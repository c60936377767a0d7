# SPDX-License-Identifier: Apache-2.0
"""A gateway's process on a rig's host, by its command line, and descriptions for each way of a new connection."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from mizar.cli.main import app
from mizar.gateway import options
from mizar.kernel import bpffs, namespaces
from mizar.model.errors import NotFoundError
from mizar.pipeline.kernel_path import KernelPath
from mizar.pipeline.nat import NatRules
from mizar.pipeline.reader import read_pipeline
from mizar.pipeline.writer import write_pipeline
from tests.gateway.rig import HOST, LIMIT_S, PEER, Rig, kernel_path

TRAP = "[{encap: {headers: vxlan, to: kernel}}, {set_vni: {from: meta}}, {trap: kernel}]"
NEW = {
    "in line": "[{count: {name: new, per: meta}}, {nat: {allocate: true}}]",
    "kernel": TRAP,
    "queue": "[{count: {name: new, per: meta}}, {queue: 3}]",
}
"""What becomes of a connection's first packet."""
_TEXT = f"""pipeline: lab
tunnels:
  fabric:
    {{source: {HOST}, destination: {PEER}, source_mac: "02:00:00:00:02:09", destination_mac: "02:00:00:00:02:02"}}
  kernel:
    {{source: {PEER}, destination: {HOST}, source_mac: "02:00:00:00:02:02", destination_mac: "02:00:00:00:02:09"}}
groups:
  - name: Decap
    steps:
      - switch: parse
        cases:
          - when: eth / ipv4 dst {HOST} / udp dst == 4789 / vxlan
            steps: [{{set_meta: {{from: vni, add: 0x01000000}}}}, {{decap: vxlan}}]
          - {{when: otherwise, steps: [{{trap: kernel}}]}}
  - name: NAT
    steps:
      - switch: parse
        cases:
          - when: eth / (arp | ipv6 / nd)
            steps: [{{limit: {{name: neighbours, packets_per_s: 100, burst: 20, per: meta}}}}, *TRAP]
          - when: eth / ip / (tcp | udp | icmp | fragment)
            steps:
              - switch: conntrack
                cases:
                  - {{when: new, steps: NEW}}
                  - {{when: established | related, steps: [{{count: {{name: hot, per: meta}}}}, {{nat: null}}]}}
                  - {{when: invalid, steps: [{{count: invalid}}, drop]}}
  - name: Out
    steps: [{{encap: {{headers: vxlan, to: fabric}}}}, {{set_vni: {{from: meta}}}}, stop]
"""


def description(way: str, prefix: str, nat: NatRules) -> str:
    """The YAML of a gateway for a rig; `way` is one of NEW."""
    text = _TEXT.replace("*TRAP", TRAP[1:-1]).replace("NEW", NEW[way]).replace("{nat: null}", "nat")
    text = text.replace(
        "pipeline: lab\n",
        "pipeline: lab\nnat: {masquerade: [{inside: 0x01000005, outside: 0x01000064, addresses: 203.0.113.10}]}\n",
    )
    read = read_pipeline(text, "lab.yaml")
    return write_pipeline(replace(read, nat=nat, kernel=kernel_path(prefix)))


def description_of(
    way: str,
    own: tuple[str, str],
    behind: dict[str, tuple[str, str]],
    vnis: dict[str, int],
    kernel: KernelPath,
    nat: NatRules,
) -> str:
    """The same for a gateway at address and MAC `own`, whose VNIs are behind others, by name."""
    text = _TEXT.replace("*TRAP", TRAP[1:-1]).replace("NEW", NEW[way]).replace("{nat: null}", "nat")
    first = next(iter(behind.values()))
    there = ((HOST, own[0]), ("02:00:00:00:02:09", own[1]), (PEER, first[0]), ("02:00:00:00:02:02", first[1]))
    for word, value in there:
        text = text.replace(word, value)
    ends = "".join(
        f"  {name}:\n    {{source: {own[0]}, destination: {address}, "
        f'source_mac: "{own[1]}", destination_mac: "{mac}"}}\n'
        for name, (address, mac) in behind.items()
    )
    cases = ", ".join(
        f"{{when: {0x01000000 + vni:#x}, steps: [{{encap: {{headers: vxlan, to: {name}}}}}, "
        "{set_vni: {from: meta}}, stop]}"
        for name, vni in vnis.items()
    )
    text = text.replace("  kernel:\n", ends + "  kernel:\n", 1)
    begin, end = text.index("  fabric:"), text.index(ends)
    text = text[:begin] + text[end:]
    text = text[: text.index("  - name: Out")] + f"  - name: Out\n    steps: [{{switch: metadata, cases: [{cases}]}}]\n"
    read = read_pipeline(text, "lab.yaml")
    return write_pipeline(replace(read, nat=nat, kernel=kernel))


@dataclass
class Running:
    """A process; `name` is the gateway's."""

    rig: Rig
    name: str
    folder: Path
    file: Path
    more: tuple[str, ...] = ()
    """Options of `gateway run`."""
    process: subprocess.Popen[bytes] | None = None

    def cli(self, *words: str, ok: bool = True) -> Any:
        """A command of `mizar gateway` on the host, its JSON."""
        done = subprocess.run(
            [*_inside(self.rig), *_MIZAR, "gateway", *words, "-o", "json"], capture_output=True, text=True, check=False
        )
        assert (done.returncode == 0) is ok, done.stderr
        return json.loads(done.stdout) if ok else done.stderr

    def show(self) -> dict[str, Any]:
        """What it says of itself."""
        found: dict[str, Any] = _asked("show", "--name", self.name)
        return found

    def connections(self) -> list[dict[str, Any]]:
        """Its connections."""
        found: list[dict[str, Any]] = _asked("connections", "--name", self.name)
        return found

    def apply(self, text: str, ok: bool = True) -> Any:
        """Another description."""
        applied = self.folder / "applied.yaml"
        applied.write_text(text)
        return self.cli("apply", "--name", self.name, "-f", str(applied), ok=ok)

    def end(self) -> None:
        """As the system does; one that never came to run, or has ended, is no matter."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait(LIMIT_S)
            self.process = None

    def kill(self) -> None:
        """As when its host fails: it takes leave of nobody."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        self.process = None

    def begin(self) -> None:
        """Again, or for the first time: until it is ready. One that ends instead says why."""
        words = [
            "gateway",
            "run",
            "-f",
            str(self.file),
            "--interface",
            "wire",
            "--name",
            self.name,
            *_SIZES,
            *self.more,
        ]
        log = self.folder / "gateway.log"
        with log.open("ab") as end:
            ready = log.read_text().count(_READY)
            self.process = subprocess.Popen([*_inside(self.rig), *_MIZAR, *words], stdout=end, stderr=end)
        deadline = time.monotonic() + LIMIT_S
        while log.read_text().count(_READY) == ready:
            assert self.process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, f"the gateway is not ready in time: {log.read_text()}"
            time.sleep(0.02)


def _asked(*words: str) -> Any:
    """The JSON of a command that only asks, here: who waits asks often, and an interpreter takes long to start."""
    return json.loads(CliRunner().invoke(app, ["gateway", *words, "-o", "json"], catch_exceptions=False).stdout)


_MIZAR = [sys.executable, "-c", "from mizar.cli.main import main; main()"]
_SIZES = ["--max-connections", "4096"]
_READY = "event=ready"
_TESTS = re.compile(r"gw[tl](\d+)(-\d+)?")
"""Names of the gateways of tests: whose process they belong to is part of them."""


@contextmanager
def running(rig: Rig, text: str, folder: Path, *more: str) -> Iterator[Running]:
    """A gateway until the block ends; it leaves nothing behind, nor does one that cannot start."""
    sweep()
    file = folder / "gateway.yaml"
    file.write_text(text)
    made = Running(rig, rig.prefix, folder, file, more)
    try:
        made.begin()
        yield made
    finally:
        made.end()
        try:
            made.cli("stop", "--name", made.name, "--remove", str(file))
        finally:
            _forget(made.name)


def sweep() -> None:
    """Takes away what tests left whose process was killed: nobody else would."""
    names = [path.name for path in options.RUN.glob("*")]
    names += [name.removeprefix("gateway-") for name in bpffs.instances() if name.startswith("gateway-")]
    for name in names:
        owner = _TESTS.fullmatch(name)
        if owner is not None and not Path("/proc", owner[1]).exists():
            _forget(name)
    for name in namespaces.names():
        owner = re.match(rf"{_TESTS.pattern}-[a-z]", name)
        if owner is not None and not Path("/proc", owner[1]).exists():
            with suppress(NotFoundError):  # another test was faster
                namespaces.remove(name)


def _forget(name: str) -> None:
    options.pins(name).remove()
    shutil.rmtree(options.place(name), ignore_errors=True)


def _inside(rig: Rig) -> list[str]:
    return ["nsenter", f"--net=/run/netns/{rig.host.spec.removeprefix('name:')}"]
