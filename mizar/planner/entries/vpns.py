# SPDX-License-Identifier: Apache-2.0
"""Tunnels to sites outside, with all that their two ends have agreed on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mizar.model.secret import SecretText


@dataclass(frozen=True, slots=True)
class WireguardEntry:
    """Keys and ports of a tunnel. Without a preshared key there is none."""

    private_key: SecretText
    peer_public_key: bytes
    preshared_key: SecretText | None
    port: int
    keepalive_s: int


@dataclass(frozen=True, slots=True)
class IpsecCertificateEntry:
    """In PEM: its own with those that signed it, its key, and who signs the other side's."""

    chain: str
    key: SecretText
    authority: str


@dataclass(frozen=True, slots=True)
class IpsecEntry:
    """Keys, names and times of a tunnel by IKEv2. `local`: prefixes towards the other side, each address and length."""

    psk: SecretText | None
    """None: by certificate."""
    local_id: str
    remote_id: str
    local: tuple[tuple[bytes, int], ...]
    port: int
    ike_proposals: tuple[str, ...]
    esp_proposals: tuple[str, ...]
    rekey_s: int
    dpd_s: int
    certificate: IpsecCertificateEntry | None = None


@dataclass(frozen=True, slots=True)
class VpnEntry:
    """A tunnel to a site outside, in the namespace of the droplet's own endpoint `endpoint` (its uid).

    `revision` grows with each change of it. `remote`: prefixes behind it, each address and length.
    """

    order: ClassVar[int] = 7
    uid: str
    revision: int
    endpoint: str
    name: str = ""
    remote: tuple[tuple[bytes, int], ...] = ()
    peer: tuple[bytes, int] | None = None
    how: WireguardEntry | IpsecEntry | None = None
    """None on what a daemon tells that it holds: it tells no keys."""
    down_after_s: int = 0

    @property
    def key(self) -> tuple[int, str]:
        """Names this entry among all entries of a droplet."""
        return (230, self.uid)

    def same(self, other: object) -> bool:
        """Whether a droplet that holds `other` needs no change to hold this."""
        return isinstance(other, VpnEntry) and (self.uid, self.revision, self.endpoint) == (
            other.uid,
            other.revision,
            other.endpoint,
        )
