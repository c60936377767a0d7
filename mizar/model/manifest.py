# SPDX-License-Identifier: Apache-2.0
"""Text of manifests (YAML or JSON, many documents) → resources, or every error at once.

Called by the CLI and lab with files, by the API with documents. Pure: the caller reads the file. Never resolves
anything between objects: that is `checks`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from mizar.model.document import DocumentError, Path, read
from mizar.model.errors import InvalidError, ManifestErrors, Problem
from mizar.model.resources import Ref, Resource
from mizar.model.validation import problem, validate

MAX_CHARACTERS = 32 * 2**20
_DOCUMENT_START = re.compile(r"^---(?=\s|$)", re.MULTILINE)
_CONTENT = re.compile(r"^(?!---\s*(#.*)?$)\s*[^#\s]", re.MULTILINE)


def parse_manifests(text: str, source: str) -> list[Resource]:
    """All resources of a text, in its order; `source` is the name of the file for messages.

    A document is an object or a list of objects; empty documents are skipped. Raises ManifestErrors with every
    problem: syntax, unknown kinds and fields, wrong values, duplicate objects.
    """
    return parse_texts([(source, text)])


def parse_texts(sources: Iterable[tuple[str, str]]) -> list[Resource]:
    """As `parse_manifests`, for several texts (name, text) that are applied together: none may repeat another's."""
    resources: list[Resource] = []
    problems: list[Problem] = []
    first: dict[Ref, str] = {}
    for source, text in sources:
        for found, line in _parse(text):
            if isinstance(found, Problem):
                problems.append(replace(found, file=source))
                continue
            if found.ref in first:
                message = f"expected each object once, it stands at {first[found.ref]} already"
                problems.append(Problem(message, "metadata.name", str(found.ref), file=source, line=line))
                continue
            first[found.ref] = f"{source}:{line}"
            resources.append(found)
    if problems:
        raise ManifestErrors(problems)
    return resources


def parse_resource(document: Mapping[str, Any], index: int | None = None) -> Resource:
    """One resource from a JSON object. Raises InvalidError with every problem (`field`, and the given `index`)."""
    found = validate(document)
    if isinstance(found, Resource):
        return found
    raise InvalidError(problem(document, path, message, index) for path, message in found)


def _parse(text: str) -> Iterator[tuple[Resource | Problem, int]]:
    if len(text) > MAX_CHARACTERS:
        yield Problem(f"expected at most {MAX_CHARACTERS} characters, found {len(text)}"), 0
        return
    for chunk, lines_before in _chunks(text.removeprefix("\ufeff")):
        try:
            documents = read(chunk)
        except DocumentError as error:
            line = error.line + lines_before
            yield Problem(str(error), line=line), line
            continue
        for value, lines in documents:
            for item, prefix in _items(value):
                yield from _resource(item, prefix, lines, lines_before)


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


def _resource(
    value: Any, prefix: Path, lines: Mapping[Path, int], lines_before: int
) -> Iterator[tuple[Resource | Problem, int]]:
    found = validate(value)
    if isinstance(found, Resource):
        yield found, _line(lines, prefix) + lines_before
        return
    placed = ((_line(lines, prefix + path) + lines_before, path, message) for path, message in found)
    for line, path, message in sorted(placed, key=lambda place: place[0]):
        yield replace(problem(value, path, message), line=line), line


def _line(lines: Mapping[Path, int], path: Path) -> int:
    """The line of a value, or of the nearest one around it: what came through an alias has no line of its own."""
    while path and path not in lines:
        path = path[:-1]
    return lines[path]
