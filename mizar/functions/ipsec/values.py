# SPDX-License-Identifier: Apache-2.0
"""A tunnel by IKEv2 and ESP in UDP, what its engine tells of it, and when it is called up or down. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

Network = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class Certificate:
    """This side's, with those that signed it; its key; and those that sign the other side's. In PEM."""

    chain: str
    key: str = field(repr=False)
    authority: str = ""


@dataclass(frozen=True, slots=True)
class IpsecTunnel:
    """This side and the other. What is printed of a tunnel has no key."""

    psk: bytes = field(repr=False)
    local_id: str
    remote_id: str
    local: tuple[Network, ...]
    remote: tuple[Network, ...]
    port: int
    peer: tuple[IPv4Address | IPv6Address, int]
    ike_proposals: tuple[str, ...]
    esp_proposals: tuple[str, ...]
    rekey_s: int
    dpd_s: int
    certificate: Certificate | None = None
    """Instead of `psk`, which is empty then."""

    def pairs(self) -> list[tuple[Network, Network]]:
        """What is joined with what: each pair has a security association of its own, as most peers want it."""
        return [(a, b) for a in self.local for b in self.remote if a.version == b.version]


@dataclass(frozen=True, slots=True)
class IpsecSeen:
    """What the engine tells. `asked`: it has asked and waits; `joined`: how many of the pairs are."""

    asked: bool = False
    established_s: int = 0
    joined: int = 0
    sent_bytes: int = 0
    received_bytes: int = 0


def judge(tunnel: IpsecTunnel, seen: IpsecSeen, waited_s: float, down_after_s: float) -> tuple[str, str]:
    """`up`, `connecting` or `down`, and why it is not up. `waited_s`: since it was last up, or begun."""
    pairs = len(tunnel.pairs())
    if seen.joined >= pairs:
        return "up", ""
    address, port = tunnel.peer
    where = f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"
    if seen.joined:
        return "up", f"{where} agreed to {seen.joined} of {pairs} pairs of prefixes"
    if waited_s < down_after_s:
        return "connecting", "waits for the other side's first answer"
    if seen.established_s:
        return "down", f"{where} knows this side, but agrees to none of the prefixes or proposals"
    if seen.asked:
        return "down", f"{where} has not answered for {int(waited_s)} s: is it there, does UDP get through?"
    proof = "certificates and who signs them" if tunnel.certificate else "pre-shared key"
    return "down", f"{where} refused: are {proof}, localId, remoteId and proposals the same on both sides?"
