# SPDX-License-Identifier: Apache-2.0
"""Promises of private links over whole fleets, as the planner plans them: who may begin, who is met, and that nothing
else crosses between two VPCs."""

from __future__ import annotations

from dataclasses import dataclass, replace

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mizar.oracle.fleet import End, Way
from mizar.planner.facts import EndpointFact, ProxyFact
from tests.oracle import build
from tests.oracle.draws import Draw
from tests.oracle.planned import DAEMONS, VNIS, Planned, fleets, plan
from tests.unit.planner.world import endpoint

A, B = VNIS
CLIENT_PORT, SERVICE_PORT = 40000, 443
link_settings = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@dataclass(frozen=True)
class Linked:
    """A fleet with a proxied endpoint of A whose target is an endpoint of B."""

    planned: Planned
    link: EndpointFact
    source: EndpointFact
    target: EndpointFact

    def families(self) -> list[int]:
        """Lengths of addresses that can be proxied."""
        return [len(address) for address in self.source.addresses]

    def people(self, vni: int) -> list[EndpointFact]:
        """Endpoints of a VPC whose agents are known."""
        facts = self.planned.world.endpoints.values()
        return [fact for fact in facts if fact.vni == vni and fact.uid in self.planned.ifindexes and fact.workload]

    def send(self, fact: EndpointFact, frame: bytes) -> Way:
        return self.planned.fleet.send(self.planned.host(fact), self.planned.ifindexes[fact.uid], frame)


def of_length(fact: EndpointFact, length: int) -> bytes | None:
    return next((address for address in fact.addresses if len(address) == length), None)


@st.composite
def linked(draw: Draw) -> Linked:
    planned = draw(fleets())
    world = planned.world
    targets = [fact for fact in world.endpoints.values() if fact.vni == B and fact.workload]
    target = draw(st.sampled_from(targets)) if targets else endpoint(B, 1, 9, "d1")
    world.endpoints[target.uid] = target
    carrier = draw(st.sampled_from(DAEMONS))
    link = replace(endpoint(A, 1, 100, carrier), workload=None, carried=True)
    source = replace(endpoint(B, target.network_id, 101, carrier), workload=None, carried=True)
    lengths = {len(address) for address in target.addresses}
    source = replace(source, addresses=tuple(a for a in source.addresses if len(a) in lengths))
    ends = tuple(of_length(target, len(address)) or b"" for address in source.addresses)
    proxy = ProxyFact(B, source.network_id, source.addresses, source.mac, source.tunnel, ends)
    link = replace(link, proxy=proxy)
    world.endpoints |= {source.uid: source, link.uid: link}
    return Linked(plan(world), link, source, target)


def datagram(fact: EndpointFact, src: bytes, dst: bytes, sport: int, dport: int) -> bytes:
    body = build.udp(sport, dport, b"mizar")
    packet = build.ipv4(src, dst, 17, body) if len(src) == 4 else build.ipv6(src, dst, 17, body)
    return build.ethernet(build.ROUTER, fact.mac, 0x0800 if len(src) == 4 else 0x86DD, packet)


def ends_of(frame: bytes) -> tuple[bytes, bytes]:
    """Source and destination address."""
    if frame[12:14] == b"\x08\x00":
        return frame[26:30], frame[30:34]
    return frame[22:38], frame[38:54]


@link_settings
@given(linked())
def test_every_client_meets_the_target_and_is_answered(case: Linked) -> None:
    """Wherever client, carrier, target and bouncers are: one sees the source, the other the proxied endpoint."""
    for client in case.people(A):
        for length in case.families():
            src, to = of_length(client, length), of_length(case.link, length)
            if src is None or to is None:
                continue
            way = case.send(client, datagram(client, src, to, CLIENT_PORT, SERVICE_PORT))
            assert way.end is End.DELIVERED, (way.reason, way.end)
            assert way.receiver is not None
            assert (way.receiver.vni, way.receiver.ifindex) == (B, case.planned.ifindexes[case.target.uid])
            there = of_length(case.source, length), of_length(case.target, length)
            assert ends_of(way.frame) == there
            at = 14 + (20 if length == 4 else 40)
            sport = int.from_bytes(way.frame[at : at + 2], "big")
            back = case.send(case.target, datagram(case.target, there[1] or b"", there[0] or b"", SERVICE_PORT, sport))
            assert back.end is End.DELIVERED, (back.reason, back.end)
            assert back.receiver is not None
            assert (back.receiver.vni, back.receiver.ifindex) == (A, case.planned.ifindexes[client.uid])
            assert ends_of(back.frame) == (to, src)


@link_settings
@given(linked(), st.sampled_from([(SERVICE_PORT, CLIENT_PORT), (1, 2), (CLIENT_PORT, SERVICE_PORT)]))
def test_nothing_else_crosses(case: Linked, ports: tuple[int, int]) -> None:
    """Endpoints of B open nothing to A, whomever they send to; those of A reach B by the proxied endpoint alone."""
    everywhere = {a for fact in case.planned.world.endpoints.values() for a in fact.addresses}
    for vni in (A, B):
        for sender in case.people(vni):
            for src in sender.addresses:
                for dst in everywhere - set(sender.addresses):
                    if len(dst) != len(src) or (vni == A and dst in case.link.addresses):
                        continue
                    way = case.send(sender, datagram(sender, src, dst, *ports))
                    assert way.receiver is None or way.receiver.vni == vni, (sender, dst.hex())
