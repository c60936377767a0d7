# SPDX-License-Identifier: Apache-2.0
"""Limits in the programs: what passes, what is refused, what it costs, and the mark of a class. Clocks of limiters are
set far ahead or far behind, so that nothing here depends on how long a test takes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether

from mizar.kernel import test_run

from .every import every_family, every_tunnel_and_family
from .frames import datagram, ping, tunnel
from .plan import BOUNCER, FRONT, HOST, RED, ROUTER_MAC, A, B, R, S
from .policed import comes, goes, segment, why
from .test_direct import learned
from .test_services import scaled, service
from .test_substrate import OUTSIDE, come_in, from_stack, ready
from .testbed import TC_REDIRECT, TC_SHOT, XDP_DROP, Testbed

LIMITED, MEMBER_LIMITED = 128, 32
OWN, OF_NETWORK, OF_VPC, GUARANTEE, UPLINK = 3, 4, 5, 6, 1
"""Slots in `limiters`; the last is the droplet's own."""
SECOND = 10**9
MARKED = 0x80
DELIVERY = 0x80000000


def limiter(
    droplet: Testbed, slot: int, *, byte_ns: int = 0, packet_ns: int = 0, burst_ns: int = SECOND, ahead_ns: int = 0
) -> int:
    """A limiter that asks so many nanoseconds for a byte, a packet; its clocks are ahead of now, or stand at zero."""
    value = {"byte_cost": byte_ns << 20, "packet_cost": packet_ns << 20, "vni": RED.vni}
    droplet.tables.limiters.put(slot, value | {"byte_burst_ns": burst_ns, "packet_burst_ns": burst_ns})
    due = time.clock_gettime_ns(time.CLOCK_MONOTONIC) + ahead_ns if ahead_ns else 0
    droplet.tables.limiter_states.put(slot, {"bytes_due": due, "packets_due": due})
    return slot


def full(droplet: Testbed, slot: int = OWN) -> int:
    """One that lets nothing pass for an hour."""
    return limiter(droplet, slot, byte_ns=1000, ahead_ns=3600 * SECOND)


def empty(droplet: Testbed, slot: int = OWN) -> int:
    """One that lets very much pass."""
    return limiter(droplet, slot, byte_ns=1, burst_ns=3600 * SECOND)


def limit(droplet: Testbed, endpoint: Any, **record: Any) -> None:
    """Gives an endpoint of ME its record: slots of limiters by direction."""
    whole = {name: (*value, 0, 0, 0)[:3] if isinstance(value, tuple) else value for name, value in record.items()}
    droplet.tables.endpoint_limits.put(endpoint.slot, whole)
    droplet.endpoint(endpoint, flags=LIMITED)
    agent = droplet.tables.agents.get(endpoint.ifindex)
    if agent:
        droplet.tables.agents.put(endpoint.ifindex, agent | {"flags": agent["flags"] | LIMITED})


def state(droplet: Testbed, slot: int = OWN) -> dict[str, int]:
    found = droplet.tables.limiter_states.get(slot)
    assert found is not None
    return dict(found)


@pytest.fixture
def uplink() -> Iterator[Testbed]:
    """A droplet whose interface has a limiter of its own."""
    droplet = Testbed(uplink=1)
    droplet.as_host()
    yield droplet
    droplet.close()


# ---- what passes and what does not


@every_family
def test_what_is_beyond_the_limit_does_not_go_out(droplet: Testbed, family: int) -> None:
    """Into the tunnel and to a neighbour; it is counted with the limiter. The virtual router answers as ever."""
    droplet.as_host()
    limit(droplet, A, egress=(full(droplet),))
    for to in (R, B):
        frame = bytes(datagram(family, A, to.address(family)))
        assert not goes(droplet, frame)
        assert why(droplet) == {"LIMIT_EGRESS"}
    assert state(droplet)["dropped_packets"] == 2
    assert state(droplet)["dropped_bytes"] == 2 * len(frame)
    assert goes(droplet, ping(family, A.address(family), FRONT.gateway(family), src_mac=A.mac, dst_mac=ROUTER_MAC))


@every_tunnel_and_family
def test_what_is_beyond_the_limit_does_not_come_in(droplet: Testbed, kind: str, family: int) -> None:
    """From the tunnel and from a neighbour, and nobody else is hindered."""
    droplet.as_host()
    limit(droplet, B, ingress=(full(droplet),))
    assert not comes(droplet, datagram(family, R, B.address(family)), kind=kind)
    assert why(droplet) == {"LIMIT_INGRESS"}
    assert not goes(droplet, datagram(family, A, B.address(family)))
    assert why(droplet) == {"LIMIT_INGRESS"}
    assert comes(droplet, datagram(family, R, A.address(family)), kind=kind)
    assert goes(droplet, datagram(family, A, R.address(family)))


@every_family
def test_what_is_within_the_limit_passes_and_is_charged(droplet: Testbed, family: int) -> None:
    """By its bytes, from now on: a pause saves up nothing beyond the burst."""
    droplet.as_host()
    limit(droplet, A, egress=(empty(droplet),), ingress=(empty(droplet, OF_NETWORK),))
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    frame = bytes(datagram(family, A, R.address(family)))
    for _ in range(3):
        assert goes(droplet, frame)
        due = state(droplet)["bytes_due"]
        assert before + len(frame) <= due
        before = due - len(frame)
    inner = bytes(datagram(family, R, A.address(family)))
    assert comes(droplet, inner)
    assert state(droplet, OF_NETWORK)["bytes_due"] >= before + len(inner)
    assert state(droplet)["dropped_packets"] == 0


@every_family
@pytest.mark.parametrize("place", range(3))
def test_each_of_its_limits_holds(droplet: Testbed, place: int, family: int) -> None:
    """Its own, its network's, its VPC's; and no other endpoint's."""
    droplet.as_host()
    slots = [empty(droplet, slot) for slot in (OWN, OF_NETWORK, OF_VPC)]
    full(droplet, slots[place])
    limit(droplet, A, egress=tuple(slots))
    assert not goes(droplet, datagram(family, A, R.address(family)))
    limit(droplet, A, ingress=tuple(slots))
    assert not comes(droplet, datagram(family, R, A.address(family)))
    assert goes(droplet, datagram(family, A, R.address(family)))
    assert state(droplet, slots[place])["dropped_packets"] == 2


@every_family
def test_packets_are_limited_beside_bytes(droplet: Testbed, family: int) -> None:
    """Three may pass at once; the next has to wait for an hour."""
    droplet.as_host()
    limiter(droplet, OWN, packet_ns=3600 * SECOND, burst_ns=2 * 3600 * SECOND)
    limit(droplet, A, egress=(OWN,))
    frame = datagram(family, A, R.address(family))
    assert [goes(droplet, frame) for _ in range(4)] == [True, True, True, False]


@every_family
def test_a_superpacket_is_charged_as_its_segments_are_on_the_wire(droplet: Testbed, family: int) -> None:
    """Each bears the headers again. It passes though it is larger than the burst, and those behind it pay."""
    droplet.as_host()
    payload, size, cost = 3000, 500, 10**9
    limit(droplet, A, egress=(limiter(droplet, OWN, byte_ns=cost // 100, packet_ns=cost, burst_ns=1000),))
    frame = bytes(segment(family, A, R.address(family), "A") / bytes(payload))
    segments = -(-payload // size)
    headers = len(frame) - payload
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    result = droplet.send(frame, gso_segs=segments, gso_size=size)
    assert result.retval in (TC_REDIRECT, TC_SHOT)  # a test run cannot mark it so that the kernel encapsulates it
    assert (state(droplet)["bytes_due"] - before) * 100 // cost == pytest.approx(
        len(frame) + (segments - 1) * headers, abs=90
    )
    assert (state(droplet)["packets_due"] - before) // cost == segments
    assert not goes(droplet, datagram(family, A, R.address(family)))


@every_family
def test_a_member_of_a_scaled_endpoint_has_its_limits(droplet: Testbed, family: int) -> None:
    """Also for what was sent to the service."""
    droplet.as_host()
    scaled(droplet, A, flags=MEMBER_LIMITED)
    droplet.tables.endpoint_limits.put(A.slot, {"ingress": (full(droplet), 0, 0)})
    to_member: dict[str, Any] = {"src_mac": ROUTER_MAC, "dst_mac": A.mac}
    frame = tunnel("geneve", datagram(family, R, service(family), **to_member), src=BOUNCER)
    assert droplet.transit(frame).retval == XDP_DROP
    assert why(droplet) == {"LIMIT_INGRESS"}


@every_family
def test_what_the_host_sends_is_limited_too(droplet: Testbed, family: int) -> None:
    """Out of the substrate's own stack."""
    ready(droplet)
    assert come_in(droplet, from_stack(family, OUTSIDE[family], A.address(family))).retval == TC_REDIRECT
    limit(droplet, A, ingress=(full(droplet),))
    assert come_in(droplet, from_stack(family, OUTSIDE[family], A.address(family))).retval == TC_SHOT
    assert why(droplet) == {"LIMIT_INGRESS"}


# ---- classes


@every_tunnel_and_family
@pytest.mark.parametrize("claimed", [0, 0xB9, 0xFF])
def test_a_class_marks_what_its_endpoint_sends(droplet: Testbed, kind: str, family: int, claimed: int) -> None:
    """Whatever it claims itself; congestion marks stay, the checksum is right, and the outer header says the same."""
    droplet.as_host()
    droplet.agent(A, tunnel=kind)
    limit(droplet, A, dscp=MARKED | 10)
    header = IP(tos=claimed) if family == 4 else IPv6(tc=claimed)
    header.src, header.dst = A.address(family), R.address(family)
    frame = Ether(src=A.mac, dst=ROUTER_MAC) / header / UDP(sport=4000, dport=4001) / b"x"
    result = droplet.send(bytes(frame))
    assert result.retval == TC_REDIRECT
    outer = Ether(result.frame)
    wanted = 10 << 2 | claimed & 3
    assert outer[IP].tos == 10 << 2
    inner = Ether(result.frame[50:])
    assert (inner[IP].tos if family == 4 else inner[IPv6].tc) == wanted
    if family == 4:
        assert inner[IP].chksum == IP(bytes(inner[IP].copy())).chksum
        again = inner[IP].copy()
        del again.chksum
        assert IP(bytes(again)).chksum == inner[IP].chksum


@every_tunnel_and_family
def test_a_class_marks_what_goes_straight_to_its_host(droplet: Testbed, kind: str, family: int) -> None:
    """Outside and inside, on the direct path as on any other."""
    learned(droplet, kind)
    limit(droplet, A, dscp=MARKED | 46)
    outer = Ether(droplet.send(bytes(datagram(family, A, S.address(family)))).frame)
    inner = Ether(bytes(outer)[50:])
    assert (outer[IP].dst, outer[IP].tos) == (HOST.address, 46 << 2)
    assert (inner[IP].tos if family == 4 else inner[IPv6].tc) == 46 << 2


@every_family
def test_who_has_no_class_keeps_its_marks(droplet: Testbed, family: int) -> None:
    """A limit alone changes no packet. On the substrate it claims nothing."""
    droplet.as_host()
    limit(droplet, A, egress=(empty(droplet),))
    claimed = IP(tos=0xB8, dst=R.address(4), src=A.address(4)) / UDP()
    assert Ether(droplet.send(bytes(Ether(src=A.mac, dst=ROUTER_MAC) / claimed)).frame)[IP].tos == 0
    header = IP(tos=0xB8) if family == 4 else IPv6(tc=0xB8)
    header.src, header.dst = A.address(family), B.address(family)
    result = droplet.send(bytes(Ether(src=A.mac, dst=ROUTER_MAC) / header / UDP(sport=4000, dport=4001) / b"x"))
    found = Ether(result.frame)
    assert (found[IP].tos if family == 4 else found[IPv6].tc) == 0xB8


# ---- the uplink


@every_family
def test_a_guarantee_goes_first(uplink: Testbed, family: int) -> None:
    """The interface is used up: what is guaranteed passes and uses it up further, everything else does not. What stays
    on the droplet uses nothing."""
    full(uplink, UPLINK)
    frame, local = datagram(family, A, R.address(family)), datagram(family, A, B.address(family))
    assert not goes(uplink, frame)
    assert why(uplink) == {"UPLINK_FULL"}
    assert goes(uplink, local)
    limit(uplink, A, guarantee=empty(uplink, GUARANTEE))
    before = state(uplink, UPLINK)["bytes_due"]
    assert goes(uplink, frame)
    assert state(uplink, UPLINK)["bytes_due"] == before + 1000 * len(bytes(frame))
    full(uplink, GUARANTEE)
    assert not goes(uplink, frame)
    assert why(uplink) == {"UPLINK_FULL"}
    empty(uplink, UPLINK)
    assert goes(uplink, frame)


def test_a_queue_that_keeps_departure_times_gets_what_is_late() -> None:
    """As far as it is not too late; then it is dropped."""
    droplet = Testbed(pace_ns=4 * SECOND)
    try:
        droplet.as_host()
        limiter(droplet, OWN, byte_ns=1, burst_ns=0, ahead_ns=3 * SECOND)
        limit(droplet, A, egress=(OWN,))
        assert goes(droplet, datagram(4, A, R.address(4)))
        assert state(droplet)["delayed_packets"] == 1
        full(droplet)
        assert not goes(droplet, datagram(4, A, B.address(4)))
        limiter(droplet, OWN, byte_ns=1, ahead_ns=20 * 3600 * SECOND)
        assert not goes(droplet, datagram(4, A, R.address(4)))
        assert why(droplet) == {"LIMIT_EGRESS"}
    finally:
        droplet.close()


@every_family
@pytest.mark.parametrize(("own_s", "uplink_s"), [(3, 1), (1, 3)])
def test_a_packet_leaves_when_the_last_of_its_limits_lets_it(own_s: int, uplink_s: int, family: int) -> None:
    """Its endpoint's and the interface's, in the order in which they are asked or the other. The last one asked must
    not send earlier what an earlier one holds back."""
    droplet = Testbed(pace_ns=4 * SECOND, uplink=1)
    try:
        droplet.as_host()
        limiter(droplet, OWN, byte_ns=1, burst_ns=0, ahead_ns=own_s * SECOND)
        limiter(droplet, UPLINK, byte_ns=1, burst_ns=0, ahead_ns=uplink_s * SECOND)
        due = max(state(droplet, slot)["bytes_due"] for slot in (OWN, UPLINK))
        limit(droplet, A, egress=(OWN,))
        result = droplet.send(bytes(datagram(family, A, R.address(family))))
        assert (result.retval, result.departs_ns) == (TC_REDIRECT, due)
    finally:
        droplet.close()


# ---- the shaper


@every_family
def test_what_an_endpoint_sends_waits_in_the_shaper(droplet: Testbed, family: int) -> None:
    """Before it is looked at, and with its class; bytes have no other limit then."""
    droplet.as_host()
    droplet.tables.shaper.put(0, 77)
    limit(droplet, A, egress=(full(droplet),), egress_class=0x10004)
    frame = bytes(datagram(family, A, R.address(family)))
    result = droplet.send(frame)
    assert (result.retval, result.frame) == (TC_REDIRECT, frame)
    assert droplet.counted() == {}
    droplet.tables.shaper.put(0, 0)
    assert not goes(droplet, frame)
    assert why(droplet) == {"LIMIT_EGRESS"}


@every_tunnel_and_family
def test_what_comes_out_of_the_tunnel_waits_in_the_shaper(droplet: Testbed, kind: str, family: int) -> None:
    """After all has been decided but bytes."""
    droplet.as_host()
    droplet.tables.shaper.put(0, 77)
    limit(droplet, A, ingress=(full(droplet),), ingress_class=0x10004)
    assert comes(droplet, datagram(family, R, A.address(family)), kind=kind)
    assert state(droplet)["dropped_packets"] == 0
    limiter(droplet, OWN, packet_ns=SECOND, ahead_ns=3600 * SECOND)
    assert not comes(droplet, datagram(family, R, A.address(family)), kind=kind)
    assert why(droplet) == {"LIMIT_INGRESS"}


def test_what_comes_out_of_the_shaper_for_nobody_is_dropped(droplet: Testbed) -> None:
    """Its endpoint has left while it waited."""
    droplet.as_host()
    result = test_run.run_tc(droplet.programs.programs["shaped"].fd, bytes(datagram(4, A, R.address(4))))
    assert result.retval == TC_SHOT
    assert why(droplet) == {"DELIVERY_FAILED"}


def test_what_comes_out_of_the_shaper_bears_no_mark(droplet: Testbed) -> None:
    """It would go along into the endpoint's namespace, and tell its rules a number of the droplet's."""
    droplet.as_host()
    shaped = droplet.programs.programs["shaped"].fd
    result = test_run.run_tc(shaped, bytes(datagram(4, R, A.address(4))), mark=DELIVERY | A.ifindex)
    assert (result.retval, result.mark) == (TC_REDIRECT, 0)
