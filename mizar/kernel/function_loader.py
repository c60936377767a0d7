# SPDX-License-Identifier: Apache-2.0
"""Functions loaded by another process: one that a fault of the kernel's verifier may end, in place of the daemon.

Some kernels end whoever loads certain programs (6.18: a NULL pointer in maybe_fork_scalars, when too many branches
depend on data), or never return. Owns that process, its time, and which objects it has died of: those are not tried
again. Called by the daemon's functions, from one thread at a time. It must never blame a function for a process that
died before it had begun to load.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence

from mizar.kernel.function_loader_process import Done, GoneError, Order, close, receive, send
from mizar.kernel.functions import Instance, Room, Wanted
from mizar.model.errors import InvalidError, MizarError, TemporaryError
from mizar.model.function_object import OF_THE_PLATFORM

LIMIT_S = 20.0
"""How long one program may take: the verifier gives up at a million instructions, a second's work."""
PROGRAM = (sys.executable, "-P", "-c", "from mizar.kernel.function_loader_process import main; main()")
_START_S, _END_S = 20.0, 1.0
_KEPT = ("LD_LIBRARY_PATH", "PYTHONPATH", "VIRTUAL_ENV")
_ADVICE = (
    "it is not tried again here until it has changed, or the daemon starts anew: let fewer of its branches depend on "
    "what packets hold, or use another kernel (the kernel's log tells more)"
)


class FunctionLoader:
    """The process that loads, and the socket to it. `program`: what to run, but for the socket's number."""

    def __init__(self, program: Sequence[str] = PROGRAM, limit_s: float = LIMIT_S) -> None:
        self._program, self._limit_s = program, limit_s
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._end: socket.socket | None = None
        self._lingering: list[subprocess.Popen[bytes]] = []
        self._refused: dict[str, str] = {}
        self._closed = False

    @property
    def pid(self) -> int:
        """Of the process; 0: there is none."""
        return self._process.pid if self._process is not None else 0

    def start(self) -> None:
        """Has the process there before it is needed: that takes longer than to load something. Raises
        TemporaryError."""
        with self._lock:
            self._ready()

    def load(self, room: Room, wanted: Wanted, own: dict[str, int]) -> Instance:
        """functions.load(), elsewhere. Raises InvalidError also for what has ended the process that loaded it, and
        TemporaryError when there is no such process."""
        if wanted.digest in self._refused:
            raise InvalidError(f"function {wanted.name}: {self._refused[wanted.digest]}")
        shared = {name: room.maps[name] for name in (*wanted.shared, *OF_THE_PLATFORM) if name in room.maps}
        order = Order(wanted, room.several_buffers, room.most_instructions, tuple(shared), tuple(own))
        with self._lock:
            end = self._begun(order, [*shared.values(), *own.values()])
            try:
                answer, descriptors = receive(end)
            except (GoneError, ConnectionError, TimeoutError) as error:
                raise self._blamed(wanted, stuck=isinstance(error, TimeoutError)) from error
            except BaseException:  # the answer to an order must not be taken for the answer to the next one
                self._ended(kill=True)
                raise
        if isinstance(answer, MizarError):
            raise answer
        assert isinstance(answer, Done)
        fd, next_fd, *made = descriptors
        own |= dict(zip(answer.made, made, strict=True))
        return Instance(wanted.place, fd, next_fd, answer.instructions)

    def _begun(self, order: Order, descriptors: Sequence[int]) -> socket.socket:
        """Gives the order; the process is about to load. One that died before is replaced once."""
        how = ""
        for _ in range(2):
            end = self._ready()
            try:
                end.settimeout(_START_S)
                send(end, order, descriptors)
                close(receive(end)[1])
            except (GoneError, ConnectionError):
                how = _how(self._ended(kill=False))
            except (MizarError, OSError) as error:
                self._ended(kill=True)
                how = str(error)
            else:
                end.settimeout(self._limit_s)
                return end
        raise TemporaryError(f"{order.wanted} cannot be loaded: the process that loads functions ended: {how}")

    def _blamed(self, wanted: Wanted, *, stuck: bool) -> InvalidError:
        code = self._ended(kill=stuck)
        if stuck:
            why = f"the kernel's verifier did not come to an end within {self._limit_s:g} s"
        elif code is None or code < 0:
            why = f"the kernel's verifier ended the process that loaded it: {_how(code)}"
        else:
            return InvalidError(f"{wanted}: the process that loaded it ended: {_how(code)}")
        if not self._closed:
            self._refused[wanted.digest] = f"{why}; {_ADVICE}"
            with contextlib.suppress(TemporaryError):  # whoever orders next is told
                self._ready()
        return InvalidError(f"{wanted}: {why}; {_ADVICE}")

    def _ready(self) -> socket.socket:
        """The socket to the process, which is started where there is none."""
        self._lingering = [one for one in self._lingering if one.poll() is None]
        if self._closed:
            raise TemporaryError("no function can be loaded: the daemon ends")
        if self._end is not None and self._process is not None and self._process.poll() is None:
            return self._end
        self._ended(kill=False)
        try:
            mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        except OSError as error:
            raise TemporaryError(f"the process that loads functions cannot be reached: {error.strerror}") from error
        with theirs:
            number = theirs.fileno()
            try:
                self._process = subprocess.Popen(  # noqa: S603 - this Python, our own program
                    [*self._program, str(number)],
                    stdin=subprocess.DEVNULL,
                    env={name: os.environ[name] for name in _KEPT if name in os.environ},
                    start_new_session=True,
                    pass_fds=(number,),
                )
            except OSError as error:
                mine.close()
                raise TemporaryError(f"the process that loads functions cannot be started: {error.strerror}") from error
        self._end = mine
        return mine

    def _ended(self, *, kill: bool) -> int | None:
        """Lets go of the process; what it ended with. None: there is none, or it cannot be ended, and is left to the
        kernel."""
        process, end, self._process, self._end = self._process, self._end, None, None
        if end is not None:
            end.close()
        if process is None:
            return None
        if kill:
            process.kill()
        try:
            return process.wait(_END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            self._lingering.append(process)
            return None

    def close(self) -> None:
        """Ends the process, whatever it does; whoever waits for it is told. May be called twice."""
        self._closed = True
        process = self._process
        if process is not None:
            process.kill()
        with self._lock:
            self._ended(kill=True)


def _how(code: int | None) -> str:
    if code is None:
        return "the kernel does not let go of it"
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
