# SPDX-License-Identifier: Apache-2.0
"""Transit at tc ingress does what it does in XDP, and takes superpackets."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from . import test_answers, test_drop_reasons, test_icmp, test_transit_paths
from .frames import datagram, tunnel
from .ingress import XDP_TX
from .plan import HOST, RED, R, S
from .testbed import Testbed

SHORTER_THAN_THE_KERNEL_RUNS = {"OUTER_TRUNCATED-ethernet-only", "OUTER_TRUNCATED-in-ip"}


@pytest.fixture
def at_tc(droplet: Testbed) -> Iterator[Testbed]:
    """The testbed, whose Transit runs at tc."""
    droplet.at_tc = True
    yield droplet
    droplet.at_tc = False


@pytest.mark.parametrize("kind", ["geneve", "vxlan"])
def test_it_delivers_as_xdp_does(at_tc: Testbed, kind: str) -> None:
    test_transit_paths.test_delivery_leaves_the_inner_frame_and_a_note_for_the_endpoint(at_tc, kind, 6)


@pytest.mark.parametrize("family", [4, 6])
def test_it_answers_as_xdp_does(at_tc: Testbed, family: int) -> None:
    test_answers.test_transit_answers_a_ping_of_a_gateway(at_tc, "geneve", family)


@pytest.mark.parametrize(("size", "fits"), [(1000, True), (1440, False)])
def test_a_superpacket_is_bounced_whole_and_judged_by_its_segments(at_tc: Testbed, size: int, fits: bool) -> None:
    """Whatever its outer lengths say, which nobody has written."""
    at_tc.as_bouncer()
    at_tc.narrow(1500, HOST)
    inner = datagram(4, S, R.address(4), dst_mac=R.mac, payload=bytes(3000))
    whole = bytearray(bytes(tunnel("geneve", inner, src=HOST)))
    whole[16:18] = b"\0\x0e"
    whole[38:40] = b"\xff\xff"
    result = at_tc.transit(bytes(whole), gso_size=size, gso_segs=3)
    if fits:
        assert (result.retval, len(result.frame)) == (XDP_TX, len(whole))
        assert at_tc.counted()["vpc", RED.slot]["bounced_packets"] == 3
    else:
        assert at_tc.counted()["drop", "PACKET_TOO_BIG"]["packets"] == 3


@pytest.mark.long
def test_it_refuses_for_the_same_reasons(at_tc: Testbed) -> None:
    """All that a frame may be refused for; the kernel runs no program at tc on frames without a whole IP header."""
    for case in test_drop_reasons.TRANSIT_CASES:
        if str(case) not in SHORTER_THAN_THE_KERNEL_RUNS:
            at_tc.reset()
            test_drop_reasons.test_transit_refuses(at_tc, case)


@pytest.mark.long
def test_it_tells_senders_the_same() -> None:
    """ICMP errors, over tunnels and to clients outside."""
    testbed = Testbed(icmp_errors=test_icmp.MANY)
    testbed.at_tc = True
    try:
        for family in (4, 6):
            for kind in ("geneve", "vxlan"):
                testbed.reset()
                test_icmp.test_a_bouncer_tells_the_sender(testbed, family, kind)
            testbed.reset()
            test_icmp.test_a_bouncer_tells_what_fits(testbed, family, b"")
            testbed.reset()
            test_icmp.test_a_client_outside_is_told_how_long_packets_may_be(testbed, family)
    finally:
        testbed.close()
