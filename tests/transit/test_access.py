# SPDX-License-Identifier: Apache-2.0
"""Who may call: the mode of the socket, mutual TLS on TCP, and the role that a certificate names."""

import datetime
import signal
import stat
import subprocess
import sys
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from mizar.pki.authority import initialise, issue
from mizar.pki.identity import Identity, Role
from tests.transit.rig import Droplet, Rig, until

TARGET = "172.30.9.1:7443"

# gRPC opens sockets on threads of its own, so a caller in another namespace is another process.
ASK = """
import sys, pathlib, grpc
from mizar._built import transit_pb2 as pb, transit_pb2_grpc
target, folder, stem = sys.argv[1:]
if stem == "plain":
    channel = grpc.insecure_channel(target)
else:
    read = lambda name: (pathlib.Path(folder) / name).read_bytes()
    own = (read(stem + ".key"), read(stem + ".crt")) if stem != "nobody" else (None, None)
    channel = grpc.secure_channel(target, grpc.ssl_channel_credentials(read("ca.crt"), *own))
try:
    print(transit_pb2_grpc.TransitStub(channel).GetInfo(pb.GetInfoRequest(), timeout=20).interface)
except grpc.RpcError as error:
    print(error.code().name)
"""


def ask(droplet: Droplet, folder: Path, stem: str) -> str:
    """What a caller with a certificate gets: the interface's name, or a status."""
    command = ["nsenter", f"--net=/run/netns/{droplet.namespace}", sys.executable, "-c", ASK, TARGET, str(folder), stem]
    found = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return found.stdout.strip()


def test_tcp_takes_servers_and_admins_only(made: Rig, tmp_path: Path) -> None:
    """Others of the same authority are denied; without a certificate, or with another authority's, there is no call."""
    folder, stranger = tmp_path / "pki", tmp_path / "stranger"
    initialise(folder, ["172.30.9.1"])
    initialise(stranger, ["172.30.9.1"])
    issue(folder, Identity(Role.TENANT, "blue"))
    (stranger / "ca.crt").write_bytes((folder / "ca.crt").read_bytes())
    one = made.add_droplet()
    arguments = [*one.command()[:6], "--interface", "sub0", "--name", one.name, "--listen", TARGET]
    with one.log.open("ab") as log:
        one.process = subprocess.Popen([*arguments, "--pki", str(folder)], stdout=log, stderr=log)
    until(lambda: "listening" in one.log.read_text(), "the daemon listens")
    assert ask(one, folder, "server") == "sub0"
    assert ask(one, folder, "admin") == "sub0"
    assert ask(one, folder, "tenant-blue") == "PERMISSION_DENIED"
    assert ask(one, folder, "daemon") == "UNAVAILABLE", "its certificate is for servers, not for callers"
    assert ask(one, folder, "nobody") == "UNAVAILABLE"
    assert ask(one, folder, "plain") == "UNAVAILABLE"
    assert ask(one, stranger, "admin") == "UNAVAILABLE"


def sign(folder: Path, stem: str, subject: x509.Name, days: int) -> None:
    """A certificate of the folder's authority whose time is over in `days`; the key as well."""
    authority = x509.load_pem_x509_certificate((folder / "ca.crt").read_bytes())
    signer = serialization.load_pem_private_key((folder / "ca.key").read_bytes(), None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    key, end = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.UTC) + datetime.timedelta(days)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(authority.subject)
    builder = builder.public_key(key.public_key()).serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(end - datetime.timedelta(30)).not_valid_after(end)
    (folder / f"{stem}.crt").write_bytes(builder.sign(signer, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    form, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (folder / f"{stem}.key").write_bytes(key.private_bytes(serialization.Encoding.PEM, form, plain))


def test_tcp_refuses_what_is_expired_or_foreign_or_without_a_role(made: Rig, tmp_path: Path) -> None:
    """An administrator's certificate that ended yesterday, one of another authority, and one that names nobody."""
    folder, stranger = tmp_path / "pki", tmp_path / "stranger"
    initialise(folder, ["172.30.9.1"])
    initialise(stranger, ["172.30.9.1"])
    sign(folder, "expired", Identity(Role.ADMIN, "admin").subject, -1)
    sign(folder, "valid", Identity(Role.ADMIN, "admin").subject, 1)
    sign(folder, "anybody", x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "admin")]), 1)
    one = made.add_droplet()
    arguments = [*one.command()[:6], "--interface", "sub0", "--name", one.name, "--listen", TARGET]
    with one.log.open("ab") as log:
        one.process = subprocess.Popen([*arguments, "--pki", str(folder)], stdout=log, stderr=log)
    until(lambda: "listening" in one.log.read_text(), "the daemon listens")
    assert ask(one, folder, "valid") == "sub0"
    assert ask(one, folder, "expired") == "UNAVAILABLE"
    assert ask(one, folder, "anybody") == "PERMISSION_DENIED"
    assert ask(one, stranger, "admin") == "UNAVAILABLE", "neither believes the other"


def test_socket_belongs_to_its_owner(made: Rig) -> None:
    """Mode 0600, also when a killed daemon left a socket behind; a file that is no socket is left alone."""
    one = made.add_droplet()
    one.start()
    assert stat.S_IMODE(one.socket.stat().st_mode) == 0o600
    one.stop(signal.SIGKILL)
    assert one.socket.exists()
    one.start()
    assert stat.S_IMODE(one.socket.stat().st_mode) == 0o600
    one.stop()
    one.socket.write_text("mine")
    found = subprocess.run(one.command(), capture_output=True, text=True, timeout=20, check=False)
    assert found.returncode == 1
    assert "is no socket" in " ".join(found.stderr.split())
    assert one.socket.read_text() == "mine"
    one.socket.unlink()
