# SPDX-License-Identifier: Apache-2.0
"""Sets of numbers as C expressions, and fields of headers as C reads. Called by the tree and the groups. Pure."""

from __future__ import annotations

from mizar.pipeline.headers import Field
from mizar.pipeline.ranges import Ranges, Span

_CHAIN = 4
"""Up to so many spans are asked one by one; more by halves."""
_HALF = (1 << 64) - 1


def inside(name: str, ranges: Ranges) -> str:
    """Whether the number `name` (128 bits: NAME_high and NAME_low) lies in a set, as an expression of C."""
    if ranges.is_full:
        return "true"
    if ranges.width > 64:
        return _any([_wide(name, span, ranges.width) for span in ranges.spans])
    outside = ~ranges
    if len(outside.spans) < len(ranges.spans):
        text = _spans(name, outside.spans, ranges.width)
        return f"!{text}" if text.startswith("(") else f"!({text})"
    return _spans(name, ranges.spans, ranges.width)


def read(field: Field) -> str:
    """A field of up to 64 bits of the header at `c.head`, as a number."""
    first, last = field.bit // 8, (field.bit + field.width + 7) // 8
    spare = last * 8 - field.bit - field.width
    size = last - first
    if size == 3:  # nothing reads three bytes, and there is always one more
        size, spare = 4, spare + 8
    value = f"c.head[{first}]" if size == 1 else f"wire_u{size * 8}(c.head + {first})"
    if spare:
        value = f"{value} >> {spare}"
    if size * 8 - spare > field.width:
        value = f"({value}) & {(1 << field.width) - 1:#x}" if spare else f"{value} & {(1 << field.width) - 1:#x}"
    return value


def number(value: int) -> str:
    """A number as people would write it in C."""
    return str(value) if value < 10_000 else f"{value:#x}" if value < 1 << 32 else f"{value:#x}ull"


def _spans(name: str, spans: tuple[Span, ...], width: int) -> str:
    if len(spans) <= _CHAIN:
        return _any([_span(name, span, width) for span in spans])
    middle = len(spans) // 2
    below, above = spans[:middle], spans[middle:]
    return f"({name} < {number(above[0][0])} ? {_spans(name, below, width)} : {_spans(name, above, width)})"


def _span(name: str, span: Span, width: int) -> str:
    low, high = span
    if low == high:
        return f"{name} == {number(low)}"
    if low == 0:
        return f"{name} <= {number(high)}"
    if high == (1 << width) - 1:
        return f"{name} >= {number(low)}"
    return f"({name} >= {number(low)} && {name} <= {number(high)})"


def _wide(name: str, span: Span, width: int) -> str:
    low, high = span
    size = high - low + 1
    if low == high:
        return f"({name}_high == {number(low >> 64)} && {name}_low == {number(low & _HALF)})"
    if size & (size - 1) == 0 and low % size == 0:  # a prefix
        part, value = ("high", low >> 64) if size >= 1 << 64 else ("low", low & _HALF)
        bits = size.bit_length() - 1 - (64 if part == "high" else 0)
        match = f"{name}_{part} >> {bits} == {number(value >> bits)}"
        return f"({match})" if part == "high" else f"({name}_high == {number(low >> 64)} && {match})"
    asked = []
    if low:
        asked.append(_at_least(name, low))
    if high + 1 < 1 << width:
        asked.append(f"!{_at_least(name, high + 1)}")
    return f"({' && '.join(asked)})"


def _at_least(name: str, value: int) -> str:
    return f"at_least({name}_high, {name}_low, {number(value >> 64)}, {number(value & _HALF)})"


def _any(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"({' || '.join(parts)})"
