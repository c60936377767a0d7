# SPDX-License-Identifier: Apache-2.0
"""DPDK's testpmd at a terminal of its own: an independent parser of flow rules. Its two ports go nowhere by default.

It wants a terminal: with a pipe it stops at the end of its input and buffers what it says.
"""

from __future__ import annotations

import os
import pty
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

from mizar.lab.probes import readable

PROMPT = b"testpmd> "
LIMIT_S = 30.0
# net_null executes nothing: what it answers to a rule that testpmd has understood.
REFUSED_BY_DRIVER = ("Caught PMD error", "Function not implemented (error")


class Testpmd:
    """A running testpmd; a context manager that ends it."""

    __test__ = False

    def __init__(self, devices: Sequence[str] = ("net_null0", "net_null1"), plugin: Path | None = None) -> None:
        # Two lcores on one processor: one for the prompt, one for packets that never come.
        arguments = [
            "dpdk-testpmd",
            "--no-pci",
            "--no-huge",
            "--no-shconf",
            "--no-telemetry",
            "-m",
            "256",
            "--lcores=0@0,1@0",
        ]
        arguments += [f"--vdev={device}" for device in devices]
        if plugin is not None:
            arguments += ["-d", str(plugin)]
        arguments += ["--", "-i", "--total-num-mbufs=2048"]
        self._pid, self._terminal = pty.fork()
        if self._pid == 0:
            os.execvp(arguments[0], arguments)
        self.greeting = self._until_prompt()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        os.close(self._terminal)
        for folder in ("/run/dpdk/rte", "/run/dpdk"):  # made by DPDK, and empty unless another one runs
            with suppress(OSError):
                Path(folder).rmdir()

    def say(self, command: str) -> str:
        """What testpmd answers to a command, without its echo."""
        os.write(self._terminal, command.encode() + b"\n")
        answer = self._until_prompt()
        return answer.replace("\r", "").removeprefix(command).removesuffix(PROMPT.decode()).strip()

    def refused(self, commands: Sequence[str]) -> dict[str, str]:
        """Commands that its parser does not take, with what it says."""
        return {command: answer for command in commands if not understood(command, answer := self.say(command))}

    def _until_prompt(self) -> str:
        found, end = b"", time.monotonic() + LIMIT_S
        while not found.endswith(PROMPT):
            if not readable([self._terminal], end - time.monotonic()):
                raise TimeoutError(f"no prompt within {LIMIT_S} s; testpmd said {found[-500:]!r}")
            try:
                found += os.read(self._terminal, 65536)
            except OSError as error:  # the terminal of a process that has ended
                raise ChildProcessError(f"testpmd ended: {found[-2000:].decode(errors='replace')}") from error
        return found.decode(errors="replace")


def understood(command: str, answer: str) -> bool:
    """Whether testpmd's parser took a command: it went to the driver, or (`set`) needs none and says nothing."""
    if command.startswith("set "):
        return answer == ""
    return any(sentence in answer for sentence in REFUSED_BY_DRIVER)
