# SPDX-License-Identifier: Apache-2.0
"""The kernel's connections over netlink: listed, told of as they come and go, kept alive, ended.

Owns the messages of ctnetlink (linux/netfilter/nfnetlink_conntrack.h). Called by the gateway's kernel slow path, for
its one namespace. It must never keep a connection in mind: `Entry.key` names one to the kernel.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType

from mizar.kernel import libbpf
from mizar.kernel.namespaces import Namespace
from mizar.model.errors import NotFoundError, TemporaryError

_NETFILTER, _SUBSYSTEM = 12, 1  # NETLINK_NETFILTER, NFNL_SUBSYS_CTNETLINK
_NEW, _GET, _DELETE = 0, 1, 2
_GROUP_NEW, _GROUP_DESTROY = 1, 3
_REQUEST, _ACK, _DUMP = 0x001, 0x004, 0x300
_ERROR, _DONE = 2, 3
_SOL_NETLINK, _ADD_MEMBERSHIP, _NO_ENOBUFS, _RCVBUF_FORCE = 270, 1, 5, 33
_HEADER = struct.Struct("=IHHIIBBH")  # nlmsghdr and nfgenmsg
_ORIGINAL, _REPLY, _STATUS, _PROTOINFO, _TIMEOUT, _MARK, _ZONE = 1, 2, 3, 4, 7, 8, 18
_NESTED = 0x8000
_RECEIVE_BYTES, _LISTEN_BYTES = 1 << 18, 1 << 23
SEEN_REPLY, ASSURED, SOURCE_NAT, DESTINATION_NAT, FIXED_TIMEOUT = 0x2, 0x4, 0x10, 0x20, 0x400
_TCP, _ESTABLISHED, _BE_LIBERAL = 6, 3, 0x08


@dataclass(frozen=True, slots=True)
class Tuple:
    """One direction: addresses as packed bytes, ports as numbers; an ICMP query has its id as both."""

    protocol: int
    source: bytes
    destination: bytes
    source_port: int
    destination_port: int

    @property
    def version(self) -> int:
        """Of IP."""
        return 4 if len(self.source) == 4 else 6


@dataclass(frozen=True, slots=True)
class Entry:
    """A connection as it was told of. `key` is what names it to the kernel."""

    original: Tuple
    reply: Tuple
    mark: int
    status: int
    timeout_s: int
    key: bytes


@dataclass(frozen=True, slots=True)
class Event:
    """A connection began (it has passed the whole way through the kernel once), or ended."""

    entry: Entry
    ended: bool


class Conntrack:
    """Orders and questions about one namespace's connections."""

    def __init__(self, namespace: Namespace) -> None:
        self._socket = _opened(namespace)
        self._socket.bind((0, 0))
        self._sequence = 0

    def entries(self) -> list[Entry]:
        """All connections of both families."""
        self._send(_GET, _DUMP, socket.AF_UNSPEC, b"")
        found: list[Entry] = []
        while True:
            for kind, payload in _messages(self._socket.recv(_RECEIVE_BYTES)):
                if kind == _DONE:
                    return found
                if kind == _ERROR:
                    _raise(payload, "list the connections")
                elif (entry := _entry(payload)) is not None:
                    found.append(entry)

    def find(self, original: Tuple) -> Entry | None:
        """The one of TCP or UDP that began so; None when there is none. The others are not looked at."""
        first = 1 if original.version == 4 else 3
        addresses = _attribute(first, original.source) + _attribute(first + 1, original.destination)
        ports = _attribute(2, struct.pack(">H", original.source_port))
        ports += _attribute(3, struct.pack(">H", original.destination_port))
        transport = _attribute(1, struct.pack("=B", original.protocol)) + ports
        key = _attribute(1 | _NESTED, addresses) + _attribute(2 | _NESTED, transport)
        family = socket.AF_INET if original.version == 4 else socket.AF_INET6
        self._send(_GET, 0, family, _attribute(_ORIGINAL | _NESTED, key))
        for kind, payload in _messages(self._socket.recv(_RECEIVE_BYTES)):
            if kind == _ERROR:
                try:
                    _raise(payload, "find a connection")
                except NotFoundError:
                    return None
            elif (entry := _entry(payload)) is not None and entry.original == original:
                return entry
        return None

    def keep(self, entry: Entry, timeout_s: int) -> bool:
        """From now on it lives for so long without a packet, whatever its packets say: another has taken them over.
        False when the kernel does not have it any more."""
        status = entry.status | SEEN_REPLY | ASSURED | FIXED_TIMEOUT
        attributes = _attribute(_STATUS, struct.pack(">I", status)) + _attribute(_TIMEOUT, struct.pack(">I", timeout_s))
        if entry.original.protocol == _TCP:
            flags = struct.pack("=BB", _BE_LIBERAL, _BE_LIBERAL)
            inner = _attribute(1, struct.pack("=B", _ESTABLISHED)) + _attribute(4, flags) + _attribute(5, flags)
            attributes += _attribute(_PROTOINFO | _NESTED, _attribute(1 | _NESTED, inner))
        return self._told(_NEW, entry, attributes, "keep a connection")

    def delete(self, entry: Entry) -> bool:
        """Ends it; False when it had ended."""
        return self._told(_DELETE, entry, b"", "end a connection")

    def close(self) -> None:
        """Closes the socket."""
        self._socket.close()

    def _told(self, kind: int, entry: Entry, attributes: bytes, what: str) -> bool:
        family = socket.AF_INET if entry.original.version == 4 else socket.AF_INET6
        self._send(kind, _ACK, family, entry.key + attributes)
        while True:
            for answer, payload in _messages(self._socket.recv(_RECEIVE_BYTES)):
                if answer == _ERROR:
                    try:
                        _raise(payload, what)
                    except NotFoundError:
                        return False
                    return True

    def _send(self, kind: int, flags: int, family: int, attributes: bytes) -> None:
        self._sequence += 1
        length = _HEADER.size + len(attributes)
        header = _HEADER.pack(length, _SUBSYSTEM << 8 | kind, flags | _REQUEST, self._sequence, 0, family, 0, 0)
        self._socket.send(header + attributes)

    def __enter__(self) -> Conntrack:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Listener:
    """What begins and ends in a namespace from now on."""

    def __init__(self, namespace: Namespace) -> None:
        self._socket = _opened(namespace)
        self._socket.setsockopt(socket.SOL_SOCKET, _RCVBUF_FORCE, _LISTEN_BYTES)
        self._socket.bind((0, 0))
        for group in (_GROUP_NEW, _GROUP_DESTROY):
            self._socket.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, group)
        self._socket.setblocking(False)

    def fileno(self) -> int:
        """Readable when there are events."""
        return self._socket.fileno()

    def read(self) -> list[Event]:
        """The events of one message or of none, without waiting. Raises TemporaryError (ENOBUFS) when the kernel had to
        leave some out: list the connections and compare."""
        try:
            data = self._socket.recv(_RECEIVE_BYTES)
        except BlockingIOError:
            return []
        except OSError as error:
            if error.errno == errno.ENOBUFS:
                raise TemporaryError("events of connections were lost: too many at once") from error
            raise libbpf.error_of(error.errno or 0, "listen to the kernel's connections") from error
        found = []
        for kind, payload in _messages(data):
            entry = _entry(payload)
            if entry is not None and kind >> 8 == _SUBSYSTEM:
                found.append(Event(entry, kind & 0xFF == _DELETE))
        return found

    def close(self) -> None:
        """Closes the socket."""
        self._socket.close()


def _opened(namespace: Namespace) -> socket.socket:
    return namespace.run(lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETFILTER))


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Type and what follows the netlink header."""
    at = 0
    while at + 16 <= len(data):
        length, kind = struct.unpack_from("=IH", data, at)
        yield kind, data[at + 16 : at + length]
        at += (length + 3) & ~3


def _raise(payload: bytes, what: str) -> None:
    number = -struct.unpack_from("=i", payload)[0]
    if number:
        raise libbpf.error_of(number, what)


def _attribute(kind: int, payload: bytes) -> bytes:
    return struct.pack("=HH", len(payload) + 4, kind) + payload + bytes(-len(payload) % 4)


def _attributes(data: bytes) -> dict[int, bytes]:
    found, at = {}, 0
    while at + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, at)
        if length < 4:
            break
        found[kind & 0x3FFF] = data[at + 4 : at + length]
        at += (length + 3) & ~3
    return found


def _entry(payload: bytes) -> Entry | None:
    """Of a message behind its netlink header; None for a protocol that has no ports here."""
    found = _attributes(payload[4:])
    if _ORIGINAL not in found or _REPLY not in found:
        return None
    original, reply = _tuple(found[_ORIGINAL]), _tuple(found[_REPLY])
    if original is None or reply is None:
        return None
    key = _attribute(_ORIGINAL | _NESTED, found[_ORIGINAL])
    if _ZONE in found:
        key += _attribute(_ZONE, found[_ZONE])
    return Entry(original, reply, _u32(found, _MARK), _u32(found, _STATUS), _u32(found, _TIMEOUT), key)


def _u32(found: dict[int, bytes], kind: int) -> int:
    return int.from_bytes(found.get(kind, b""), "big")


def _tuple(data: bytes) -> Tuple | None:
    parts = _attributes(data)
    addresses, transport = _attributes(parts.get(1, b"")), _attributes(parts.get(2, b""))
    protocol = int.from_bytes(transport.get(1, b""), "big")
    source = addresses.get(1) or addresses.get(3)
    destination = addresses.get(2) or addresses.get(4)
    first = transport.get(2) or transport.get(4) or transport.get(7)
    if source is None or destination is None or first is None:
        return None
    second = transport.get(3) or first
    return Tuple(protocol, source, destination, int.from_bytes(first, "big"), int.from_bytes(second, "big"))
