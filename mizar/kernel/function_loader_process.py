# SPDX-License-Identifier: Apache-2.0
"""Loads programs of functions for a daemon, in a process that may die of what the kernel's verifier does.

Run by mizar.kernel.function_loader as a program of its own, with the number of its socket (SOCK_SEQPACKET); ends when
the other end does. Owns the messages between the two: each is a file in memory and the descriptors that go with it, so
of any size. One order after the other; what is loaded goes back as descriptors, and nothing of it stays here.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mizar.kernel.functions import Room, Wanted, load
from mizar.kernel.libbpf import lib
from mizar.model.errors import ExhaustedError, MizarError

_MOST_DESCRIPTORS = 253  # SCM_MAX_FD
_NICE = -15


@dataclass(frozen=True, slots=True)
class Order:
    """A program to load. The descriptors that come along: of the maps `shared`, then of `own`."""

    wanted: Wanted
    several_buffers: bool
    most_instructions: int
    shared: tuple[str, ...]
    own: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Done:
    """It is loaded. The descriptors that come along: the program's, that of the map which names the next one, and of
    the function's own maps `made`."""

    instructions: int
    made: tuple[str, ...]


class GoneError(MizarError):
    """The other end is closed."""


def send(end: socket.socket, message: object, descriptors: Sequence[int] = ()) -> None:
    """Raises OSError: the other end is closed, or takes nothing in time."""
    memory = os.memfd_create("mizar-function")
    try:
        os.write(memory, pickle.dumps(message))
        socket.send_fds(end, [b"."], [memory, *descriptors])
    finally:
        os.close(memory)


def receive(end: socket.socket) -> tuple[Any, list[int]]:
    """A message, and its descriptors, which the caller closes. Raises GoneError, and OSError: TimeoutError when none
    came in time."""
    there, found, flags, _ = socket.recv_fds(end, 1, _MOST_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC)
    if not there:
        raise GoneError("the other end is closed")
    if flags & socket.MSG_CTRUNC or not found:
        close(found)
        raise ExhaustedError("there is no room for descriptors: allow the daemon more open files")
    memory, *descriptors = found
    try:
        data = os.pread(memory, os.fstat(memory).st_size, 0)
    finally:
        os.close(memory)
    return pickle.loads(data), descriptors  # noqa: S301 - from nobody but the other end


def close(descriptors: Sequence[int]) -> None:
    """All of them."""
    for descriptor in descriptors:
        os.close(descriptor)


def serve(end: socket.socket) -> None:
    """Until the other end is closed. That an order is understood is said before the kernel gets it."""
    while True:
        try:
            order, descriptors = receive(end)
        except GoneError:
            return
        maps = dict(zip(order.shared, descriptors, strict=False))
        own = dict(zip(order.own, descriptors[len(order.shared) :], strict=True))
        try:
            send(end, None)
            _answer(end, order, maps, own)
        finally:
            close([*maps.values(), *own.values()])


def _answer(end: socket.socket, order: Order, maps: Mapping[str, int], own: dict[str, int]) -> None:
    room = Room(maps, order.several_buffers, order.most_instructions)
    try:
        instance = load(room, order.wanted, own)
    except MizarError as error:
        send(end, error)
        return
    try:
        made = tuple(name for name in own if name not in order.own)
        send(end, Done(instance.instructions, made), [instance.fd, instance.next_fd, *(own[name] for name in made)])
    finally:
        instance.close()


def main() -> None:
    """Signals for a group of processes are the daemon's: this one ends with it."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    with contextlib.suppress(OSError):  # without CAP_SYS_NICE: as the daemon's thread that waits for it
        os.setpriority(os.PRIO_PROCESS, 0, _NICE)
    with socket.socket(fileno=int(sys.argv[1])) as end, contextlib.suppress(BrokenPipeError):
        with contextlib.suppress(MizarError):  # who orders something is going to be told
            lib()
        serve(end)
