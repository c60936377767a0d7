# SPDX-License-Identifier: Apache-2.0
"""Guests that run: QEMU, driven over the serial console. The small one is on a tap of a droplet's namespace."""

from __future__ import annotations

import os
import re
import subprocess
import time
from types import TracebackType
from typing import Self

from mizar.lab.probes import readable
from tests.guest.image import QEMU, Image

BOOT_S = 90.0
"""Software emulation on a busy machine takes its time; usual are five seconds."""
_BASE = (
    "-M q35,sata=off,smbus=off,usb=off,vmport=off -accel tcg,thread=multi -cpu max -m 192 -smp 1 -nodefaults "
    "-no-reboot -display none -serial stdio -monitor none"
)
_LINE = "console=ttyS0 quiet panic=-1 nokaslr mitigations=off rdinit=/init"
_DONE = re.compile(r"@@(\w+)@@\s")


class Console:
    """A virtual machine that a command starts, and the shell on its serial console."""

    def __init__(self, command: list[str]) -> None:
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        self._said = ""
        try:
            word, _ = self._answer(BOOT_S)
            assert word == "ready", word
        except BaseException:  # nobody else could end it
            self.close()
            raise

    def run(self, command: str, limit_s: float = 30.0) -> str:
        """What a shell command in the guest prints; it must succeed."""
        code, text = self.attempt(command, limit_s)
        assert code == 0, f"{command!r} ended with {code}:\n{text}"
        return text

    def attempt(self, command: str, limit_s: float = 30.0) -> tuple[int, str]:
        """Exit code of a shell command in the guest, and what it printed."""
        assert self._process.stdin is not None
        self._process.stdin.write(command.encode() + b"\n")
        self._process.stdin.flush()
        code, text = self._answer(limit_s)
        return int(code), text

    def _answer(self, limit_s: float) -> tuple[str, str]:
        assert self._process.stdout is not None
        end = time.monotonic() + limit_s
        while not (found := _DONE.search(self._said)):
            ready = readable([self._process.stdout.fileno()], end - time.monotonic())
            assert ready, f"the guest said nothing more within {limit_s} s; last:\n{self._said[-2000:]}"
            data = os.read(self._process.stdout.fileno(), 1 << 16)
            assert data, f"the guest ended:\n{self._said[-2000:]}"
            self._said += data.decode(errors="replace").replace("\r", "")
        text, self._said = self._said[: found.start()], self._said[found.end() :]
        return found.group(1), text

    def close(self) -> None:
        """Power off, at once."""
        self._process.kill()
        self._process.wait(10)
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Guest(Console):
    """A small machine on a tap. `namespace`: where its tap is; `mtu`: what its virtio device offers."""

    def __init__(self, image: Image, namespace: str, tap: str, mac: str, mtu: int = 1450) -> None:
        net = ["-netdev", f"tap,id=n0,ifname={tap},script=no,downscript=no", "-device"]
        net.append(f"virtio-net-pci,netdev=n0,mac={mac},host_mtu={mtu},romfile=")
        boot = ["-kernel", str(image.kernel), "-initrd", str(image.initramfs), "-append", _LINE]
        super().__init__(["nsenter", f"--net=/run/netns/{namespace}", QEMU, *_BASE.split(), *net, *boot])
