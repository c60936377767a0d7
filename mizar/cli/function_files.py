# SPDX-License-Identifier: Apache-2.0
"""The objects of Functions in manifests: read from the files that these name, or compiled from their source.

Called by whoever is about to send manifests to a server. A path counts from the manifest's folder.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from pydantic import ValidationError

from mizar.model.errors import InvalidError, MizarError, Problem
from mizar.model.function import Function, ObjectCode, with_object
from mizar.model.function_object import MOST_BYTES
from mizar.model.manifest import Manifests
from mizar.model.resources import Resource
from mizar.model.validation import path_text, sentence


def with_objects_read(manifests: Manifests) -> Manifests:
    """The manifests with the bytes of each object. InvalidError: all that fail, each with its file and line."""
    problems: list[Problem] = []

    def read(resource: Resource) -> Resource:
        if not isinstance(resource, Function):
            return resource
        origin = manifests.origins[str(resource.ref)]
        try:
            return function_read(resource, Path(origin.file).parent if origin.file != "stdin" else Path())
        except MizarError as error:
            for problem in error.problems:
                path = tuple(part for part in problem.field.split(".") if part)
                ref, line = str(resource.ref), origin.line(path)
                problems.append(replace(problem, resource=ref, file=origin.file, line=line))
            return resource

    resources = tuple(map(read, manifests.resources))
    if problems:
        raise InvalidError(problems)
    return replace(manifests, resources=resources)


def function_read(function: Function, folder: Path) -> Function:
    """A function whose object is in hand; itself where it names one by its digest. Raises MizarError."""
    spec = function.spec
    if spec.source is not None:
        field, data = "spec.source", _compiled(folder / spec.source)
    elif spec.object is not None and spec.object.path:
        field, data = "spec.object", _read(folder / spec.object.path)
    else:
        return function
    try:
        return with_object(function, ObjectCode(data))
    except ValidationError as error:
        found = [sentence(Function, details) for details in error.errors(include_url=False)]
        raise InvalidError([Problem(message, _field(path_text(path), field)) for path, message in found]) from error


def _field(path: str, given: str) -> str:
    """The function is validated once more, its spec alone: the place as the manifest has it."""
    whole = path if path.startswith(("spec", "metadata")) else f"spec.{path}"
    return whole.replace("spec.object", given)


def _compiled(source: Path) -> bytes:
    from mizar.functions.build import build

    try:
        with tempfile.TemporaryDirectory(prefix="mizar-function-") as folder:
            return build(source, Path(folder) / "function.o").read_bytes()
    except MizarError as error:
        raise type(error)([replace(problem, field="spec.source") for problem in error.problems]) from error


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MOST_BYTES + 1)
    except OSError as error:
        raise InvalidError(Problem(f"{path} cannot be read: {error.strerror or error}", "spec.object")) from error
