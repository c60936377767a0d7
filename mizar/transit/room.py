# SPDX-License-Identifier: Apache-2.0
"""How large the packets of endpoints may be here: what the substrate's have room for, less the tunnel's overhead.

Asked by `attachments` and `installer`. The overhead is that of the largest outer header that a packet may meet on its
way: while every droplet of the fleet has an IPv4 address nobody writes IPv6 (contracts/wire.md).
"""

from collections.abc import Callable

from mizar.kernel.layout import constant
from mizar.transit.state import State


class Room:
    """`mtu`: bytes of the largest IP packet on the substrate, now; `state`: of this droplet, now."""

    def __init__(self, mtu: Callable[[], int], state: Callable[[], State]) -> None:
        self._mtu = mtu
        self._state = state

    def mtu(self) -> int:
        """For an endpoint that leaves the choice to its droplet."""
        return self._mtu() - constant("OVERHEAD_IPV6" if self._state().meets_ipv6() else "OVERHEAD_IPV4")

    def whole(self) -> int:
        """For one that takes tunnel packets as they are."""
        return self._mtu()

    def mtus(self) -> tuple[int, int]:
        """All that it may be or have been: over IPv4 and over IPv6."""
        return self._mtu() - constant("OVERHEAD_IPV4"), self._mtu() - constant("OVERHEAD_IPV6")
