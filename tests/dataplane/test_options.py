# SPDX-License-Identifier: Apache-2.0
"""Geneve options in any order: carried as they are by whoever forwards, whatever stands among them."""

from __future__ import annotations

from itertools import permutations

import pytest

from .frames import datagram, option, tunnel
from .plan import HOST, ME, ROUTER_MAC, A, R
from .testbed import XDP_DROP, XDP_TX, Testbed

ORIGIN = option(0xFF01, 0x01, bytes([192, 0, 2, 4]))
GROUPS = option(0xFF01, 0x02, bytes([0, 0, 0, 7, 0, 0, 0, 1, 0, 0, 0, 2]))
TRACE = option(0xFF01, 0x04, bytes(8))
FOREIGN = option(0x0102, 0x01, b"abcd")
UNKNOWN = option(0xFF01, 0x7F, b"efgh")
FORWARDED = datagram(4, A, R.address(4), ttl=63, src_mac=ROUTER_MAC, dst_mac=R.mac)


@pytest.mark.parametrize("order", list(permutations((ORIGIN, GROUPS, TRACE, FOREIGN, UNKNOWN))), ids=range(120))
def test_options_stand_in_any_order(droplet: Testbed, order: tuple[bytes, ...]) -> None:
    """Ours, others', and one of ours that nobody knows yet: forwarded with all of them, untouched."""
    droplet.as_bouncer()
    options = b"".join(order)
    result = droplet.transit(tunnel("geneve", datagram(4, A, R.address(4)), src=HOST, options=options))
    assert result.retval == XDP_TX
    assert result.frame == tunnel("geneve", FORWARDED, src=ME, dst=HOST, options=options)


@pytest.mark.parametrize("place", range(4))
def test_an_unknown_critical_option_is_found_anywhere(droplet: Testbed, place: int) -> None:
    """Between options that are known as well as last."""
    droplet.as_bouncer()
    each = [ORIGIN, GROUPS, FOREIGN]
    each.insert(place, option(0xFF01, 0xFF, b"ijkl"))
    frame = tunnel("geneve", datagram(4, A, R.address(4)), src=HOST, options=b"".join(each))
    assert droplet.transit(frame).retval == XDP_DROP
    assert droplet.counted()["drop", "GENEVE_CRITICAL_OPTION"]["packets"] == 1
