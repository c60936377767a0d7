# SPDX-License-Identifier: Apache-2.0
"""What a scaled endpoint says of its members: the parts of its spec, and what is told of each. See `resources`."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated

from pydantic import Field

from mizar.model import fields
from mizar.model.fields import Value

MOST_MEMBERS = 128


class Selection(StrEnum):
    """How a flow's member is chosen: by its hash, or first among members on the client's own droplet."""

    HASH = "hash"
    COLOCATED = "colocated"


class MemberSpec(Value):
    """An endpoint of the same VPC that takes flows in proportion to its weight; with `drain`, no new ones."""

    endpoint: fields.Name
    weight: Annotated[int, Field(strict=True, ge=1, le=1000)] = 1
    drain: bool = False


def matches(selector: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    """Whether an object's labels are all that a selector asks for. An empty selector matches nothing."""
    return bool(selector) and all(labels.get(key) == value for key, value in selector.items())
