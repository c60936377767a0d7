# SPDX-License-Identifier: Apache-2.0
"""The tree of errors. Owns what every room raises; split by what the caller does next, not by where it arose.

    MizarError
    ├── InvalidError          the request contradicts itself or the rules: change it, do not repeat it
    │   └── ManifestErrors    the same for manifests, each problem with its file and line
    ├── ConflictError         somebody else has it (name, address, VNI), or something still depends on it
    ├── NotFoundError         it is not there
    ├── TemporaryError        repeat the same request later
    └── ExhaustedError        full: give something back or enlarge the space first

A room maps foreign errors (sqlite, grpc, libbpf) to these once, with `from`. Nobody branches on a message's text.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong, where it is, and what was expected there.

    `field` is a path as people write it: `spec.cidrs[0]`; empty when the whole object is meant. `resource` is
    `Kind tenant/name` or `Kind name`, empty when unknown. `index` is the place of the object in a request (from 0).
    `file` and `line` (from 1; 0: unknown) are set for manifests that were read from text.
    """

    message: str
    field: str = ""
    resource: str = ""
    index: int | None = None
    file: str = ""
    line: int = 0

    def __str__(self) -> str:
        """`file:line: resource: field: message`, without the parts that are unknown."""
        place = f"{self.file}:{self.line}" if self.file and self.line else self.file
        return ": ".join(part for part in (place, self.resource, self.field, self.message) if part)


class MizarError(Exception):
    """The root. `problems` has at least one entry; `str()` gives one line for each of them."""

    problems: tuple[Problem, ...]

    def __init__(self, problems: str | Problem | Iterable[Problem]) -> None:
        if isinstance(problems, str):
            problems = Problem(problems)
        self.problems = (problems,) if isinstance(problems, Problem) else tuple(problems)
        if not self.problems:
            raise ValueError("an error needs at least one problem")
        super().__init__("\n".join(str(problem) for problem in self.problems))

    def __reduce__(self) -> tuple[type[MizarError], tuple[tuple[Problem, ...]]]:
        return type(self), (self.problems,)


class InvalidError(MizarError):
    """Bad input. Repeating the same request cannot succeed."""


class ManifestErrors(InvalidError):  # noqa: N818 - it holds many
    """Everything that is wrong with a text of manifests, in the order of its lines."""


class ConflictError(MizarError):
    """A name, address or number is taken, or the object is still in use."""


class NotFoundError(MizarError):
    """The object that the request names does not exist."""


class TemporaryError(MizarError):
    """Not possible at the moment; the same request may succeed later."""


def port_taken(port: int) -> TemporaryError:
    """Of a tunnel whose UDP port another program of the droplet's host has, whoever carries the tunnel."""
    return TemporaryError(f"UDP port {port} of the droplet cannot be used: another program of its host has it")


class ExhaustedError(MizarError):
    """No free address, number or place is left."""
