# SPDX-License-Identifier: Apache-2.0
"""The sections of an ELF object for the kernel's bpf machine: as much as it takes to know what a function says of
itself.

Called by whoever is handed an object: it may come from anywhere, so every place is checked. Pure. Raises InvalidError.
"""

from __future__ import annotations

import struct

from mizar.model.errors import InvalidError

BPF_MACHINE = 247  # EM_BPF
_HEADER = struct.Struct("=4sBBB9xHHIQQQIHHHHHH")
_SECTION = struct.Struct("=IIQQQQIIQQ")
_NOBITS = 8
_MOST_ZEROS = 1 << 20  # of sections that are only zeros, and in no file
_LONGEST_NAME = 512  # with its end; the kernel takes no longer one


def sections(data: bytes) -> dict[str, bytes]:
    """Sections by name. Raises InvalidError for what is no object of clang's for bpf."""
    try:
        return _sections(data)
    except (struct.error, ValueError) as error:
        raise InvalidError("it is no ELF object, or cut short: expected what clang -target bpf -c makes") from error


def _sections(data: bytes) -> dict[str, bytes]:
    magic, bits, order, _, _, machine, _, _, _, at, _, _, _, _, size, count, names_index = _HEADER.unpack_from(data)
    if magic != b"\x7fELF" or bits != 2 or order != 1 or size != _SECTION.size:
        raise ValueError("no ELF object of 64 bits")
    if machine != BPF_MACHINE:
        raise InvalidError(f"it is an ELF object for another machine ({machine}): expected one of clang -target bpf")
    headers = [_SECTION.unpack_from(data, at + place * size) for place in range(count)]
    names = _content(data, headers[names_index]) if names_index < len(headers) else b""
    if sum(header[5] for header in headers) > len(data) + _MOST_ZEROS:
        raise ValueError("sections that lie in one another")
    return {_name(names, header[0]): _content(data, header) for header in headers}


def _content(data: bytes, header: tuple[int, ...]) -> bytes:
    _, kind, _, _, at, size, *_ = header
    if kind == _NOBITS:
        return bytes(size)
    if at + size > len(data):
        raise ValueError("a section behind the end")
    return data[at : at + size]


def _name(names: bytes, at: int) -> str:
    return names[at : names.index(b"\0", at, at + _LONGEST_NAME)].decode()


def with_section(data: bytes, name: str, content: bytes) -> bytes:
    """The object with other bytes in a section of the same size. Raises InvalidError where there is none such."""
    try:
        _, _, _, _, _, _, _, _, _, at, _, _, _, _, size, count, names_index = _HEADER.unpack_from(data)
        headers = [_SECTION.unpack_from(data, at + place * size) for place in range(count)]
        names = _content(data, headers[names_index])
        for header in headers:
            if _name(names, header[0]) == name and header[5] == len(content) and header[1] != _NOBITS:
                return data[: header[4]] + content + data[header[4] + header[5] :]
    except (struct.error, ValueError, IndexError) as error:
        raise InvalidError("it is no ELF object, or cut short") from error
    raise InvalidError(f"the object has no section {name} of {len(content)} bytes")
