# SPDX-License-Identifier: Apache-2.0
"""A log of lines that never grows beyond a limit: the file, and the one before it.

Called by functions, from the event loop: a line is a short write. It must never fail whoever writes: a disk that is
full loses lines, and says so once.
"""

import contextlib
import logging
import os
from pathlib import Path

from mizar.transit.logs import event

LIMIT_BYTES = 16 << 20
_log = logging.getLogger(__name__)


class BoundedLog:
    """Lines in `path`; beyond `limit_bytes` it becomes `path`.1, and what was that is gone."""

    def __init__(self, path: Path, limit_bytes: int = LIMIT_BYTES) -> None:
        self.path = path
        self._limit = limit_bytes
        self._fd = -1
        self._size = 0
        self._failing = False

    def write(self, line: str) -> None:
        """One line more."""
        data = line.encode(errors="replace") + b"\n"
        try:
            if self._fd < 0 or self._size + len(data) > self._limit:
                self._open()
            self._size += os.write(self._fd, data)
            self._failing = False
        except OSError as error:
            if not self._failing:
                event(_log, logging.WARNING, "log_not_written", path=self.path, error=error.strerror)
            self._failing = True

    def _open(self) -> None:
        self.close()
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
        self._size = self.path.stat().st_size if self.path.exists() else 0
        if self._size >= self._limit // 2:
            self.path.replace(self.path.with_name(f"{self.path.name}.1"))
            self._size = 0
        self._fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o640)

    def close(self) -> None:
        """Lets go of the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def remove(self) -> None:
        """Takes it away, and the folders above it that are empty then."""
        self.close()
        for path in (self.path, self.path.with_name(f"{self.path.name}.1")):
            with contextlib.suppress(OSError):
                path.unlink()
        with contextlib.suppress(OSError):
            for folder in list(self.path.parents)[:3]:
                folder.rmdir()
