# SPDX-License-Identifier: Apache-2.0
"""VpnConnection: a tunnel between a VPC and a site outside, carried by an endpoint that forwards. Owns its shape.

All subnets of the VPC get routes to `remotePrefixes` by way of the endpoint. What WireGuard is told is in `wireguard`;
its keys are 32 bytes in base64, as wg(8) writes them.
"""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from mizar.model import fields
from mizar.model.addresses import parse_prefix
from mizar.model.base import Resource, Scope, Status
from mizar.model.fields import Value
from mizar.model.secret import SecretText

TUNNEL_PORTS = (4789, 6081)
"""Of VXLAN and Geneve: what arrives there is the data plane's."""
_KEY_BYTES = 32


def key_bytes(text: str) -> bytes:
    """The bytes of a WireGuard key. Raises ValueError that does not repeat the text: it may be a secret."""
    try:
        found = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        found = b""
    if len(found) != _KEY_BYTES:
        raise ValueError("expected a WireGuard key: 32 bytes in base64, 44 characters")
    return found


def _public(text: str) -> str:
    key_bytes(text)
    return text


def _secret(secret: SecretText) -> SecretText:
    if secret.known:
        key_bytes(secret.reveal())
    return secret


def _prefix(text: str) -> str:
    return str(parse_prefix(text))


def _port(number: int) -> int:
    if number in TUNNEL_PORTS:
        raise ValueError(f"expected another port: {number} is that of droplets' own tunnels")
    return number


def _each_once(prefixes: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(prefixes)) != len(prefixes):
        raise ValueError("expected each prefix once")
    return prefixes


PublicKey = Annotated[str, AfterValidator(_public)]
SecretKey = Annotated[SecretText, AfterValidator(_secret)]
OwnPort = Annotated[int, Field(strict=True, ge=1024, le=65535), AfterValidator(_port)]
Prefix = Annotated[str, AfterValidator(_prefix)]
RemotePrefixes = Annotated[tuple[Prefix, ...], Field(min_length=1, max_length=64), AfterValidator(_each_once)]


class VpnPeer(Value):
    """Where the other side is, as its host's droplet sees it."""

    address: fields.DropletAddress
    port: Annotated[int, Field(strict=True, ge=1, le=65535)] = 51820


class WireguardSpec(Value):
    """`port`: of this side, on the droplet. `keepaliveS`: 0 sends nothing while nobody has anything to say."""

    private_key: SecretKey
    peer_public_key: PublicKey
    preshared_key: SecretKey | None = None
    port: OwnPort = 51820
    keepalive_s: Annotated[int, Field(strict=True, ge=0, le=65535)] = 25


class VpnConnectionSpec(Value):
    """`endpoint`: carries it, in the VPC. Without `peer` the other side has to begin.

    `downAfterS`: the connection is down when the other side has been silent for so long while it should have spoken.
    """

    vpc: fields.Name
    endpoint: fields.Name
    remote_prefixes: RemotePrefixes
    peer: VpnPeer | None = None
    wireguard: WireguardSpec
    down_after_s: Annotated[int, Field(strict=True, ge=1, le=86400)] = 15

    @model_validator(mode="after")
    def _keys_differ(self) -> Self:
        private = self.wireguard.private_key
        if private.known and private.reveal() == self.wireguard.peer_public_key:
            raise ValueError("expected the public key of the other side, found this side's private key")
        return self


class VpnConnectionStatus(Status):
    """`publicKey`: of this side, for the other one's configuration. The rest is what the droplet sees, as of now.

    `state`: `up` while the other side proves its key again and again, `connecting` at first, then `down`; `detail` says
    why. `lastHandshake`: when, in UTC. `sentBytes`, `receivedBytes`: through the tunnel, since its process began.
    """

    public_key: str = ""
    droplet: str = ""
    state: Literal["", "up", "connecting", "down"] = ""
    detail: str = ""
    engine: str = ""
    last_handshake: str = ""
    sent_bytes: int | None = None
    received_bytes: int | None = None


class VpnConnection(Resource):
    """A tunnel to a site outside of all VPCs."""

    scope = Scope.TENANT
    IMMUTABLE = ("vpc", "endpoint")
    kind: Literal["VpnConnection"] = "VpnConnection"
    spec: VpnConnectionSpec
    status: VpnConnectionStatus = VpnConnectionStatus()
