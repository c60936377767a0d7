# SPDX-License-Identifier: Apache-2.0
"""BTF, what clang tells of the types in an object (Documentation/bpf/btf.rst): which maps it has, of what keys and
values, and how a value given by its fields is laid out.

Pure. Values: a number; a list for an array; fields by name for a struct; for bytes hexadecimal digits, an IP address
(IPv4 as mapped where there are 16 bytes) or a MAC. Raises InvalidError that names the field.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any

from mizar.model.addresses import to_mapped
from mizar.model.errors import InvalidError, Problem

INT, PTR, ARRAY, STRUCT, UNION, ENUM, FWD, TYPEDEF, VOLATILE, CONST, RESTRICT = range(1, 12)
FUNC, FUNC_PROTO, VAR, DATASEC, FLOAT, DECL_TAG, TYPE_TAG, ENUM64 = range(12, 20)
_HEADER = struct.Struct("=HBBIIIII")
_MAGIC = 0xEB9F
_NESTED = 16
_LONGEST_NAME = 512  # with its end; the kernel takes no longer one
_MOST_MAPS = 64  # that the kernel lets one program use
_MOST_VALUE_BYTES = 1 << 20
_SIGNED = 1  # BTF_INT_SIGNED, in the highest byte of an int's fourth word
_BEHIND = {INT: 4, ARRAY: 12, VAR: 4, DECL_TAG: 4}
"""Bytes behind a type's three words; those of kinds that are not here depend on how many members it has."""
_EACH = {STRUCT: 12, UNION: 12, ENUM: 8, FUNC_PROTO: 8, DATASEC: 12, ENUM64: 12}


@dataclass(frozen=True, slots=True)
class Member:
    """Of a struct: `at` counts bytes; `bits`: of a field of bits. Of a section: a variable and its place."""

    name: str
    type: int
    at: int
    bits: int = 0


@dataclass(frozen=True, slots=True)
class Type:
    """One type. `size`: of int, struct, enum, section; for the others `target` is the type meant."""

    kind: int
    name: str
    size: int = 0
    target: int = 0
    count: int = 0
    members: tuple[Member, ...] = ()
    signed: bool = False


@dataclass(frozen=True, slots=True)
class MapShape:
    """A map that an object declares: ids of the types of its keys and values, 0 where it names none; their sizes."""

    name: str
    kind: int
    key: int
    value: int
    entries: int
    key_size: int = 0
    value_size: int = 0


@dataclass(slots=True)
class Btf:
    """All types of an object, by number; 0 is void."""

    types: list[Type] = field(default_factory=lambda: [Type(0, "void")])

    # ---- what there is

    def section(self, name: str) -> tuple[Member, ...]:
        """The variables of a section."""
        found = next((one for one in self.types if one.kind == DATASEC and one.name == name), None)
        return found.members if found else ()

    def maps(self) -> dict[str, MapShape]:
        """The maps that it declares."""
        found = self.section(".maps")
        if len(found) > _MOST_MAPS:
            raise InvalidError(f"it declares {len(found)} maps; a function has at most {_MOST_MAPS}")
        return {each.name: self._map(each.name, each.type) for each in found}

    def _map(self, name: str, number: int) -> MapShape:
        shape = self.types[self.resolved(self.types[number].target)]
        parts = {each.name: each.type for each in shape.members}

        def number_of(part: str) -> int:  # __uint(x, n) is a pointer to an array of n
            return self.types[self.resolved(self._pointee(parts[part]))].count if part in parts else 0

        key, value = (self._pointee(parts[part]) if part in parts else 0 for part in ("key", "value"))
        return MapShape(
            name, number_of("type"), key, value, number_of("max_entries"),
            self.size(key) if key else number_of("key_size"), self.size(value) if value else number_of("value_size"),
        )  # fmt: skip

    def _pointee(self, number: int) -> int:
        return self.types[self.resolved(number)].target

    def resolved(self, number: int) -> int:
        """Behind typedefs and qualifiers."""
        for _ in range(_NESTED):
            found = self._type(number)
            if found.kind not in (TYPEDEF, VOLATILE, CONST, RESTRICT, TYPE_TAG, VAR):
                return number
            number = found.target
        raise InvalidError("its BTF has a type that leads in circles")

    def _type(self, number: int) -> Type:
        if not 0 <= number < len(self.types):
            raise InvalidError(f"its BTF names type {number}, and has {len(self.types)}")
        return self.types[number]

    def size(self, number: int, nested: int = 0) -> int:
        """Bytes of a type."""
        found = self.types[self.resolved(number)]
        if nested > _NESTED:
            raise InvalidError("its BTF has a type within itself")
        if found.kind == ARRAY:
            return found.count * self.size(found.target, nested + 1)
        return 8 if found.kind == PTR else found.size

    # ---- values

    def pack(self, number: int, value: Any, where: str, base: bytes = b"") -> bytes:
        """A value as bytes; of a struct the fields that are not given are as in `base`, or zero."""
        found = self.types[self.resolved(number)]
        if self.size(number) > _MOST_VALUE_BYTES:
            raise _wrong(where, f"has a type of {self.size(number)} bytes; expected at most {_MOST_VALUE_BYTES}")
        if found.kind in (STRUCT, UNION) and isinstance(value, Mapping):
            return self._struct(found, value, where, base)
        if found.kind == ARRAY and isinstance(value, list | tuple):
            return self._list(found, value, where)
        if found.kind in (INT, ENUM, ENUM64) and found.size in (1, 2, 4, 8):
            if found.kind != INT and isinstance(value, str):
                named = next((each.at for each in found.members if each.name == value), None)
                value = value if named is None else named
            if isinstance(value, str) and re.fullmatch(r"0x[0-9a-fA-F]{1,16}", value):  # text in YAML's core schema
                value = int(value, 16)
            if isinstance(value, int):
                return _number(int(value), found.size, where)
        return _bytes(value, self.size(number), where)

    def unpack(self, number: int, data: bytes, nested: int = 0) -> Any:
        """The value that pack() makes these bytes from; hexadecimal digits where the type has no other form. Takes no
        more work than there are bytes, whatever the types say."""
        found = self.types[self.resolved(number)]
        if self.size(number) != len(data) or nested > _NESTED:
            return data.hex()
        if found.kind in (STRUCT, UNION) and self._is_plain(found):
            return self._fields(found, data, nested)
        if found.kind in (INT, ENUM, ENUM64) and found.size in (1, 2, 4, 8):
            value = int.from_bytes(data, "little", signed=found.signed or found.kind == ENUM)
            return next((each.name for each in found.members if each.at == value), value)
        size = self.size(found.target) if found.kind == ARRAY else 0
        if size > 1:
            return [self.unpack(found.target, data[at : at + size], nested + 1) for at in range(0, len(data), size)]
        return _text(data) if size else data.hex()

    def _is_plain(self, found: Type) -> bool:
        sizes = [self.size(each.type) for each in found.members]
        fits = sum(sizes) <= found.size if found.kind == STRUCT else found.size in sizes
        return fits and all(sizes) and not any(each.bits for each in found.members)

    def _fields(self, found: Type, data: bytes, nested: int) -> dict[str, Any]:
        """Of a union the first that is as large as all of it."""
        whole = [each for each in found.members if self.size(each.type) == found.size]
        told: dict[str, Any] = {}
        for each in found.members if found.kind == STRUCT else whole[:1]:
            value = self.unpack(each.type, data[each.at : each.at + self.size(each.type)], nested + 1)
            told |= value if not each.name and isinstance(value, dict) else {each.name: value}
        return told

    def _struct(self, found: Type, value: Mapping[str, Any], where: str, base: bytes) -> bytes:
        packed = bytearray(base or bytes(found.size))
        members = {each.name: each for each in found.members}
        for name, each in value.items():
            if name not in members:
                known = ", ".join(each.name for each in found.members)
                raise _wrong(f"{where}.{name}", f"unexpected; struct {found.name} has {known}")
            at, size = members[name].at, self.size(members[name].type)
            packed[at : at + size] = self.pack(
                members[name].type, each, f"{where}.{name}", bytes(packed[at : at + size])
            )
        return bytes(packed)

    def _list(self, found: Type, value: list[Any] | tuple[Any, ...], where: str) -> bytes:
        if len(value) > found.count:
            raise _wrong(where, f"expected at most {found.count} values, found {len(value)}")
        size = self.size(found.target)
        parts = [self.pack(found.target, each, f"{where}[{place}]") for place, each in enumerate(value)]
        return b"".join(parts) + bytes(size * (found.count - len(value)))


def read(data: bytes) -> Btf:
    """The section .BTF of an object."""
    try:
        magic, _, _, header, types_at, types_size, names_at, names_size = _HEADER.unpack_from(data)
        if magic != _MAGIC:
            raise ValueError("no BTF")
        words = data[header + types_at : header + types_at + types_size]
        return _read(words, data[header + names_at : header + names_at + names_size])
    except (struct.error, ValueError, IndexError) as error:
        raise InvalidError("its BTF (section .BTF) cannot be read: build it with clang -g") from error


def _read(words: bytes, names: bytes) -> Btf:
    found, at = Btf(), 0
    while at < len(words):
        name_at, info, last = struct.unpack_from("=III", words, at)
        at += 12
        kind, count = info >> 24 & 0x1F, info & 0xFFFF
        size = _BEHIND.get(kind, _EACH.get(kind, 0) * count)
        extra, at = words[at : at + size], at + size
        name = _name(names, name_at)
        if kind == ARRAY:
            target, _, length = struct.unpack("=III", extra)
            found.types.append(Type(kind, name, 0, target, length))
        elif kind in (INT, STRUCT, UNION, ENUM, ENUM64, DATASEC, FLOAT):
            members = tuple(_members(kind, extra, names, info >> 31))
            if kind == DATASEC:  # its variables' own names
                members = tuple(Member(found.types[each.type].name, each.type, each.at) for each in members)
            signed = kind == INT and bool(extra[3] & _SIGNED)
            found.types.append(Type(kind, name, last, members=members, signed=signed))
        else:
            found.types.append(Type(kind, name, 0, last))
    return found


def _members(kind: int, extra: bytes, names: bytes, flag: int) -> list[Member]:
    if kind == INT:
        return []
    members = []
    for first, second, third in struct.iter_unpack("=III", extra) if kind != ENUM else ():
        if kind == DATASEC:
            members.append(Member("", first, second))
        elif kind == ENUM64:
            members.append(Member(_name(names, first), 0, second | third << 32))
        else:
            bits = third & 0xFFFFFF if flag else third
            members.append(Member(_name(names, first), second, bits // 8, third >> 24 if flag else 0))
    for first, value in struct.iter_unpack("=Ii", extra) if kind == ENUM else ():
        members.append(Member(_name(names, first), 0, value))
    return members


def _name(names: bytes, at: int) -> str:
    return names[at : names.index(b"\0", at, at + _LONGEST_NAME)].decode()


def _number(value: int, size: int, where: str) -> bytes:
    try:
        return value.to_bytes(size, "little", signed=value < 0)
    except OverflowError as error:
        raise _wrong(where, f"expected a number of {size * 8} bits, found {value}") from error


def _bytes(value: Any, size: int, where: str) -> bytes:
    text = str(value)
    if isinstance(value, str):
        try:
            address = ip_address(text).packed
        except ValueError:
            address = b""
        if address:
            data = to_mapped(address) if size == 16 else address
        else:
            try:
                data = bytes.fromhex(text.replace(":", " "))
            except ValueError:
                data = b""
        if len(data) == size:
            return data
    raise _wrong(where, f"expected {size} bytes (hexadecimal digits or an address) or its fields, found {text[:60]!r}")


def _text(data: bytes) -> str:
    """As people give it: an address where there are 4 or 16 bytes, a MAC where there are 6."""
    if len(data) in (4, 16):
        address = ip_address(data)
        return str(getattr(address, "ipv4_mapped", None) or address)
    return data.hex(":") if len(data) == 6 else data.hex()


def _wrong(field_name: str, message: str) -> InvalidError:
    return InvalidError(Problem(message, field_name))
