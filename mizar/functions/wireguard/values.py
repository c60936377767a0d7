# SPDX-License-Identifier: Apache-2.0
"""A WireGuard tunnel, what its engine tells of it, and when it is called up or down. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

KEEPALIVE_BYTES = 32
"""A packet without content (WireGuard's protocol, 5.4.6): the other side need not answer it."""


@dataclass(frozen=True, slots=True)
class Tunnel:
    """This side and its one peer. Keys are 32 bytes; what is printed of a tunnel has none but the public one."""

    private_key: bytes = field(repr=False)
    peer_public_key: bytes
    preshared_key: bytes = field(repr=False)
    port: int
    keepalive_s: int
    remote: tuple[IPv4Network | IPv6Network, ...]
    peer: tuple[IPv4Address | IPv6Address, int] | None = None

    @property
    def overhead(self) -> int:
        """Bytes that it puts around a packet: IP, UDP, and 32 of its own."""
        return 60 if self.peer is not None and self.peer[0].version == 4 else 80


@dataclass(frozen=True, slots=True)
class Seen:
    """What the engine tells of the peer. `handshake_unix_s` 0: there was none."""

    handshake_unix_s: int = 0
    sent_bytes: int = 0
    received_bytes: int = 0


@dataclass(slots=True)
class Judge:
    """Says of a tunnel whether it is up, from what was seen of it before and now. Times in seconds of one clock."""

    tunnel: Tunnel
    down_after_s: float
    begun_s: float
    _last: Seen = field(default_factory=Seen)
    _unanswered_s: float | None = None

    def take(self, seen: Seen, now_s: float) -> tuple[str, str]:
        """`up`, `connecting` or `down`, and why it is not up.

        Who gets anything but keepalives answers within 10 s, be it by a keepalive: silence after that is no rest.
        """
        said = seen.sent_bytes - self._last.sent_bytes
        heard = seen.received_bytes != self._last.received_bytes
        self._last = seen
        if heard:
            self._unanswered_s = None
        elif said not in (0, KEEPALIVE_BYTES) and self._unanswered_s is None:
            self._unanswered_s = now_s
        if not seen.handshake_unix_s:
            return self._never(now_s)
        if self._unanswered_s is not None and now_s - self._unanswered_s >= self.down_after_s:
            return "down", f"the other side has not answered for {int(now_s - self._unanswered_s)} s"
        return "up", ""

    def _never(self, now_s: float) -> tuple[str, str]:
        if now_s - self.begun_s < self.down_after_s:
            return "connecting", "waits for the other side's first answer"
        peer = self.tunnel.peer
        if peer is None:
            return "down", "the other side has not begun; it has to, because there is no spec.peer"
        where = f"[{peer[0]}]:{peer[1]}" if peer[0].version == 6 else f"{peer[0]}:{peer[1]}"
        hint = "is it there, does UDP get through, and do both sides have each other's keys?"
        return "down", f"{where} has never answered: {hint}"
