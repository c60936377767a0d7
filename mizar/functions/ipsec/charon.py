# SPDX-License-Identifier: Apache-2.0
"""strongSwan's charon-systemd: how it is started, told and asked, over vici.

One process for each tunnel, in the namespace of the endpoint that carries it; ESP is the kernel's, or libipsec's.
Blocking; called on a thread by mizar.transit.vpns. The key goes over vici's socket, which only root and the process's
own user may open, and is in no file of the engine's.
"""

from __future__ import annotations

import contextlib
import socket
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import vici
from vici.exception import CommandException, SessionException

from mizar.functions.ipsec.values import IpsecSeen, IpsecTunnel
from mizar.model.errors import TemporaryError

PROGRAM, PACKAGE = "charon-systemd", "charon-systemd"
PLUGIN = Path("/usr/lib/ipsec/plugins/libstrongswan-kernel-libipsec.so")
PLUGIN_PACKAGE = "libcharon-extra-plugins"
_NAME, _KEY = "mizar", "mizar-psk"
_LIMIT_S = 5.0
_MARGIN_S = 60
"""For new keys to be agreed on before old ones end, at least: strongSwan's own tenth of `rekey_time` is too short for a
short one on a loaded host, or where an answer is lost and asked for again."""
_FIRST_TABLE, _TABLES = 1 << 24, 1 << 24
_PLUGINS = (
    "random nonce aes sha1 sha2 hmac kdf gcm gmp openssl pem pkcs1 pkcs8 x509 pubkey constraints socket-default "
    "kernel-netlink vici"
)


def socket_of(folder: Path) -> Path:
    """Where vici answers."""
    return folder / "vici.sock"


def configuration(folder: Path, tunnel: IpsecTunnel, uid: str, kernel: bool = False) -> str:
    """The file that it starts with; no key is in it. One port for IKE and ESP, and none for anything else.

    Its routes are in a table of its own, beside those of others in the same namespace. `kernel`: ESP is the kernel's.
    """
    # Of two that could do ESP the first one does it.
    plugins = _PLUGINS if kernel else f"kernel-libipsec {_PLUGINS}"
    return (
        f"charon-systemd {{\n  load_modular = no\n  load = {plugins}\n  port = 0\n  port_nat_t = {tunnel.port}\n"
        f"  routing_table = {_FIRST_TABLE + zlib.crc32(uid.encode()) % _TABLES}\n"
        f"  retransmit_tries = 3\n  retransmit_timeout = 2\n  keep_alive = 20s\n"
        f"  plugins {{ vici {{ socket = unix://{socket_of(folder)} }} }}\n"
        "  journal { default = -1 }\n"
        "  filelog { stderr { default = 0 } }\n}\n"  # a file would grow, and /run is memory
    )


def connection(tunnel: IpsecTunnel, own: str) -> dict[str, Any]:
    """What load-conn is told; `own` is the address that it has towards the outside."""
    children: dict[str, Any] = {}
    for number, (here, there) in enumerate(tunnel.pairs()):
        children[f"c{number}"] = {
            "local_ts": [str(here)],
            "remote_ts": [str(there)],
            "mode": "tunnel",
            "rekey_time": str(tunnel.rekey_s),
            "life_time": str(tunnel.rekey_s + max(_MARGIN_S, tunnel.rekey_s // 10)),
            "rand_time": str(tunnel.rekey_s // 10),  # its own, life_time - rekey_time, may be longer than rekey_time
            "start_action": "start",
            "dpd_action": "restart",
            "close_action": "start",
        } | ({"esp_proposals": list(tunnel.esp_proposals)} if tunnel.esp_proposals else {})
    found: dict[str, Any] = {
        "version": "2",
        "mobike": "no",
        "local_addrs": [own],
        "local_port": str(tunnel.port),
        "remote_addrs": [str(tunnel.peer[0])],
        "remote_port": str(tunnel.peer[1]),
        "dpd_delay": str(tunnel.dpd_s),
        "keyingtries": "0",
        "unique": "replace",
        "local": {"auth": "psk", "id": tunnel.local_id},
        "remote": {"auth": "psk", "id": tunnel.remote_id},
        "children": children,
    }
    if (proof := tunnel.certificate) is not None:
        found["local"] |= {"auth": "pubkey", "certs": parts(proof.chain)[:1]}
        found["remote"] |= {"auth": "pubkey", "cacerts": parts(proof.authority)}
    return found | ({"proposals": list(tunnel.ike_proposals)} if tunnel.ike_proposals else {})


def parts(chain: str) -> list[str]:
    """The certificates of a text in PEM, each alone."""
    end = "-----END CERTIFICATE-----"
    return [f"{one.strip()}\n{end}\n" for one in chain.split(end) if one.strip()]


def configure(folder: Path, tunnel: IpsecTunnel, own: str) -> None:
    """Makes the engine hold this tunnel, and begin it."""
    with _session(folder) as session:
        session.clear_creds()
        if (proof := tunnel.certificate) is not None:
            session.load_key({"type": "any", "data": proof.key})
            for text in parts(proof.chain)[1:]:
                session.load_cert({"type": "X509", "flag": "NONE", "data": text})
        else:
            owners = [tunnel.local_id, tunnel.remote_id]
            session.load_shared({"id": _KEY, "type": "ike", "data": tunnel.psk, "owners": owners})
        if list(session.list_sas({"ike": _NAME})):  # what was agreed on was agreed on otherwise
            with contextlib.suppress(CommandException):
                list(session.terminate({"ike": _NAME, "force": "yes", "timeout": "1000"}))
        with contextlib.suppress(CommandException):  # of one that it has, it would begin what is another alone
            session.unload_conn({"name": _NAME})
        session.load_conn({_NAME: connection(tunnel, own)})


def look(folder: Path, tunnel: IpsecTunnel, again: bool = False) -> IpsecSeen:
    """How the tunnel is; one that the engine has given up is begun anew. `again`: so are pairs that are not joined, as
    after a refusal, which it never tries again by itself. Raises TemporaryError when it is silent."""
    with _session(folder) as session:
        sas = [sa[_NAME] for sa in session.list_sas({"ike": _NAME}) if _NAME in sa]
        names = [f"c{number}" for number in range(len(tunnel.pairs()))]
        held = {child["name"].decode() for sa in sas for child in sa.get("child-sas", {}).values()}
        ready = again and any(sa.get("state") == b"ESTABLISHED" for sa in sas)
        for name in names if not sas else [one for one in names if ready and one not in held]:
            with contextlib.suppress(CommandException):
                list(session.initiate({"ike": _NAME, "child": name, "timeout": "-1"}))
        if not sas:
            return IpsecSeen()
    joined: set[bytes] = set()
    sent = received = 0
    for sa in sas:
        for child in sa.get("child-sas", {}).values():
            if child.get("state") in (b"INSTALLED", b"REKEYING", b"REKEYED"):
                joined.add(child["name"])
            sent += int(child.get("bytes-out", 0))
            received += int(child.get("bytes-in", 0))
    established = max((int(sa.get("established", 0)) for sa in sas if sa.get("state") == b"ESTABLISHED"), default=-1)
    asked = any(sa.get("state") == b"CONNECTING" for sa in sas)
    return IpsecSeen(asked, established + 1, len(joined), sent, received)


@contextlib.contextmanager
def _session(folder: Path) -> Iterator[Any]:
    """A conversation. What goes wrong in it never repeats what was said: it may hold the key."""
    with socket.socket(socket.AF_UNIX) as asking:
        try:
            asking.settimeout(_LIMIT_S)
            asking.connect(str(socket_of(folder)))
            yield vici.Session(asking)
        except CommandException as error:
            raise TemporaryError(f"{PROGRAM} refused: {error}") from None
        except (OSError, SessionException) as error:
            raise TemporaryError(f"{PROGRAM} does not answer: {type(error).__name__}") from None
