# SPDX-License-Identifier: Apache-2.0
"""What packets may: sets of groups and of policies' rules, network ACLs, and the rates of endpoints."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mizar.model.policy_rows import digest


@dataclass(frozen=True, slots=True)
class GroupSetEntry:
    """What the number of a set of groups means: ids of networks of type group, ascending."""

    order: ClassVar[int] = 2
    vni: int
    number: int
    groups: tuple[int, ...]

    @property
    def key(self) -> tuple[int, int, int]:
        """Names this entry among all entries of a droplet."""
        return (50, self.vni, self.number)

    def same(self, other: object) -> bool:
        """Whether a droplet that holds `other` needs no change to hold this."""
        return self == other


@dataclass(frozen=True, slots=True)
class PolicySetEntry:
    """Rules of one direction as endpoints share them, compiled; rows as in PolicySet of contracts/transit.proto."""

    order: ClassVar[int] = 2
    vni: int
    id: int
    peers: bytes
    groups: bytes
    verdicts: bytes
    digest: bytes = b""
    """Set on what a daemon tells that it holds: then it has no rows."""

    @property
    def key(self) -> tuple[int, int, int]:
        """Names this entry among all entries of a droplet."""
        return (60, self.vni, self.id)

    @property
    def weight(self) -> int:
        """Bytes of its rows."""
        return len(self.peers) + len(self.groups) + len(self.verdicts)

    @property
    def content(self) -> bytes:
        """The digest of the rows."""
        return self.digest or digest(self.peers, self.groups, self.verdicts)

    def same(self, other: object) -> bool:
        """Whether a droplet that holds `other` needs no change to hold this."""
        return isinstance(other, PolicySetEntry) and self.key == other.key and self.content == other.content


@dataclass(frozen=True, slots=True)
class PolicyBinding:
    """By which sets an endpoint is judged, 0 for none, and whether what no rule allows is only told."""

    ingress: int = 0
    egress: int = 0
    audit_ingress: bool = False
    audit_egress: bool = False
    beside_ingress: int = 0
    """What `ingress` allows and this set would not is told: that of all policies, those that only audit among them."""
    beside_egress: int = 0

    @property
    def sets(self) -> frozenset[int]:
        """The sets that its droplet must hold."""
        return frozenset({self.ingress, self.egress, self.beside_ingress, self.beside_egress} - {0})


NOT_POLICED = PolicyBinding()


@dataclass(frozen=True, slots=True)
class NetworkAclEntry:
    """By which sets of rules a network is judged, 0 for none; `later`: fragments behind the first. Prefixes: address
    and length."""

    order: ClassVar[int] = 3
    vni: int
    network_id: int
    prefixes: tuple[tuple[bytes, int], ...]
    ingress: int = 0
    ingress_later: int = 0
    egress: int = 0
    egress_later: int = 0

    @property
    def key(self) -> tuple[int, int, int]:
        """Names this entry among all entries of a droplet."""
        return (70, self.vni, self.network_id)

    def same(self, other: object) -> bool:
        """Whether a droplet that holds `other` needs no change to hold this."""
        return self == other


@dataclass(frozen=True, slots=True)
class RateEntry:
    """What may pass at a time: bits and packets a second, 0 for any number, and how many bytes and packets at once."""

    bits_per_second: int = 0
    packets_per_second: int = 0
    burst_bytes: int = 0
    burst_packets: int = 0


NO_RATE = RateEntry()


@dataclass(frozen=True, slots=True)
class QosEntry:
    """The rates of an endpoint: its own, its network's and its VPC's on its droplet, in this order.

    `guarantee`: what the droplet's interface carries of it in any case; `dscp`: its mark, None for none.
    """

    egress: tuple[RateEntry, RateEntry, RateEntry] = (NO_RATE, NO_RATE, NO_RATE)
    ingress: tuple[RateEntry, RateEntry, RateEntry] = (NO_RATE, NO_RATE, NO_RATE)
    guarantee: RateEntry = NO_RATE
    dscp: int | None = None


NO_QOS = QosEntry()
