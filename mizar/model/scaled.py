# SPDX-License-Identifier: Apache-2.0
"""What a scaled endpoint says of its members: the parts of its spec, and what is told of each. See `resources`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from mizar.model import fields
from mizar.model.fields import Value

MOST_MEMBERS = 128
MOST_LISTENERS = 16
Port = Annotated[int, Field(strict=True, ge=1, le=65535)]


class Selection(StrEnum):
    """How a flow's member is chosen: by its hash, or first among members on the client's own droplet."""

    HASH = "hash"
    COLOCATED = "colocated"


class Affinity(StrEnum):
    """By what a new flow's member is chosen: by all that names the flow, or by the client's address alone."""

    FLOW = "flow"
    CLIENT = "client"


class ListenerSpec(Value):
    """A port that takes connections or datagrams. Without `target_port` it is that of the members too."""

    protocol: Literal["tcp", "udp"] = "tcp"
    port: Port
    target_port: Port | None = None


class MemberSpec(Value):
    """An endpoint of the same VPC that takes flows in proportion to its weight; with `drain`, no new ones."""

    endpoint: fields.Name
    weight: Annotated[int, Field(strict=True, ge=1, le=1000)] = 1
    drain: bool = False


class HealthType(StrEnum):
    """How members are checked: not at all, by a TCP connection, or by an HTTP GET."""

    NONE = "none"
    TCP = "tcp"
    HTTP = "http"


def _path(text: str) -> str:
    if not re.fullmatch(r"/[!-~]{0,255}", text):
        shape = "a path that begins with a slash, of at most 256 printable ASCII characters"
        raise ValueError(f"expected {shape}, found {text[:80]!r}")
    return text


CheckedPath = Annotated[str, AfterValidator(_path)]


class HealthSpec(Value):
    """How the droplets of members find out whether they serve: asked every `interval_ms` at `port`, each of the address
    families that the scaled endpoint has, for an answer within `timeout_ms`."""

    type: HealthType = HealthType.NONE
    port: Annotated[int, Field(strict=True, ge=1, le=65535)] | None = None
    path: CheckedPath | None = None
    interval_ms: Annotated[int, Field(strict=True, ge=100, le=600_000)] = 1000
    timeout_ms: Annotated[int, Field(strict=True, ge=10, le=60_000)] = 500
    healthy_after: Annotated[int, Field(strict=True, ge=1, le=100)] = 2
    unhealthy_after: Annotated[int, Field(strict=True, ge=1, le=100)] = 3

    @property
    def checks(self) -> bool:
        """Whether members are checked at all."""
        return self.type is not HealthType.NONE

    @model_validator(mode="after")
    def _fits_its_type(self) -> Self:
        if self.checks and self.port is None:
            raise PydanticCustomError("fit", f"missing: a check by {self.type.value} needs it", {"field": "port"})
        for name, fits in (("port", self.checks), ("path", self.type is HealthType.HTTP)):
            if getattr(self, name) is not None and not fits:
                raise PydanticCustomError("fit", f"unexpected for a check of type {self.type.value}", {"field": name})
        return self


def matches(selector: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    """Whether an object's labels are all that a selector asks for. An empty selector matches nothing."""
    return bool(selector) and all(labels.get(key) == value for key, value in selector.items())
