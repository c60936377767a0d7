# SPDX-License-Identifier: Apache-2.0
"""What the object file of a network function says of itself: its name, stages, reasons and maps (contracts/function.h).

Read without loading anything, so that the server, a daemon and a developer's tool refuse the same objects. Pure. Raises
InvalidError in the words of who wrote the function.
"""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass

from mizar.model import btf, elf
from mizar.model.errors import InvalidError

MOST_BYTES = 1 << 20
ABI = 1
STAGES = (
    "ON_XDP_TX", "ON_XDP_PASS", "ON_XDP_REDIRECT", "ON_XDP_DROP", "ON_XDP_SCALED_EP",
    "ENDPOINT_INGRESS", "ENDPOINT_EGRESS",
)  # fmt: skip
"""In the order of enum function_stage."""
PROGRAMS = {"xdp": "mizar_xdp", "tc": "mizar_tc"}
ENDPOINT_VALUES = "endpoint_values"
"""The map of a function that the platform writes: see MIZAR_ENDPOINT_VALUES in mizar_function.h."""
OF_THE_PLATFORM = frozenset({"function_frames", "function_counters", "function_xdp", "function_tc"})
"""Maps of the data plane's that mizar_function.h itself needs, and writes."""
FRAME_BYTES = 128
"""Of struct function_frame."""
_ABOUT = struct.Struct("=III36s")
_REASON = struct.Struct("=I32s124s")
_MOST_REASONS = 31
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,33}[a-z0-9])?")
_REASON_NAME = re.compile(r"[A-Z][A-Z0-9_]{0,30}")


@dataclass(frozen=True, slots=True)
class Reason:
    """One for which the function drops: what counters and events call it, and what a person reads."""

    number: int
    name: str
    sentence: str


@dataclass(frozen=True, slots=True)
class FunctionObject:
    """`name` as objects are called: underscores of C are hyphens. `maps`: its own; `shared`: the data plane's."""

    name: str
    stages: tuple[str, ...]
    reasons: tuple[Reason, ...]
    maps: Mapping[str, btf.MapShape]
    shared: tuple[str, ...]
    types: btf.Btf
    parameters: bytes
    """As they were compiled; empty: it has none."""
    digest: str


def digest_of(data: bytes) -> str:
    """What names the content of an object."""
    return hashlib.sha256(data).hexdigest()


def read_object(data: bytes) -> FunctionObject:
    """Raises InvalidError for what is no function, is one for another version, or says what cannot be."""
    if len(data) > MOST_BYTES:
        raise InvalidError(f"the object has {len(data)} bytes; a function's has at most {MOST_BYTES}")
    sections = elf.sections(data)
    about = sections.get(".rodata.about")
    if about is None or len(about) != _ABOUT.size:
        raise InvalidError("the object is no function: expected one made with MIZAR_FUNCTION of mizar_function.h")
    abi, frame_bytes, stages, name = _ABOUT.unpack(about)
    if abi != ABI or frame_bytes != FRAME_BYTES:
        raise InvalidError(
            f"the function was built for version {abi} of the platform, here is {ABI}: "
            "build it again with `mizar function build`"
        )
    text = _text(name).replace("_", "-")
    if not _NAME.fullmatch(text):
        raise InvalidError(f"a function's name is a DNS label of at most 35 characters, found {text!r}")
    if not 0 < stages < 1 << len(STAGES):
        raise InvalidError(f"function {text} names no stage, or one that there is not: expected MIZAR_STAGE(...)")
    types = btf.read(sections.get(".BTF", b""))
    declared = {key: shape for key, shape in types.maps().items() if not key.startswith("next_")}
    return FunctionObject(
        text,
        tuple(stage for place, stage in enumerate(STAGES) if stages >> place & 1),
        _reasons(text, sections.get(".rodata.reasons", b"")),
        {key: shape for key, shape in declared.items() if shape.entries},
        tuple(sorted(key for key, shape in declared.items() if not shape.entries and key not in OF_THE_PLATFORM)),
        types,
        sections.get(".rodata.parameters", b""),
        digest_of(data),
    )


def _reasons(function: str, data: bytes) -> tuple[Reason, ...]:
    if len(data) % _REASON.size:
        raise InvalidError(f"function {function} has reasons of another shape: expected MIZAR_REASONS({{1, ...}}, ...)")
    found = [Reason(number, _text(name), _text(sentence)) for number, name, sentence in _REASON.iter_unpack(data)]
    for place, reason in enumerate(found):
        if not 1 <= reason.number <= _MOST_REASONS or reason.number in [one.number for one in found[:place]]:
            raise InvalidError(
                f"function {function}: reason {reason.name} has number {reason.number}; "
                f"expected 1 to {_MOST_REASONS}, each once"
            )
        if not _REASON_NAME.fullmatch(reason.name) or reason.name in [one.name for one in found[:place]]:
            raise InvalidError(
                f"function {function}: a reason is called {reason.name!r}; expected A-Z, 0-9 and _, each once"
            )
    return tuple(found)


def _text(raw: bytes) -> str:
    return raw.split(b"\0")[0].decode(errors="replace")
