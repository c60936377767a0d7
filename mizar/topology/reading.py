# SPDX-License-Identifier: Apache-2.0
"""Text of a HostTopology (YAML or JSON) → the description, or every error at once. Pure: the caller reads the file.

Called by `mizar topology`. Uses what manifests are read with (mizar.model.document, mizar.model.validation), except
for the list of kinds: a HostTopology is none that a server takes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from mizar.model.document import DocumentError, Path, read
from mizar.model.errors import ManifestErrors, Problem
from mizar.model.fields import Value
from mizar.model.manifest import MAX_CHARACTERS
from mizar.model.validation import problem, sentence
from mizar.topology.checks import Finding, Parts, check
from mizar.topology.description import HostTopology, HostTopologySpec

_KIND = "HostTopology"


def parse_topologies(text: str, source: str) -> list[HostTopology]:
    """The descriptions of a text, in its order; `source` is the name of the file for messages.

    Raises ManifestErrors with every problem, in the order of lines: of syntax, of each part, and between parts.
    """
    found: list[HostTopology] = []
    problems: list[Problem] = []
    for value, lines in _documents(text, source):
        topology, findings = validate(value)
        if topology is not None:
            if any(topology.name == other.name for other in found):
                findings = [(("metadata", "name"), f"expected each topology once, found {topology.name!r} again")]
            found.append(topology)
        placed = sorted(((_line(lines, path), path, message) for path, message in findings), key=lambda f: f[0])
        problems += [replace(problem(value, path, said), file=source, line=line) for line, path, said in placed]
    if not problems and not found:
        problems = [Problem(f"expected a {_KIND}, found nothing", file=source)]
    if problems:
        raise ManifestErrors(problems)
    return found


def validate(value: object) -> tuple[HostTopology | None, list[Finding]]:
    """The description of a JSON value; or None, and every problem with its path."""
    if not isinstance(value, Mapping):
        return None, [((), "expected a mapping with apiVersion, kind, metadata and spec")]
    if value.get("kind") != _KIND:
        return None, [(("kind",), f"expected {_KIND}, found {value.get('kind')!r}")]
    findings: list[Finding] = []
    if "apiVersion" not in value:
        findings.append((("apiVersion",), "missing; expected mizar/v1"))
    topology: HostTopology | None = None
    try:
        topology = HostTopology.model_validate(value, by_alias=True, by_name=False)
    except ValidationError as error:
        findings += [_finding(details) for details in error.errors(include_url=False)]
        # A list whose items are refused is reported by pydantic as too short as well: say it once.
        around = {path[:depth] for path, _ in findings for depth in range(len(path))}
        findings = [finding for finding in findings if finding[0] not in around]
    findings += check(_parts(value.get("spec")))
    return None if findings else topology, findings


def _finding(details: Any) -> Finding:
    """One of pydantic's errors. The sentence comes from the part that it is in: of lists, mizar.model knows none."""
    path: Path = tuple(details["loc"])
    model: type[BaseModel] = HostTopology
    for name in path[:-1]:
        info = next((i for n, i in model.model_fields.items() if name in (n, i.alias)), None)
        inner = (info.annotation, *get_args(info.annotation)) if info is not None else ()
        model = next((part for part in inner if isinstance(part, type) and issubclass(part, BaseModel)), model)
    below, message = sentence(model, {**details, "loc": path[-1:]})
    return (*path[:-1], *below), message


def _documents(text: str, source: str) -> Iterator[tuple[Any, Mapping[Path, int]]]:
    if len(text) > MAX_CHARACTERS:
        raise ManifestErrors([Problem(f"expected at most {MAX_CHARACTERS} characters", file=source)])
    try:
        documents = read(text.removeprefix("\ufeff"))
    except DocumentError as error:
        raise ManifestErrors([Problem(str(error), file=source, line=error.line)]) from error
    yield from ((value, lines) for value, lines in documents if value is not None)


def _parts(spec: object) -> Parts:
    """The parts that are valid in themselves."""
    parts = Parts()
    for name, info in HostTopologySpec.model_fields.items():
        model: type[Value] = get_args(info.annotation)[0]
        items = spec.get(info.alias or name) if isinstance(spec, Mapping) else None
        for place, item in enumerate(items if isinstance(items, list) else ()):
            try:
                valid = model.model_validate(item, by_alias=True, by_name=False)
            except ValidationError:
                if isinstance(item, Mapping) and isinstance(item.get("name"), str):
                    parts.broken.add(item["name"])
            else:
                getattr(parts, name).append((("spec", name, place), valid))
    return parts


def _line(lines: Mapping[Path, int], path: Path) -> int:
    while path and path not in lines:
        path = path[:-1]
    return lines[path]
