# SPDX-License-Identifier: Apache-2.0
"""Text of manifests (YAML or JSON, many documents) → resources, or every error at once.

Called by the CLI and lab with files, by the API with documents. Pure: the caller reads the file. Never resolves
anything between objects: that is `checks`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from mizar.model.document import DocumentError, Path, read
from mizar.model.errors import InvalidError, ManifestErrors, MizarError, Problem
from mizar.model.resources import Resource
from mizar.model.validation import path_of, problem, validate

MAX_CHARACTERS = 32 * 2**20
_DOCUMENT_START = re.compile(r"^---(?=\s|$)", re.MULTILINE)
_CONTENT = re.compile(r"^(?!---\s*(#.*)?$)\s*[^#\s]", re.MULTILINE)


def parse_manifests(text: str, source: str) -> list[Resource]:
    """All resources of a text, in its order; `source` is the name of the file for messages.

    A document is an object or a list of objects; empty documents are skipped. Raises ManifestErrors with every
    problem: syntax, unknown kinds and fields, wrong values, duplicate objects.
    """
    return list(parse_texts([(source, text)]).resources)


@dataclass(frozen=True, slots=True)
class Origin:
    """Where an object was read: the lines of its values by their paths."""

    file: str
    lines: Mapping[Path, int]
    prefix: Path
    lines_before: int

    def line(self, path: Path = ()) -> int:
        """The line of a value, or of the nearest one around it: what came through an alias has no line of its own."""
        path = self.prefix + path
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines[path] + self.lines_before


@dataclass(frozen=True, slots=True)
class Manifests:
    """What was read from texts, in their order, and where each object stands (by its `str(ref)`)."""

    resources: tuple[Resource, ...]
    origins: Mapping[str, Origin]

    @contextmanager
    def blamed(self) -> Iterator[None]:
        """What others find wrong with these objects gets the file and line that it is about."""
        try:
            yield
        except MizarError as error:
            placed = tuple(map(self._placed, error.problems))
            if placed == error.problems:
                raise
            raise type(error)(placed) from error

    def _placed(self, problem: Problem) -> Problem:
        origin = self.origins.get(problem.resource)
        if origin is None or problem.file:
            return problem
        return replace(problem, file=origin.file, line=origin.line(path_of(problem.field)))


def parse_texts(sources: Iterable[tuple[str, str]]) -> Manifests:
    """As `parse_manifests`, for several texts (name, text) that are applied together: none may repeat another's."""
    resources: list[Resource] = []
    problems: list[Problem] = []
    origins: dict[str, Origin] = {}
    for source, text in sources:
        for found, origin in _parse(source, text):
            if isinstance(found, Problem):
                problems.append(found)
            elif (first := origins.setdefault(str(found.ref), origin)) is not origin:
                message = f"expected each object once, it stands at {first.file}:{first.line()} already"
                problems.append(Problem(message, "metadata.name", str(found.ref), file=source, line=origin.line()))
            else:
                resources.append(found)
    if problems:
        raise ManifestErrors(problems)
    return Manifests(tuple(resources), origins)


def parse_resource(document: Mapping[str, Any], index: int | None = None) -> Resource:
    """One resource from a JSON object. Raises InvalidError with every problem (`field`, and the given `index`)."""
    found = validate(document)
    if isinstance(found, Resource):
        return found
    raise InvalidError(problem(document, path, message, index) for path, message in found)


def _parse(source: str, text: str) -> Iterator[tuple[Resource | Problem, Origin]]:
    if len(text) > MAX_CHARACTERS:
        message = f"expected at most {MAX_CHARACTERS} characters, found {len(text)}"
        yield Problem(message, file=source), Origin(source, {(): 0}, (), 0)
        return
    for chunk, lines_before in _chunks(text.removeprefix("\ufeff")):
        try:
            documents = read(chunk)
        except DocumentError as error:
            origin = Origin(source, {(): error.line}, (), lines_before)
            yield Problem(str(error), file=source, line=origin.line()), origin
            continue
        for value, lines in documents:
            for item, prefix in _items(value):
                yield from _resource(item, Origin(source, lines, prefix, lines_before))


def _chunks(text: str) -> Iterator[tuple[str, int]]:
    """The documents' texts, each with the number of lines before it: a syntax error in one hides no other.

    A line that begins with `---` starts a document wherever it stands (YAML 1.2, 9.1.2: c-forbidden).
    """
    starts = [0, *(match.start() for match in _DOCUMENT_START.finditer(text) if match.start())]
    lines_before = 0
    for start, end in zip(starts, [*starts[1:], len(text)], strict=True):
        chunk = text[start:end]
        if _CONTENT.search(chunk):
            yield chunk, lines_before
        lines_before += chunk.count("\n")


def _items(value: Any) -> Iterator[tuple[Any, Path]]:
    if isinstance(value, list):
        yield from ((item, (place,)) for place, item in enumerate(value))
    elif value is not None:
        yield value, ()


def _resource(value: Any, origin: Origin) -> Iterator[tuple[Resource | Problem, Origin]]:
    found = validate(value)
    if isinstance(found, Resource):
        yield found, origin
        return
    placed = ((origin.line(path), path, message) for path, message in found)
    for line, path, message in sorted(placed, key=lambda place: place[0]):
        yield replace(problem(value, path, message), file=origin.file, line=line), origin
