# SPDX-License-Identifier: Apache-2.0
"""A conversation with the kernel over rtnetlink: pyroute2's messages on one plain socket.

Owns sending, acknowledgements and the mapping of netlink's errors. Called by links, neighbours and attach. pyroute2
writes and reads the messages; its own sockets are not used because they bring an event loop each, fork to reach
another namespace, and take ten times as long. It must never keep anything that it read.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import AsyncIterator, Sequence
from types import TracebackType
from typing import Any

from pyroute2.netlink.rtnl.marshal import MarshalRtnl

from mizar.kernel import libbpf
from mizar.kernel.namespaces import Namespace
from mizar.model.errors import TemporaryError

Message = Any
"""A pyroute2 nlmsg: fields by ["name"], attributes by get_attr("NAME")."""

Order = tuple[Message, int, int, str]
"""Something that the kernel shall do: message, type (RTM_*), flags, and what it does in words."""

REQUEST, ACK, DUMP = 0x001, 0x004, 0x300
REPLACE, EXCL, CREATE, APPEND = 0x100, 0x200, 0x400, 0x800

_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr: length, type, flags, sequence number, port
_ERROR, _DONE = 2, 3  # NLMSG_ERROR, NLMSG_DONE
_SOL_NETLINK, _EXT_ACK, _GET_STRICT_CHK, _CAP_ACK = 270, 11, 12, 10
_RECEIVE_BYTES = 1 << 18
_RCVBUF_FORCE, _LISTEN_BYTES = 33, 1 << 23  # SO_RCVBUFFORCE
_MULTI, _DUMP_INTERRUPTED = 0x002, 0x010
_DUMP_ATTEMPTS = 20


class Netlink:
    """One socket in one network namespace; usable from any thread, one conversation at a time."""

    def __init__(self, namespace: Namespace | None = None, groups: int = 0) -> None:
        """In `namespace`, or in the one of the calling thread. `groups`: a mask of RTMGRP_* to listen to."""

        def opened() -> socket.socket:
            return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)

        self._socket = opened() if namespace is None else namespace.run(opened)
        self._socket.setsockopt(_SOL_NETLINK, _EXT_ACK, 1)
        self._socket.setsockopt(_SOL_NETLINK, _CAP_ACK, 1)
        self._socket.setsockopt(_SOL_NETLINK, _GET_STRICT_CHK, 1)  # dumps are filtered by the kernel
        if groups:  # a thousand changes at once must fit, or the listener has to read everything again
            self._socket.setsockopt(socket.SOL_SOCKET, _RCVBUF_FORCE, _LISTEN_BYTES)
        self._socket.bind((0, groups))
        self._marshal = MarshalRtnl()
        self._sequence = 0
        self._lock = threading.Lock()

    def ask(self, message: Message, kind: int, what: str, *, dump: bool = False) -> list[Message]:
        """Sends a question (`what` it is in words); returns the answers. Raises NotFoundError for ENOENT and ENODEV,
        else what libbpf.error_of() tells of the errno."""
        with self._lock:
            for _ in range(_DUMP_ATTEMPTS):
                sequence = self._send([(message, kind, DUMP if dump else 0)])
                answers, whole = self._receive(sequence, 1, [what], answers=True)
                if whole:
                    return answers
            raise TemporaryError(f"{what}: it changes too fast to be read whole")

    def tell(self, orders: Sequence[Order]) -> None:
        """Sends orders in one system call; the kernel carries them out in their sequence.
        All are tried; the error of the first that failed is raised. None is nothing to do."""
        if not orders:
            return
        with self._lock:
            sequence = self._send([(message, kind, flags | ACK) for message, kind, flags, _ in orders])
            self._receive(sequence, len(orders), [what for _, _, _, what in orders], answers=False)

    async def events(self) -> AsyncIterator[Message]:
        """Messages of the groups that the socket listens to, without end. Raises TemporaryError (ENOBUFS) when the
        kernel had to leave some out: read the state again, then listen again."""
        loop = asyncio.get_running_loop()
        self._socket.setblocking(False)
        while True:
            try:
                data = await loop.sock_recv(self._socket, _RECEIVE_BYTES)
            except OSError as error:
                raise libbpf.error_of(error.errno or 0, "listen to the kernel's notifications") from error
            for message in self._marshal.parse(data):
                yield message

    def close(self) -> None:
        """Closes the socket."""
        self._socket.close()

    def __enter__(self) -> Netlink:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _send(self, messages: Sequence[tuple[Message, int, int]]) -> int:
        first = self._sequence + 1
        data = b""
        for message, kind, flags in messages:
            self._sequence += 1
            message["header"].update(type=kind, flags=flags | REQUEST, sequence_number=self._sequence, pid=0)
            message.reset()
            message.encode()
            data += bytes(message.data)
        self._socket.send(data)
        return first

    def _receive(self, first: int, count: int, what: Sequence[str], *, answers: bool) -> tuple[list[Message], bool]:
        """What came back, and whether it is whole: a list that changed while it was read may lack something."""
        found: list[Message] = []
        failure: Exception | None = None
        whole = True
        left = count
        while left:
            data = self._socket.recv(_RECEIVE_BYTES)
            at = 0
            while at + _HEADER.size <= len(data):
                length, kind, flags, sequence, _ = _HEADER.unpack_from(data, at)
                part = data[at : at + length]
                at += (length + 3) & ~3
                if not first <= sequence < first + count:
                    continue  # the rest of an answer that an earlier caller gave up
                whole = whole and not (answers and flags & _DUMP_INTERRUPTED)
                if kind in (_DONE, _ERROR):
                    left -= 1
                    number = -struct.unpack_from("=i", part, 16)[0]
                    if number > 0 and failure is None:
                        failure = libbpf.error_of(number, _with_reason(what[sequence - first], part, flags))
                else:
                    found.extend(self._marshal.parse(part))
                    if answers and not flags & _MULTI:
                        left -= 1
        if failure is not None:
            raise failure
        return found, whole


def _with_reason(what: str, part: bytes, flags: int) -> str:
    """Adds the kernel's own sentence (NLMSGERR_ATTR_MSG of the extended acknowledgement) where it gave one."""
    capped, has_attributes = 0x100, 0x200  # NLM_F_CAPPED, NLM_F_ACK_TLVS
    if not flags & has_attributes:
        return what
    at = 20 + (16 if flags & capped else struct.unpack_from("=I", part, 20)[0])
    while at + 4 <= len(part):
        length, kind = struct.unpack_from("=HH", part, at)
        if length < 4:
            break
        if kind == 1:
            return f"{what} ({part[at + 4 : at + length].rstrip(bytes(1)).decode(errors='replace')})"
        at += (length + 3) & ~3
    return what
