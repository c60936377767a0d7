# SPDX-License-Identifier: Apache-2.0
"""Two VPCs on one VNI with equal addresses; what packets bear beside the VNI: identity, groups, an endpoint's options.

GREEN is on RED's VNI and known by its identity.
"""

from __future__ import annotations

import pytest

from mizar.kernel import layout

from .frames import datagram, identity_option, option, tunnel
from .plan import BOUNCER, FAMILIES, FRONT, HOST, ME, RED, ROUTER_MAC, TUNNELS, A, B, R, S, VpcPlan
from .testbed import TC_REDIRECT, TC_SHOT, XDP_DROP, XDP_PASS, XDP_TX, Testbed

GREEN = VpcPlan(0x1000005, 3)
TENANT, VPC = 0x0102030405060708, 0x1112131415161718
IDENTITY = identity_option(TENANT, VPC)
GROUPS = option(0xFF01, 0x02, bytes([0, 0, 0x12, 0x34, 0, 0, 0, 1]))
SOURCE_PORT = slice(34, 36)
BITS, O_BIT, C_BIT = 43, 0x80, 0x40
"""Where they are in a frame over IPv4, and what they are."""


def both(droplet: Testbed) -> None:
    """RED and GREEN have an endpoint with the same addresses here."""
    droplet.as_host()
    droplet.vpc(GREEN)
    droplet.identity(RED.vni, TENANT, VPC, GREEN.vni)
    droplet.endpoint(A, vpc=GREEN, ifindex=900, slot=9)


@pytest.mark.parametrize("family", FAMILIES)
def test_one_vni_leads_to_two_vpcs(droplet: Testbed, family: int) -> None:
    """The same packet: with the identity it is for GREEN's endpoint, without it for RED's."""
    both(droplet)
    inner = datagram(family, R, A.address(family))
    for options, vpc, ifindex, slot in ((IDENTITY, GREEN, 900, 9), (b"", RED, A.ifindex, A.slot)):
        droplet.vpc_counters_from_zero()
        result = droplet.transit(tunnel("geneve", inner, src=HOST, options=options))
        note = layout.parse("handover", result.metadata)
        assert result.retval == XDP_PASS
        assert (note["ifindex"], note["vni"], note["slot"]) == (ifindex, vpc.vni, slot)
        assert set(droplet.counted()) == {("vpc", vpc.slot), ("endpoint", slot)}


@pytest.mark.parametrize(("tenant", "vpc"), [(TENANT, VPC + 1), (TENANT + 1, VPC), (VPC, TENANT), (0, 0)])
def test_a_wrong_identity_leads_nowhere(droplet: Testbed, tenant: int, vpc: int) -> None:
    """It is neither the VPC that the VNI names nor anybody else's, and nobody's counter shows it."""
    both(droplet)
    result = droplet.transit(
        tunnel("geneve", datagram(4, R, A.address(4)), src=HOST, options=identity_option(tenant, vpc))
    )
    assert result.retval == XDP_DROP
    assert set(droplet.counted()) == {("drop", "UNKNOWN_IDENTITY")}


def test_no_vni_is_the_number_of_a_vpc_with_identity(droplet: Testbed) -> None:
    """24 bits cannot say 0x1000005; its lower 24 bits are another VPC's, known or not."""
    both(droplet)
    result = droplet.transit(tunnel("vxlan", datagram(4, R, A.address(4)), src=HOST, vni=GREEN.vni & 0xFFFFFF))
    assert result.retval == XDP_PASS
    assert set(droplet.counted()) == {("drop", "UNKNOWN_VNI")}


@pytest.mark.parametrize("came", ["critical", "plain"])
def test_a_bouncer_keeps_vni_and_identity(droplet: Testbed, came: str) -> None:
    """What it forwards bears the VNI of the wire, not the number, and all options. The header says that one of them is
    critical (RFC 8926 3.4), whatever the header said that it came with."""
    both(droplet)
    droplet.network(FRONT, ME, vpc=GREEN)
    droplet.endpoint(R, vpc=GREEN)
    options = option(0x0102, 1, b"abcd") + IDENTITY
    frame = bytearray(tunnel("geneve", datagram(4, A, R.address(4)), src=HOST, options=options))
    frame[BITS] = C_BIT if came == "critical" else 0
    result = droplet.transit(bytes(frame))
    forwarded = datagram(4, A, R.address(4), ttl=63, src_mac=ROUTER_MAC, dst_mac=R.mac)
    assert result.retval == XDP_TX
    assert result.frame[BITS] == C_BIT
    assert result.frame == tunnel("geneve", forwarded, src=ME, dst=HOST, options=options, told=HOST)
    assert droplet.counted()["vpc", GREEN.slot]["bounced_packets"] == 1


@pytest.mark.parametrize("size", [0, 4, 20, 128, 252])
@pytest.mark.parametrize("family", FAMILIES)
def test_an_agent_puts_its_options_on(droplet: Testbed, family: int, size: int) -> None:
    """Byte for byte, behind a header with the VNI of the wire."""
    droplet.as_host()
    data = (b"\x01\x02\x01\x00" * 63)[:size]
    droplet.agent(A, option_bytes=size, wire_vni=0x123456)
    droplet.options(A, data)
    inner = datagram(family, A, R.address(family))
    result = droplet.send(inner)
    assert result.retval == TC_REDIRECT
    expected = tunnel("geneve", inner, src=ME, dst=BOUNCER, vni=0x123456, options=data)
    assert result.frame[SOURCE_PORT] >= b"\xc0\x00"
    assert result.frame[:34] + result.frame[36:] == expected[:34] + expected[36:]


@pytest.mark.parametrize("family", FAMILIES)
def test_an_agent_says_that_the_identity_is_critical(droplet: Testbed, family: int) -> None:
    """Who cannot read options must not take the packet for one of the VPC that the VNI names."""
    droplet.as_host()
    options = IDENTITY + option(0x0102, 1, b"abcd")
    droplet.agent(A, option_bytes=len(options), option_flags=1)
    droplet.options(A, options)
    inner = datagram(family, A, R.address(family))
    result = droplet.send(inner)
    expected = tunnel("geneve", inner, src=ME, dst=BOUNCER, options=options)
    assert (result.retval, result.frame[BITS]) == (TC_REDIRECT, C_BIT)
    assert result.frame[:34] + result.frame[36:] == expected[:34] + expected[36:]


@pytest.mark.parametrize("family", FAMILIES)
def test_what_goes_back_bears_the_identity(droplet: Testbed, family: int) -> None:
    """A final frame for an endpoint that GREEN has not here: with the O bit and the C bit."""
    both(droplet)
    inner = datagram(family, A, S.address(family), src_mac=ROUTER_MAC, dst_mac=S.mac)
    result = droplet.transit(tunnel("geneve", inner, src=HOST, options=IDENTITY))
    expected = bytearray(tunnel("geneve", inner, src=ME, dst=HOST, options=IDENTITY))
    expected[BITS] = O_BIT | C_BIT
    assert (result.retval, result.frame) == (XDP_TX, bytes(expected))


@pytest.mark.parametrize("group", [0, 1, 0xFFFF])
def test_a_vxlan_header_tells_the_group(droplet: Testbed, group: int) -> None:
    """In the field of draft-smith-vxlan-group-policy; options stay at home."""
    droplet.as_host()
    droplet.agent(A, tunnel="vxlan", group_set=group, option_bytes=4)
    droplet.options(A, b"\x01\x02\x01\x00")
    inner = datagram(4, A, R.address(4))
    result = droplet.send(inner)
    expected = tunnel("vxlan", inner, src=ME, dst=BOUNCER, group=group)
    assert result.frame[:34] + result.frame[36:] == expected[:34] + expected[36:]


@pytest.mark.parametrize("came", TUNNELS)
def test_a_bouncer_tells_the_group_to_a_vxlan_end(droplet: Testbed, came: str) -> None:
    """It came in an option or in the header; it goes on in the header."""
    droplet.as_bouncer(tunnel="vxlan")
    inner = datagram(4, A, R.address(4))
    if came == "vxlan":
        frame = tunnel("vxlan", inner, src=HOST, group=0x1234)
    else:
        frame = tunnel("geneve", inner, src=HOST, options=GROUPS)
    forwarded = datagram(4, A, R.address(4), ttl=63, src_mac=ROUTER_MAC, dst_mac=R.mac)
    assert droplet.transit(frame).frame == tunnel("vxlan", forwarded, src=ME, dst=HOST, group=0x1234)


def test_an_agent_without_its_options_sends_nothing(droplet: Testbed) -> None:
    """They might name the VPC."""
    droplet.as_host()
    droplet.agent(A, option_bytes=20)
    assert droplet.send(datagram(4, A, R.address(4))).retval == TC_SHOT
    assert droplet.counted()["drop", "AGENT_UNCONFIGURED"]["packets"] == 1


def test_neighbours_on_one_droplet_need_no_options(droplet: Testbed) -> None:
    """Two endpoints of GREEN here: the number is enough."""
    droplet.as_host()
    droplet.vpc(GREEN)
    droplet.endpoint(A, B, vpc=GREEN)
    droplet.agent(A, vpc=GREEN, option_bytes=20, option_flags=1)
    inner = datagram(4, A, B.address(4))
    result = droplet.send(inner)
    assert result.retval == TC_REDIRECT
    assert result.frame == bytes(datagram(4, A, B.address(4), src_mac=ROUTER_MAC, dst_mac=B.mac))
