# SPDX-License-Identifier: Apache-2.0
"""Answers to DHCPv4, DHCPv6 and router solicitations: read back by scapy, and any bytes at all as requests."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.dhcp6 import (
    DUID_LL,
    DHCP6_Advertise,
    DHCP6_Confirm,
    DHCP6_InfoRequest,
    DHCP6_Release,
    DHCP6_Renew,
    DHCP6_Reply,
    DHCP6_Request,
    DHCP6_Solicit,
    DHCP6OptClientId,
    DHCP6OptDNSDomains,
    DHCP6OptDNSServers,
    DHCP6OptIA_NA,
    DHCP6OptIAAddress,
    DHCP6OptRapidCommit,
    DHCP6OptServerId,
    DHCP6OptStatusCode,
)
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import (
    ICMPv6ND_RA,
    ICMPv6ND_RS,
    ICMPv6NDOptMTU,
    ICMPv6NDOptPrefixInfo,
    ICMPv6NDOptRDNSS,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
)
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from mizar.transit.guest.answering import answer
from mizar.transit.guest.lease import BadRequestError, Lease, Leg, Settings

MAC, ROUTER_MAC = "02:00:00:00:01:0b", "02:4d:5a:00:00:01"
V4, V6, LINK_LOCAL = "10.0.1.11", "fd00:10:0:1::b", "fe80::5"


def packed(text: str) -> bytes:
    return ip_address(text).packed


LEASE = Lease(
    bytes.fromhex(MAC.replace(":", "")),
    1450,
    Leg(packed(V4), packed("10.0.1.1"), packed("10.0.1.0"), 24),
    Leg(packed(V6), packed("fd00:10:0:1::1"), packed("fd00:10:0:1::"), 64),
    Settings((packed("10.0.1.2"), packed("fd00:10:0:1::2")), "cloud.example", 1000),
)
BARE = Lease(LEASE.mac, 1450, None, None, Settings())


def ask(frame: Any, lease: Lease = LEASE) -> Any:
    """The answer, parsed; all its checksums are right."""
    reply = answer(bytes(frame), lease)
    if reply is None:
        return None
    parsed = Ether(reply)
    fresh = parsed.copy()
    for layer in (IP, UDP, ICMPv6ND_RA):
        if layer in fresh:
            delattr(fresh[layer], "cksum" if layer is ICMPv6ND_RA else "chksum")
    assert bytes(fresh) == reply
    assert parsed.src == ROUTER_MAC
    return parsed


# ---- DHCPv4


def request4(
    kind: str, *, options: Any = (), ciaddr: str = "0.0.0.0", flags: int = 0, mac: str = MAC, **fields: Any
) -> Any:
    chaddr = bytes.fromhex(mac.replace(":", ""))
    message = BOOTP(chaddr=chaddr, xid=77, ciaddr=ciaddr, flags=flags, **fields)
    dhcp = DHCP(options=[("message-type", kind), *options, "end"])
    return (
        Ether(src=MAC, dst="ff:ff:ff:ff:ff:ff")
        / IP(src=ciaddr, dst="255.255.255.255")
        / UDP(sport=68, dport=67)
        / message
        / dhcp
    )


def options4(reply: Any) -> dict[str, Any]:
    return {each[0]: each[1] if len(each) == 2 else each[1:] for each in reply[DHCP].options if isinstance(each, tuple)}


def test_discover_is_offered_the_endpoints_address() -> None:
    """Everything that an endpoint needs, to its own MAC."""
    reply = ask(request4("discover"))
    assert (reply.dst, reply[IP].src, reply[IP].dst) == (MAC, "10.0.1.1", V4)
    assert (reply[BOOTP].op, reply[BOOTP].xid, reply[BOOTP].yiaddr) == (2, 77, V4)
    assert options4(reply) == {
        "message-type": 2, "server_id": "10.0.1.1", "lease_time": 1000, "renewal_time": 500, "rebinding_time": 875,
        "subnet_mask": "255.255.255.0", "router": "10.0.1.1", "interface-mtu": 1450, "name_server": "10.0.1.2",
        "domain": b"cloud.example",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("request_", "kind", "to"),
    [
        (request4("request", options=[("requested_addr", V4), ("server_id", "10.0.1.1")]), 5, V4),
        (request4("request", options=[("requested_addr", V4)]), 5, V4),
        (request4("request", ciaddr=V4), 5, V4),
        (request4("request", options=[("requested_addr", "10.0.1.99")]), 6, "255.255.255.255"),
        (request4("request", ciaddr="10.9.9.9"), 6, "255.255.255.255"),
        (request4("request"), 6, "255.255.255.255"),
        (request4("request", options=[("requested_addr", V4)], flags=0x8000), 5, "255.255.255.255"),
        (request4("discover", options=[(80, b"")]), 5, V4),
        (request4("inform", ciaddr=V4), 5, V4),
    ],
    ids=["selecting", "init-reboot", "renewing", "wrong", "moved", "nothing", "broadcast", "rapid", "inform"],
)
def test_requests_are_granted_or_refused(request_: Any, kind: int, to: str) -> None:
    """RFC 2131 4.3.2."""
    reply = ask(request_)
    assert (options4(reply)["message-type"], reply[IP].dst) == (kind, to)
    assert ("lease_time" in options4(reply)) == (kind == 5 and request_[DHCP].options[0][1] != "inform")


@pytest.mark.parametrize(
    "request_",
    [
        request4("request", options=[("requested_addr", V4), ("server_id", "10.0.1.9")]),
        request4("release", ciaddr=V4),
        request4("decline"),
        request4("inform", ciaddr="10.0.1.12"),
    ],
    ids=["another-server", "release", "decline", "inform-of-another"],
)
def test_silence_where_it_is_the_answer(request_: Any) -> None:
    assert ask(request_) is None


@pytest.mark.parametrize(
    "request_",
    [
        request4("discover", mac="02:00:00:00:01:0c"),
        request4("discover", giaddr="10.0.1.12"),
        request4("discover", op=2),
    ],
)
def test_what_is_not_its_own_request_is_none(request_: Any) -> None:
    with pytest.raises(BadRequestError):
        answer(bytes(request_), LEASE)


# ---- DHCPv6

CLIENT = DHCP6OptClientId(duid=DUID_LL(lladdr=MAC))
SERVER = DHCP6OptServerId(duid=DUID_LL(lladdr=ROUTER_MAC))


def request6(message: Any, *options: Any) -> Any:
    packet = (
        Ether(src=MAC, dst="33:33:00:01:00:02")
        / IPv6(src=LINK_LOCAL, dst="ff02::1:2")
        / UDP(sport=546, dport=547)
        / message
    )
    for option in options:
        packet = packet / option
    return Ether(bytes(packet))


def test_solicit_is_advertised_the_endpoints_address() -> None:
    """To the link-local address that asked, from the router's."""
    reply = ask(request6(DHCP6_Solicit(trid=0x123456), CLIENT, DHCP6OptIA_NA(iaid=7)))
    assert (reply.dst, reply[IPv6].src, reply[IPv6].dst) == (MAC, "fe80::1", LINK_LOCAL)
    assert reply[DHCP6_Advertise].trid == 0x123456
    assert (reply[DHCP6OptIA_NA].iaid, reply[DHCP6OptIA_NA].T1, reply[DHCP6OptIA_NA].T2) == (7, 500, 800)
    given_ = reply[DHCP6OptIA_NA].ianaopts[0]
    assert (given_.addr, given_.preflft, given_.validlft) == (V6, 1000, 1000)
    assert bytes(reply[DHCP6OptServerId].duid) == bytes(SERVER.duid)
    assert bytes(reply[DHCP6OptClientId].duid) == bytes(CLIENT.duid)
    assert reply[DHCP6OptDNSServers].dnsservers == ["fd00:10:0:1::2"]
    assert reply[DHCP6OptDNSDomains].dnsdomains == ["cloud.example."]


def test_rapid_commit_and_request_are_replied() -> None:
    for message in (
        request6(DHCP6_Solicit(), CLIENT, DHCP6OptRapidCommit(), DHCP6OptIA_NA(iaid=7)),
        request6(DHCP6_Request(), CLIENT, SERVER, DHCP6OptIA_NA(iaid=7)),
        request6(DHCP6_Renew(), CLIENT, SERVER, DHCP6OptIA_NA(iaid=7)),
    ):
        reply = ask(message)
        assert reply[DHCP6_Reply]
        assert reply[DHCP6OptIA_NA].ianaopts[0].addr == V6


def test_another_address_is_taken_away_and_a_second_association_gets_none() -> None:
    """RFC 8415 18.3.4: lifetimes of zero for what is not the client's."""
    wrong = DHCP6OptIA_NA(iaid=7, ianaopts=[DHCP6OptIAAddress(addr="fd00:10:0:1::99", preflft=9, validlft=9)])
    reply = ask(request6(DHCP6_Renew(), CLIENT, SERVER, wrong, DHCP6OptIA_NA(iaid=8)))
    first, second = reply.getlayer(DHCP6OptIA_NA, 1), reply.getlayer(DHCP6OptIA_NA, 2)
    assert [(one.addr, one.validlft) for one in first.ianaopts] == [(V6, 1000), ("fd00:10:0:1::99", 0)]
    assert [one.statuscode for one in second.ianaopts] == [2]


@pytest.mark.parametrize(("address", "status"), [(V6, 0), ("fd00:99::1", 4)])
def test_confirm_says_whether_the_address_belongs_here(address: str, status: int) -> None:
    asked = DHCP6OptIA_NA(iaid=7, ianaopts=[DHCP6OptIAAddress(addr=address)])
    assert ask(request6(DHCP6_Confirm(), CLIENT, asked))[DHCP6OptStatusCode].statuscode == status


def test_information_and_release_are_replied() -> None:
    assert ask(request6(DHCP6_InfoRequest()))[DHCP6OptDNSServers]
    assert ask(request6(DHCP6_Release(), CLIENT, SERVER, DHCP6OptIA_NA(iaid=7)))[DHCP6OptStatusCode].statuscode == 0


@pytest.mark.parametrize(
    "message",
    [
        request6(DHCP6_Solicit(), DHCP6OptIA_NA(iaid=7)),
        request6(DHCP6_Solicit(), CLIENT, SERVER, DHCP6OptIA_NA(iaid=7)),
        request6(DHCP6_Request(), CLIENT, DHCP6OptIA_NA(iaid=7)),
        request6(DHCP6_Request(), CLIENT, DHCP6OptServerId(duid=DUID_LL(lladdr=MAC)), DHCP6OptIA_NA(iaid=7)),
        request6(DHCP6_Confirm(), CLIENT),
    ],
    ids=["no-client", "solicit-names-a-server", "request-names-none", "another-server", "confirm-of-nothing"],
)
def test_messages_that_must_be_discarded(message: Any) -> None:
    """RFC 8415 16."""
    assert ask(message) is None


# ---- router discovery


def solicitation(**fields: Any) -> Any:
    return (
        Ether(src=MAC, dst="33:33:00:00:00:02")
        / IPv6(src=fields.pop("src", LINK_LOCAL), dst="ff02::2", hlim=255)
        / ICMPv6ND_RS(**fields)
    )


def test_a_router_solicitation_is_answered() -> None:
    """fe80::1 routes; addresses by DHCPv6; the prefix is on the link, and nothing is made of it."""
    reply = ask(solicitation())
    assert (reply.dst, reply[IPv6].src, reply[IPv6].dst, reply[IPv6].hlim) == (MAC, "fe80::1", LINK_LOCAL, 255)
    about = reply[ICMPv6ND_RA]
    assert (about.M, about.O, about.routerlifetime, about.chlim) == (1, 1, 9000, 64)
    assert reply[ICMPv6NDOptSrcLLAddr].lladdr == ROUTER_MAC
    assert reply[ICMPv6NDOptMTU].mtu == 1450
    prefix = reply[ICMPv6NDOptPrefixInfo]
    assert (prefix.prefix, prefix.prefixlen, prefix.L, prefix.A) == ("fd00:10:0:1::", 64, 1, 0)
    assert reply[ICMPv6NDOptRDNSS].dns == ["fd00:10:0:1::2"]


def test_one_from_nowhere_is_answered_to_all_of_the_link() -> None:
    reply = ask(solicitation(src="::"))
    assert (reply.dst, reply[IPv6].dst) == ("33:33:00:00:00:01", "ff02::1")


@pytest.mark.parametrize("frame", [solicitation(code=1), solicitation() / Raw(b"x")], ids=["code", "sound"])
def test_solicitations_are_checked(frame: Any) -> None:
    if frame[ICMPv6ND_RS].code:
        with pytest.raises(BadRequestError):
            answer(bytes(frame), LEASE)
    else:
        assert answer(bytes(frame), LEASE)


@pytest.mark.parametrize("frame", [request4("discover"), request6(DHCP6_Solicit(), CLIENT), solicitation()])
def test_an_endpoint_without_a_family_hears_nothing_of_it(frame: Any) -> None:
    assert answer(bytes(frame), BARE) is None


# ---- anything at all

SOUND = [
    bytes(frame)
    for frame in (
        request4("discover"),
        request4("request", options=[("requested_addr", V4), ("param_req_list", [1, 3, 6])]),
        request6(DHCP6_Solicit(), CLIENT, DHCP6OptIA_NA(iaid=7, ianaopts=[DHCP6OptIAAddress(addr=V6)])),
        request6(DHCP6_Renew(), CLIENT, SERVER, DHCP6OptIA_NA(iaid=7), DHCP6OptIA_NA(iaid=8)),
        solicitation(),
    )
]


@st.composite
def hostile(draw: Any) -> bytes:
    frame: bytearray = bytearray(draw(st.sampled_from(SOUND)))
    for at, value in draw(st.lists(st.tuples(st.integers(12, 600), st.integers(0, 255)), max_size=6)):
        frame[at % len(frame)] = value
    length: int = draw(st.integers(0, len(frame))) if draw(st.booleans()) else len(frame)
    more: bytes = draw(st.binary(max_size=40))
    return bytes(frame[:length]) + more


@settings(max_examples=2000, deadline=None, derandomize=True)
@given(st.one_of(hostile(), st.binary(max_size=1024)))
def test_whatever_comes_is_answered_ignored_or_refused(frame: bytes) -> None:
    """No other exception, never more than an MTU, never an address that is not the endpoint's."""
    for lease in (LEASE, BARE):
        try:
            reply = answer(frame, lease)
        except BadRequestError:
            continue
        assert reply is None or 14 < len(reply) <= 14 + 1280
