# SPDX-License-Identifier: Apache-2.0
"""Metadata ranges, ports, pools and addresses of the `nat:` section, from text and to text. Pure.

Used by the reader, the writer and the builder. Raises ValueError.
"""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any

from mizar.pipeline.fields import number, shown, text
from mizar.pipeline.nat import MAX_POOL, PROTOCOLS, Address
from mizar.pipeline.ranges import Ranges, Span
from mizar.pipeline.steps import META_BITS


def any_address(value: Any) -> Address:
    """An IPv4 or IPv6 address."""
    try:
        found = ip_address(text(value))
    except ValueError as error:
        raise ValueError(f"expected an address, found {shown(value)}") from error
    if isinstance(found, IPv6Address) and found.scope_id is not None:
        raise ValueError(f"expected an address without a scope, found {shown(value)}")
    return found


def metas(value: Any) -> Ranges:
    """`5`, `5, 0x1000000-0x10000ff`, or a list of such."""
    spans: list[Span] = []
    for entry in value if isinstance(value, list) else [value]:
        for word in str(entry).split(",") if isinstance(entry, str) else [entry]:
            spans.append(_span(word, "metadata"))
    if not spans:
        raise ValueError("expected at least one metadata value")
    return Ranges(META_BITS, tuple(spans))


def ports(value: Any) -> Span:
    """`80` or `8000-8099`."""
    return _span(value, "ports")


def pool(value: Any) -> tuple[Address, ...]:
    """Addresses, ranges `203.0.113.1-203.0.113.9` and prefixes (every address of them), in the order of writing."""
    found: list[Address] = []
    for entry in value if isinstance(value, list) else [value]:
        first, last = _addresses(text(entry).strip())
        count = int(last) - int(first) + 1
        if count + len(found) > MAX_POOL:
            raise ValueError(f"expected at most {MAX_POOL} addresses, {entry} has {count}")
        found += [type(first)(int(first) + step) for step in range(count)]
    return tuple(found)


def protocols(value: Any) -> tuple[str, ...]:
    """`tcp`, `udp` or a list of both."""
    found = value if isinstance(value, list) else [value]
    if not found or not all(one in PROTOCOLS for one in found):
        raise ValueError(f"expected {' or '.join(PROTOCOLS)}, found {shown(value)}")
    return tuple(found)


def metas_text(value: Ranges) -> str:
    """What `metas` reads back."""
    return ", ".join(f"{low:#x}" if low == high else f"{low:#x}-{high:#x}" for low, high in value.spans)


def ports_text(value: Span) -> str:
    """What `ports` reads back."""
    return str(value[0]) if value[0] == value[1] else f"{value[0]}-{value[1]}"


def pool_text(value: tuple[Address, ...]) -> list[str]:
    """What `pool` reads back, neighbours in ascending order as ranges."""
    spans: list[tuple[Address, Address]] = []
    for one in value:
        if spans and int(spans[-1][1]) + 1 == int(one):
            spans[-1] = (spans[-1][0], one)
        else:
            spans.append((one, one))
    return [str(low) if low == high else f"{low}-{high}" for low, high in spans]


def _span(value: Any, what: str) -> Span:
    if not isinstance(value, str):
        return number(value), number(value)
    first, dash, last = value.strip().partition("-")
    try:
        low = _number(first)
        return low, _number(last) if dash else low
    except ValueError as error:
        raise ValueError(f"expected {what} as a number or first-last, found {shown(value)}") from error


def _number(word: str) -> int:
    word = word.strip()
    return number(int(word) if word.isascii() and word.isdecimal() and len(word) < 12 else word)


def _addresses(entry: str) -> tuple[Address, Address]:
    if "/" in entry:
        try:
            network: IPv4Network | IPv6Network = ip_network(entry)
        except ValueError as error:
            raise ValueError(f"expected a prefix without host bits, found {shown(entry)}") from error
        return network.network_address, network.broadcast_address
    first, dash, last = entry.partition("-")
    low = any_address(first.strip())
    high = any_address(last.strip()) if dash else low
    if type(low) is not type(high) or int(low) > int(high):
        raise ValueError(f"expected first and last address in order, found {shown(entry)}")
    return low, high
