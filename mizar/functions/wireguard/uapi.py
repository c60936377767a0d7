# SPDX-License-Identifier: Apache-2.0
"""The socket by which wireguard-go is told and asked: the cross-platform userspace API of WireGuard.

Blocking; called on a thread by mizar.transit.vpns. Keys go over the socket, which only root may open, and nowhere else.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from pathlib import Path

from mizar.functions.wireguard.values import Seen, Tunnel
from mizar.model.errors import TemporaryError, port_taken

FOLDER = Path("/var/run/wireguard")
_LIMIT_S = 5.0


def path_of(name: str) -> Path:
    """The socket of an interface."""
    return FOLDER / f"{name}.sock"


def configure(name: str, tunnel: Tunnel) -> None:
    """Makes the engine hold this tunnel and no other peer; what is as wanted goes on undisturbed."""
    held = {value for key, value in _ask(name, "get=1\n\n") if key == "public_key"}
    _ask(name, settings(tunnel, held - {tunnel.peer_public_key.hex()}), tunnel.port)


def look(name: str) -> Seen:
    """How the peer is. Raises TemporaryError when the engine does not answer."""
    found = dict(_ask(name, "get=1\n\n"))  # there is one peer
    return Seen(*(int(found.get(key, "0")) for key in ("last_handshake_time_sec", "tx_bytes", "rx_bytes")))


def settings(tunnel: Tunnel, strangers: set[str]) -> str:
    """The request that sets a tunnel; `strangers` are public keys (hex) of peers that go."""
    lines = ["set=1", f"private_key={tunnel.private_key.hex()}", f"listen_port={tunnel.port}"]
    for key in sorted(strangers):
        lines += [f"public_key={key}", "remove=true"]
    lines += [f"public_key={tunnel.peer_public_key.hex()}"]
    lines += [f"preshared_key={(tunnel.preshared_key or bytes(32)).hex()}"]
    if tunnel.peer is not None:
        address, port = tunnel.peer
        lines += [f"endpoint=[{address}]:{port}" if address.version == 6 else f"endpoint={address}:{port}"]
    lines += [f"persistent_keepalive_interval={tunnel.keepalive_s}", "replace_allowed_ips=true"]
    lines += [f"allowed_ip={prefix}" for prefix in tunnel.remote]
    return "\n".join(lines) + "\n\n"


def _ask(name: str, request: str, port: int = 0) -> Iterator[tuple[str, str]]:
    """The reply's keys and values; `port`: that the request sets. An error never repeats the request, which may hold
    keys."""
    reply = b""
    try:
        with socket.socket(socket.AF_UNIX) as asking:
            asking.settimeout(_LIMIT_S)
            asking.connect(str(path_of(name)))
            asking.sendall(request.encode())
            while not reply.endswith(b"\n\n"):
                more = asking.recv(1 << 16)
                if not more:
                    break
                reply += more
    except OSError as error:
        raise TemporaryError(f"wireguard-go of {name} does not answer: {error.strerror or error}") from None
    found = []
    for line in reply.decode(errors="replace").splitlines():
        key, _, value = line.partition("=")
        found.append((key, value))
    number = dict(found).get("errno", "none")
    if number.lstrip("-") == str(errno.EADDRINUSE):
        raise port_taken(port)
    if number != "0":
        raise TemporaryError(f"wireguard-go of {name} refused with error {number}")
    return iter(found)
