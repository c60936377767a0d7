# SPDX-License-Identifier: Apache-2.0
"""The certificate authority: a folder with ca.crt and ca.key, and the certificates made from them.

Called by mizar.cli.pki and tests. It never prints or returns a private key, never overwrites a file, and leaves every
key with mode 0600 in a folder with mode 0700.

ECDSA on P-256; the role and the name are in the subject (mizar.pki.identity), host names and addresses in the subject's
alternative names; server and gateway certificates may be used by both ends.
"""

from __future__ import annotations

import datetime
import hashlib
import ipaddress
import os
import socket
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from mizar.model.errors import ConflictError, InvalidError, NotFoundError
from mizar.pki.identity import ORGANISATION, Identity, Role

AUTHORITY_DAYS = 3650
CERTIFICATE_DAYS = 825
_P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
"""Of the curve's group (FIPS 186-5)."""
LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")
FIRST_CERTIFICATES = (
    (Identity(Role.SERVER, "server"), "server"),
    (Identity(Role.DAEMON, "daemon"), "daemon"),
    (Identity(Role.ADMIN, "admin"), "admin"),
    (Identity(Role.GATEWAY, "gateway"), "gateway"),
)


def initialise(directory: Path, hosts: Sequence[str] = ()) -> list[Path]:
    """Makes the authority and its first certificates (server, daemon, admin, gateway); returns the files that it made.

    Repeating it makes what is missing and touches nothing that is there. `hosts` (names and addresses) go into the
    server's and the daemon's certificates next to this machine's name and loopback. ConflictError when half of a pair
    is missing, because the other half would have to be overwritten.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise InvalidError(f"{directory} cannot be made: {error.strerror}") from error
    made: list[Path] = []
    if not _pair_exists(directory, "ca"):
        key = ec.generate_private_key(ec.SECP256R1())
        made += _write_pair(directory, "ca", key, _authority_certificate(key))
    for identity, stem in FIRST_CERTIFICATES:
        if not _pair_exists(directory, stem):
            made += issue(directory, identity, (*_own_hosts(), *hosts), stem=stem)
    return made


def share(directory: Path, secret: bytes, identity: Identity, hosts: Sequence[str]) -> None:
    """The authority that all who know a secret have alike, and a certificate of it, as DIRECTORY/ROLE.crt and .key.

    Its own certificate, and so `ca.crt`, differs from one to the other in nothing that matters: the key is the same.
    `ca.key` is not left. A folder that has them already stays as it is.
    """
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    if all((directory / name).exists() for name in ("ca.crt", f"{identity.role}.crt", f"{identity.role}.key")):
        return
    for file in directory.iterdir():
        file.unlink()
    number = int.from_bytes(hashlib.sha512(b"mizar authority" + secret).digest())
    key = ec.derive_private_key(number % (_P256_ORDER - 1) + 1, ec.SECP256R1())
    _write_pair(directory, "ca", key, _authority_certificate(key))
    issue(directory, identity, hosts, stem=identity.role, days=AUTHORITY_DAYS)
    (directory / "ca.key").unlink()


def issue(
    directory: Path,
    identity: Identity,
    hosts: Sequence[str] = (),
    stem: str | None = None,
    days: int = CERTIFICATE_DAYS,
) -> list[Path]:
    """Issues one more certificate as DIRECTORY/STEM.crt and .key (stem: ROLE-NAME); returns the two files.

    `hosts` are the names and addresses, next to the identity's own name, at which a server or daemon may be reached.
    NotFoundError when there is no authority yet, ConflictError when the certificate is there already.
    """
    stem = stem or f"{identity.role}-{identity.name}"
    if not _pair_exists(directory, "ca"):
        raise NotFoundError(f"{directory} holds no certificate authority; make one with `mizar pki init {directory}`")
    if _pair_exists(directory, stem):
        raise ConflictError(f"{directory / stem}.crt is there already; choose another name or remove it")
    authority = x509.load_pem_x509_certificate((directory / "ca.crt").read_bytes())
    authority_key = serialization.load_pem_private_key((directory / "ca.key").read_bytes(), None)
    if not isinstance(authority_key, ec.EllipticCurvePrivateKey):
        raise InvalidError(f"{directory / 'ca.key'} is no ECDSA key")
    key = ec.generate_private_key(ec.SECP256R1())
    builder = _builder(identity.subject, authority.subject, key.public_key(), days)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_key_usage(sign_certificates=False), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage(_purposes(identity.role)), critical=False)
    builder = builder.add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False
    )
    if identity.role in (Role.SERVER, Role.DAEMON, Role.GATEWAY):
        names = [_alternative_name(host) for host in dict.fromkeys((identity.name, *hosts))]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return _write_pair(directory, stem, key, builder.sign(authority_key, hashes.SHA256()))


def _purposes(role: Role) -> list[x509.ObjectIdentifier]:
    """A daemon only serves; the server also calls daemons, a gateway another one; the others only call."""
    if role is Role.DAEMON:
        return [ExtendedKeyUsageOID.SERVER_AUTH]
    if role in (Role.SERVER, Role.GATEWAY):
        return [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    return [ExtendedKeyUsageOID.CLIENT_AUTH]


def _own_hosts() -> tuple[str, ...]:
    name = socket.gethostname().lower()
    return (*LOCAL_HOSTS, name) if name and name.isascii() else LOCAL_HOSTS


def _alternative_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:
        return x509.DNSName(host)
    except ValueError as error:
        raise InvalidError(f"{host!r} is neither a host name nor an address") from error


def _builder(
    subject: x509.Name, issuer: x509.Name, public_key: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _authority_certificate(key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, ORGANISATION),
            x509.NameAttribute(NameOID.COMMON_NAME, "Mizar certificate authority"),
        ]
    )
    builder = _builder(subject, subject, key.public_key(), AUTHORITY_DAYS)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    return builder.add_extension(_key_usage(sign_certificates=True), critical=True).sign(key, hashes.SHA256())


def _key_usage(*, sign_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not sign_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _pair_exists(directory: Path, stem: str) -> bool:
    certificate, key = directory / f"{stem}.crt", directory / f"{stem}.key"
    if certificate.exists() != key.exists():
        there, missing = (certificate, key) if certificate.exists() else (key, certificate)
        raise ConflictError(f"{there} is there but {missing.name} is not; remove it or bring back the other half")
    return certificate.exists()


def _write_pair(
    directory: Path, stem: str, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate
) -> list[Path]:
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = certificate.public_bytes(serialization.Encoding.PEM)
    paths = [directory / f"{stem}.key", directory / f"{stem}.crt"]
    for path, content, mode in ((paths[0], secret, 0o600), (paths[1], public, 0o644)):
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        except FileExistsError as error:
            raise ConflictError(f"{path} is there already") from error
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
    return paths
