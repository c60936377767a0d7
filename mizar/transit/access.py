# SPDX-License-Identifier: Apache-2.0
"""Who may speak to a daemon: how it listens, and whose certificate it accepts.

Called by the server and the servicer. On a unix socket the file's mode decides (0600: the daemon's user); over TCP
mutual TLS does, and of all holders of a certificate of the same authority only servers and administrators may call.
"""

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import grpc
from cryptography import x509

from mizar.model.errors import InvalidError
from mizar.pki.identity import Role, identity_of
from mizar.transit.errors import DeniedError

_ALLOWED = frozenset({Role.SERVER, Role.ADMIN})
_FILES = ("ca.crt", "daemon.crt", "daemon.key")


@dataclass(frozen=True, slots=True)
class UnixListen:
    """A unix socket."""

    path: Path

    def __str__(self) -> str:
        return f"unix://{self.path}"


@dataclass(frozen=True, slots=True)
class TcpListen:
    """A TCP address, `host:port` as gRPC writes it."""

    target: str

    def __str__(self) -> str:
        return self.target


def parse_listen(text: str) -> UnixListen | TcpListen:
    """`unix:///path` or `host:port` ([v6]:port). Raises InvalidError."""
    if text.startswith("unix://"):
        path = Path(text.removeprefix("unix://"))
        if not path.is_absolute() or len(str(path).encode()) > 107:  # sockaddr_un.sun_path holds 108 with the zero
            raise InvalidError(f"{text!r} is no socket: expected unix:///absolute/path of at most 107 bytes")
        return UnixListen(path)
    host, colon, port = text.rpartition(":")
    if not colon or not host or not (port.isascii() and port.isdecimal()) or not 0 <= int(port) <= 65535:
        raise InvalidError(f"{text!r} is no address to listen on: expected unix:///path or host:port")
    if ":" in host:
        try:
            ipaddress.IPv6Address(host.removeprefix("[").removesuffix("]"))
        except ValueError as error:
            raise InvalidError(f"{text!r} is no address to listen on: expected [IPv6]:port") from error
    return TcpListen(text)


def credentials(directory: Path | None) -> grpc.ServerCredentials:
    """The daemon's side of mutual TLS. Raises InvalidError, in one sentence, when certificates are missing."""
    if directory is None:
        raise InvalidError(
            "listening on TCP needs certificates: make them by `mizar pki init DIR` and pass --pki DIR, "
            "or listen on a unix socket"
        )
    try:
        authority, certificate, key = [(directory / name).read_bytes() for name in _FILES]
        x509.load_pem_x509_certificate(authority)
        x509.load_pem_x509_certificate(certificate)
    except OSError as error:
        raise InvalidError(
            f"cannot read {error.filename}: {error.strerror}; a daemon needs {', '.join(_FILES)} in {directory}, "
            "as `mizar pki init` makes them"
        ) from error
    except ValueError as error:
        raise InvalidError(f"a certificate in {directory} is damaged: {error}") from error
    return grpc.ssl_server_credentials([(key, certificate)], root_certificates=authority, require_client_auth=True)


def check_peer(context: Mapping[str, Iterable[bytes]]) -> None:
    """Raise DeniedError unless the caller's certificate is a server's or an administrator's.

    `context` is gRPC's authentication context; without TLS it has no certificate, and the socket's mode has decided.
    """
    if b"ssl" not in list(context.get("transport_security_type", ())):
        return
    try:
        pem = next(iter(context["x509_pem_cert"]))
        identity = identity_of(x509.load_pem_x509_certificate(pem).subject)
    except (KeyError, StopIteration, ValueError, InvalidError) as error:
        raise DeniedError("the caller's certificate does not say who holds it; use one of `mizar pki issue`") from error
    if identity.role not in _ALLOWED:
        raise DeniedError(
            f"{identity.role} {identity.name} may not program a droplet; use the certificate of a server or an admin"
        )
