# SPDX-License-Identifier: Apache-2.0
"""Network ACLs in the programs: who is judged where, by which rules, and what is told."""

from __future__ import annotations

from typing import Any

from scapy.layers.inet import IP, UDP, fragment
from scapy.layers.inet6 import IPv6ExtHdrDestOpt, IPv6ExtHdrFragment
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from mizar.kernel.events import EventReader
from mizar.kernel.tables import network_key
from mizar.model import drop_reasons

from .every import every_family
from .frames import datagram, ip, ping, tunnel
from .plan import (
    BACK,
    BLUE,
    BOUNCER,
    DIVIDER,
    FAMILIES,
    FRONT,
    HOST,
    ME,
    NETWORK_ELSEWHERE,
    RED,
    ROUTER_MAC,
    THEIRS,
    A,
    C,
    NetworkPlan,
    R,
    S,
    V,
    VpcPlan,
    mapped,
)
from .policies import ALLOW, AUDIT, DENY, LOG, OF_UDP, Row, rules
from .testbed import TC_REDIRECT, TC_SHOT, XDP_DROP, XDP_PASS, XDP_TX, Testbed

LAST, LEARNED = 0x0001FFFF, 8
OPEN, CLOSED = Row(ALLOW), Row(DENY, rule=LAST, rank=9)


def acl(droplet: Testbed, network: NetworkPlan, *, vpc: VpcPlan = RED, **sets: int) -> None:
    """Binds a network to sets of rules; fragments behind the first have the same, unless others are named."""
    later = {f"{way}_later": sets.get(f"{way}_later", number) for way, number in sets.items() if "_" not in way}
    droplet.tables.acl_vpcs.put(vpc.slot, 1)
    for family in FAMILIES:
        address, length = network.prefix(family)
        key = network_key(vpc.vni, mapped(address), length)
        droplet.tables.network_acls.put(key, {"network": network.slot} | sets | later)


def why(droplet: Testbed) -> set[str]:
    """The reasons that were counted, forgotten afterwards."""
    found = {name for kind, name in droplet.counted() if kind == "drop"}
    droplet.tables.drop_counters.zero([drop_reasons.by_name()[name].number for name in found])
    return found


def from_front(inner: Any, **fields: Any) -> bytes:
    return tunnel("geneve", inner, src=HOST, **fields)


@every_family
def test_a_divider_refuses_what_a_rule_denies_and_what_none_allows(droplet: Testbed, family: int) -> None:
    droplet.as_divider()
    only = rules(droplet, 1, Row(ALLOW, OF_UDP, 4002, 16), CLOSED)
    acl(droplet, BACK, ingress=only)
    sent = datagram(family, A, S.address(family))
    assert droplet.transit(from_front(sent)).retval == XDP_TX
    assert (
        droplet.transit(
            from_front(ping(family, A.address(family), S.address(family), src_mac=A.mac, dst_mac=ROUTER_MAC))
        ).retval
        == XDP_DROP
    )
    assert why(droplet) == {"NETWORK_ACL_DEFAULT"}
    acl(droplet, BACK, ingress=rules(droplet, 2, Row(DENY, OF_UDP, 4002, 16, rule=0x10003), OPEN))
    assert droplet.transit(from_front(sent)).retval == XDP_DROP
    assert why(droplet) == {"NETWORK_ACL_DENIED"}


@every_family
def test_both_networks_are_asked_and_what_stays_in_one_is_nobodys_business(droplet: Testbed, family: int) -> None:
    droplet.as_divider()
    nothing, everything = rules(droplet, 1, CLOSED), rules(droplet, 2, OPEN)
    acl(droplet, FRONT, egress=nothing, ingress=everything)
    acl(droplet, BACK, ingress=everything, egress=everything)
    there, back = datagram(family, A, S.address(family)), datagram(family, S, A.address(family))
    assert droplet.transit(from_front(there)).retval == XDP_DROP, "front's rules about what leaves it"
    assert droplet.transit(from_front(back)).retval == XDP_TX, "and nothing is remembered of either"
    acl(droplet, FRONT, egress=nothing, ingress=nothing)
    assert droplet.transit(from_front(datagram(family, A, R.address(family)))).retval == XDP_TX
    acl(droplet, FRONT, egress=everything)
    assert droplet.transit(from_front(there)).retval == XDP_TX


@every_family
def test_other_vpcs_and_networks_inside_are_judged_by_their_own(droplet: Testbed, family: int) -> None:
    droplet.as_divider()
    acl(droplet, BACK, vpc=BLUE, ingress=rules(droplet, 1, CLOSED))
    sent = from_front(datagram(family, A, S.address(family)))
    assert droplet.transit(sent).retval == XDP_TX
    around = NetworkPlan(BACK.slot + 1, 0)
    length = 16 if family == 4 else 32
    key = network_key(RED.vni, mapped(around.prefix(family)[0]), length)
    droplet.tables.acl_vpcs.put(RED.slot, 1)
    droplet.tables.network_acls.put(key, {"network": 9, "ingress": 1, "egress": 1})
    assert droplet.transit(sent).retval == XDP_TX, "both are in the network around: nothing crosses"
    acl(droplet, BACK)
    assert droplet.transit(sent).retval == XDP_DROP, "back, inside of it, has none of its own"


@every_family
def test_an_agent_that_knows_the_way_does_what_a_divider_would_do(droplet: Testbed, family: int) -> None:
    """To a neighbour of another network, and on the direct path."""
    droplet.as_host()
    acl(droplet, BACK, ingress=rules(droplet, 1, CLOSED))
    assert droplet.send(datagram(family, A, C.address(family))).retval == TC_SHOT
    assert why(droplet) == {"NETWORK_ACL_DEFAULT"}
    far = datagram(family, A, S.address(family))
    assert droplet.send(far).retval == TC_REDIRECT, "to its bouncer, and a divider judges"
    droplet.endpoint(S, flags=LEARNED, network=NETWORK_ELSEWHERE)
    assert droplet.send(far).retval == TC_SHOT
    acl(droplet, BACK, ingress=rules(droplet, 2, OPEN))
    assert droplet.send(far).retval == TC_REDIRECT


@every_family
def test_a_bouncer_judges_and_who_gets_it_from_a_bouncer_does_not(droplet: Testbed, family: int) -> None:
    droplet.as_bouncer()
    acl(droplet, FRONT, ingress=rules(droplet, 1, CLOSED))
    there = datagram(family, S, R.address(family))
    assert droplet.transit(from_front(there)).retval == XDP_DROP
    droplet.reset()
    droplet.as_host()
    acl(droplet, FRONT, ingress=rules(droplet, 1, CLOSED))
    last = datagram(family, S, A.address(family), dst_mac=A.mac)
    last.src = ROUTER_MAC
    assert droplet.transit(from_front(last)).retval == XDP_PASS


@every_family
def test_what_a_foreign_end_takes_for_its_hosts_is_judged(droplet: Testbed, family: int) -> None:
    """It bridges frames with the router's MAC to the host itself, and nobody of ours has asked the ACL before."""
    droplet.as_host()
    acl(droplet, FRONT, ingress=rules(droplet, 1, CLOSED))
    last = datagram(family, S, A.address(family), dst_mac=A.mac)
    last.src = ROUTER_MAC
    assert droplet.transit(from_front(last)).retval == XDP_PASS
    droplet.next_hop(HOST, foreign=True)
    assert droplet.transit(from_front(last)).retval == XDP_DROP
    acl(droplet, FRONT, ingress=rules(droplet, 2, OPEN))
    assert droplet.transit(from_front(last)).retval == XDP_PASS


@every_family
def test_what_crosses_into_a_peer_is_judged_on_both_sides(droplet: Testbed, family: int) -> None:
    droplet.as_crossing(DIVIDER)
    sent = from_front(datagram(family, A, V.address(family)))
    acl(droplet, FRONT, egress=rules(droplet, 1, CLOSED))
    assert droplet.transit(sent).retval == XDP_DROP
    acl(droplet, FRONT, egress=rules(droplet, 2, OPEN))
    assert droplet.transit(sent).retval == XDP_TX
    droplet.reset()
    droplet.as_divider()
    droplet.vpc(BLUE, ME)
    droplet.network(THEIRS, BOUNCER, vpc=BLUE, routed_here=True)
    acl(droplet, THEIRS, vpc=BLUE, ingress=rules(droplet, 1, CLOSED))
    assert droplet.transit(from_front(datagram(family, A, V.address(family)), vni=BLUE.vni)).retval == XDP_DROP


def test_fragments_behind_the_first_have_rules_of_their_own(droplet: Testbed) -> None:
    droplet.as_divider()
    first, rest = rules(droplet, 1, Row(ALLOW, OF_UDP, 4002, 16), CLOSED), rules(droplet, 2, Row(ALLOW, OF_UDP), CLOSED)
    whole = Ether(src=A.mac, dst=ROUTER_MAC) / ip(4, A.address(4), S.address(4)) / UDP(sport=1, dport=4002)
    parts = [whole.__class__(bytes(whole)[:14]) / one for one in fragment((whole / Raw(bytes(600)))[IP], 400)]
    acl(droplet, BACK, ingress=first, ingress_later=rest)
    assert [droplet.transit(from_front(one)).retval for one in parts] == [XDP_TX, XDP_TX]
    acl(droplet, BACK, ingress=first, ingress_later=first)
    assert [droplet.transit(from_front(one)).retval for one in parts] == [XDP_TX, XDP_DROP]
    later = Ether(src=A.mac, dst=ROUTER_MAC) / ip(6, A.address(6), S.address(6)) / IPv6ExtHdrFragment(offset=9, nh=17)
    assert droplet.transit(from_front(later / Raw(bytes(64)))).retval == XDP_DROP
    acl(droplet, BACK, ingress=first, ingress_later=rest)
    assert droplet.transit(from_front(later / Raw(bytes(64)))).retval == XDP_TX


def test_what_cannot_be_read_no_rule_allows(droplet: Testbed) -> None:
    droplet.as_divider()
    acl(droplet, BACK, ingress=rules(droplet, 1, OPEN))
    hidden = Ether(src=A.mac, dst=ROUTER_MAC) / ip(6, A.address(6), S.address(6)) / IPv6ExtHdrDestOpt() / UDP(dport=22)
    assert droplet.transit(from_front(hidden)).retval == XDP_DROP
    assert why(droplet) == {"NETWORK_ACL_DEFAULT"}


def test_logged_and_audited_packets_are_told_of_and_pass(droplet: Testbed) -> None:
    droplet.as_divider()
    droplet.tables.droplet_switches.put(0, {"events": 1})
    reader = EventReader(droplet.programs.maps["events"], "event")
    reader.read()  # what others have left
    try:
        sent = from_front(datagram(4, A, S.address(4)))
        acl(droplet, BACK, ingress=rules(droplet, 1, Row(ALLOW | LOG, rule=0x10001)))
        acl(droplet, FRONT, egress=rules(droplet, 2, Row(AUDIT, rule=0x28002)))
        assert droplet.transit(sent).retval == XDP_TX
        (told,) = reader.read()
        audited = drop_reasons.by_name()["NETWORK_ACL_DENIED"].number
        assert (told["rule"], told["reason"], told["policed_slot"]) == (0x28002, audited, 0), (
            "what would be refused, first"
        )
        assert droplet.counted()["vpc", RED.slot]["audited_packets"] == 1
        acl(droplet, FRONT)
        assert droplet.transit(sent).retval == XDP_TX
        assert [(one["rule"], one["reason"]) for one in reader.read()] == [(0x10001, 0)]
    finally:
        reader.close()
