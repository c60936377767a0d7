# SPDX-License-Identifier: Apache-2.0
"""What a case asks for, from text, for each kind of switch. For the reader and the builder; `labels` writes it."""

from __future__ import annotations

from mizar.pipeline.description import On, Otherwise, State, When
from mizar.pipeline.fields import near, number
from mizar.pipeline.pattern_text import parse_pattern
from mizar.pipeline.ranges import Ranges, Span
from mizar.pipeline.steps import META_BITS


def parse_when(on: On, text: str) -> When:
    """A pattern, states (`established | related`), metadata (`1, 0x100-0x1ff`) or `otherwise`. Raises ValueError."""
    if text.strip() == "otherwise":
        return Otherwise()
    if on is On.PARSE:
        return parse_pattern(text)
    if on is On.METADATA:
        return Ranges(META_BITS, tuple(_span(part) for part in text.split(",")))
    words = [word.strip() for word in text.split("|")]
    known = [str(state) for state in State]
    for word in words:
        if word not in known:
            raise ValueError(f"expected {', '.join(known)} or otherwise, found {word!r}{near(word, known)}")
    if len(set(words)) < len(words):
        raise ValueError("expected each state once")
    return frozenset(State(word) for word in words)


def _span(text: str) -> Span:
    low, dash, high = text.strip().partition("-")
    first = _number(low)
    return first, _number(high) if dash else first


def _number(text: str) -> int:
    word = text.strip()
    return number(int(word) if word.isascii() and word.isdecimal() and len(word) < 20 else word)
