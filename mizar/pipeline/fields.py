# SPDX-License-Identifier: Apache-2.0
"""Plain values from YAML → typed fields; every refusal is noted with its line, and reading goes on.

Used by the reader alone. Knows lists, mappings, numbers and text; never what they mean.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import AddressValueError, IPv4Address
from typing import Any, TypeVar

from mizar.model.document import Path
from mizar.model.errors import Problem
from mizar.pipeline.steps import Where

T = TypeVar("T")
Taker = Callable[[Any], Any]


@dataclass(slots=True)
class Notes:
    """What was refused so far, and how a path becomes a line of the file."""

    source: str
    lines: Mapping[Path, int]
    problems: list[Problem] = field(default_factory=list)

    def where(self, path: Path) -> Where:
        """The line of a value, or of the nearest one around it: what came through an alias has none of its own."""
        while path and path not in self.lines:
            path = path[:-1]
        return Where(self.source, self.lines.get(path, 1))

    def refuse(self, path: Path, message: str) -> None:
        """Notes one thing that is wrong."""
        self.problems.append(Problem(message, path_text(path), file=self.source, line=self.where(path).line))

    def attempt(self, path: Path, make: Callable[[], T]) -> T | None:
        """What `make` makes, or None with its ValueError noted."""
        try:
            return make()
        except ValueError as error:
            self.refuse(path, str(error))
            return None

    def mapping(self, path: Path, value: Any, known: Iterable[str], needed: Iterable[str] = ()) -> dict[str, Any]:
        """The known entries of a mapping; unknown and missing ones are noted."""
        known = list(known)
        if not isinstance(value, Mapping):
            self.refuse(path, f"expected a mapping with {', '.join(known)}, found {shown(value)}")
            return {}
        for key in value:
            if key not in known:
                self.refuse((*path, key), f"unknown{near(key, known)}; known are {', '.join(known)}")
        for key in needed:
            if key not in value:
                self.refuse(path, f"{key} is missing")
        return {key: entry for key, entry in value.items() if key in known}

    def fields(
        self, path: Path, value: Any, takers: Mapping[str, Taker], needed: Iterable[str]
    ) -> dict[str, Any] | None:
        """A mapping with each entry taken by its taker; None when anything was refused."""
        before = len(self.problems)
        entries = self.mapping(path, value, takers, needed)
        taken = {}
        for key, entry in entries.items():
            taken[key] = self.attempt((*path, key), lambda key=key, entry=entry: takers[key](entry))  # type: ignore[misc]
        return taken if len(self.problems) == before else None

    def items(self, path: Path, value: Any, what: str) -> list[tuple[Path, Any]]:
        """The items of a list with their paths."""
        if isinstance(value, list):
            return [((*path, place), item) for place, item in enumerate(value)]
        self.refuse(path, f"expected a list of {what}, found {shown(value)}")
        return []


def path_text(path: Path) -> str:
    """`("groups", 1, "name")` → `groups[1].name`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def text(value: Any) -> str:
    """Text, as it is. Raises ValueError."""
    if not isinstance(value, str):
        raise ValueError(f"expected text, found {shown(value)}")
    return value


def flag(value: Any) -> bool:
    """true or false. Raises ValueError."""
    if not isinstance(value, bool):
        raise ValueError(f"expected true or false, found {shown(value)}")
    return value


def number(value: Any) -> int:
    """A whole number, decimal or as text with 0x in front. Raises ValueError."""
    if isinstance(value, str) and value[:2] == "0x" and len(value) <= 34:
        try:
            return int(value, 16)
        except ValueError:
            pass
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"expected a whole number, found {shown(value)}")
    return value


def mac(value: Any) -> int:
    """A MAC address as a number of 48 bits. Raises ValueError."""
    parts = text(value).split(":")
    if len(parts) != 6 or not all(len(part) == 2 and set(part) <= set("0123456789abcdefABCDEF") for part in parts):
        raise ValueError(f"expected a MAC address, found {shown(value)}")
    return int("".join(parts), 16)


def address(value: Any) -> IPv4Address:
    """An IPv4 address. Raises ValueError."""
    try:
        return IPv4Address(text(value))
    except AddressValueError as error:
        raise ValueError(f"expected an IPv4 address, found {shown(value)}") from error


def near(word: object, known: Iterable[str]) -> str:
    """` (did you mean …?)`, where something known is close."""
    close = difflib.get_close_matches(str(word)[:64], list(known), 1)
    return f" (did you mean {close[0]}?)" if close else ""


def shown(value: object) -> str:
    """A value as a person would recognise it, never long."""
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    if value is None:
        return "nothing"
    text_ = repr(value)
    return text_ if len(text_) <= 80 else text_[:77] + "..."
