# SPDX-License-Identifier: Apache-2.0
"""Patterns as people write them: `eth / vlan 2 / ipv4 src 10.0.0.0/8 / (tcp dst {80, 443} | udp)`.

    pattern   = chain
    chain     = part { "/" part }
    part      = "(" chain { "|" chain } ")" | header { condition }
    condition = [ field ] [ "==" | "!=" ] value          no field: the header's main one (vid, vni, type, op)
    value     = number [ "-" number ] | MAC | address [ "/" length ] | "{" value { "," value } "}"

Called by the reader and the builder; `write_pattern` gives the one normal form, which reads back to an equal value.
Never decides whether a pattern makes sense: `pattern` does.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_network

from mizar.pipeline.headers import HEADERS, Field, Notation, fields_of, kinds
from mizar.pipeline.pattern import Condition, Either, Pattern, Term
from mizar.pipeline.ranges import Ranges, Span

MAX_CHARACTERS = 4096
_TOKEN = re.compile(
    r"\s*(?:(?P<mac>[0-9a-fA-F]{2}(?::[0-9a-fA-F]{2}){5}(?![0-9a-fA-F:]))"
    r"|(?P<ip>\d{1,3}(?:\.\d{1,3}){3}(?:/\d{1,2}(?!\d))?|[0-9a-fA-F]*:[0-9a-fA-F:.]+(?:/\d{1,3}(?!\d))?|::(?:/\d{1,3})?)"
    r"|(?P<number>0x[0-9a-fA-F]{1,32}|\d{1,39})|(?P<word>[a-zA-Z_][a-zA-Z0-9_]*)|(?P<mark>==|!=|[-/(){}|,]))"
)
_NUMBER_KINDS = {"number": Notation.NUMBER, "mac": Notation.MAC}


@dataclass(slots=True)
class _Reader:
    """Walks over the tokens of one text. Every refusal is a ValueError that names what stood there."""

    tokens: list[tuple[str, str]]
    at: int = 0

    def peek(self) -> tuple[str, str]:
        return self.tokens[self.at] if self.at < len(self.tokens) else ("end", "the end")

    def take(self, text: str) -> bool:
        if self.peek() != ("mark", text):
            return False
        self.at += 1
        return True

    def expect(self, text: str) -> None:
        if not self.take(text):
            raise ValueError(f"expected {text}, found {self.peek()[1]}")

    def chain(self, depth: int = 0) -> tuple[Term | Either, ...]:
        parts = [self.part(depth)]
        while self.take("/"):
            parts.append(self.part(depth))
        return tuple(parts)

    def part(self, depth: int) -> Term | Either:
        if self.take("("):
            if depth > 8:
                raise ValueError("expected at most 8 levels of parentheses")
            options = [self.chain(depth + 1)]
            while self.take("|"):
                options.append(self.chain(depth + 1))
            self.expect(")")
            only = options[0]
            return only[0] if len(options) == 1 and len(only) == 1 else Either(tuple(options))
        kind, name = self.peek()
        if kind != "word" or not kinds(name):
            raise ValueError(f"expected a header ({', '.join(HEADERS)}, ip, icmp), found {name}")
        self.at += 1
        return Term(name, self.conditions(name))

    def conditions(self, header: str) -> tuple[Condition, ...]:
        found: dict[str, Ranges] = {}
        while self.peek()[0] not in ("end",) and self.peek() not in [("mark", m) for m in "/|)"]:
            known, name = fields_of(header), HEADERS[kinds(header)[0]].main
            kind, text = self.peek()
            if kind == "word":
                self.at += 1
                name = text
            if name not in known:
                raise ValueError(f"{header} has no field {name or text!r}; known are {', '.join(known)}")
            excluded = self.take("!=")
            if not excluded:
                self.take("==")
            ranges = self.values(known[name], f"{header} {name}")
            ranges = ~ranges if excluded else ranges
            found[name] = found[name] & ranges if name in found else ranges
        return tuple(Condition(name, ranges) for name, ranges in found.items())

    def values(self, field: Field, what: str) -> Ranges:
        spans = []
        if self.take("{"):
            spans.append(self.span(field, what))
            while self.take(","):
                spans.append(self.span(field, what))
            self.expect("}")
        else:
            spans.append(self.span(field, what))
        try:
            return Ranges(field.width, tuple(spans))
        except ValueError as error:
            raise ValueError(f"{what}: {error}") from error

    def span(self, field: Field, what: str) -> Span:
        kind, text = self.peek()
        self.at += 1
        if kind == "ip" and field.notation in (Notation.IPV4, Notation.IPV6):
            try:
                network = ip_network(text)
            except ValueError as error:
                raise ValueError(f"{what}: {error}") from error
            if network.max_prefixlen == field.width:
                return int(network[0]), int(network[-1])
        if _NUMBER_KINDS.get(kind) is not field.notation:
            raise ValueError(f"{what}: expected {field.notation.value}, found {text}")
        if kind == "mac":
            number = int(text.replace(":", ""), 16)
            return number, number
        low = int(text, 0) if text.startswith("0x") else int(text)
        if not self.take("-"):
            return low, low
        kind, text = self.peek()
        if kind != "number":
            raise ValueError(f"{what}: expected a number behind -, found {text}")
        self.at += 1
        return low, int(text, 0) if text.startswith("0x") else int(text)


def parse_pattern(text: str) -> Pattern:
    """The pattern of a text. Raises ValueError with what was expected."""
    if len(text) > MAX_CHARACTERS:
        raise ValueError(f"expected at most {MAX_CHARACTERS} characters, found {len(text)}")
    tokens, at, end = [], 0, len(text.rstrip())
    while at < end:
        match = _TOKEN.match(text, at)
        if match is None or match.lastgroup is None:
            raise ValueError(f"expected a header, a condition or /, found {text[at:].strip()[:20]!r}")
        tokens.append((match.lastgroup, match[match.lastgroup]))
        at = match.end()
    reader = _Reader(tokens)
    parts = reader.chain()
    if reader.peek()[0] != "end":
        raise ValueError(f"expected / or the end, found {reader.peek()[1]}")
    return Pattern(parts)


def write_pattern(pattern: Pattern) -> str:
    """The normal form of a pattern."""
    return _chain(pattern.parts)


def _chain(parts: tuple[Term | Either, ...]) -> str:
    return " / ".join(_part(part) for part in parts)


def _part(part: Term | Either) -> str:
    if isinstance(part, Either):
        return "(" + " | ".join(_chain(option) for option in part.options) + ")"
    return " ".join([part.name, *(write_condition(part.name, condition) for condition in part.conditions)])


def write_condition(header: str, condition: Condition) -> str:
    """A condition behind its header's name: `2`, `!= 2`, `dst == 4789`, `src 10.0.0.0/8`."""
    field = fields_of(header)[condition.field]
    main = HEADERS[kinds(header)[0]].main == condition.field
    ranges, sign = condition.ranges, ""
    outside = ~ranges
    fewer = len(outside.spans) < len(ranges.spans) or (outside.single is not None and ranges.single is None)
    if field.notation is Notation.MAC:  # which are written one by one
        fewer = _length(field, outside) < _length(field, ranges)
    if fewer:
        ranges, sign = outside, "!= "
    elif not main and ranges.single is not None:
        sign = "== "
    items = [text for span in ranges.spans for text in _spans(field, span)]
    value = items[0] if len(items) == 1 else "{" + ", ".join(items) + "}"
    return f"{'' if main else condition.field + ' '}{sign}{value}"


def _length(field: Field, ranges: Ranges) -> int:
    """How many values it takes to write a set."""
    if field.notation is Notation.NUMBER:
        return len(ranges.spans)
    if field.notation is Notation.MAC:
        return sum(high - low + 1 for low, high in ranges.spans)
    return sum(1 for _ in ranges.prefixes())


def _spans(field: Field, span: Span) -> list[str]:
    low, high = span
    if field.notation is Notation.NUMBER:
        return [_number(low) if low == high else f"{_number(low)}-{_number(high)}"]
    if field.notation is Notation.MAC:
        return [number.to_bytes(6, "big").hex(":") for number in range(low, high + 1)]
    address: Callable[[int], object] = IPv4Address if field.notation is Notation.IPV4 else IPv6Address
    found = []
    for first, mask in Ranges(field.width, (span,)).prefixes():
        length = mask.bit_count()
        found.append(f"{address(first)}" if length == field.width else f"{address(first)}/{length}")
    return found


def _number(number: int) -> str:
    """Long numbers are read more easily by their bits."""
    return hex(number) if number > 0xFFFF else str(number)
