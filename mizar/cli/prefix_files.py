# SPDX-License-Identifier: Apache-2.0
"""Long lists of prefixes in manifests: read from the files that these name, and packed.

Called by whoever is about to send manifests to a server. A path counts from the manifest's folder.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from mizar.model.ddos import DdosProtection, LongList
from mizar.model.errors import InvalidError, MizarError, Problem
from mizar.model.manifest import Manifests
from mizar.model.prefix_list import read_lines
from mizar.model.resources import Resource

_FIELDS = {"block_list": "blockList", "allow_list": "allowList"}


def with_lists_read(manifests: Manifests) -> Manifests:
    """The manifests with all lists in hand. InvalidError: all that fail, each with its file and line."""
    problems: list[Problem] = []

    def read(resource: Resource) -> Resource:
        if not isinstance(resource, DdosProtection):
            return resource
        origin, update = manifests.origins[str(resource.ref)], {}
        folder = Path(origin.file).parent if origin.file != "stdin" else Path()
        for name, field in _FIELDS.items():
            given: LongList | None = getattr(resource.spec, name)
            if given is None or not given.path:
                continue
            try:
                update[name] = list_read(folder / given.path)
            except MizarError as error:
                ref, line = str(resource.ref), origin.line(("spec", field))
                for problem in error.problems:  # a line of the list, or the list's own place in the manifest
                    found = replace(problem, resource=ref, field=f"spec.{field}")
                    problems.append(found if problem.line else replace(found, file=origin.file, line=line))
        return resource.model_copy(update={"spec": resource.spec.model_copy(update=update)}) if update else resource

    resources = tuple(map(read, manifests.resources))
    if problems:
        raise InvalidError(problems)
    return replace(manifests, resources=resources)


def list_read(path: Path) -> LongList:
    """A file with a prefix in each line. Raises InvalidError that names its lines."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return LongList(read_lines(file, str(path)).packed)
    except OSError as error:
        raise InvalidError(f"{path} cannot be read: {error.strerror or error}") from error
