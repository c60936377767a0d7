# SPDX-License-Identifier: Apache-2.0
"""Where requests come in: the gRPC server on a unix socket or on TCP with mutual TLS, and the lock of an instance.

Called by the daemon. A unix socket has mode 0600 from the moment it exists. It must never take a socket away from a
process that still listens on it.
"""

import contextlib
import fcntl
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import grpc

from mizar._built import transit_pb2_grpc
from mizar.model.errors import ConflictError, InvalidError, MizarError
from mizar.transit.access import TcpListen, UnixListen, credentials
from mizar.transit.options import Options
from mizar.transit.servicer import Servicer

MAX_REQUEST_BYTES = 64 << 20
_CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_REQUEST_BYTES),
    ("grpc.so_reuseport", 0),  # two daemons on one port would each get half of the requests
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
)


@contextlib.contextmanager
def locked(options: Options) -> Iterator[None]:
    """Be the one daemon of an instance. Raises ConflictError when another one runs."""
    fd = _lock(options)
    try:
        yield
    finally:
        options.lock_file.unlink(missing_ok=True)
        os.close(fd)


def _lock(options: Options) -> int:
    path = options.lock_file
    while True:
        try:
            options.run_folder.mkdir(parents=True, exist_ok=True)
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise MizarError(f"cannot open {path}: {error.strerror}") from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(fd).st_nlink:
                return fd
        except BlockingIOError as error:
            os.close(fd)
            raise ConflictError(
                f"another daemon of instance {options.instance!r} is running; end it, or choose another --name"
            ) from error
        os.close(fd)  # its holder ended, and took the file away, between our two steps


def check_listening(options: Options) -> grpc.ServerCredentials | None:
    """What is needed to listen, checked before anything is touched; None for a unix socket."""
    listen = options.listening
    if isinstance(listen, TcpListen):
        return credentials(options.pki)
    _clear(listen.path)
    return None


def make(servicer: Servicer, options: Options) -> grpc.aio.Server:
    """A server that is bound but not started. Raises MizarError when the address cannot be had."""
    server = grpc.aio.server(options=_CHANNEL_OPTIONS)
    transit_pb2_grpc.add_TransitServicer_to_server(servicer, server)  # type: ignore[no-untyped-call,unused-ignore]
    secured = check_listening(options)
    listen = options.listening
    before = os.umask(0o177)
    try:
        if isinstance(listen, UnixListen):
            server.add_insecure_port(f"unix:{listen.path}")
        elif secured is not None:
            server.add_secure_port(listen.target, secured)
    except RuntimeError as error:
        raise MizarError(f"cannot listen on {listen}: {error}") from error
    finally:
        os.umask(before)
    return server


def remove_socket(options: Options) -> None:
    """Take the socket away."""
    listen = options.listening
    if isinstance(listen, UnixListen):
        listen.path.unlink(missing_ok=True)


def _clear(path: Path) -> None:
    """Remove a socket that nobody listens on any more."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidError(f"cannot listen on {path}: {error.strerror}; pass another --listen") from error
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise InvalidError(f"{path} is there already and is no socket; remove it, or pass another --listen")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            path.unlink(missing_ok=True)
            return
    raise ConflictError(f"another process listens on {path}; end it, or pass another --listen")
