# SPDX-License-Identifier: Apache-2.0
"""Python's view of contracts/dataplane.h, gateway.h and function.h: what crosses the border to the kernel's programs.

Owns the translation between named fields and bytes. Called by tables, programs, tests and the benchmark. The headers
are given to cffi, which knows C's rules of offsets and padding; nothing about the layout is written twice. It must
never guess: an unknown struct or field, a value out of range or of a wrong length is an InvalidError.
"""

from __future__ import annotations

import functools
import importlib.resources
import re
import struct as struct_module
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import cffi

from mizar.model.errors import InvalidError, MizarError

Fields = dict[str, Any]
"""Fields of a struct by name: int for a number, bytes for uint8_t[n] and for a struct, tuple[int, ...] for other
arrays."""

T = TypeVar("T")

_CODES = {"uint8_t": "B", "uint16_t": "H", "uint32_t": "I", "uint64_t": "Q", "int32_t": "i", "int64_t": "q"}


@dataclass(frozen=True)
class Codec(Generic[T]):
    """How a value of one C type becomes bytes and back."""

    name: str
    size: int
    pack: Callable[[T], bytes]
    unpack: Callable[[bytes], T]


def header_text() -> str:
    """The text of dataplane.h that the installed programs were compiled with, gateway.h and function.h behind it."""
    try:
        folder = importlib.resources.files("mizar._built") / "contracts"
        return "".join((folder / f"{name}.h").read_text() for name in ("dataplane", "gateway", "function"))
    except (ModuleNotFoundError, FileNotFoundError) as error:
        raise MizarError(
            "the compiled data plane is missing from this installation (package mizar._built); "
            "in a source tree run `python dataplane/build.py`, else reinstall the wheel"
        ) from error


@functools.cache
def _ffi() -> Any:
    ffi = cffi.FFI()
    ffi.cdef(re.sub(r"^[ \t]*#.*$", "", header_text(), flags=re.MULTILINE))
    return ffi


def struct_codec(name: str) -> Codec[Fields]:
    """The codec of `struct <name>`. Pads (`pad*`) are zero when packed, and left out when parsed."""
    return _layout(name).codec


def struct(name: str, **fields: Any) -> bytes:
    """Bytes of `struct <name>`; fields left out are zero. Example: struct("endpoint_key", vni=7, addr=address)."""
    return struct_codec(name).pack(fields)


def parse(name: str, data: bytes) -> Fields:
    """Fields of `struct <name>` from exactly size(name) bytes."""
    return struct_codec(name).unpack(data)


def size(name: str) -> int:
    """Bytes of `struct <name>`."""
    return struct_codec(name).size


@functools.cache
def offsets(name: str) -> tuple[tuple[str, int, int], ...]:
    """Name, offset and bytes of each field of `struct <name>`, in order, pads included."""
    kind = _ffi().typeof(f"struct {_layout(name).name}")
    return tuple((field_name, field.offset, _ffi().sizeof(field.type)) for field_name, field in kind.fields)


def constant(name: str) -> int:
    """The number of an enum constant of the contracts, for example constant("NETWORK_BOUNCED_HERE")."""
    try:
        return constants()[name]
    except KeyError:
        raise InvalidError(f"the contracts have no enum constant {name}") from None


@functools.cache
def constants() -> Mapping[str, int]:
    """All enum constants of the contracts by name."""
    found: dict[str, int] = {}
    for tag in re.findall(r"^enum\s+(\w+)", header_text(), flags=re.MULTILINE):
        found.update(_ffi().typeof(f"enum {tag}").relements)
    return found


@dataclass(frozen=True)
class _Member:
    name: str
    count: int  # values that struct.unpack yields for it: 1, or the length of an array of numbers
    width: int  # bytes of a uint8_t array, 0 for the others


@dataclass(frozen=True)
class _Layout:
    name: str
    members: tuple[_Member, ...]
    form: struct_module.Struct

    @property
    def codec(self) -> Codec[Fields]:
        return Codec(self.name, self.form.size, self._pack, self._unpack)

    def _pack(self, fields: Fields) -> bytes:
        rest = dict(fields)
        values: list[Any] = []
        for member in self.members:
            value = rest.pop(member.name, None)
            if member.width:
                value = bytes(member.width) if value is None else bytes(value)
                if len(value) != member.width:
                    raise InvalidError(f"{self.name}.{member.name} is {member.width} bytes long, not {len(value)}")
                values.append(value)
            elif member.count > 1:
                numbers = (0,) * member.count if value is None else tuple(value)
                if len(numbers) != member.count:
                    raise InvalidError(f"{self.name}.{member.name} has {member.count} places, not {len(numbers)}")
                values.extend(numbers)
            else:
                values.append(0 if value is None else value)
        if rest:
            raise InvalidError(f"struct {self.name} has no field {', '.join(sorted(rest))}")
        try:
            return self.form.pack(*values)
        except struct_module.error as error:
            raise InvalidError(f"a value does not fit into struct {self.name}: {error} in {fields}") from error

    def _unpack(self, data: bytes) -> Fields:
        if len(data) != self.form.size:
            raise InvalidError(f"struct {self.name} is {self.form.size} bytes long, not {len(data)}")
        values = self.form.unpack(data)
        fields: Fields = {}
        at = 0
        for member in self.members:
            fields[member.name] = values[at] if member.count == 1 else values[at : at + member.count]
            at += member.count
        return fields


@functools.cache
def _layout(name: str) -> _Layout:
    try:
        kind = _ffi().typeof(f"struct {name}")
    except cffi.CDefError as error:
        raise InvalidError(f"the contracts have no struct {name}") from error
    if kind.kind != "struct" or kind.fields is None:
        raise InvalidError(f"the contracts have no struct {name}")
    members: list[_Member] = []
    form = "="  # no alignment of its own: the offsets are cffi's, gaps are written out
    end = 0
    for field_name, field in kind.fields:
        form += f"{field.offset - end}x" if field.offset > end else ""
        end = field.offset + _ffi().sizeof(field.type)
        is_array = field.type.kind == "array"
        element = field.type.item.cname if is_array else field.type.cname
        length = field.type.length if is_array else 1
        if field_name.startswith("pad"):
            form += f"{end - field.offset}x"
        elif is_array and element == "uint8_t":
            form += f"{length}s"
            members.append(_Member(field_name, 1, length))
        elif field.type.kind == "struct":
            form += f"{_ffi().sizeof(field.type)}s"
            members.append(_Member(field_name, 1, _ffi().sizeof(field.type)))
        elif element in _CODES:
            form += f"{length}{_CODES[element]}"
            members.append(_Member(field_name, length, 0))
        else:
            raise InvalidError(f"struct {name}: field {field_name} has type {element}, which has no translation")
    form += f"{_ffi().sizeof(kind) - end}x"
    return _Layout(name, tuple(members), struct_module.Struct(form))


def _pack_u32(value: int) -> bytes:
    try:
        return struct_module.pack("=I", value)
    except struct_module.error as error:
        raise InvalidError(f"{value!r} does not fit into 32 bits") from error


U32: Codec[int] = Codec("uint32_t", 4, _pack_u32, lambda data: int(struct_module.unpack("=I", data)[0]))
"""A plain uint32_t, the key of arrays and of several hashes."""
