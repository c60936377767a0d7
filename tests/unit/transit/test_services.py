# SPDX-License-Identifier: Apache-2.0
"""Places of scaled endpoints in a fleet of mixed families: who cannot be written to takes no flow."""

from __future__ import annotations

from mizar.manager import load_balancers
from mizar.transit.programs import sizes
from mizar.transit.service_values import MOST_INSIDE, DeleteService, Member, MemberState, PutService, Service
from mizar.transit.state import Limits
from mizar.transit.values import Droplet, PutDroplet, Tunnel
from tests.unit.transit.batches import OWN, START, Bench

FOUR, SIX = bytes((172, 30, 9, 2)), bytes.fromhex("20010db8") + bytes(11) + b"\x06"


def member(number: int, host: bytes) -> Member:
    mac = bytes((2, 0, 0, 0, 7, number))
    return Member((bytes((10, 0, 1, number)),), mac, host, Tunnel.GENEVE, 1, MemberState.HEALTHY)


def takers(bench: Bench) -> set[bytes]:
    """The hosts of the members that take new flows."""
    (service,) = bench.state.services.values()
    hosts = {one.slot: one.host for one in service.members}
    return {hosts[slot] for slot in bench.maps.services.get(service.slot)["place"]}


def test_members_beyond_a_border_of_families_are_passed_over() -> None:
    """While there are others."""
    bench = Bench(START)
    bench.do(PutDroplet(Droplet(SIX)))
    service = Service(1, 1, (bytes((10, 0, 1, 200)),), (member(21, FOUR), member(22, SIX)))
    bench.do(PutService(service))
    bench.check()
    assert takers(bench) == {FOUR}
    bench.do(PutService(Service(1, 1, service.addresses, (member(22, SIX),))))
    bench.check()
    assert takers(bench) == {SIX}, "and are counted as NO_COMMON_FAMILY"
    bench.do(PutService(Service(1, 1, service.addresses, (member(21, FOUR), member(23, OWN)))))
    bench.check()
    assert takers(bench) == {FOUR, OWN}


def test_a_member_that_moves_away_leaves_nothing() -> None:
    """Its MAC leads to no member of this droplet any more, while the service is there and behind its end; and does
    again when it comes back."""
    bench = Bench(START)
    addresses = (bytes((10, 0, 1, 200)),)
    for host in (OWN, FOUR, OWN, FOUR):
        bench.do(PutService(Service(1, 1, addresses, (member(21, host), member(23, FOUR)))))
        bench.check()
        assert len(list(bench.maps.member_slots.items())) == (host == OWN)
    bench.do(DeleteService(1, addresses[0]))
    bench.check()


def test_every_load_balancer_has_room_for_all_prefixes_that_it_may_have() -> None:
    """So nobody's routes keep the load balancers of others from a droplet."""
    assert load_balancers.MOST_INSIDE == MOST_INSIDE
    for limits in (Limits(), Limits(services=7)):
        assert sizes(limits)["public_inside"] == MOST_INSIDE * limits.services
        assert sizes(limits)["public_addresses"] == 2 * limits.services
