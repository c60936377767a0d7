# SPDX-License-Identifier: Apache-2.0
"""For each drop reason that generated cases meet too rarely to be counted on: a droplet, and a frame that it refuses.

Read by test_reached.py. The droplets are that of golden_droplet.py and what has to be another there.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from mizar.oracle.policies import (
    Direction,
    EndpointPolicy,
    NetworkAcl,
    PolicyFlow,
    PolicyFlowKey,
    PolicyFlows,
    PolicyRow,
    PolicySet,
    RuleVerdict,
)
from mizar.oracle.tables import PLACES_OF_SERVICE, Agent, Droplet, Endpoint, Flows, Member, Network, Service, Vpc
from tests.oracle import build
from tests.oracle.differential import Arrival
from tests.oracle.droplets import BLUE, HOST, ME, MY_MAC, RED, UNRESOLVED, address, even, mac_of, packed, prefix
from tests.oracle.golden_droplet import droplet

A, R = mac_of(1, 11), mac_of(1, 21)
OUTSIDE = packed("192.0.2.200")
ANYWHERE = packed("0.0.0.0"), 0
ALLOWED, DENIED, LAST_RULE = (
    RuleVerdict(1, allow=number == 0, rule=rule) for number, rule in enumerate((0x10001, 0x10000, 0x17FFF))
)


@dataclass(frozen=True)
class Provoked:
    """Why the frame is refused, where, and the frame."""

    reason: str
    here: Droplet
    arrival: Arrival

    def __str__(self) -> str:
        return self.reason


def packet(source: bytes, to: bytes, mac: bytes = A, port: int = 4002, protocol: int = 17, **fields: Any) -> bytes:
    """A datagram of IPv4, or that with another protocol's number."""
    body = build.udp(4001, port, b"mizar!")
    return build.ethernet(build.ROUTER, mac, 0x0800, build.ipv4(source, to, protocol, body, **fields))


def sends(to: bytes, source: bytes = address(4, 1, 11), **fields: Any) -> Arrival:
    """The endpoint here, to somebody."""
    return Arrival("agent", packet(source, to, **fields))


def comes(inner: bytes, kind: str = "geneve", **fields: Any) -> Arrival:
    """In a tunnel of the golden VPC."""
    ends: dict[str, Any] = {"src": HOST, "dst": ME, "src_mac": mac_of(2, 4), "dst_mac": MY_MAC, "vni": RED}
    return Arrival("transit", build.tunnel(kind, inner, **ends, **fields))


def with_sender(**fields: Any) -> Droplet:
    here = droplet()
    return replace(here, agents={1: replace(here.agents[1], **fields)})


def with_network(number: int, row: Network, **fields: Any) -> Droplet:
    here = droplet()
    return replace(here, networks={**here.networks, (RED, *prefix(4, number)): row}, **fields)


def with_member(member: Member | None, room: int = 1000) -> Droplet:
    """31 is a service, whose members are these, and whose VPC has so much room."""
    here, members = droplet(), (member,) if member else ()
    service = Service(members, (0 if member else -1,) * PLACES_OF_SERVICE)
    row = Endpoint(1, bytes(6), b"", service=service)
    agents: dict[int, Agent] = {1: replace(here.agents[1], member=bool(member))}
    return replace(here, endpoints={**here.endpoints, (RED, SERVED): row}, agents=agents, flows=Flows({RED: room}))


def policed(policy: EndpointPolicy, room: int = 1000) -> Droplet:
    return replace(droplet(), policies={"a": policy}, policy_flows=PolicyFlows({RED: room}))


def with_acl(verdict: RuleVerdict) -> Droplet:
    """Network 2 is known here, and lets nothing in."""
    acl = NetworkAcl(2, ingress=PolicySet(verdicts={PolicyRow(0): verdict}), ingress_later=PolicySet())
    there = Network(2, address(4, 2, 1), even(HOST))
    end = Endpoint(2, mac_of(2, 11), HOST)
    here = with_network(2, there, network_acls={(RED, *prefix(4, 2)): acl}, acl_vpcs=frozenset({RED}))
    here = replace(here, vpcs={RED: Vpc(even(ME), divided_here=True)})
    routed = {key: replace(row, routed_here=True) for key, row in here.networks.items()}
    agents = {1: replace(here.agents[1], routed_here=True)}
    return replace(here, endpoints={**here.endpoints, (RED, BEYOND): end}, networks=routed, agents=agents)


NEAR, SERVED, BEYOND = address(4, 1, 21), address(4, 1, 31), address(4, 2, 11)
OWN = Member(Endpoint(1, A, ME, ifindex=1, uid="a"))
NOTHING, ALL = PolicySet(), PolicySet(verdicts={PolicyRow(0): ALLOWED})
DENY = PolicySet(verdicts={PolicyRow(0): DENIED})
IN = comes(packet(NEAR, address(4, 1, 11), R))
TO_NOBODY = mac_of(9, 9) + packet(NEAR, SERVED, build.ROUTER)[6:]


def ended() -> Droplet:
    here = policed(EndpointPolicy(ALL, ALL))
    key = PolicyFlowKey(RED, "a", NEAR, (4001).to_bytes(2, "big"), (4002).to_bytes(2, "big"), 17)
    here.policy_flows[key] = PolicyFlow(1, Direction.EGRESS, rule=7, ended=True)
    return here


def unready() -> tuple[Provoked, ...]:
    """Of where packets go next."""
    to_divider = replace(droplet(), vpcs={RED: Vpc()})
    nobody = with_sender(bounced_here=False, bouncers=())
    silent = with_sender(bounced_here=False, bouncers=even(UNRESOLVED))
    own = with_sender(bounced_here=False, bouncers=even(ME))
    nobody, silent, own = (
        replace(here, endpoints={}, networks={key: replace(row, bounced_here=False, bouncers=here.agents[1].bouncers)
                                              for key, row in here.networks.items()})
        for here in (nobody, silent, own)
    )  # fmt: skip
    peer = with_network(2, Network(2, bytes(4), routed_here=True, peer=BLUE))
    peer = replace(peer, vpcs={RED: Vpc(even(ME), divided_here=True)}, agents=with_acl(DENIED).agents)
    return (
        Provoked("NO_DIVIDER", to_divider, sends(BEYOND)),
        Provoked("NO_BOUNCER", nobody, sends(NEAR)),
        Provoked("NEXT_HOP_UNRESOLVED", silent, sends(NEAR)),
        Provoked("FORWARD_TO_SELF", own, sends(NEAR)),
        Provoked("PEER_UNKNOWN", peer, sends(BEYOND)),
        Provoked("PACKET_TOO_BIG", replace(droplet(), mtus={HOST: 60}), sends(NEAR)),
        Provoked("TTL_EXPIRED", with_acl(ALLOWED), sends(BEYOND, ttl=1)),
    )


def routed() -> tuple[Provoked, ...]:
    """By what the table of the sender's network says."""

    def to(where: str | bytes, *, link: bool = True, **fields: Any) -> Droplet:
        return replace(with_sender(routes={ANYWHERE: where}, **fields), stack_link=link)

    return (
        Provoked("ROUTE_BLACKHOLE", to("blackhole"), sends(OUTSIDE)),
        Provoked("SUBSTRATE_TUNNEL", to("substrate"), sends(OUTSIDE, port=6081)),
        Provoked("SUBSTRATE_UNREADY", to("substrate", link=False), sends(OUTSIDE)),
        Provoked("APPLIANCE_GONE", to(mac_of(9, 1)), sends(OUTSIDE)),
        Provoked("FOREIGN_SOURCE", to("vpc", forwarding=True), sends(NEAR, source=packed("198.51.100.1"))),
    )


def in_tunnels() -> tuple[Provoked, ...]:
    """Of headers around the frame, and of who has none."""
    inner = packet(NEAR, address(4, 1, 11), R)
    return (
        Provoked("OUTER_FRAGMENT", droplet(), comes(inner, fragment=0x2000)),
        Provoked("VXLAN_FLAGS", droplet(), comes(inner, "vxlan", first=0)),
        Provoked("UNKNOWN_IDENTITY", droplet(), comes(inner, options=build.ours(0x83, bytes(16)))),
        Provoked("OPTION_MALFORMED", droplet(), comes(inner, options=build.ours(0x01, bytes(8)))),
        Provoked("IDENTITY_LOST", with_sender(needs_identity=True, options=bytes(20)), sends(SERVED)),
        Provoked("AGENT_UNCONFIGURED", replace(droplet(), agents={}), sends(NEAR)),
        Provoked("REQUEST_LIMITED", droplet(), Arrival("agent", long_request())),
    )


def long_request() -> bytes:
    """For an endpoint's configuration, and longer than any."""
    body = build.udp(68, 67, bytes(2000))
    return build.ethernet(b"\xff" * 6, A, 0x0800, build.ipv4(bytes(4), b"\xff" * 4, 17, body))


def scaled() -> tuple[Provoked, ...]:
    """By services."""
    return (
        Provoked("SERVICE_WITHOUT_MEMBER", with_member(None), sends(SERVED)),
        Provoked("SERVICE_PROTOCOL", with_member(OWN), sends(SERVED, protocol=50)),
        Provoked("MEMBER_UNKNOWN", with_member(OWN), comes(TO_NOBODY)),
        Provoked("FLOW_TABLE_FULL", with_member(OWN, room=0), sends(SERVED)),
    )


def judged() -> tuple[Provoked, ...]:
    """By rules."""
    hidden = build.ipv6(address(6, 1, 11), address(6, 1, 21), 60, bytes([17, 0, 1, 4, 0, 0, 0, 0]) + bytes(8))
    return (
        Provoked("POLICY_INGRESS_DEFAULT", policed(EndpointPolicy(NOTHING)), IN),
        Provoked("POLICY_INGRESS_DENIED", policed(EndpointPolicy(DENY)), IN),
        Provoked("POLICY_EGRESS_DEFAULT", policed(EndpointPolicy(None, NOTHING)), sends(NEAR)),
        Provoked("POLICY_EGRESS_DENIED", policed(EndpointPolicy(None, DENY)), sends(NEAR)),
        Provoked("POLICY_FLOWS_FULL", policed(EndpointPolicy(ALL), room=0), IN),
        Provoked("POLICY_FLOW_ENDED", ended(), sends(NEAR)),
        Provoked(
            "POLICY_UNREADABLE",
            policed(EndpointPolicy(None, ALL)),
            Arrival("agent", build.ethernet(build.ROUTER, A, 0x86DD, hidden)),
        ),
        Provoked("NETWORK_ACL_DENIED", with_acl(DENIED), sends(BEYOND)),
        Provoked("NETWORK_ACL_DEFAULT", with_acl(LAST_RULE), sends(BEYOND)),
    )


CASES = (*unready(), *routed(), *in_tunnels(), *scaled(), *judged())
