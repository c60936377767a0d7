# SPDX-License-Identifier: Apache-2.0
"""Reads a bounded log from a place on, also while it is written and when it has become its predecessor meanwhile.

Called by the servicer. A place is a text that only this module makes and reads. Blocks.
"""

import contextlib
from pathlib import Path

MOST_LINES, MOST_BYTES = 1000, 256 << 10
"""Of one answer: who wants more asks again."""
_TAIL_BYTES = 1 << 20
"""How far back the last lines are looked for."""


def read(path: Path, after: str, most: int) -> tuple[list[str], str]:
    """Lines behind a place, and the place behind them. Without a place, or with one that is no more: the last lines."""
    most = min(most or MOST_LINES, MOST_LINES)
    identity, _, offset = after.partition(":")
    for file in (path.with_name(f"{path.name}.1"), path):
        if after and offset.isdecimal() and identity == _identity(file):
            lines, end = _behind(file, int(offset), most)
            if lines or file == path:
                return lines, f"{identity}:{end}"
            return _beginning(path, most)
    return _last(path, most)


def _beginning(path: Path, most: int) -> tuple[list[str], str]:
    lines, end = _behind(path, 0, most)
    return lines, f"{_identity(path)}:{end}"


def _last(path: Path, most: int) -> tuple[list[str], str]:
    identity, size = _identity(path), _size(path)
    begin = max(0, size - _TAIL_BYTES)
    found, end = _whole(_bytes(path, begin, _TAIL_BYTES))
    lines = found[1:] if begin else found
    kept: list[str] = []
    room = MOST_BYTES
    for line in reversed(lines[-most:]):
        room -= len(line)
        if room < 0:
            break
        kept.append(line)
    return kept[::-1], f"{identity}:{begin + end}"


def _behind(path: Path, offset: int, most: int) -> tuple[list[str], int]:
    lines, end = _whole(_bytes(path, offset, MOST_BYTES))
    if len(lines) > most:
        lines = lines[:most]
        end = sum(len(line.encode(errors="surrogateescape")) + 1 for line in lines)
    return lines, offset + end


def _whole(data: bytes) -> tuple[list[str], int]:
    """The lines that have ended, and how many bytes they are."""
    end = data.rfind(b"\n") + 1
    return data[: end - 1].decode(errors="surrogateescape").split("\n") if end else [], end


def _bytes(path: Path, offset: int, most: int) -> bytes:
    with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
        file.seek(offset)
        return file.read(most)
    return b""


def _size(path: Path) -> int:
    with contextlib.suppress(FileNotFoundError):
        return path.stat().st_size
    return 0


def _identity(path: Path) -> str:
    """Of a file, whatever it is called by then."""
    with contextlib.suppress(FileNotFoundError):
        found = path.stat()
        return f"{found.st_dev}-{found.st_ino}"
    return "none"
