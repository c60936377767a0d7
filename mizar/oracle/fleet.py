# SPDX-License-Identifier: Apache-2.0
"""A whole fleet: follows one packet from droplet to droplet until it is delivered, answered, dropped or gone.

The substrate here is ideal: what is sent to a droplet arrives there as it was sent. Bounded: tables that contradict
one another may let a packet circle until its TTL ends, and an answer may travel too, so `follow` counts hops itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import Enum

from mizar.oracle.agent import agent, at_proxy
from mizar.oracle.deliver import deliver
from mizar.oracle.outcome import Handover, Outcome, Verdict
from mizar.oracle.proxy import is_proxy
from mizar.oracle.tables import Droplet
from mizar.oracle.transit import transit

MOST_HOPS = 300
"""More than any TTL allows, an answer's way back included."""


class End(Enum):
    """How a packet's way ended."""

    DELIVERED = "delivered to an endpoint"
    ANSWERED = "answered by its own droplet"
    DROPPED = "dropped"
    PASSED = "left to a host's own stack"
    LEFT = "sent to a tunnel end without a daemon"
    STACK = "handed to its own droplet's stack, as a route says"
    CIRCLED = "still on its way after too many hops"


@dataclass(frozen=True, slots=True)
class Hop:
    """One program on one droplet: `program` as in docs/way-of-a-packet.md."""

    droplet: bytes
    program: str
    arrived: bytes
    """The frame that came to it."""
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Way:
    """All hops of a packet, and its end."""

    hops: tuple[Hop, ...]
    end: End

    @property
    def frame(self) -> bytes:
        """As it was at the end."""
        return self.hops[-1].outcome.frame

    @property
    def reason(self) -> str:
        """Why it was refused, if it was."""
        return self.hops[-1].outcome.reason

    @property
    def receiver(self) -> Handover | None:
        """The endpoint that it was delivered to."""
        return self.hops[-1].outcome.handover if self.end is End.DELIVERED else None


class Fleet:
    """Droplets by their address. An address that is none of theirs is a tunnel end without a daemon."""

    def __init__(self, droplets: Iterable[Droplet]) -> None:
        self.droplets = {droplet.address: droplet for droplet in droplets}

    def send(self, droplet: bytes, ifindex: int, frame: bytes) -> Way:
        """The way of a frame that an endpoint sends."""
        here = self.droplets[droplet]
        outcome = agent(here, ifindex, frame)
        self._remember(droplet, outcome)
        ends = {
            Verdict.DELIVER: End.DELIVERED,
            Verdict.ANSWER: End.ANSWERED,
            Verdict.TRAP: End.ANSWERED,
            Verdict.STACK: End.STACK,
            Verdict.DROP: End.DROPPED,
        }
        first = Hop(droplet, "agent", frame, outcome)
        if outcome.verdict in ends:
            return Way((first,), ends[outcome.verdict])
        if outcome.next_hop is None:  # where a function has led it
            return Way((first,), End.LEFT)
        return self.follow(outcome, [first])

    def inject(self, droplet: bytes, frame: bytes) -> Way:
        """The way of a frame that somebody sent to a droplet over the substrate."""
        return self.arrive(droplet, frame, [])

    def follow(self, outcome: Outcome, hops: list[Hop]) -> Way:
        """The way of a packet that a droplet has sent."""
        assert outcome.next_hop is not None
        if len(hops) >= MOST_HOPS:
            return Way(tuple(hops), End.CIRCLED)
        if outcome.next_hop not in self.droplets:
            return Way(tuple(hops), End.LEFT)
        return self.arrive(outcome.next_hop, outcome.frame, hops)

    def arrive(self, droplet: bytes, frame: bytes, hops: list[Hop]) -> Way:
        """At the interface of a droplet: transit, and then deliver where transit hands over."""
        here = self.droplets[droplet]
        outcome = transit(here, frame)
        hops.append(Hop(droplet, "transit", frame, outcome))
        if outcome.verdict is Verdict.SEND and outcome.next_hop is None:  # to who sent it, and is no droplet
            return Way(tuple(hops), End.ANSWERED)
        if outcome.verdict is Verdict.SEND:
            return self.follow(outcome, hops)
        if outcome.verdict is Verdict.DELIVER:
            handed = deliver(here, outcome.frame, outcome.handover)
            hops.append(Hop(droplet, "deliver", outcome.frame, handed))
            if handed.handover and is_proxy(handed.handover.ifindex):
                return self.proxied(droplet, handed, hops)
            return Way(tuple(hops), End.DROPPED if handed.reason else End.DELIVERED)
        return Way(tuple(hops), End.DROPPED if outcome.verdict is Verdict.DROP else End.PASSED)

    def proxied(self, droplet: bytes, handed: Outcome, hops: list[Hop]) -> Way:
        """At a proxied endpoint that a droplet carries."""
        assert handed.handover is not None
        outcome = at_proxy(self.droplets[droplet], handed.handover.ifindex, handed.frame)
        self._remember(droplet, outcome)
        hops.append(Hop(droplet, "proxy", handed.frame, outcome))
        if outcome.verdict is Verdict.SEND:
            return self.follow(outcome, hops)
        return Way(tuple(hops), End.DELIVERED if outcome.verdict is Verdict.DELIVER else End.DROPPED)

    def _remember(self, droplet: bytes, outcome: Outcome) -> None:
        """The flows of proxied endpoints that a droplet knows from now on."""
        if outcome.proxy_flows is not None:
            self.droplets[droplet] = replace(self.droplets[droplet], proxy_flows=outcome.proxy_flows)
