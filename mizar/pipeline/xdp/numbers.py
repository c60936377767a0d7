# SPDX-License-Identifier: Apache-2.0
"""Numbers for what a program keeps in maps by number: counters, limits, long tables; and their names in C.

A number, once given, stays with its name: a new program for a changed description gets the names of the one before, so
that pinned counters go on. Called by the generator. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from mizar.model.errors import InvalidError


@dataclass
class Numbers:
    """Names and their numbers of one kind; `prefix` begins the names in C, `most` is the map's size."""

    prefix: str
    what: str
    most: int
    names: list[str] = field(default_factory=list)
    _used: dict[str, str] = field(default_factory=dict)

    def of(self, name: str) -> str:
        """The name in C of the number of a name, which gets one if it has none. Raises InvalidError: no room."""
        if name not in self._used:
            if name not in self.names:
                if len(self.names) >= self.most:
                    raise InvalidError(f"XDP: more than {self.most} {self.what}")
                self.names.append(name)
            self._used[name] = self._word(name)
        return self._used[name]

    def lines(self) -> list[str]:
        """The enum with all names that are used."""
        if not self._used:
            return []
        entries = sorted((self.names.index(name), word, name) for name, word in self._used.items())
        body = [f"\t{word} = {number},\t/* {comment(name)} */" for number, word, name in entries]
        return [f"enum {self.prefix.lower()}_number {{", *body, "};", ""]

    def _word(self, name: str) -> str:
        word = f"{self.prefix}_{identifier(name).upper()}"
        return word if word not in self._used.values() else f"{word}_{self.names.index(name)}"


def named(prefix: str, what: str, most: int, before: Iterable[str]) -> Numbers:
    """Numbers that begin with the names of the program before."""
    return Numbers(prefix, what, most, list(before))


def identifier(text: str) -> str:
    """Text as part of a name in C."""
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_") or "x"


def comment(text: str) -> str:
    """Text that may stand in a comment of C."""
    return text.replace("*/", "* /").replace("/*", "/ *")
