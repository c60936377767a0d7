# SPDX-License-Identifier: Apache-2.0
"""Health in the data plane: probes are answered, senders are stamped, droplets that are down are passed over."""

from __future__ import annotations

import time

import pytest
from scapy.layers.inet import IP
from scapy.layers.l2 import Ether

from .frames import datagram, tunnel
from .plan import BACK, BOUNCER, DIVIDER, FRONT, HOST, ME, MEMBERS, RED, STRANGER, A, DropletPlan, R, S, mapped
from .testbed import XDP_DROP, XDP_PASS, XDP_TX, Testbed

PROBE, REPLY = bytes.fromhex("ff018501 01000000"), bytes.fromhex("ff018501 02000000")
O_BIT = 43
"""Where the byte with Geneve's O bit is in a frame."""


def control(options: bytes, src: DropletPlan = HOST, dst: DropletPlan = ME) -> bytes:
    """A control packet: Geneve of VNI 0 with the O bit, and no frame."""
    frame = bytearray(bytes(tunnel("geneve", b"", options=options, src=src, dst=dst, vni=0)))
    frame[O_BIT] = 0x80
    return bytes(frame)


def destination(frame: bytes) -> str:
    return str(Ether(frame)[IP].dst)


def test_a_probe_is_answered_by_the_program_itself(droplet: Testbed) -> None:
    """The same packet turned around, kind 2; nothing is counted, no VPC needs to be known."""
    droplet.droplets(ME, HOST)
    run = droplet.transit(control(PROBE))
    expected = Ether(control(REPLY, src=ME, dst=HOST))
    expected.src, expected.dst = ME.mac, HOST.mac
    assert (run.retval, run.frame.hex()) == (XDP_TX, bytes(expected).hex())
    assert droplet.counted() == {}


def test_a_strangers_probe_is_left_to_the_host(droplet: Testbed) -> None:
    """Only known droplets are answered."""
    droplet.droplets(ME)
    assert droplet.transit(control(PROBE, src=STRANGER)).retval == XDP_PASS
    assert list(droplet.counted()) == [("drop", "UNKNOWN_SENDER")]


def test_an_answer_is_stamped_and_ends_here(droplet: Testbed) -> None:
    """The sender has been heard, and knows probes."""
    droplet.droplets(ME, HOST)
    assert droplet.transit(control(REPLY)).retval == XDP_DROP
    assert droplet.counted() == {}
    stamps = droplet.tables.droplet_slots.get({"addr": mapped(HOST.address)})
    assert stamps is not None
    assert (stamps["slot"], stamps["heard"]) == (HOST.slot, stamps["answered"])
    assert stamps["answered"]


def test_every_packet_of_a_droplet_says_that_it_is_heard(droplet: Testbed) -> None:
    """Also one that is refused; it is no answer to a probe."""
    droplet.as_host()
    droplet.transit(bytes(tunnel("vxlan", datagram(4, R, A.address(4)), src=HOST)))
    stamps = droplet.tables.droplet_slots.get({"addr": mapped(HOST.address)})
    assert stamps is not None
    assert stamps["heard"]
    assert not stamps["answered"]


def test_a_droplet_that_is_known_no_more_is_believed_no_longer_than_a_tick(droplet: Testbed) -> None:
    """What a CPU remembers of a sender ends with the tick of the clock."""
    droplet.as_host()
    frame = bytes(tunnel("vxlan", datagram(4, R, A.address(4)), src=HOST))
    assert droplet.transit(frame).retval == XDP_PASS
    droplet.tables.droplet_slots.delete({"addr": mapped(HOST.address)})
    end = time.monotonic() + 30
    while not droplet.counted().get(("drop", "UNKNOWN_SENDER")):
        assert time.monotonic() < end
        droplet.transit(frame)


def test_senders_in_one_place_of_memory_are_told_apart(droplet: Testbed) -> None:
    """More droplets than places speak in turn; strangers between them stay strangers."""
    droplet.as_host()
    probe = bytearray(control(PROBE))
    for number in range(1, 1200):
        address = (198 << 24 | 18 << 16 | number).to_bytes(4, "big")
        if number % 2:
            droplet.tables.droplet_slots.put({"addr": bytes(10) + b"\xff\xff" + address}, {"slot": HOST.slot})
        probe[26:30] = address
        probe[24:26] = bytes(2)
        assert droplet.transit(bytes(probe)).retval == (XDP_TX if number % 2 else XDP_PASS), number
        droplet.tables.droplet_slots.delete({"addr": bytes(10) + b"\xff\xff" + address})


def test_an_agent_passes_over_a_bouncer_that_is_down(droplet: Testbed) -> None:
    """Whatever the flow: it goes to a member that is up, and the flows of the lost one spread over the others."""
    droplet.as_host()
    droplet.network(FRONT, *MEMBERS)
    droplet.droplets(*MEMBERS[:13], down=True)
    took = {destination(droplet.send(datagram(4, A, R.address(4), sport=5000 + n)).frame) for n in range(200)}
    assert took == {member.address for member in MEMBERS[13:]}


def test_a_flow_stays_where_it_is_when_another_member_is_lost(droplet: Testbed) -> None:
    """Only the flows of the lost member move."""
    droplet.as_host()
    droplet.network(FRONT, *MEMBERS)
    frames = [datagram(4, A, R.address(4), sport=5000 + n) for n in range(64)]
    before = [destination(droplet.send(frame).frame) for frame in frames]
    droplet.droplets(MEMBERS[5], down=True)
    after = [destination(droplet.send(frame).frame) for frame in frames]
    moved = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
    assert {old for old, _ in moved} == {MEMBERS[5].address}
    assert MEMBERS[5].address not in after


def test_where_all_are_down_the_flows_own_member_is_tried(droplet: Testbed) -> None:
    """The marks may be wrong; the packet is not given up for them."""
    droplet.as_host()
    frame = datagram(4, A, R.address(4))
    droplet.droplets(BOUNCER, down=True)
    assert destination(droplet.send(frame).frame) == BOUNCER.address


@pytest.mark.parametrize("role", ["bouncer", "divider"])
def test_a_forwarder_passes_over_members_that_are_down(droplet: Testbed, role: str) -> None:
    """A bouncer the dividers, a divider the bouncers."""
    if role == "bouncer":
        droplet.as_bouncer()
        droplet.vpc(RED, DIVIDER, *MEMBERS[:3])
    else:
        droplet.as_divider()
        droplet.network(BACK, DIVIDER, *MEMBERS[:3], routed_here=True)
    droplet.droplets(DIVIDER, *MEMBERS[:2], down=True)
    for n in range(32):
        frame = bytes(tunnel("geneve", datagram(4, R, S.address(4)), src=HOST, sport=0xC000 + 0x111 * n))
        assert destination(droplet.transit(frame).frame) == MEMBERS[2].address
