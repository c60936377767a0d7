# SPDX-License-Identifier: Apache-2.0
"""The probe processes of a run, one in the namespace of each endpoint, and the orders that they take.

Called by mizar.lab.traffic, isolation and path. Owns the numbers and tokens by which endpoints recognise one another.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from mizar.kernel.namespaces import Namespace
from mizar.lab import probe as program
from mizar.lab.findings import Member
from mizar.lab.processes import environment
from mizar.model.errors import TemporaryError

ANSWER_LIMIT_S = 60.0


def readable(descriptors: Sequence[int], limit_s: float) -> list[int]:
    """Those of some file descriptors that can be read, as soon as there is one; none when there is not within a limit.
    Any number of descriptors may be open: select() would end at 1024."""
    poll = select.poll()
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLIN)
    return [descriptor for descriptor, _ in poll.poll(max(0.0, limit_s) * 1000)]


class Probe:
    """One probe process and the pipe to it."""

    def __init__(self, lab: str, member: Member, token: bytes) -> None:
        self.member = member
        self.token = token

        def spawn() -> subprocess.Popen[str]:
            return subprocess.Popen(  # noqa: S603 - this Python, our own program
                [sys.executable, "-I", "-S", str(Path(program.__file__)), token.hex()],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=environment(lab, "probe"),
                start_new_session=True,
            )

        with Namespace.by_name(member.namespace) as namespace:
            self._process = namespace.run(spawn)

    def ask(self, op: str, **order: Any) -> dict[str, Any]:
        """Gives an order and waits for its answer. Raises TemporaryError when the probe has died."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        line = ""
        with contextlib.suppress(BrokenPipeError):
            stdin.write(json.dumps({"op": op, **order}) + "\n")
            stdin.flush()
            if readable([stdout.fileno()], ANSWER_LIMIT_S):
                line = stdout.readline()
        if not line:
            raise TemporaryError(f"the probe of {self.member} gave no answer to {op}{self._last_words()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _last_words(self) -> str:
        self._process.kill()
        said = self._process.communicate()[1].strip().splitlines()
        return f": {said[-1]}" if said else ""

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.communicate()


class Probes(Sequence[Probe]):
    """All probes of a run; a context manager that ends them."""

    def __init__(self, lab: str, members: Sequence[Member]) -> None:
        run = program.TOKEN_PREFIX + os.urandom(8)
        self._probes: list[Probe] = []
        try:
            for number, member in enumerate(members):
                self._probes.append(Probe(lab, member, run + number.to_bytes(2, "big")))
            for probe in self._probes:
                probe.ask("heard")  # it listens once it answers
        except BaseException:
            self.close()
            raise

    def __getitem__(self, index: Any) -> Any:
        return self._probes[index]

    def __len__(self) -> int:
        return len(self._probes)

    def __iter__(self) -> Iterator[Probe]:
        return iter(self._probes)

    def of(self, member: Member) -> Probe:
        """The probe in the namespace of a member."""
        return next(probe for probe in self._probes if probe.member == member)

    def number(self, number: int) -> Member:
        """The member that a heard number names."""
        return self._probes[number].member

    def heard(self, probe: Probe) -> dict[tuple[str, int], int]:
        """What one probe has heard so far: (way, number) → how often."""
        return {(way, number): count for way, number, count in probe.ask("heard")["heard"]}

    def close(self) -> None:
        """Ends all processes."""
        for probe in self._probes:
            probe.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
