# SPDX-License-Identifier: Apache-2.0
"""Frames as people describe them in a function's test, as bytes.

    {tunnel: {protocol: geneve, vni: 7, src: 172.31.0.1, dst: 172.31.0.2, options: [{type: 2, data: "00000001"}]},
     ethernet: {src: ..., dst: ...}, ipv4: {src: 10.0.1.2, dst: 10.0.1.3, ttl: 64, dscp: 0}, udp: {src: 1, dst: 2},
     payload: text}

or `{hex: "..."}`. What is left out has a value that a host could have sent; lengths and checksums are worked out. Pure.
Raises InvalidError that names the field.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from typing import Any

from mizar.model.addresses import ROUTER_MAC, parse_address
from mizar.model.errors import InvalidError, MizarError, Problem
from mizar.oracle.checksum import checksum

ETHERNET = 14
IPV4, IPV6 = 0x0800, 0x86DD
ICMP, TCP, UDP, ICMP6 = 1, 6, 17, 58
GENEVE, VXLAN, ETHERNET_IN_GENEVE, CRITICAL_BIT = 6081, 4789, 0x6558, 0x40
PORTS = {"geneve": GENEVE, "vxlan": VXLAN}
OPTION_CLASS = 0xFF01
"""Of Mizar's own options (contracts/wire.md); what an option's description says nothing else of."""
_HOST, _DROPLET = "02000a000102", "0200ac1f0001"
_FLAGS = ("fin", "syn", "rst", "psh", "ack", "urg", "ece", "cwr")
_LAYERS = {"tunnel", "ethernet", "ipv4", "ipv6", "udp", "tcp", "icmp", "icmp6", "payload", "hex"}
_FIELDS = {
    "tunnel": {"protocol", "vni", "src", "dst", "sport", "ttl", "dscp", "options", "group", "ethernet"},
    "ethernet": {"src", "dst", "type"},
    "ipv4": {"src", "dst", "ttl", "dscp", "id", "protocol", "offset", "more"},
    "ipv6": {"src", "dst", "ttl", "dscp", "protocol"},
    "udp": {"src", "dst"},
    "tcp": {"src", "dst", "seq", "ack", "flags", "window"},
    "icmp": {"type", "code", "id", "seq"},
    "icmp6": {"type", "code", "id", "seq"},
}


def frame_of(description: Any) -> bytes:
    """The frame, Ethernet header first."""
    if not isinstance(description, Mapping):
        raise _wrong("", f"expected a description of a frame, found {description!r}")
    _known(description, _LAYERS, "")
    if "hex" in description:
        if len(description) > 1:
            raise _wrong("hex", "expected no other layer beside it")
        return hex_of(description["hex"], "hex")
    for layer, fields in _FIELDS.items():
        if layer in description:
            if not isinstance(description[layer], Mapping):
                raise _wrong(layer, f"expected its fields, found {description[layer]!r}")
            _known(description[layer], fields, layer)
    inner = _inner(description)
    return _tunnelled(description["tunnel"], inner) if "tunnel" in description else inner


def changed(description: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A description with other values in some fields; a layer or field that is null there is left out."""
    found = dict(description)
    for name, value in changes.items():
        if value is None:
            found.pop(name, None)
        elif isinstance(value, Mapping) and isinstance(found.get(name), Mapping):
            found[name] = changed(found[name], value)
        else:
            found[name] = value
    return found


def hex_of(text: Any, field: str) -> bytes:
    """Bytes of hexadecimal digits, with or without white space."""
    try:
        return bytes.fromhex(str(text).replace(":", " "))
    except ValueError as error:
        raise _wrong(field, f"expected hexadecimal digits, found {str(text)[:40]!r}") from error


def _inner(layers: Mapping[str, Any]) -> bytes:
    ethernet = layers.get("ethernet", {})
    payload = _payload(layers.get("payload", ""))
    named = [name for name in ("ipv4", "ipv6") if name in layers]
    if len(named) > 1:
        raise _wrong("ipv6", "expected one of ipv4 and ipv6")
    if not named:
        kind = _number(ethernet, "type", "ethernet", 0xFFFF, 0x88B5)  # IEEE 802: for local experiments
        return _ethernet(ethernet, "ethernet", kind) + payload
    kind, packet = _ip(layers, named[0], payload)
    return _ethernet(ethernet, "ethernet", kind) + packet


def _ethernet(fields: Mapping[str, Any], where: str, kind: int, other: str = _HOST) -> bytes:
    ends = []
    for name, default in (("dst", ROUTER_MAC), ("src", bytes.fromhex(other))):
        value = hex_of(fields[name], f"{where}.{name}") if name in fields else default
        if len(value) != 6:
            raise _wrong(f"{where}.{name}", f"expected a MAC address, found {fields[name]!r}")
        ends.append(value)
    return b"".join(ends) + struct.pack("!H", kind)


def _ip(layers: Mapping[str, Any], family: str, payload: bytes) -> tuple[int, bytes]:
    fields = layers[family]
    size = 4 if family == "ipv4" else 16
    source = _address(fields, "src", family, size, "10.0.1.2" if size == 4 else "fd00:10:0:1::2")
    to = _address(fields, "dst", family, size, "10.0.1.3" if size == 4 else "fd00:10:0:1::3")
    later = bool(fields.get("offset")) if size == 4 else False
    protocol, rest = (None, payload) if later else _transport(layers, source, to, payload)
    number = _number(fields, "protocol", family, 255, UDP if protocol is None else protocol)
    ttl = _number(fields, "ttl", family, 255, 64)
    dscp = _number(fields, "dscp", family, 63, 0)
    if size == 16:
        head = struct.pack("!IHBB", 6 << 28 | dscp << 22, len(rest), number, ttl)
        return IPV6, head + source + to + rest
    fragment = _number(fields, "offset", family, 0xFFF8, 0) >> 3 | (0x2000 if fields.get("more") else 0)
    identity = _number(fields, "id", family, 0xFFFF, 0)
    parts = (0x45, dscp << 2, 20 + len(rest), identity, fragment, ttl, number)
    summed = checksum(struct.pack("!BBHHHBBH", *parts, 0) + source + to)
    return IPV4, struct.pack("!BBHHHBBH", *parts, summed) + source + to + rest


def _transport(layers: Mapping[str, Any], source: bytes, to: bytes, payload: bytes) -> tuple[int | None, bytes]:
    named = [name for name in ("udp", "tcp", "icmp", "icmp6") if name in layers]
    if len(named) > 1:
        raise _wrong(named[1], f"expected one of udp, tcp, icmp and icmp6, found {named[0]} beside it")
    if not named:
        return None, payload
    name = named[0]
    fields = layers[name]
    pseudo = source + to
    if name in ("icmp", "icmp6"):
        number, at = (ICMP, 2) if name == "icmp" else (ICMP6, 2)
        kind = _number(fields, "type", name, 255, 8 if name == "icmp" else 128)
        rest = [_number(fields, key, name, 0xFFFF, default) for key, default in (("id", 1), ("seq", 1))]
        data = struct.pack("!BBHHH", kind, _number(fields, "code", name, 255, 0), 0, *rest) + payload
        pseudo = b"" if name == "icmp" else pseudo
    else:
        ports = [_number(fields, key, name, 0xFFFF, default) for key, default in (("src", 40000), ("dst", 80))]
        if name == "udp":
            number, at = UDP, 6
            data = struct.pack("!HHHH", *ports, 8 + len(payload), 0) + payload
        else:
            number, at = TCP, 16
            numbers = [_number(fields, key, name, 0xFFFFFFFF, 0) for key in ("seq", "ack")]
            window = _number(fields, "window", name, 0xFFFF, 65535)
            data = struct.pack("!HHIIBBHHH", *ports, *numbers, 0x50, _tcp_flags(fields), window, 0, 0) + payload
    over = pseudo + struct.pack("!II", len(data), number) if pseudo else b""
    value = checksum(over + data) or (0xFFFF if number == UDP else 0)
    return number, data[:at] + struct.pack("!H", value) + data[at + 2 :]


def _tcp_flags(fields: Mapping[str, Any]) -> int:
    words = str(fields.get("flags", "syn")).lower().replace(",", " ").split()
    strange = [word for word in words if word not in _FLAGS]
    if strange:
        raise _wrong("tcp.flags", f"expected some of {' '.join(_FLAGS)}, found {strange[0]}")
    return sum(1 << _FLAGS.index(word) for word in set(words))


def _tunnelled(fields: Mapping[str, Any], inner: bytes) -> bytes:
    name = str(fields.get("protocol", "geneve"))
    if name not in PORTS:
        raise _wrong("tunnel.protocol", f"expected geneve or vxlan, found {name}")
    vni = _number(fields, "vni", "tunnel", 0xFFFFFF, 7)
    six = ":" in str(fields.get("src", ""))
    options = b"".join(option_of(one, place) for place, one in enumerate(fields.get("options", ())))
    if name == "geneve":
        critical = any(_number(one, "type", "", 255, 0) & 0x80 for one in fields.get("options", ()))  # RFC 8926 3.4
        bits = CRITICAL_BIT if critical else 0
        header = struct.pack("!BBHI", len(options) // 4, bits, ETHERNET_IN_GENEVE, vni << 8) + options
    else:
        group = _number(fields, "group", "tunnel", 0xFFFF, 0)  # VXLAN-GBP: bit G says that there is one
        header = struct.pack("!BBHI", 0x88 if group else 0x08, 0, group, vni << 8)
    data = header + inner
    size = 16 if six else 4
    source = _address(fields, "src", "tunnel", size, "172.31.0.1")
    to = _address(fields, "dst", "tunnel", size, "fd00:31::2" if six else "172.31.0.2")
    # Without a checksum, as tunnels over IPv4 send it (RFC 8926 3.3), and over IPv6 those that RFC 6935 allows it.
    udp = struct.pack("!HHHH", _number(fields, "sport", "tunnel", 0xFFFF, 50000), PORTS[name], 8 + len(data), 0)
    ttl, dscp = _number(fields, "ttl", "tunnel", 255, 64), _number(fields, "dscp", "tunnel", 63, 0)
    ethernet = fields.get("ethernet", {"dst": "02:00:ac:1f:00:02"})
    if six:
        head = struct.pack("!IHBB", 6 << 28 | dscp << 22, 8 + len(data), UDP, ttl)
        return _ethernet(ethernet, "tunnel.ethernet", IPV6, _DROPLET) + head + source + to + udp + data
    parts = (0x45, dscp << 2, 28 + len(data), 0, 0x4000, ttl, UDP)
    summed = checksum(struct.pack("!BBHHHBBH", *parts, 0) + source + to)
    outer = struct.pack("!BBHHHBBH", *parts, summed) + source + to
    return _ethernet(ethernet, "tunnel.ethernet", IPV4, _DROPLET) + outer + udp + data


def option_of(one: Any, place: int) -> bytes:
    """A Geneve option: {class, type, data}; data in hexadecimal digits, whole words."""
    where = f"tunnel.options[{place}]"
    if not isinstance(one, Mapping):
        raise _wrong(where, f"expected class, type and data, found {one!r}")
    _known(one, {"class", "type", "data"}, where)
    data = hex_of(one.get("data", ""), f"{where}.data")
    if len(data) % 4 or len(data) > 124:
        raise _wrong(f"{where}.data", f"expected whole words of 4 bytes, at most 31, found {len(data)} bytes")
    of, kind = _number(one, "class", where, 0xFFFF, OPTION_CLASS), _number(one, "type", where, 255, 0)
    return struct.pack("!HBB", of, kind, len(data) // 4) + data


def _payload(value: Any) -> bytes:
    if isinstance(value, Mapping):
        _known(value, {"hex", "bytes"}, "payload")
        return (
            bytes(_number(value, "bytes", "payload", 9000, 0))
            if "bytes" in value
            else hex_of(value.get("hex", ""), "payload.hex")
        )
    return str(value).encode()


def _address(fields: Mapping[str, Any], name: str, where: str, size: int, default: str) -> bytes:
    try:
        found = parse_address(str(fields.get(name, default))).packed
    except (MizarError, ValueError) as error:
        raise _wrong(f"{where}.{name}", str(error)) from error
    if len(found) != size:
        raise _wrong(f"{where}.{name}", f"expected an address of IPv{4 if size == 4 else 6}, found {fields.get(name)}")
    return found


def _number(fields: Mapping[str, Any], name: str, where: str, most: int, default: int) -> int:
    value = fields.get(name, default)
    if isinstance(value, str) and re.fullmatch(r"0x[0-9a-fA-F]{1,8}", value):  # text in YAML's core schema
        value = int(value, 16)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
        raise _wrong(f"{where}.{name}", f"expected a number from 0 to {most}, found {value!r}")
    return value


def _known(fields: Mapping[str, Any], names: set[str], where: str) -> None:
    for name in fields:
        if name not in names:
            raise _wrong(f"{where}.{name}" if where else str(name), f"unexpected; known are {', '.join(sorted(names))}")


def _wrong(field: str, message: str) -> InvalidError:
    return InvalidError(Problem(message, field))
