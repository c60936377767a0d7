# SPDX-License-Identifier: Apache-2.0
"""What may be odd about a packet: fields of build.py and values for them, and how often a packet is odd."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

from tests.oracle.draws import Draw
from tests.oracle.droplets import BOUNCER, mostly, packed

ODD_TTLS = (1, 0, 2, 255)
ODD_IPV4: list[tuple[str, Any]] = [
    *(("fragment", value) for value in (0x2000, 0x2001, 0x0001, 0x1FFF, 0x4000, 0x8000, 0xC000)),
    *(("options", bytes(4 * words)) for words in (1, 5, 10)),
    *(("check", value) for value in (0, 0xFFFF, 0xFEFF, 0xFFFE, 0x0100, 0xFF00)),
    *(("version", value) for value in (0, 5, 6)),
    *(("ihl", value) for value in (0, 4, 6, 15)),
    *(("total", value) for value in (0, 19, 20, 24, 28, 40, 0xFFFF)),
    ("tos", 0xFF),
    ("identification", 0xABCD),
]
ODD_IPV6: list[tuple[str, Any]] = [
    *(("version", value) for value in (0, 4, 7)),
    *(("total", value) for value in (0, 4, 7, 8, 24, 0xFFFF)),
]
ODD_OUTER: list[tuple[str, Any]] = [
    *(("ttl", value) for value in (0, 1, 255)),
    *(("fragment", value) for value in (0, 0x2000, 0x0001, 0x8000, 0x6000, 0xC000)),
    *(("identification", value) for value in (1, 0xFFFF)),
    *(("ip_options", bytes(4 * words)) for words in (1, 10)),
    *(("version", value) for value in (0, 6)),
    *(("ihl", value) for value in (0, 4, 6)),
    *(("total", value) for value in (0, 19, 20, 27, 28, 35, 36, 50, 0xFFFF)),
    *(("protocol", value) for value in (6, 47)),
    *(("port", value) for value in (53, 0, 8472, 6081, 4789)),
    *(("udp_length", value) for value in (0, 8, 15, 16, 0xFFFF)),
    ("udp_check", 0x1234),
    *(("first", value) for value in (0, 1, 0x3F, 0x40, 0x80, 0xC0, 0x08, 0x88, 0x88, 0xFF, 0xF7)),
    *(("second", value) for value in (0x80, 0x40, 0x3F)),
    *(("inner_type", value) for value in (0, 1, 0x0800, 0x6559)),
    *(("last", value) for value in (1, 0xFF)),
    *(("ethertype", value) for value in (0x86DD, 0x8100, 0x0806)),
    *(("dst", value) for value in (BOUNCER, packed("255.255.255.255"))),
]
ODD_OUTER6: list[tuple[str, Any]] = [
    *(("extension", (kind, rest)) for kind in (0, 43, 44, 60, 50) for rest in (bytes(7), b"\0\0\x09" + bytes(4))),
    ("extension", (44, b"\0\0\x01" + bytes(4))),
    ("src", packed("::ffff:192.0.2.2")),
    ("dst", packed("2001:db8::99")),
    ("ethertype", 0x0800),
    *(each for each in ODD_OUTER if each[0] not in ("fragment", "ip_options", "ihl", "dst", "ethertype")),
]
"""Over IPv6."""
ODD_ND_OPTIONS = [
    bytes.fromhex(text)
    for text in (
        "0102 0000 0000 0000 0000 0000 0000 0000",  # a source MAC of two units
        "0e00 0000 0000 0000",  # no length
        "0503 0000 0000 05dc 0000 0000 0000 0000 0000 0000 0000 0000",
        "0101 02",  # ends early
        "0109 0000 0000 0000",  # longer than the message
        6 * "0e01 0102 0304 0506" + "0000 0000 0000 0000",  # more than are read
    )
]


def oddities(choices: Sequence[tuple[str, Any]], most: int = 2) -> st.SearchStrategy[dict[str, Any]]:
    """Mostly none."""
    some = st.lists(st.sampled_from(choices), max_size=most).map(dict)
    return st.sampled_from([False, False, False, True]).flatmap(lambda odd: some if odd else st.just({}))


def either(draw: Draw, likely: Any, others: Sequence[Any]) -> Any:
    """The likely value, nine times of ten."""
    return likely if mostly(draw) else draw(st.sampled_from(list(others)))
