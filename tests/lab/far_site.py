# SPDX-License-Identifier: Apache-2.0
"""A site outside of all VPCs: a gateway on a substrate with wireguard-go or strongSwan, and a host in a LAN behind it.

Nothing of it is Mizar's: ip(8), wg(8) and swanctl(8) configure it, as a stranger would. Its namespaces bear the lab's
name.
"""

from __future__ import annotations

import socket
import subprocess
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self

import vici
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from mizar.lab.names import LabName
from tests.lab.conftest import wait_until

ADDRESS = "172.31.0.200"
LAN = {4: "192.168.50.0/24", 6: "fd50::/64"}
HOST = {4: "192.168.50.10", 6: "fd50::10"}
_PLUGINS = (
    "random nonce aes sha1 sha2 hmac kdf gcm gmp openssl pem pkcs1 pkcs8 x509 pubkey constraints socket-default "
    "kernel-libipsec kernel-netlink vici"
)
GREEN = {4: "10.0.0.0/16", 6: "fd00:10::/48"}


def key() -> tuple[str, str]:
    """A private key and its public one."""
    private = subprocess.run(["wg", "genkey"], capture_output=True, check=True, text=True).stdout.strip()
    public = subprocess.run(["wg", "pubkey"], input=private, capture_output=True, check=True, text=True).stdout.strip()
    return private, public


def signed(*names: str) -> tuple[str, dict[str, tuple[str, str]]]:
    """An authority's certificate, and for each name a certificate that it signed with its key, all in PEM."""
    now = datetime.now(UTC)
    pem = serialization.Encoding.PEM
    top = ec.generate_private_key(ec.SECP256R1())
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority")])

    def made(name: str, key: ec.EllipticCurvePrivateKey) -> str:
        own = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = (
            x509.CertificateBuilder().subject_name(own if key is not top else issuer).issuer_name(issuer)
            .public_key(key.public_key()).serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=key is top, path_length=None), True)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), False)
        )  # fmt: skip
        return builder.sign(top, hashes.SHA256()).public_bytes(pem).decode()

    found = {}
    for name in names:
        key = ec.generate_private_key(ec.SECP256R1())
        secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        found[name] = made(name, key), secret.decode()
    return made("authority", top), found


class Site:
    """The gateway and the host behind it, up for the length of a `with` block."""

    def __init__(self, lab: LabName, number: int = 0) -> None:
        """`number`: of several sites; the first one has the addresses above."""
        self.name = f"far{number or ''}"
        self.gateway, self.host = f"{lab.namespace_prefix}{self.name}", f"{lab.namespace_prefix}{self.name}-host"
        self.lab = lab
        self.addresses = {4: f"172.31.0.{200 + number}", 6: f"fd31::{200 + number}"}
        self.lan = {4: f"192.168.{50 + number}.0/24", 6: f"fd{50 + number}::/64"}
        self.hosts = {4: f"192.168.{50 + number}.10", 6: f"fd{50 + number}::10"}
        self._router = {4: f"192.168.{50 + number}.1", 6: f"fd{50 + number}::1"}
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        substrate = self.lab.substrate_namespace
        for name in (self.gateway, self.host):
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
        ip("-n", substrate, "link", "add", self.name, "type", "veth", "peer", "name", "wan", "netns", self.gateway)
        ip("-n", substrate, "link", "set", self.name, "master", "bridge", "up")
        ip("-n", self.gateway, "link", "add", "lan", "type", "veth", "peer", "name", "lan", "netns", self.host)
        ip("-n", self.gateway, "addr", "add", f"{self.addresses[4]}/24", "dev", "wan")
        ip("-n", self.gateway, "addr", "add", f"{self.addresses[6]}/64", "dev", "wan", "nodad")
        for name, link in ((self.gateway, "wan"), (self.gateway, "lan"), (self.host, "lan")):
            ip("-n", name, "link", "set", link, "up")
        for family, length in ((4, 24), (6, 64)):
            ip("-n", self.gateway, "addr", "add", f"{self._router[family]}/{length}", "dev", "lan", *_quick(family))
            ip("-n", self.host, "addr", "add", f"{self.hosts[family]}/{length}", "dev", "lan", *_quick(family))
            ip("-n", self.host, f"-{family}", "route", "add", "default", "via", self._router[family])
        for switch in ("net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"):
            subprocess.run([*inside(self.gateway), "sysctl", "-qw", switch], check=True)
        self.begin()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def begin(self) -> None:
        """Start what encrypts."""

    def stop(self) -> None:
        """End what encrypts."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(10)
            self._process = None

    def run(self, *words: str, socket: Path) -> None:
        """Start a program in the gateway, and wait for its socket."""
        argv = [*inside(self.gateway), *words]
        self._process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_until(socket.exists)


class FarSite(Site):
    """With wireguard-go."""

    def __init__(self, lab: LabName, port: int = 51999, number: int = 0) -> None:
        super().__init__(lab, number)
        self.port = port
        self.private, self.public = key()
        self._device = f"{self.name}{lab.name.replace('-', '')[-10:]}"

    def begin(self) -> None:
        """It listens when it is configured."""
        self.run("wireguard-go", "-f", self._device, socket=Path(f"/var/run/wireguard/{self._device}.sock"))

    def configure(self, public: str, preshared: str = "", endpoint: str = "", keepalive_s: int = 0) -> None:
        """Its peer, and the way to it."""
        text = f"[Interface]\nPrivateKey={self.private}\nListenPort={self.port}\n[Peer]\nPublicKey={public}\n"
        text += f"AllowedIPs={GREEN[4]},{GREEN[6]}\n"
        text += f"PresharedKey={preshared}\n" if preshared else ""
        text += f"Endpoint={endpoint}\n" if endpoint else ""
        text += f"PersistentKeepalive={keepalive_s}\n" if keepalive_s else ""
        with tempfile.NamedTemporaryFile("w") as file:
            file.write(text)
            file.flush()
            subprocess.run([*inside(self.gateway), "wg", "setconf", self._device, file.name], check=True)
        ip("-n", self.gateway, "link", "set", self._device, "mtu", "1420", "up")
        for family in (4, 6):
            ip("-n", self.gateway, f"-{family}", "route", "replace", GREEN[family], "dev", self._device)


class FarStrongswan(Site):
    """With strongSwan, its own user-space ESP, and swanctl(8)."""

    def __init__(
        self,
        lab: LabName,
        folder: Path,
        psk: str,
        rekey_s: int = 3600,
        number: int = 0,
        proof: tuple[str, str, str] | None = None,
        begins: tuple[str, int] | None = None,
    ) -> None:
        """`proof`: instead of the key, its certificate, that one's key, and who signs the other side's, in PEM.
        `begins`: where the other side is, to whom it speaks first, by ESP in UDP from the start."""
        super().__init__(lab, number)
        self._folder = folder
        self.psk = psk
        self._rekey_s = rekey_s
        self._proof = proof
        self._begins = begins

    def begin(self) -> None:
        """It waits for its peer."""
        vici = self._folder / "far.sock"
        conf = self._folder / "far.conf"
        conf.write_text(
            f"charon-systemd {{\n load = {_PLUGINS}\n plugins {{ vici {{ socket = unix://{vici} }} }}\n"
            f" filelog {{ f {{ path = {self._folder / 'far.log'}\n flush_line = yes\n default = 1\n }} }}\n}}\n"
        )
        self.run("env", f"STRONGSWAN_CONF={conf}", "charon-systemd", socket=vici)
        self.load()

    def load(self) -> None:
        """Its connection, and the key."""
        start, to = "", "remote_addrs = %any"
        if self._begins is not None:
            start = "start_action = start\n close_action = start\n"
            to = f"remote_addrs = {self._begins[0]}\n remote_port = {self._begins[1]}\n"
            to += " local_port = 4500\n keyingtries = 0"
        children = "".join(
            f"  c{family} {{ local_ts = {self.lan[family]}\n remote_ts = {GREEN[family]}\n "
            f"rekey_time = {self._rekey_s}\n {start} }}\n"
            for family in (4, 6)
        )
        auth, own, other = "psk", "", ""
        if self._proof is not None:
            for name, content in zip(("own.crt", "own.key", "ca.crt"), self._proof, strict=True):
                (self._folder / name).write_text(content)
            auth, own = "pubkey", f"certs = {self._folder / 'own.crt'}\n"
            other = f"cacerts = {self._folder / 'ca.crt'}\n"
        text = (
            f"connections {{ green {{ version = 2\n {to}\n mobike = no\n"
            f" local {{ auth = {auth}\n {own} id = far.example }}\n"
            f" remote {{ auth = {auth}\n {other} id = green.example }}\n"
            f" children {{\n{children} }} }} }}\n"
            f'secrets {{ ike-1 {{ id = green.example\n secret = "{self.psk}" }} }}\n'
        )
        file = self._folder / "swanctl.conf"
        file.write_text(text)
        uri = f"unix://{self._folder / 'far.sock'}"
        subprocess.run(
            ["swanctl", "--load-all", "--clear", "--file", str(file), "--uri", uri], check=True, capture_output=True
        )
        if self._proof is not None:
            with socket.socket(socket.AF_UNIX) as asking:
                asking.connect(str(self._folder / "far.sock"))
                vici.Session(asking).load_key({"type": "any", "data": self._proof[1]})


def inside(namespace: str) -> list[str]:
    """The beginning of a command in a namespace."""
    return ["nsenter", f"--net=/run/netns/{namespace}", "--"]


def ip(*words: str) -> None:
    """ip(8)."""
    subprocess.run(["ip", *words], check=True)


def _quick(family: int) -> list[str]:
    return ["nodad"] if family == 6 else []
