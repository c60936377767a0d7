# SPDX-License-Identifier: Apache-2.0
"""Where a server may listen: parses addresses, refuses what would be open to strangers, and opens the sockets.

Called by mizar.api.serve. A unix socket (mode 0600) and loopback make every caller an administrator: a unix socket
trusts the user that it belongs to, loopback trusts every user of the machine. Any other address needs certificates.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import stat
from dataclasses import dataclass
from pathlib import Path

from mizar.model.errors import ConflictError, InvalidError, TemporaryError

DEFAULT_LISTEN = ("unix:///run/mizar/server.sock",)


@dataclass(frozen=True, slots=True)
class Listen:
    """One place: a path, or an address and port. `tls`: callers must show a certificate."""

    path: Path | None
    host: str
    port: int
    tls: bool

    def __str__(self) -> str:
        if self.path is not None:
            return f"unix://{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.tls else 'http'}://{host}:{self.port}"


def parse_listen(text: str, *, certificates: bool) -> Listen:
    """`unix:///path`, `address:port` ([v6]:port), or `https://address:port` for certificates on loopback too.

    Raises InvalidError when it is none of these, or when strangers could reach it without certificates.
    """
    if text.startswith("unix:///") and len(text) > len("unix:///"):
        return Listen(Path(text.removeprefix("unix://")), "", 0, False)
    host, colon, port = text.removeprefix("https://").rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    try:
        address = ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)
    except ValueError:
        address = None
    if not colon or address is None or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise InvalidError(f"cannot listen at {text!r}: expected unix:///path or address:port")
    tls = not address.is_loopback or text.startswith("https://")
    if tls and not certificates:
        raise InvalidError(f"cannot listen at {text}: anything but a unix socket and loopback needs --pki DIR")
    return Listen(None, str(address), int(port), tls)


def open_socket(listen: Listen) -> socket.socket:
    """A listening socket. ConflictError when another server is there, TemporaryError when the system refuses."""
    try:
        return _unix(listen.path) if listen.path is not None else _tcp(listen)
    except OSError as error:
        raise TemporaryError(f"cannot listen at {listen}: {error.strerror or error}") from error


def _unix(path: Path) -> socket.socket:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
    _remove_dead(path)
    found = socket.socket(socket.AF_UNIX)
    before = os.umask(0o177)  # the socket must never be open to others, not even for a moment
    try:
        found.bind(str(path))
    finally:
        os.umask(before)
    found.listen(1024)
    return found


def _remove_dead(path: Path) -> None:
    """Takes away a socket that a dead server left behind, and nothing else."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise InvalidError(f"cannot listen at unix://{path}: it is there already and is no socket")
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            path.unlink(missing_ok=True)
        else:
            raise ConflictError(f"another server listens at unix://{path}")


def _tcp(listen: Listen) -> socket.socket:
    family = socket.AF_INET6 if ":" in listen.host else socket.AF_INET
    found = socket.socket(family)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    found.bind((listen.host, listen.port))
    found.listen(1024)
    return found
