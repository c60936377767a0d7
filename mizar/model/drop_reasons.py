# SPDX-License-Identifier: Apache-2.0
"""Why a droplet refuses packets: number, name, verdict and sentence, from contracts/drop_reasons.toml.

Called by the daemon, the CLI and tests. Never holds a reason of its own: the list is the contract's.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import Literal


@dataclass(frozen=True, slots=True)
class DropReason:
    """`verdict`: what becomes of the packet; "pass" is counted and left to the host's own stack."""

    number: int
    name: str
    verdict: Literal["drop", "pass"]
    sentence: str


def parse(text: str) -> tuple[DropReason, ...]:
    """The reasons of a text like contracts/drop_reasons.toml, by number. Raises ValueError when it is not sound."""
    reasons = tuple(DropReason(**reason) for reason in tomllib.loads(text)["reason"])
    for reason in reasons:
        if reason.verdict not in ("drop", "pass") or reason.number < 1 or not reason.sentence.endswith("."):
            raise ValueError(f"drop reason {reason} is not sound")
    if len({r.number for r in reasons}) != len(reasons) or len({r.name for r in reasons}) != len(reasons):
        raise ValueError("two drop reasons share a number or a name")
    return tuple(sorted(reasons, key=lambda reason: reason.number))


@cache
def by_number() -> Mapping[int, DropReason]:
    """All reasons, by number, in its order."""
    text = (files("mizar._built") / "contracts" / "drop_reasons.toml").read_text(encoding="utf-8")
    return MappingProxyType({reason.number: reason for reason in parse(text)})


@cache
def by_name() -> Mapping[str, DropReason]:
    """All reasons, by name."""
    return MappingProxyType({reason.name: reason for reason in by_number().values()})
