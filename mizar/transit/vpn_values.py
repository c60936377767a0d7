# SPDX-License-Identifier: Apache-2.0
"""Tunnels of this droplet's endpoints, as frozen values, from messages and back. What is told has no keys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_network

from mizar._built import transit_pb2 as pb
from mizar.functions.wireguard.values import Tunnel
from mizar.model.errors import InvalidError
from mizar.transit import requests

_KEY_BYTES = 32
_MOST_REMOTE = 64


@dataclass(frozen=True, slots=True)
class Vpn:
    """A tunnel, and the uid of the endpoint in whose namespace it ends."""

    uid: str
    revision: int
    endpoint: str
    name: str
    tunnel: Tunnel
    down_after_s: int

    def __str__(self) -> str:
        return self.name or f"tunnel {self.uid}"


def vpn(message: pb.Vpn) -> Vpn:
    """A tunnel to be kept. Raises InvalidError, which repeats no key."""
    if not message.HasField("wireguard"):
        raise InvalidError("the tunnel says not how; set wireguard")
    spec = message.wireguard
    for what, key in (("private_key", spec.private_key), ("peer_public_key", spec.peer_public_key)):
        if len(key) != _KEY_BYTES:
            raise InvalidError(f"{what} has {len(key)} bytes; expected {_KEY_BYTES}")
    if len(spec.preshared_key) not in (0, _KEY_BYTES):
        raise InvalidError(f"preshared_key has {len(spec.preshared_key)} bytes; expected {_KEY_BYTES} or none")
    if not 1 <= spec.port <= 65535 or spec.keepalive_s > 65535 or not 1 <= message.down_after_s <= 86400:
        raise InvalidError("the tunnel's port, keepalive or down_after_s is out of range")
    if not 1 <= len(message.remote) <= _MOST_REMOTE:
        raise InvalidError(f"the tunnel has {len(message.remote)} prefixes; expected 1 to {_MOST_REMOTE}")
    peer = None
    if message.peer_address:
        if not 1 <= message.peer_port <= 65535:
            raise InvalidError(f"peer_port {message.peer_port} is no port")
        peer = ip_address(requests.substrate_address(message.peer_address, "peer_address")), message.peer_port
    try:
        remote = tuple(ip_network((one.address, one.length)) for one in message.remote)
    except ValueError as error:
        raise InvalidError(f"a prefix behind the tunnel: {error}") from error
    tunnel = Tunnel(
        spec.private_key, spec.peer_public_key, spec.preshared_key, spec.port, spec.keepalive_s, remote, peer
    )
    uid, endpoint = requests.uid(message.uid), requests.uid(message.endpoint)
    return Vpn(uid, message.revision, endpoint, message.name[:256], tunnel, message.down_after_s)


def split(request: pb.ApplyRequest) -> tuple[pb.ApplyRequest, list[pb.Vpn | str]]:
    """A batch without its changes of tunnels, and those: messages to put, uids to delete."""
    ours: list[pb.Vpn | str] = []
    others: Sequence[pb.Change] = request.changes
    if any(one.WhichOneof("change") in ("put_vpn", "delete_vpn") for one in request.changes):
        others = [one for one in request.changes if one.WhichOneof("change") not in ("put_vpn", "delete_vpn")]
        for one in request.changes:
            if one.WhichOneof("change") == "put_vpn":
                ours.append(one.put_vpn)
            elif one.WhichOneof("change") == "delete_vpn":
                ours.append(one.delete_vpn)
        request = pb.ApplyRequest(generation=request.generation, changes=others)
    return request, ours
