# SPDX-License-Identifier: Apache-2.0
"""What a TLS certificate is made out for, and whether a key is its own. Called by models; it tells nothing of a key.

The library is loaded where there are certificates alone: it takes longer than all else of a command.
"""

from __future__ import annotations

from collections.abc import Set
from datetime import datetime
from functools import lru_cache


class CertificateError(ValueError):
    """What is wrong, in `field`: chain or key."""

    def __init__(self, message: str, field: str) -> None:
        super().__init__(message)
        self.field = field


def hosts_of(chain: str) -> tuple[str, ...]:
    """The names that the first certificate is made out for (RFC 6125: in subjectAltName). Raises CertificateError."""
    from cryptography import x509

    certificates = _certificates(chain)
    try:
        names = certificates[0].extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return tuple(name.lower() for name in names.get_values_for_type(x509.DNSName))
    except (x509.ExtensionNotFound, ValueError):
        return ()


def names_of(chain: str) -> frozenset[str]:
    """Names and addresses of all kinds in subjectAltName of the first certificate. Raises CertificateError."""
    from cryptography import x509

    try:
        extension = _certificates(chain)[0].extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except (x509.ExtensionNotFound, ValueError):
        return frozenset()
    return frozenset(str(getattr(name, "value", "")) for name in extension.value)


def check_chain(chain: str) -> None:
    """Raises CertificateError unless it is certificates in PEM, and nothing secret."""
    _certificates(chain)


@lru_cache(maxsize=4096)
def expires(chain: str) -> datetime | None:
    """When the first certificate of a chain ends, in UTC; None where there is none to be read."""
    try:
        end: datetime = _certificates(chain)[0].not_valid_after_utc
    except CertificateError:
        return None
    return end


def check_key(chain: str, key: str) -> None:
    """Raises CertificateError unless the key is that of the first certificate, in PEM and without a password."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization

    certificate = _certificates(chain)[0]
    try:
        private = serialization.load_pem_private_key(key.encode(), None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise CertificateError("expected a private key in PEM, without a password", "key") from error
    form = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    if private.public_key().public_bytes(*form) != certificate.public_key().public_bytes(*form):
        raise CertificateError("it is not the key of this certificate", "key")


def covers(names: Set[str], host: str) -> bool:
    """Whether one of a certificate's names stands for a host: itself, or `*.` for one label (RFC 6125 6.4.3)."""
    parent = host.partition(".")[2]
    return host in names or bool(parent and f"*.{parent}" in names)


def _certificates(chain: str):  # type: ignore[no-untyped-def] # the library is not loaded for its types
    from cryptography import x509

    try:
        found = x509.load_pem_x509_certificates(chain.encode())
    except ValueError as error:
        raise CertificateError("expected certificates in PEM, its own first", "chain") from error
    if "PRIVATE KEY" in chain:
        raise CertificateError("it holds a private key, which belongs into key", "chain")
    return found
