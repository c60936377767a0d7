# SPDX-License-Identifier: Apache-2.0
"""Whom a gateway tells, and whom it believes: holders of a gateway's certificate of the same authority (mizar.pki)."""

from __future__ import annotations

import ssl
from pathlib import Path

from cryptography import x509

from mizar.model.errors import InvalidError
from mizar.pki.identity import Role, identity_of

_FILES = ("ca.crt", "gateway.crt", "gateway.key")


def leading(directory: Path) -> ssl.SSLContext:
    """For who listens. Raises InvalidError when certificates are missing or damaged."""
    return _context(directory, ssl.PROTOCOL_TLS_SERVER)


def following(directory: Path) -> ssl.SSLContext:
    """For who connects: the certificate has to be for the address too. Raises InvalidError."""
    return _context(directory, ssl.PROTOCOL_TLS_CLIENT)


def check_peer(ssl_object: ssl.SSLObject | ssl.SSLSocket | None) -> None:
    """Raises InvalidError unless the other end's certificate, which TLS has checked, is a gateway's."""
    certificate = ssl_object.getpeercert(binary_form=True) if ssl_object is not None else None
    if not certificate:
        raise InvalidError("the other gateway has shown no certificate")
    identity = identity_of(x509.load_der_x509_certificate(certificate).subject)
    if identity.role is not Role.GATEWAY:
        raise InvalidError(f"expected a gateway's certificate, the other end's is of {identity.role} {identity.name}")


def _context(directory: Path, protocol: int) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    authority, certificate, key = (directory / name for name in _FILES)
    try:
        context.load_verify_locations(authority)
        context.load_cert_chain(certificate, key)
    except FileNotFoundError as error:
        raise InvalidError(
            f"{directory} lacks one of {', '.join(_FILES)}, which replication needs; `mizar pki init` makes them"
        ) from error
    except (OSError, ssl.SSLError) as error:
        raise InvalidError(f"the certificates in {directory} cannot be used: {error}") from error
    return context
