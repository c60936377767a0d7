# SPDX-License-Identifier: Apache-2.0
"""Limits in the oracle and in the programs: with limiters that let nothing pass, or nearly everything, both agree; and
what the oracle says as time goes by."""

from __future__ import annotations

import itertools
import struct
from dataclasses import replace

import pytest

from mizar.oracle.agent import agent
from mizar.oracle.limits import EndpointLimits, Limiter
from mizar.oracle.outcome import Verdict
from mizar.oracle.tables import Droplet
from tests.oracle import build
from tests.oracle.differential import Arrival, observe, predict, visible
from tests.oracle.droplets import HOST, ME, MY_MAC, RED, address, mac_of
from tests.oracle.golden_droplet import droplet
from tests.oracle.real import RealDroplet

A, R = mac_of(1, 11), mac_of(1, 21)
SECOND, YEAR = 10**9, 365 * 86400 * 10**9
FAMILIES = (4, 6)


def full() -> Limiter:
    return Limiter(byte_ns=1, bytes_due=1 << 62)


def empty() -> Limiter:
    return Limiter(byte_ns=1, packet_ns=1, burst_ns=YEAR)


def datagram(family: int, mac: bytes, source: int, to: int, tos: int = 0) -> bytes:
    """From one host of the network to another."""
    ends = address(family, 1, source), address(family, 1, to)
    udp = build.udp(4000, 4001, b"x")
    make = build.ipv4 if family == 4 else build.ipv6
    packet = bytearray(make(*ends, 17, udp))
    (word,) = struct.unpack_from("!H", packet)
    struct.pack_into("!H", packet, 0, word | (tos if family == 4 else tos << 4))
    return build.ethernet(build.ROUTER, mac, 0x0800 if family == 4 else 0x86DD, bytes(packet))


def with_limits(**limits: EndpointLimits) -> Droplet:
    return replace(droplet(), limits=limits)


@pytest.mark.root
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("number", range(7))
def test_the_programs_do_what_the_oracle_says(real: RealDroplet, family: int, number: int) -> None:
    """Each place full or not, each class, both doors, whatever the packet claims."""
    cases = (
        EndpointLimits(egress=(full(),)), EndpointLimits(egress=(empty(), full())), EndpointLimits(ingress=(full(),)),
        EndpointLimits(ingress=(empty(), empty(), full())), EndpointLimits(egress=(empty(),), ingress=(empty(),)),
        EndpointLimits(dscp=0), EndpointLimits(egress=(empty(),), dscp=46),
    )  # fmt: skip
    here = with_limits(a=cases[number])
    for to, tos in itertools.product((21, 31, 11), (0, 0xB9)):
        sends = Arrival("agent", datagram(family, A, 11, to, tos))
        comes = Arrival(
            "transit",
            build.tunnel("geneve", datagram(family, R, 21, 11, tos), src=HOST, dst=ME, src_mac=mac_of(2, 4),
                         dst_mac=MY_MAC, vni=RED),
        )  # fmt: skip
        for arrival in (sends, comes):
            real.fill(here)
            assert visible(observe(real, arrival), arrival.door) == visible(predict(here, arrival), arrival.door)


def test_a_limit_lets_pass_again_what_time_brings() -> None:
    """A thousand bytes a second, a burst of one: each packet waits for those before it to be paid."""
    now = 1000 * SECOND
    limiter = Limiter(byte_ns=SECOND // 1000, burst_ns=0)
    here = replace(with_limits(a=EndpointLimits(egress=(limiter,))), clock=lambda: now)
    frame = datagram(4, A, 11, 21)

    def passes() -> bool:
        return agent(here, 1, frame).verdict is Verdict.SEND

    assert passes()
    assert not passes()
    now += len(frame) * SECOND // 1000 - 1
    assert not passes()
    now += 1
    assert passes()
    assert agent(here, 1, frame).reason == "LIMIT_EGRESS"


def test_a_guarantee_uses_up_what_the_rest_has() -> None:
    """The uplink is full for whoever is not guaranteed."""
    here = replace(with_limits(a=EndpointLimits(guarantee=empty())), uplink=full())
    assert agent(here, 1, datagram(4, A, 11, 21)).verdict is Verdict.SEND
    here = replace(here, limits={})
    assert agent(here, 1, datagram(4, A, 11, 21)).reason == "UPLINK_FULL"
