# SPDX-License-Identifier: Apache-2.0
"""Fields that nobody is shown: keys and passwords. Owns how they are given, kept, changed and hidden.

A manifest gives a secret as text, or says where `mizar apply` finds it: `{file: PATH}` (next to the manifest, unless it
is absolute) or `{env: NAME}`. Whatever prints an object prints `********` instead: str, repr, YAML, JSON, errors.
Whoever applies that again keeps the secret that is there. Only `dump(resource, secrets=True)` of mizar.model.resources
has the text: for the server's store, and for the way from a client to its server.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from functools import cache
from typing import Any, TypeVar, cast, get_args

from pydantic import BaseModel, GetCoreSchemaHandler, SerializationInfo
from pydantic.alias_generators import to_camel
from pydantic_core import CoreSchema, core_schema

from mizar.model.errors import Problem

MASK = "********"
REVEAL = {"secrets": True}
"""The context of a serialization that tells the text."""
MOST_CHARACTERS = 65536
_SOURCES = ("file", "env")
Path = tuple[str | int, ...]
_B = TypeVar("_B", bound=BaseModel)


class SecretText:
    """A secret: its text, or where it is to be found, or (masked) the one that the object has already."""

    __slots__ = ("_source", "_text")

    def __init__(self, text: str | None, source: tuple[str, str] | None = None) -> None:
        """`source`: ("file", path) or ("env", name). Neither text nor source: masked."""
        self._text = text
        self._source = source

    def reveal(self) -> str:
        """The text; only whoever hands it to its user may ask. Raises ValueError where it is not known here."""
        if self._text is None:
            raise ValueError("this secret is not known here")
        return self._text

    @property
    def known(self) -> bool:
        """Whether the text is here."""
        return self._text is not None

    @property
    def source(self) -> tuple[str, str] | None:
        """Where the text is to be found, while it is not known."""
        return self._source

    def __str__(self) -> str:
        return MASK

    def __repr__(self) -> str:
        return f"SecretText({MASK})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SecretText):
            return NotImplemented
        return (self._text, self._source) == (other._text, other._source)

    def __hash__(self) -> int:
        return hash((self._text, self._source))

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: Any, _handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            cls._read,
            serialization=core_schema.plain_serializer_function_ser_schema(cls._written, info_arg=True),
        )

    @classmethod
    def _read(cls, value: object) -> SecretText:
        # The messages never show what was found: it may be a secret in the wrong shape.
        if isinstance(value, SecretText):
            return value
        if isinstance(value, str):
            if not value or len(value) > MOST_CHARACTERS:
                raise ValueError(f"expected 1 to {MOST_CHARACTERS} characters, found {len(value)}")
            return cls(None if value == MASK else value)
        if isinstance(value, Mapping) and len(value) == 1:
            (name, where), *_ = value.items()
            if name in _SOURCES and isinstance(where, str) and where and "\0" not in where:
                return cls(None, (name, where))
        raise ValueError("expected a text, {file: PATH} or {env: NAME}")

    @staticmethod
    def _written(secret: SecretText, info: SerializationInfo) -> Any:
        if not (info.context or {}).get("secrets"):
            return MASK
        if secret._source is not None:
            return {secret._source[0]: secret._source[1]}
        return MASK if secret._text is None else secret._text


def secrets_of(value: object, path: Path = ()) -> Iterator[tuple[Path, SecretText]]:
    """All secrets within a value with their paths as in manifests. Items of lists that have a name are told by it."""
    if isinstance(value, SecretText):
        yield path, value
    elif isinstance(value, BaseModel):
        for name, info in type(value).model_fields.items():
            yield from secrets_of(getattr(value, name), (*path, info.alias or to_camel(name)))
    elif isinstance(value, tuple):
        for place, item in enumerate(value):
            yield from secrets_of(item, (*path, _key(item, place)))
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from secrets_of(item, (*path, str(key)))


def with_secrets(value: _B, change: Callable[[Path, SecretText], SecretText]) -> _B:
    """The value with each secret as `change` gives it (the path as of `secrets_of`); itself where nothing changes."""
    changed = _changed(value, change, ())
    assert isinstance(changed, type(value))
    return changed


def keep_secrets(old: BaseModel | None, new: _B) -> tuple[_B, list[Problem]]:
    """What is masked in `new` taken from `old`, the object as it was; and what cannot be found out here."""
    if not may_hold(cast(Hashable, type(getattr(new, "spec", new)))):
        return new, []
    held = dict(secrets_of(old)) if old is not None else {}
    problems: list[Problem] = []

    def kept(path: Path, secret: SecretText) -> SecretText:
        if secret.known:
            return secret
        if secret.source is not None:
            message = f"the server reads no {secret.source[0]} of its client: `mizar apply` does"
        elif (before := held.get(path)) is not None and before.known:
            return before
        else:
            message = f"missing: {MASK} stands for the secret that the object has, and it has none"
        problems.append(Problem(message, field=_text(path)))
        return secret

    return with_secrets(new, kept), problems


@cache
def may_hold(kind: Hashable) -> bool:
    """Whether values of a type can have secrets within: most objects have none, and are not searched."""
    if isinstance(kind, type) and issubclass(kind, SecretText):
        return True
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return any(may_hold(cast(Hashable, info.annotation)) for info in kind.model_fields.values())
    return any(may_hold(part) for part in get_args(kind) if isinstance(part, Hashable))


def _changed(value: Any, change: Callable[[Path, SecretText], SecretText], path: Path) -> Any:
    if isinstance(value, SecretText):
        return change(path, value)
    if isinstance(value, BaseModel):
        found: dict[str, Any] = {}
        for name, info in type(value).model_fields.items():
            before = getattr(value, name)
            after = _changed(before, change, (*path, info.alias or to_camel(name)))
            if after is not before:
                found[name] = after
        return value.model_copy(update=found) if found else value
    if isinstance(value, tuple):
        items = [_changed(item, change, (*path, _key(item, place))) for place, item in enumerate(value)]
        return tuple(items) if any(a is not b for a, b in zip(items, value, strict=True)) else value
    if isinstance(value, Mapping):
        entries = {key: _changed(item, change, (*path, str(key))) for key, item in value.items()}
        return entries if any(entries[key] is not value[key] for key in entries) else value
    return value


def _key(item: object, place: int) -> str | int:
    name = getattr(item, "name", None)
    return name if isinstance(name, str) else place


def _text(path: Path) -> str:
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text
