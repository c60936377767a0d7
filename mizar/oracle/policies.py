# SPDX-License-Identifier: Apache-2.0
"""What one droplet knows of policies, as plain values: contracts/dataplane.h without slots (docs/policy.md).

Filled by whoever asks the oracle; only the table of flows changes as packets pass.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from mizar.model.addresses import to_mapped


class Direction(Enum):
    """Of a packet, seen from the policed endpoint."""

    INGRESS = 1
    EGRESS = 2


@dataclass(frozen=True, slots=True)
class RuleVerdict:
    """What a row says."""

    rank: int
    allow: bool
    rule: int = 0
    log: bool = False
    audit: bool = False
    """Of a denial: told, not enforced."""
    keep: bool = False
    """What is allowed goes on when a later generation does not allow it."""


@dataclass(frozen=True, slots=True)
class PolicyRow:
    """Which packets of a class a verdict is for: all, one protocol's, or those of a prefix of ports, `bits` long."""

    class_: int
    protocol: int | None = None
    port: int = 0
    bits: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class PolicySet:
    """The rules of one direction."""

    peers: Mapping[tuple[bytes, int], int] = field(default_factory=dict)
    """Prefix, of 4 or 16 bytes, and its length → class. Of several, the longest; none: class 0."""
    groups: Mapping[int, int] = field(default_factory=dict)
    """Number of a set of groups → class."""
    verdicts: Mapping[PolicyRow, RuleVerdict] = field(default_factory=dict)

    def class_of(self, peer: bytes) -> int:
        """By the longest prefix. That of all IPv6 addresses holds those of IPv4 too, as they are mapped."""
        number, found = int.from_bytes(to_mapped(peer), "big"), (-1, 0)
        for (prefix, length), class_ in self.peers.items():
            bits = length + (96 if len(prefix) == 4 else 0)
            if bits > found[0] and not (number ^ int.from_bytes(to_mapped(prefix), "big")) >> 128 - bits:
                found = bits, class_
        return found[1]

    def class_of_groups(self, group_set: int) -> int | None:
        """Of peers that bear a set of groups; None: none in particular."""
        return self.groups.get(group_set)

    def verdict_of(self, class_: int, protocol: int, port: int | None) -> RuleVerdict | None:
        """That of the longest prefix; `port` None: of what has none only rows for all ports hold."""
        if port is not None:
            for bits in range(16, 0, -1):
                found = self.verdicts.get(PolicyRow(class_, protocol, port >> 16 - bits << 16 - bits, bits))
                if found:
                    return found
        return self.verdicts.get(PolicyRow(class_, protocol)) or self.verdicts.get(PolicyRow(class_))


@dataclass(frozen=True, slots=True, eq=False)
class EndpointPolicy:
    """The record of one policed endpoint."""

    ingress: PolicySet | None = None
    """None: no policy selects it for that."""
    egress: PolicySet | None = None
    generation: int = 1
    since: int = 1
    """Flows of earlier generations are another endpoint's."""
    audit: frozenset[Direction] = frozenset()
    """Where what no rule allows is told, and passes."""
    grace: bool = False
    """It is young: what goes on from before may be an answer."""
    beside_ingress: PolicySet | None = None
    """What `ingress` allows and this would not is told; None: nothing only audits beside it."""
    beside_egress: PolicySet | None = None


@dataclass(frozen=True, slots=True, eq=False)
class NetworkAcl:
    """By what a network's prefix is judged; None: by nothing. `later`: fragments that show no ports."""

    network: int
    ingress: PolicySet | None = None
    ingress_later: PolicySet | None = None
    egress: PolicySet | None = None
    egress_later: PolicySet | None = None


@dataclass(frozen=True, slots=True)
class PolicyFlowKey:
    """What names a flow; `endpoint` is a uid. Ports in network order; `later`: fragments behind the first."""

    vni: int
    endpoint: str
    peer: bytes
    own_port: bytes
    peer_port: bytes
    protocol: int
    later: bool = False


@dataclass(slots=True)
class PolicyFlow:
    """What the table says of it."""

    generation: int
    direction: Direction
    rule: int = 0
    group_set: int = 0
    answered: bool = False
    confirmed: bool = False
    """Who began it has sent again after the answer."""
    closing: bool = False
    ended: bool = False
    kept: bool = False


class PolicyFlows(dict[PolicyFlowKey, PolicyFlow]):
    """The table of flows. `room`: by VNI, how many more each VPC may have."""

    def __init__(self, room: Mapping[int, int] | None = None) -> None:
        super().__init__()
        self.room = dict(room or {})
        self.begun: PolicyFlowKey | None = None
        """The flow that the packet in hand has begun."""

    def insert(self, key: PolicyFlowKey, flow: PolicyFlow) -> bool:
        """A new flow; False when the VPC has no room left."""
        left = self.room.get(key.vni, 0)
        if left <= 0:
            return False
        self.room[key.vni] = left - 1
        self[key] = flow
        self.begun = None if key.later else key
        return True

    def take_back(self, vni: int, endpoint: str) -> None:
        """A function of that endpoint refuses the packet in hand: what it has begun has not been."""
        if self.begun and (self.begun.vni, self.begun.endpoint) == (vni, endpoint):
            del self[self.begun]
            self.room[vni] += 1
        self.begun = None
