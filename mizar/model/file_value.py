# SPDX-License-Identifier: Apache-2.0
"""Fields of manifests whose value is a file: its bytes, its digest alone, or its path. Owns how they are written.

The bytes travel and are stored in the manifest, in base64 behind a word; everywhere else the digest is shown. Whoever
applies that digest again keeps what is there. A path stands there until `mizar apply` has read it. Pure.
"""

from __future__ import annotations

import base64
import binascii
import re
from hashlib import sha256
from typing import Any, ClassVar, Self

from pydantic import GetCoreSchemaHandler, SerializationInfo
from pydantic_core import CoreSchema, core_schema

from mizar.model.errors import InvalidError

_DIGEST = "sha256:"
_LONGEST_PATH = 4096


class FileValue:
    """One of the three; a kind of file is a subclass. Equal is what has the same content, or the same path."""

    __slots__ = ("data", "digest", "path")
    WORD: ClassVar[str]
    """What stands before the bytes, with a colon."""
    PATH: ClassVar[str]
    """What a path is one of."""
    CONTENT: ClassVar[str]
    """What the bytes are."""
    MOST_TEXT: ClassVar[int]

    def __init__(self, data: bytes | None = None, digest: str = "", path: str = "") -> None:
        self.data, self.path = data, path
        self.digest = sha256(data).hexdigest() if data is not None else digest

    @classmethod
    def check(cls, data: bytes) -> None:
        """Raises InvalidError for bytes that are no such file's, where that is cheap to see."""

    @property
    def sent(self) -> str:
        """As it travels: with its bytes, where they are at hand."""
        return str(self) if self.data is None else self.WORD + base64.b64encode(self.data).decode()

    def __str__(self) -> str:
        return self.path or f"{_DIGEST}{self.digest}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, type(self)):
            return NotImplemented
        return (self.digest, self.path) == (other.digest, other.path)

    def __hash__(self) -> int:
        return hash((self.digest, self.path))

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: Any, _handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            cls._read, serialization=core_schema.plain_serializer_function_ser_schema(_written, info_arg=True)
        )

    @classmethod
    def _read(cls, value: object) -> Self:
        if isinstance(value, cls):
            return value
        if not isinstance(value, str) or not value or "\0" in value:
            raise ValueError(f"expected the path of {cls.PATH}")
        if value.startswith(cls.WORD):
            return cls._decoded(value)
        if value.startswith(_DIGEST):
            if not re.fullmatch(r"[0-9a-f]{64}", value.removeprefix(_DIGEST)):
                raise ValueError("expected 64 hexadecimal digits behind sha256:")
            return cls(digest=value.removeprefix(_DIGEST))
        if len(value) > _LONGEST_PATH:
            raise ValueError(f"expected the path of {cls.PATH}")
        return cls(path=value)

    @classmethod
    def _decoded(cls, text: str) -> Self:
        if len(text) > cls.MOST_TEXT:
            raise ValueError(f"expected {cls.CONTENT} of at most {cls.MOST_TEXT} characters behind {cls.WORD}")
        try:
            data = base64.b64decode(text.removeprefix(cls.WORD), validate=True)
            cls.check(data)
        except (binascii.Error, InvalidError) as error:
            raise ValueError(f"expected {cls.CONTENT} in base64 behind {cls.WORD}") from error
        return cls(data)


def _written(held: FileValue, info: SerializationInfo) -> str:
    return held.sent if (info.context or {}).get("secrets") else str(held)
