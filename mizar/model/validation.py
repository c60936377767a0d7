# SPDX-License-Identifier: Apache-2.0
"""Plain values → a resource, or every problem with the path of its field. Called by `manifest`.

Maps pydantic's errors once: to sentences of the form "expected ..., found ...".
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from mizar.model.document import Path
from mizar.model.errors import Problem
from mizar.model.resources import KINDS, Resource
from mizar.model.secret import SecretText, may_hold

_PARTS = re.compile(r"\[[0-9]+|[^.\[\]]+")
_FIELD = re.compile(r"[a-z][A-Za-z0-9]*")


def validate(value: object) -> Resource | list[tuple[Path, str]]:
    """The resource that a JSON value describes, else what is wrong: path in the value, and message."""
    if not isinstance(value, Mapping):
        return [((), f"expected a mapping with apiVersion, kind, metadata and spec, found {_shown(value)}")]
    kind = KINDS.get(value["kind"]) if isinstance(value.get("kind"), str) else None
    if kind is None:
        known = ", ".join(KINDS)
        if "kind" not in value:
            return [(("kind",), f"missing; expected one of {known}")]
        return [(("kind",), f"expected one of {known}, found {_shown(value['kind'])}{_near(value['kind'], KINDS)}")]
    problems: list[tuple[Path, str]] = []
    if "apiVersion" not in value:
        problems.append((("apiVersion",), "missing; expected mizar/v1"))
    try:
        resource = kind.model.model_validate(value, by_alias=True, by_name=False)
    except ValidationError as error:
        problems.extend(_once(value, (sentence(kind.model, details) for details in error.errors(include_url=False))))
        # A list whose items are refused is reported by pydantic as too short as well: say it once.
        deeper = {path[:length] for path, _ in problems for length in range(len(path))}
        problems = [(path, message) for path, message in problems if path not in deeper]
    else:
        if not problems:
            return resource
    return problems


def label(value: object) -> str:
    """`Kind tenant/name` of a value that may be no valid resource; "" when it has no kind and name."""
    if not isinstance(value, Mapping) or not isinstance(value.get("metadata"), Mapping):
        return ""
    kind, tenant, name = value.get("kind"), value["metadata"].get("tenant"), value["metadata"].get("name")
    if not isinstance(kind, str) or not isinstance(name, str):
        return ""
    kind, name = _plain(kind), _plain(name)
    return f"{kind} {_plain(tenant)}/{name}" if isinstance(tenant, str) else f"{kind} {name}"


def path_text(path: Path) -> str:
    """`("spec", "cidrs", 0)` → `spec.cidrs[0]`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{_plain(part)}" if text else _plain(part)
    return text


def path_of(text: str) -> Path:
    """`spec.cidrs[0]` → `("spec", "cidrs", 0)`: of fields that the model has, the reverse of `path_text`."""
    return tuple(int(part[1:]) if part[0] == "[" else part for part in _PARTS.findall(text))


def problem(value: object, path: Path, message: str, index: int | None = None) -> Problem:
    """The problem at a path of a value."""
    return Problem(message, field=path_text(path), resource=label(value), index=index)


def sentence(model: type[BaseModel], details: Any) -> tuple[Path, str]:
    """Where one of pydantic's errors lies, and what was expected there."""
    path: Path = tuple(details["loc"])
    kind, context, found = details["type"], details.get("ctx", {}), details["input"]
    if isinstance(found, str) and _hides(model, path):
        found = SecretText(found)
    if "field" in context:
        return (*path, *path_of(context["field"])), details["msg"]
    if kind == "missing":
        return path, "missing"
    if kind == "extra_forbidden":
        known = _fields(model, path[:-1])
        return path, f"unknown field{_near(path[-1], known)}; known are {', '.join(known)}"
    if kind == "value_error":
        return path, str(context["error"])
    if kind == "too_short":
        return path, f"expected at least {context['min_length']}, found {context['actual_length']}"
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        return path, f"expected a mapping, found {_shown(found)}"
    if kind == "tuple_type":
        return path, f"expected a list, found {_shown(found)}"
    message = details["msg"].replace("Input should be", "expected").replace("String should", "expected text to")
    return path, f"{message}, found {_shown(found)}"


def _once(value: object, problems: Iterable[tuple[Path, str]]) -> Iterator[tuple[Path, str]]:
    """The problems, one for each value: pydantic tells of each type that a value may have."""
    choices: dict[Path, list[str]] = {}
    for path, message in problems:
        if path and isinstance(_at(value, path[:-1]), str | int | float):
            choices.setdefault(path[:-1], []).append(message)
        else:
            yield _in_value(value, path), message
    for path, messages in choices.items():
        first, *others = (message.partition(", found ") for message in messages)
        yield (
            path,
            first[0] + "".join(other[0].replace("expected", ", or", 1) for other in others) + first[1] + first[2],
        )


def _in_value(value: Any, path: Path) -> Path:
    """A path without pydantic's names of the types that a mapping may be of: they are no fields of it."""
    found: list[str | int] = []
    for part in path:
        try:
            value = value[part]
        except (LookupError, TypeError):
            if not _FIELD.fullmatch(str(part)):
                continue
            value = None  # it is missing
        found.append(part)
    return tuple(found)


def _at(value: Any, path: Path) -> object:
    """What stands at a path of a value; None where nothing does."""
    for part in path:
        try:
            value = value[part]
        except (LookupError, TypeError):
            return None
    return value


def _hides(model: type[BaseModel], path: Path) -> bool:
    """Whether secrets may stand at a path: what was put there by mistake is not shown."""
    annotation: Any = model
    for part in path:
        models = [t for t in (annotation, *get_args(annotation)) if isinstance(t, type) and issubclass(t, BaseModel)]
        names = {info.alias or name: info.annotation for one in models for name, info in one.model_fields.items()}
        if part not in names:
            break
        annotation = names[str(part)]
    return may_hold(annotation)


def _fields(model: type[BaseModel], path: Path) -> list[str]:
    """The fields (as in manifests) of the mapping at a path. Parts that are no fields are places in a list, keys of a
    mapping, or pydantic's names of what a value may be: what they lead to has the type that is known already."""
    models = [model]
    for part in path:
        named = _named(models)
        if part in named:
            models = list(_models(named[str(part)].annotation))
    return list(_named(models))


def _named(models: Iterable[type[BaseModel]]) -> dict[str, FieldInfo]:
    return {info.alias or name: info for one in models for name, info in one.model_fields.items()}


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """Those that stand anywhere in a type."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models(inner)


def _near(word: object, known: Any) -> str:
    lower = {str(name).lower(): str(name) for name in known}
    close = difflib.get_close_matches(str(word).lower()[:64], lower, 1)
    return f" (did you mean {lower[close[0]]}?)" if close else ""


def _plain(text: str) -> str:
    """A word of a manifest as it may stand in a message: as it is, or quoted when it is empty, long or unprintable."""
    return text if 0 < len(text) <= 64 and text.isprintable() else _shown(text)


def _shown(value: object) -> str:
    """A value as a person would recognise it, never long."""
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
