# SPDX-License-Identifier: Apache-2.0
"""Questions and commands to HAProxy at its stats socket (Management Guide 9.3). Blocks.

Called by `http_stats`, `http_servers` and `http_certificates`. What was commanded is looked at afterwards: answers are
sentences for people, without a code.
"""

import contextlib
import os
import socket
from collections.abc import Iterable, Iterator
from pathlib import Path

LIMIT_S = 2.0
MOST_SENT = 12_000
"""Bytes of one line, or of one payload: HAProxy reads them into a buffer of 16 KiB (tune.bufsize)."""
_MOST_BYTES = 8 << 20


def ask(path: Path, question: str) -> str:
    """The answer, of at most 8 MiB. Raises OSError."""
    with _opened(path.parent) as folder, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as made:
        made.settimeout(LIMIT_S)
        made.connect(f"/proc/self/fd/{folder}/{path.name}")
        made.sendall(question.encode() + b"\n")
        answer = b""
        while len(answer) < _MOST_BYTES and (more := made.recv(1 << 16)):
            answer += more
    return answer.decode(errors="replace")


def command(path: Path, commands: Iterable[str]) -> None:
    """One after the other, as many at once as fit. Raises OSError."""
    line = ""
    for one in commands:
        if line and len(line) + len(one) + 1 > MOST_SENT:
            ask(path, line)
            line = ""
        line = f"{line};{one}" if line else one
    if line:
        ask(path, line)


@contextlib.contextmanager
def _opened(folder: Path) -> Iterator[int]:
    """A folder by a short name, whatever its own: sun_path has 108 bytes."""
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
