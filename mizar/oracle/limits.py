# SPDX-License-Identifier: Apache-2.0
"""Rates of endpoints as virtual clocks, and the mark of a class (docs/qos.md).

Called by agent, transit and stack. What depends on time asks the droplet's clock, which who fills the tables may set.
What waits in a shaper is not part of this room: there, a droplet has no limits of bits.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from dataclasses import replace as changed
from typing import TYPE_CHECKING

from mizar.oracle.checksum import updated
from mizar.oracle.frames import ETHERNET, Inner, Kind
from mizar.oracle.outcome import Packet, RefusedError
from mizar.oracle.rewrite import IPV4_CHECKSUM, replace

if TYPE_CHECKING:
    from mizar.oracle.tables import Droplet


@dataclass
class Limiter:
    """What a byte and a packet cost in nanoseconds, 0 for nothing; how far its clocks may be ahead; its clocks."""

    byte_ns: int = 0
    packet_ns: int = 0
    burst_ns: int = 0
    bytes_due: int = 0
    packets_due: int = 0

    def passes(self, now: int, size: int, packets: int, *, free: bool = False) -> bool:
        """Whether a packet passes; then it is charged. `free`: it passes in any case."""
        ahead = max(self.bytes_due if self.byte_ns else 0, self.packets_due if self.packet_ns else 0)
        if ahead > now + self.burst_ns and not free:
            return False
        self.bytes_due = max(self.bytes_due, now) + size * self.byte_ns
        self.packets_due = max(self.packets_due, now) + packets * self.packet_ns
        return True


@dataclass(frozen=True, slots=True, eq=False)
class EndpointLimits:
    """What holds for one endpoint: limiters from the inside out, a mark, and what its interface guarantees."""

    egress: tuple[Limiter, ...] = ()
    ingress: tuple[Limiter, ...] = ()
    dscp: int | None = None
    guarantee: Limiter | None = None


NO_LIMITS = EndpointLimits()
Limits = Mapping[str, EndpointLimits]
"""Of endpoints that live on a droplet, by uid."""


def limit_sender(here: Droplet, packet: Packet, inner: Inner, uid: str) -> Inner:
    """The frame with its class; raises RefusedError when its endpoint may not send it now."""
    limits = here.limits.get(uid, NO_LIMITS)
    if limits.dscp is not None:
        inner = _marked(inner, limits.dscp)
        packet.service = limits.dscp << 2
    _pass(here, packet, inner, limits.egress, "LIMIT_EGRESS")
    return inner


def limit_receiver(here: Droplet, packet: Packet, inner: Inner, uid: str) -> None:
    """Raises RefusedError when the endpoint may not be sent it now."""
    _pass(here, packet, inner, here.limits.get(uid, NO_LIMITS).ingress, "LIMIT_INGRESS")


def limit_uplink(here: Droplet, packet: Packet, inner: Inner, uid: str) -> None:
    """Raises RefusedError when the interface is used up, and it is not within its endpoint's guarantee."""
    if here.uplink is None:
        return
    now, size, guarantee = here.clock(), len(inner.frame), here.limits.get(uid, NO_LIMITS).guarantee
    free = guarantee is not None and guarantee.passes(now, size, packet.segments)
    if not here.uplink.passes(now, size, packet.segments, free=free):
        raise RefusedError("UPLINK_FULL")


def _pass(here: Droplet, packet: Packet, inner: Inner, limiters: Iterable[Limiter], reason: str) -> None:
    for limiter in limiters:
        if not limiter.passes(here.clock(), len(inner.frame), packet.segments):
            raise RefusedError(reason)


def _marked(inner: Inner, dscp: int) -> Inner:
    """With another DSCP; congestion marks (RFC 3168) stay."""
    (before,) = struct.unpack_from("!H", inner.frame, ETHERNET)
    if inner.kind is Kind.IPV4:
        after = before & 0xFF03 | dscp << 2
        (old,) = struct.unpack_from("!H", inner.frame, IPV4_CHECKSUM)
        frame = replace(inner.frame, IPV4_CHECKSUM, struct.pack("!H", updated(old, before, after)))
    else:
        after, frame = before & 0xF03F | dscp << 6, inner.frame
    return changed(inner, frame=replace(frame, ETHERNET, struct.pack("!H", after)))
