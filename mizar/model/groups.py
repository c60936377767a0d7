# SPDX-License-Identifier: Apache-2.0
"""Selectors over labels, as Kubernetes has them, and the options that a manifest may give an endpoint. Owns their shape
and meaning; knows no object."""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Self

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints, model_validator

from mizar.model import fields
from mizar.model.fields import Value

MAX_GROUPS = 16
"""Groups that an endpoint may be in: GROUPS of contracts/dataplane.h."""
OWN_CLASS = 0xFF01
CUSTOM_BYTES = 128
"""For an endpoint's own options. Of the 252 bytes that a packet can bear, the rest is for the droplets': identity,
groups, and where a packet set out."""


class Operator(StrEnum):
    """What a requirement asks of the value of its key."""

    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"


class Requirement(Value):
    """One of `matchExpressions`. A key that is absent is in no list, so `NotIn` holds for it."""

    key: fields.LabelKey
    operator: Operator
    values: tuple[fields.LabelValue, ...] = ()

    @model_validator(mode="after")
    def _values_fit(self) -> Self:
        if (self.operator in (Operator.IN, Operator.NOT_IN)) != bool(self.values):
            raise ValueError("expected values with In and NotIn, and none with Exists and DoesNotExist")
        return self

    def holds(self, labels: Mapping[str, str]) -> bool:
        """Whether the labels meet it."""
        match self.operator:
            case Operator.IN:
                return labels.get(self.key) in self.values
            case Operator.NOT_IN:
                return labels.get(self.key) not in self.values
            case Operator.EXISTS:
                return self.key in labels
            case Operator.DOES_NOT_EXIST:
                return self.key not in labels


class Selector(Value):
    """All of its requirements have to hold. An empty one holds for everything."""

    match_labels: dict[fields.LabelKey, fields.LabelValue] = Field(default_factory=dict)
    match_expressions: tuple[Requirement, ...] = ()

    def holds(self, labels: Mapping[str, str]) -> bool:
        """Whether the labels are selected."""
        return all(labels.get(key) == value for key, value in self.match_labels.items()) and all(
            requirement.holds(labels) for requirement in self.match_expressions
        )


def _number(value: object) -> object:
    """Text in hex, as options' classes are usually written, stands for a number."""
    return int(value, 16) if isinstance(value, str) and re.fullmatch(r"0x[0-9A-Fa-f]{1,4}", value) else value


def _hex(text: str) -> str:
    try:
        data = bytes.fromhex(text)
    except ValueError:
        raise ValueError(f"expected hexadecimal digits, found {text!r}") from None
    if len(data) % 4 or len(data) > 124:
        raise ValueError(f"expected a multiple of 4 bytes, at most 124, found {len(data)}")
    return data.hex()


class GeneveOption(Value):
    """A Geneve option (RFC 8926 3.5) that all packets of an endpoint bear; `data` in hex, in words of 4 bytes.

    Class and type are numbers, or hex with 0x.
    """

    class_: Annotated[int, BeforeValidator(_number), Field(strict=True, ge=0, le=0xFFFF, alias="class")]
    type: Annotated[int, BeforeValidator(_number), Field(strict=True, ge=0, le=0xFF)]
    data: Annotated[str, StringConstraints(max_length=496), AfterValidator(_hex)] = ""

    @model_validator(mode="after")
    def _not_ours(self) -> Self:
        if self.class_ == OWN_CLASS:
            raise ValueError("class 0xff01 is the droplets' own; choose another")
        if self.type & 0x80:
            raise ValueError("expected a type below 0x80: critical options that droplets do not know are dropped")
        return self

    @property
    def encoded(self) -> bytes:
        """As on the wire."""
        data = bytes.fromhex(self.data)
        return struct.pack("!HBB", self.class_, self.type, len(data) // 4) + data


def _room(options: tuple[GeneveOption, ...]) -> tuple[GeneveOption, ...]:
    size = sum(len(option.encoded) for option in options)
    if size > CUSTOM_BYTES:
        raise ValueError(f"expected at most {CUSTOM_BYTES} bytes of options, found {size}")
    return options


GeneveOptions = Annotated[tuple[GeneveOption, ...], AfterValidator(_room)]
