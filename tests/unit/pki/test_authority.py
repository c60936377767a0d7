# SPDX-License-Identifier: Apache-2.0
"""The certificate authority: what it makes, what it never overwrites, and who a certificate says its holder is."""

from __future__ import annotations

import contextlib
import ipaddress
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from typer.testing import CliRunner

from mizar.cli.pki import app
from mizar.gateway.replication import trust
from mizar.model.errors import ConflictError, InvalidError, NotFoundError
from mizar.pki import authority
from mizar.pki.authority import initialise, issue
from mizar.pki.identity import Identity, Role, identity_of


def load(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def test_init_makes_all_and_repeating_changes_nothing(tmp_path: Path) -> None:
    """Ten files; the second time none is touched."""
    made = initialise(tmp_path / "pki")
    assert {path.name for path in made} == {
        f"{s}.{e}" for s in ("ca", "server", "daemon", "admin", "gateway") for e in ("crt", "key")
    }
    before = {path: path.read_bytes() for path in made}
    assert initialise(tmp_path / "pki") == []
    assert {path: path.read_bytes() for path in made} == before


def test_init_completes_what_is_missing(tmp_path: Path) -> None:
    """A whole pair that is missing is made anew from the same authority."""
    initialise(tmp_path)
    authority = (tmp_path / "ca.crt").read_bytes()
    for name in ("admin.crt", "admin.key"):
        (tmp_path / name).unlink()
    assert {path.name for path in initialise(tmp_path)} == {"admin.crt", "admin.key"}
    assert (tmp_path / "ca.crt").read_bytes() == authority


@pytest.mark.parametrize("half", ["ca.key", "ca.crt", "server.key"])
def test_half_a_pair_is_a_conflict(tmp_path: Path, half: str) -> None:
    """Nothing is overwritten to make a pair whole."""
    initialise(tmp_path)
    (tmp_path / half).unlink()
    with pytest.raises(ConflictError, match="is there but"):
        initialise(tmp_path)


def test_keys_are_the_owners_alone(tmp_path: Path) -> None:
    """Keys have mode 0600, certificates can be read, the folder is 0700."""
    made = initialise(tmp_path / "pki")
    modes = {path.stat().st_mode & 0o777 for path in made if path.suffix == ".key"}
    assert modes == {0o600}
    assert (tmp_path / "pki").stat().st_mode & 0o777 == 0o700


def test_certificates_are_what_they_should_be(tmp_path: Path) -> None:
    """ECDSA P-256, signed by the authority, with names, addresses and purposes of their role."""
    initialise(tmp_path, ["10.0.0.1", "server.example"])
    authority, server = load(tmp_path / "ca.crt"), load(tmp_path / "server.crt")
    server.verify_directly_issued_by(authority)
    key = server.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert isinstance(key.curve, ec.SECP256R1)
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert ipaddress.ip_address("10.0.0.1") in names.get_values_for_type(x509.IPAddress)
    assert {"localhost", "server.example"} <= set(names.get_values_for_type(x509.DNSName))
    assert not server.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    purposes = {
        role: set(load(tmp_path / f"{role}.crt").extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
        for role in ("daemon", "admin")
    }
    # A daemon can only be called, an administrator can only call: neither can pass for the other.
    assert purposes == {"daemon": {ExtendedKeyUsageOID.SERVER_AUTH}, "admin": {ExtendedKeyUsageOID.CLIENT_AUTH}}


def test_identity_travels_in_the_subject(tmp_path: Path) -> None:
    """Role and name come back from the certificate."""
    initialise(tmp_path)
    key, certificate = issue(tmp_path, Identity(Role.TENANT, "red"))
    assert (key.name, certificate.name) == ("tenant-red.key", "tenant-red.crt")
    assert identity_of(load(certificate).subject) == Identity(Role.TENANT, "red")
    with pytest.raises(ConflictError, match="there already"):
        issue(tmp_path, Identity(Role.TENANT, "red"))


@pytest.mark.parametrize("name", ["", "Red", "../evil", "a b", "red,OU=admin", "x" * 64])
def test_a_name_that_could_be_misread_is_refused(name: str) -> None:
    """It goes into file names and subjects."""
    with pytest.raises(InvalidError):
        Identity(Role.TENANT, name)


@pytest.mark.parametrize(
    "parts",
    [
        [(NameOID.COMMON_NAME, "admin")],
        [(NameOID.ORGANIZATION_NAME, "Other"), (NameOID.ORGANIZATIONAL_UNIT_NAME, "admin"), (NameOID.COMMON_NAME, "a")],
        [(NameOID.ORGANIZATION_NAME, "Mizar"), (NameOID.ORGANIZATIONAL_UNIT_NAME, "king"), (NameOID.COMMON_NAME, "a")],
        [
            (NameOID.ORGANIZATION_NAME, "Mizar"),
            (NameOID.ORGANIZATIONAL_UNIT_NAME, "tenant"),
            (NameOID.ORGANIZATIONAL_UNIT_NAME, "admin"),
            (NameOID.COMMON_NAME, "a"),
        ],
    ],
)
def test_other_subjects_say_nothing(parts: list[tuple[x509.ObjectIdentifier, str]]) -> None:
    """A subject that is not exactly ours names nobody, even when it was signed by our authority."""
    with pytest.raises(InvalidError):
        identity_of(x509.Name([x509.NameAttribute(oid, value) for oid, value in parts]))


def test_issue_needs_an_authority(tmp_path: Path) -> None:
    """And says how to make one."""
    with pytest.raises(NotFoundError, match="mizar pki init"):
        issue(tmp_path, Identity(Role.ADMIN, "me"))


def test_the_command_prints_names_and_never_keys(tmp_path: Path) -> None:
    """Output names the files; a key is only in its file."""
    first = CliRunner().invoke(app, ["init", str(tmp_path / "pki"), "--host", "10.0.0.1"])
    second = CliRunner().invoke(app, ["issue", str(tmp_path / "pki"), "--role", "tenant", "--name", "red"])
    assert (first.exit_code, second.exit_code) == (0, 0)
    assert "PRIVATE" not in first.output + second.output
    assert str(tmp_path / "pki" / "tenant-red.crt") in second.output


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InvalidError, match="cannot be made"):
        initialise(tmp_path / "file" / "pki")


def handshake(server: Path, client: Path, host: str) -> None:
    """As two gateways of a pair do it, without a network."""
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        trust.leading(server).wrap_bio(there, back, server_side=True),
        trust.following(client).wrap_bio(back, there, server_hostname=host),
    ]
    for _ in range(6):
        for end in ends:
            with contextlib.suppress(ssl.SSLWantReadError):
                end.do_handshake()
    for end in ends:
        trust.check_peer(end)
    with contextlib.suppress(ssl.SSLWantReadError):
        ends[1].read(1)  # what the server thinks of the client's certificate


def test_who_knows_a_secret_knows_whoever_else_does_and_nobody_who_does_not(tmp_path: Path) -> None:
    """Each makes its certificates for itself; the authority's key is left nowhere, and what is there stays."""
    folders = [tmp_path / name for name in ("one", "two", "stranger")]
    addresses = ["10.0.0.1", "10.0.0.2", "10.0.0.2"]
    for folder, secret, address in zip(folders, (b"a" * 32, b"a" * 32, b"b" * 32), addresses, strict=True):
        authority.share(folder, secret, Identity(Role.GATEWAY, "nat"), [address])
        assert {one.name for one in folder.iterdir()} == {"ca.crt", "gateway.crt", "gateway.key"}
        assert (folder.stat().st_mode & 0o777, (folder / "gateway.key").stat().st_mode & 0o777) == (0o700, 0o600)
    one, two, stranger = folders
    before = (one / "gateway.crt").read_bytes()
    authority.share(one, b"a" * 32, Identity(Role.GATEWAY, "nat"), ["10.0.0.1"])
    assert (one / "gateway.crt").read_bytes() == before
    handshake(one, two, "10.0.0.1")
    handshake(two, one, "10.0.0.2")
    for server, client, host in ((one, stranger, "10.0.0.1"), (stranger, one, "10.0.0.2"), (one, two, "10.0.0.2")):
        with pytest.raises(ssl.SSLError):
            handshake(server, client, host)
