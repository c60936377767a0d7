# SPDX-License-Identifier: Apache-2.0
"""One YAML document → plain values, and the line of each of them. Called by `manifest` and by the pipelines' reader.

Reads events instead of letting PyYAML build objects, for three reasons: aliases are charged for what they expand to,
nesting is bounded, and scalars follow the core schema of YAML 1.2, of which JSON is a part: a MAC such as
12:34:56:10:20:30 is text here, where YAML 1.1 would make it a number of base 60, and `no` is text, not false.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

MAX_NODES = 2_000_000
MAX_DEPTH = 32

Path = tuple[str | int, ...]
_LOADER: type[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_CONSTANTS = {"": None, "~": None, "null": None, "Null": None, "NULL": None} | {
    text: text.lower() == "true" for text in ("true", "True", "TRUE", "false", "False", "FALSE")
}
_INTEGER = re.compile(r"[-+]?[0-9]{1,40}")
_FLOAT = re.compile(r"[-+]?(\.[0-9]{1,40}|[0-9]{1,40}(\.[0-9]{0,40})?)([eE][-+]?[0-9]{1,4})?")


class DocumentError(Exception):
    """The text is no YAML, or more than what is accepted; `line` counts from 1 within the text."""

    def __init__(self, message: str, line: int) -> None:
        super().__init__(message)
        self.line = line


@dataclass(slots=True)
class _Open:
    """A mapping or sequence that has begun and not ended."""

    container: dict[Any, Any] | list[Any]
    path: Path
    anchor: str | None
    nodes_before: int
    key: Any = None
    has_key: bool = False


@dataclass(slots=True)
class _Builder:
    """Takes events, one at a time; `documents` are the finished ones with their lines."""

    documents: list[Any] = field(default_factory=list)
    lines: list[dict[Path, int]] = field(default_factory=list)
    _stack: list[_Open] = field(default_factory=list)
    _anchors: dict[str, tuple[Any, int]] = field(default_factory=dict)
    _nodes: int = 0

    def take(self, event: Any) -> None:
        line = event.start_mark.line + 1
        if isinstance(event, yaml.DocumentStartEvent):
            self._anchors.clear()
            self.lines.append({})
        elif isinstance(event, yaml.ScalarEvent):
            self._count(1, line)
            self._value(_scalar(event, line), event.anchor, 1, line)
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor not in self._anchors:
                raise DocumentError(f"alias *{event.anchor} stands before the end of what it names", line)
            value, weight = self._anchors[event.anchor]
            self._count(weight, line)
            self._value(value, None, weight, line)
        elif isinstance(event, yaml.CollectionStartEvent):
            _refuse_tag(event, line)
            if len(self._stack) >= MAX_DEPTH:
                raise DocumentError(f"expected at most {MAX_DEPTH} levels of nesting", line)
            container: dict[Any, Any] | list[Any] = {} if isinstance(event, yaml.MappingStartEvent) else []
            self._stack.append(_Open(container, self._next_path(line), event.anchor, self._nodes))
            self._count(1, line)
        elif isinstance(event, yaml.CollectionEndEvent):
            done = self._stack.pop()
            self._value(done.container, done.anchor, self._nodes - done.nodes_before, line, placed=True)

    def _count(self, nodes: int, line: int) -> None:
        self._nodes += nodes
        if self._nodes > MAX_NODES:
            raise DocumentError(f"expected at most {MAX_NODES} values, aliases counted for what they stand for", line)

    def _next_path(self, line: int) -> Path:
        """Path of the value that comes next; notes its line, for a mapping's value that of its key."""
        if not self._stack:
            path: Path = ()
        else:
            top = self._stack[-1]
            if isinstance(top.container, dict):
                if not top.has_key:
                    raise DocumentError("expected text as a key, found a mapping or a list", line)
                return (*top.path, top.key)
            path = (*top.path, len(top.container))
        self.lines[-1][path] = line
        return path

    def _value(self, value: Any, anchor: str | None, weight: int, line: int, *, placed: bool = False) -> None:
        if anchor is not None:
            self._anchors[anchor] = (value, weight)
        if not self._stack:
            self.documents.append(value)
            self.lines[-1].setdefault((), line)
            return
        top = self._stack[-1]
        if isinstance(top.container, list):
            if not placed:
                self._next_path(line)
            top.container.append(value)
        elif top.has_key:
            top.container[top.key] = value
            top.has_key = False
        else:
            if not isinstance(value, str):
                raise DocumentError(f"expected text as a key, found {value!r}", line)
            if value in top.container:
                raise DocumentError(f"key {value!r} stands twice in one mapping", line)
            top.key, top.has_key = value, True
            self.lines[-1][(*top.path, value)] = line


def read(text: str) -> list[tuple[Any, Mapping[Path, int]]]:
    """The documents of a text, each with the line (from 1) of every value by its path. Raises DocumentError."""
    builder = _Builder()
    try:
        for event in yaml.parse(text, Loader=_LOADER):
            builder.take(event)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = ", ".join(part for part in (error.context, error.problem) if part)
        raise DocumentError(f"expected YAML: {problem}", mark.line + 1 if mark else 1) from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1 if isinstance(error.position, int) else 1
        raise DocumentError(f"expected YAML: {error.reason}", line) from error
    except UnicodeEncodeError as error:
        line = text.count("\n", 0, error.start) + 1
        raise DocumentError(
            "expected text that can be written as UTF-8, found half of a surrogate pair", line
        ) from error
    return list(zip(builder.documents, builder.lines, strict=True))


def _refuse_tag(event: Any, line: int) -> None:
    if event.tag not in (None, "!", f"tag:yaml.org,2002:{_KINDS.get(type(event), '')}"):
        raise DocumentError(f"expected no tag, found {event.tag}", line)


_KINDS = {yaml.ScalarEvent: "str", yaml.MappingStartEvent: "map", yaml.SequenceStartEvent: "seq"}


def _scalar(event: Any, line: int) -> Any:
    _refuse_tag(event, line)
    text: str = event.value
    if event.tag is not None or not event.implicit[0]:
        return text
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    return text
