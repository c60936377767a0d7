# SPDX-License-Identifier: Apache-2.0
"""VpnConnection: a tunnel between a VPC and a site outside, carried by an endpoint that forwards. Owns its shape.

All subnets of the VPC get routes to `remotePrefixes` by way of the endpoint. What WireGuard is told is in `wireguard`;
its keys are 32 bytes in base64, as wg(8) writes them. What IPsec (IKEv2) is told is in `ipsec`.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from mizar.model import certificates, fields
from mizar.model.addresses import parse_prefix
from mizar.model.base import Resource, Scope, Status
from mizar.model.fields import Value
from mizar.model.secret import SecretText

TUNNEL_PORTS = (4789, 6081)
"""Of VXLAN and Geneve: what arrives there is the data plane's."""
_KEY_BYTES = 32
_LEAST_PSK, _MOST_PSK = 16, 512
_IKE_PORT, _WIREGUARD_PORT = 4500, 51820


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


def _psk(secret: SecretText) -> SecretText:
    if secret.known and not _LEAST_PSK <= len(secret.reveal()) <= _MOST_PSK:
        raise ValueError(f"expected a pre-shared key of {_LEAST_PSK} to {_MOST_PSK} characters")
    return secret


def _identity(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][-A-Za-z0-9.@_:]{0,254}", text):
        raise ValueError(f"expected a name, an address or user@name, found {text!r}")
    return text


def _proposal(text: str) -> str:
    if not re.fullmatch(r"[a-z0-9_]+(-[a-z0-9_]+)*", text) or len(text) > 128:
        raise ValueError(f"expected a proposal such as aes256-sha256-x25519, found {text!r}")
    return text


def _port(number: int) -> int:
    if number in TUNNEL_PORTS:
        raise ValueError(f"expected another port: {number} is that of droplets' own tunnels")
    return number


def _each_once(prefixes: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(prefixes)) != len(prefixes):
        raise ValueError("expected each once")
    return prefixes


PublicKey = Annotated[str, AfterValidator(_public)]
SecretKey = Annotated[SecretText, AfterValidator(_secret)]
OwnPort = Annotated[int, Field(strict=True, ge=1024, le=65535), AfterValidator(_port)]
PeerPort = Annotated[int, Field(strict=True, ge=1, le=65535), AfterValidator(_port)]
"""Not that of tunnels: what a tenant has a droplet send must never look to another one as if it were the overlay's."""
Prefix = Annotated[str, AfterValidator(_prefix)]
RemotePrefixes = Annotated[tuple[Prefix, ...], Field(min_length=1, max_length=64), AfterValidator(_each_once)]


class VpnPeer(Value):
    """Where the other side is, as its host's droplet sees it. Without `port`: 51820 for WireGuard, 4500 for IPsec."""

    address: fields.DropletAddress
    port: PeerPort | None = None


class WireguardSpec(Value):
    """`port`: of this side, on the droplet. `keepaliveS`: 0 sends nothing while nobody has anything to say."""

    private_key: SecretKey
    peer_public_key: PublicKey
    preshared_key: SecretKey | None = None
    port: OwnPort = 51820
    keepalive_s: Annotated[int, Field(strict=True, ge=0, le=65535)] = 25


class IpsecCertificateSpec(Value):
    """In PEM: `chain`, its own first, made out for `localId`; its key; `authority`, which signs the other side's."""

    chain: Annotated[str, Field(min_length=1, max_length=65536)]
    key: SecretText
    authority: Annotated[str, Field(min_length=1, max_length=65536)]

    @model_validator(mode="after")
    def _fits(self) -> Self:
        for field, text in (("chain", self.chain), ("authority", self.authority)):
            try:
                certificates.check_chain(text)
                if field == "chain" and self.key.known:
                    certificates.check_key(text, self.key.reveal())
            except certificates.CertificateError as error:
                where = error.field if field == "chain" else field
                raise PydanticCustomError("fit", "{message}", {"message": str(error), "field": where}) from None
        return self


class IpsecSpec(Value):
    """IKEv2 with a pre-shared key or a certificate, and ESP in UDP.

    `localPrefixes`: of the VPC, towards the other side; all if empty.

    `port`: of this side, on the droplet, for both. Without proposals the engine's own. `rekeyS`: of ESP's keys.
    """

    psk: Annotated[SecretText, AfterValidator(_psk)] | None = None
    certificate: IpsecCertificateSpec | None = None
    local_id: Annotated[str, AfterValidator(_identity)]
    remote_id: Annotated[str, AfterValidator(_identity)]
    local_prefixes: Annotated[tuple[Prefix, ...], Field(max_length=16), AfterValidator(_each_once)] = ()
    port: OwnPort = _IKE_PORT
    ike_proposals: Annotated[tuple[Annotated[str, AfterValidator(_proposal)], ...], Field(max_length=16)] = ()
    esp_proposals: Annotated[tuple[Annotated[str, AfterValidator(_proposal)], ...], Field(max_length=16)] = ()
    rekey_s: Annotated[int, Field(strict=True, ge=5, le=86400)] = 3600
    dpd_s: Annotated[int, Field(strict=True, ge=1, le=3600)] = 10

    @model_validator(mode="after")
    def _one_proof(self) -> Self:
        if (self.psk is None) == (self.certificate is None):
            raise ValueError("expected one of psk and certificate")
        if self.certificate is not None and self.local_id not in certificates.names_of(self.certificate.chain):
            message = "expected a name that the certificate is made out for (subjectAltName)"
            raise PydanticCustomError("fit", message, {"field": "localId"})
        return self


class VpnConnectionSpec(Value):
    """`endpoint`: carries it, in the VPC; or `network`: the server makes one there, on one of `droplets`, or on any.

    Without `peer` the other side has to begin.

    `downAfterS`: the connection is down when the other side has been silent for so long while it should have spoken.
    """

    vpc: fields.Name
    endpoint: fields.Name | None = None
    network: fields.Name | None = None
    droplets: Annotated[tuple[fields.Name, ...], Field(max_length=1024), AfterValidator(_each_once)] = ()
    remote_prefixes: RemotePrefixes
    peer: VpnPeer | None = None
    wireguard: WireguardSpec | None = None
    ipsec: IpsecSpec | None = None
    down_after_s: Annotated[int, Field(strict=True, ge=1, le=86400)] = 15

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if (self.endpoint is None) == (self.network is None):
            raise ValueError("expected one of endpoint and network")
        if self.endpoint is not None and self.droplets:
            raise PydanticCustomError("fit", "unexpected beside endpoint: it is where it is", {"field": "droplets"})
        return self

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.wireguard is None) == (self.ipsec is None):
            raise ValueError("expected one of wireguard and ipsec")
        if self.ipsec is not None and self.peer is None:
            raise PydanticCustomError("fit", "expected the address of the other side beside ipsec", {"field": "peer"})
        return self

    @property
    def own_port(self) -> int:
        """Of this side, on the droplet."""
        spec = self.wireguard or self.ipsec
        assert spec is not None
        return spec.port

    @property
    def peer_port(self) -> int:
        """Of the other side; 0 where it is to begin."""
        if self.peer is None:
            return 0
        return self.peer.port or (_WIREGUARD_PORT if self.wireguard else _IKE_PORT)

    @model_validator(mode="after")
    def _keys_differ(self) -> Self:
        if self.wireguard is None:
            return self
        private = self.wireguard.private_key
        if private.known and private.reveal() == self.wireguard.peer_public_key:
            raise ValueError("expected the public key of the other side, found this side's private key")
        return self


class VpnConnectionStatus(Status):
    """`publicKey`: of this side, for the other one's configuration. The rest is what the droplet sees, as of now.

    `state`: `up` while the other side proves its key again and again, `connecting` at first, then `down`; `detail` says
    why, `since` from when on. `lastHandshake`: when, in UTC. `sentBytes`, `receivedBytes`: through the tunnel, since
    its process began.
    """

    public_key: str = ""
    endpoint: str = ""
    droplet: str = ""
    state: Literal["", "up", "connecting", "down"] = ""
    detail: str = ""
    since: str = ""
    engine: str = ""
    certificate_expires: str = ""
    last_handshake: str = ""
    sent_bytes: int | None = None
    received_bytes: int | None = None


class VpnConnection(Resource):
    """A tunnel to a site outside of all VPCs."""

    scope = Scope.TENANT
    IMMUTABLE = ("vpc", "endpoint", "network")
    kind: Literal["VpnConnection"] = "VpnConnection"
    spec: VpnConnectionSpec
    status: VpnConnectionStatus = VpnConnectionStatus()
