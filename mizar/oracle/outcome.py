# SPDX-License-Identifier: Apache-2.0
"""What becomes of a packet at one program: the oracle's answer, and the notes that lead to it.

`Packet` is what a program knows of the packet in its hands, as `struct packet` is in the data plane. A stage that
refuses raises RefusedError; only the entry functions (agent.py, transit.py, deliver.py) turn it into an Outcome.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from mizar.model import drop_reasons
from mizar.oracle.policies import Direction
from mizar.oracle.proxy_flows import ProxyFlows

Counted = dict[tuple[str, str | int], dict[str, int]]
"""Counters that moved: ("vpc", VNI), ("endpoint", uid), ("public", address) or ("drop", reason) → field → value."""


class Verdict(Enum):
    """Where the frame goes from this program."""

    DROP = "dropped"
    PASS = "left to the host's own stack"  # noqa: S105
    SEND = "sent to another droplet"
    ANSWER = "answered, back out of the endpoint's interface"
    TRAP = "left to the daemon, which answers"
    STACK = "handed to the host's own stack, as a route says"
    DELIVER = "handed to an endpoint of this droplet"


class Step(Enum):
    """Which question the tables answered, and how (docs/way-of-a-packet.md 2)."""

    DELIVER = "to an endpoint of this droplet"
    BOUNCE = "to the host of the endpoint"
    DIVIDE = "to a bouncer of the destination's network"
    TO_DIVIDER = "to a divider of the VPC"
    TO_BOUNCER = "to a bouncer of the sender's network"
    ROUTER = "for the virtual router itself"
    SUBSTRATE = "to the stack of this droplet"


@dataclass(frozen=True, slots=True)
class Handover:
    """The note that transit leaves for `deliver` in front of a decapsulated frame."""

    ifindex: int
    vni: int
    uid: str
    service: bool = False
    """The frame is addressed to a service: `deliver` writes the member's address."""
    listened: bool = False
    """And that is a load balancer: the member's port, too."""
    public: bool = False
    """From a client on the substrate."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Verdict, the whole frame that comes out (as it came in for DROP and PASS), and all that moved."""

    verdict: Verdict
    frame: bytes
    reason: str = ""
    """Of contracts/drop_reasons.toml; empty when the packet was served or is none of ours. (A control packet that has
    said what it had to say is dropped without a reason.) With a verdict that is neither DROP nor PASS: it was refused,
    and what comes out tells its sender so."""
    counted: Mapping[tuple[str, str | int], Mapping[str, int]] = field(default_factory=dict)
    next_hop: bytes | None = None
    """SEND: the droplet that it is addressed to."""
    handover: Handover | None = None
    """DELIVER: to whom."""
    step: Step | None = None
    gone: tuple[int, bytes] | None = None
    """VNI and address of a learned endpoint that is out of use from now on."""
    proxy_flows: ProxyFlows | None = None
    """Of proxied endpoints, as they are afterwards; None where no proxy was met."""
    judged: tuple[Judgement, ...] = ()
    """What policies said, in the order in which they were asked."""
    met: tuple[Met, ...] = ()
    """The network functions that saw it, in their order."""


@dataclass(frozen=True, slots=True)
class Met:
    """A network function that saw a packet. `dropped` None: nobody here knows what it does, it may."""

    function: str
    stage: str
    dropped: bool | None


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a policy, or a network's ACL, said of a packet."""

    uid: str
    """The policed endpoint; empty: it was an ACL."""
    direction: Direction
    """Of the packet, or, where its flow was judged anew, of the flow's first one."""
    rule: int
    """0: none in particular."""
    reason: str = ""
    """Why it is refused, or would be but for audit mode; empty: allowed."""
    audited: bool = False
    known: bool = False
    """No rule was asked: it is of a flow that goes on."""


class RefusedError(Exception):
    """A stage refuses the packet: the name of the reason. Never leaves this room."""

    def __init__(self, reason: str, mtu: int = 0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.mtu = mtu
        """PACKET_TOO_BIG: the longest inner IP packet that would have fitted."""


@dataclass
class Packet:
    """One frame at one program: how far it has come, and what was counted."""

    frame: bytes
    segments: int = 1
    """Packets on the wire: more than one in a superpacket."""
    vni: int = 0
    """Number of its VPC: the VNI, unless an identity names another."""
    vpc_known: bool = False
    """Whether a table has shown that the VPC is known here: only then is a refusal counted for it."""
    step: Step | None = None
    inner: bytes = b""
    """The inner frame as it would have gone on."""
    own: bytes = b""
    """The address that a member's answer bore, before it became its service's."""
    identity: tuple[int, int] | None = None
    """Tenant and VPC, where an option tells them."""
    gone: tuple[int, bytes] | None = None
    counted: Counted = field(default_factory=dict)
    proxy_flows: ProxyFlows = field(default_factory=ProxyFlows)
    """Of proxied endpoints, as far as the packet has changed them."""
    proxied: bool = False
    """Whether it has met a proxy."""
    service: int = 0
    """The class of its endpoint, for the outer header."""
    by_mac: bool = False
    """It goes to an appliance, whose address is not its destination."""
    ruled: bool = False
    """It has left a VPC with network ACLs, over a peering."""
    judged: list[Judgement] = field(default_factory=list)
    """What policies and network ACLs have said so far."""
    met: list[Met] = field(default_factory=list)
    """Network functions that have seen it so far."""
    proxies: int = 0
    """That it has come through here."""
    side: int = 0
    """The interface of the proxy that sends it, 0 where an endpoint does."""

    def count(self, kind: str, key: str | int, name: str, size: int | None = None) -> None:
        """Adds to `name`_packets of a counter, and, with a size, to its bytes."""
        fields = self.counted.setdefault((kind, key), {})
        fields[f"{name}_packets"] = fields.get(f"{name}_packets", 0) + self.segments
        if size is not None:
            fields[f"{name}_bytes"] = fields.get(f"{name}_bytes", 0) + size

    def refused(self, reason: str, *, uid: str = "", always_drop: bool = False) -> Outcome:
        """The end of a refused packet; `uid`: of the endpoint whose agent refuses it."""
        self.counted["drop", reason] = {"packets": self.segments, "bytes": len(self.frame)}
        flows = self.proxy_flows if self.proxied else None
        if self.vpc_known:
            self.count("vpc", self.vni, "dropped")
        if uid:
            self.count("endpoint", uid, "dropped")
        passes = drop_reasons.by_name()[reason].verdict == "pass" and not always_drop
        return Outcome(
            Verdict.PASS if passes else Verdict.DROP,
            self.frame,
            reason,
            self.counted,
            step=self.step,
            gone=self.gone,
            proxy_flows=flows,
            judged=tuple(self.judged),
            met=tuple(self.met),
        )

    def served(
        self, verdict: Verdict, frame: bytes, next_hop: bytes | None = None, handover: Handover | None = None
    ) -> Outcome:
        """The end of a packet that was served."""
        flows = self.proxy_flows if self.proxied else None
        judged = tuple(self.judged)
        met = tuple(self.met)
        return Outcome(verdict, frame, "", self.counted, next_hop, handover, self.step, self.gone, flows, judged, met)

    def told(self, refused: Outcome, answer: Outcome) -> Outcome:
        """The end of a refused packet whose sender is told: `answer` is what became of the message."""
        for key, fields in answer.counted.items():
            mine = self.counted.setdefault(key, {})
            for name, by in fields.items():
                mine[name] = mine.get(name, 0) + by
        return Outcome(
            answer.verdict,
            answer.frame,
            refused.reason,
            self.counted,
            answer.next_hop,
            answer.handover,
            refused.step,
            self.gone,
            answer.proxy_flows,
            refused.judged,
        )
