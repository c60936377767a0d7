# SPDX-License-Identifier: Apache-2.0
"""Tunnels of this droplet's endpoints, as frozen values, from messages and back. What is told has no keys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from mizar._built import transit_pb2 as pb
from mizar.functions.ipsec.values import Certificate, IpsecTunnel, Network
from mizar.functions.wireguard.values import Tunnel
from mizar.model.errors import InvalidError
from mizar.transit.requests import fields

Peer = tuple[IPv4Address | IPv6Address, int]
_KEY_BYTES = 32
_MOST_REMOTE = 64


@dataclass(frozen=True, slots=True)
class Vpn:
    """A tunnel, and the uid of the endpoint in whose namespace it ends."""

    uid: str
    revision: int
    endpoint: str
    name: str
    tunnel: Tunnel | IpsecTunnel
    down_after_s: int

    def __str__(self) -> str:
        return self.name or f"tunnel {self.uid}"


def vpn(message: pb.Vpn) -> Vpn:
    """A tunnel to be kept. Raises InvalidError, which repeats no key."""
    if not 1 <= message.down_after_s <= 86400:
        raise InvalidError(f"down_after_s {message.down_after_s} is outside of 1 to 86400")
    remote = _prefixes(message.remote)
    peer = None
    if message.peer_address:
        if not 1 <= message.peer_port <= 65535:
            raise InvalidError(f"peer_port {message.peer_port} is no port")
        peer = ip_address(fields.substrate_address(message.peer_address, "peer_address")), message.peer_port
    tunnel: Tunnel | IpsecTunnel
    match message.WhichOneof("how"):
        case "wireguard":
            tunnel = _wireguard(message.wireguard, remote, peer)
        case "ipsec":
            tunnel = _ipsec(message.ipsec, remote, peer)
        case _:
            raise InvalidError("the tunnel says not how; set wireguard or ipsec")
    uid, endpoint = fields.uid(message.uid), fields.uid(message.endpoint)
    return Vpn(uid, message.revision, endpoint, message.name[:256], tunnel, message.down_after_s)


def _prefixes(messages: Sequence[pb.Prefix]) -> tuple[Network, ...]:
    if not 1 <= len(messages) <= _MOST_REMOTE:
        raise InvalidError(f"the tunnel has {len(messages)} prefixes on a side; expected 1 to {_MOST_REMOTE}")
    try:
        return tuple(ip_network((one.address, one.length)) for one in messages)
    except ValueError as error:
        raise InvalidError(f"a prefix of the tunnel: {error}") from error


def _ipsec(spec: pb.Ipsec, remote: tuple[Network, ...], peer: Peer | None) -> IpsecTunnel:
    if bool(spec.psk) == spec.HasField("certificate") or not spec.local_id or not spec.remote_id:
        raise InvalidError("local_id, remote_id and one of psk and certificate are needed")
    own = spec.certificate
    if spec.HasField("certificate") and not (own.chain and own.key and own.authority):
        raise InvalidError("a certificate has a chain, a key and an authority")
    if peer is None:
        raise InvalidError("peer_address is needed")
    words = (*spec.ike_proposals, *spec.esp_proposals, spec.local_id, spec.remote_id)
    if not all(word.isprintable() and len(word) <= 256 for word in words):
        raise InvalidError("names and proposals are printable words")
    if not (1 <= spec.port <= 65535 and 1 <= spec.rekey_s <= 86400 and 1 <= spec.dpd_s <= 3600):
        raise InvalidError("the tunnel's port, rekey_s or dpd_s is out of range")
    return IpsecTunnel(
        spec.psk, spec.local_id, spec.remote_id, _prefixes(spec.local), remote, spec.port, peer,
        tuple(spec.ike_proposals), tuple(spec.esp_proposals), spec.rekey_s, spec.dpd_s,
        Certificate(own.chain, own.key, own.authority) if spec.HasField("certificate") else None,
    )  # fmt: skip


def _wireguard(spec: pb.Wireguard, remote: tuple[Network, ...], peer: Peer | None) -> Tunnel:
    for what, key in (("private_key", spec.private_key), ("peer_public_key", spec.peer_public_key)):
        if len(key) != _KEY_BYTES:
            raise InvalidError(f"{what} has {len(key)} bytes; expected {_KEY_BYTES}")
    if len(spec.preshared_key) not in (0, _KEY_BYTES):
        raise InvalidError(f"preshared_key has {len(spec.preshared_key)} bytes; expected {_KEY_BYTES} or none")
    if not 1 <= spec.port <= 65535 or spec.keepalive_s > 65535:
        raise InvalidError("the tunnel's port or keepalive is out of range")
    return Tunnel(spec.private_key, spec.peer_public_key, spec.preshared_key, spec.port, spec.keepalive_s, remote, peer)


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
