# SPDX-License-Identifier: Apache-2.0
"""What endpoints of a planned fleet send: sound packets, hostile ones, and how they come into the fleet."""

from __future__ import annotations

from hypothesis import strategies as st

from mizar.oracle.fleet import Way
from mizar.planner.facts import EndpointFact
from tests.oracle import build
from tests.oracle.build import ours
from tests.oracle.draws import Draw
from tests.oracle.packets import mangled
from tests.oracle.planned import VNIS, Planned
from tests.oracle.told import IDENTITY, TUNNELS, mac_on_substrate


def datagram(mac: bytes, source: bytes, destination: bytes, sport: int = 4001, payload: bytes = b"mizar!") -> bytes:
    """What an endpoint sends to an address."""
    if len(source) == 4:
        packet = build.ipv4(source, destination, 17, build.udp(sport, 4002, payload))
        return build.ethernet(build.ROUTER, mac, 0x0800, packet)
    packet = build.ipv6(source, destination, 17, build.udp(sport, 4002, payload))
    return build.ethernet(build.ROUTER, mac, 0x86DD, packet)


def echo_request(mac: bytes, source: bytes, destination: bytes) -> bytes:
    if len(source) == 4:
        packet = build.ipv4(source, destination, 1, build.echo(8, 0, b"mizar!"))
        return build.ethernet(build.ROUTER, mac, 0x0800, packet)
    message = build.icmpv6(source, destination, build.echo(128, 0, b"mizar!"))
    return build.ethernet(build.ROUTER, mac, 0x86DD, build.ipv6(source, destination, 58, message))


def sent(planned: Planned, source: EndpointFact, frame: bytes) -> Way:
    """The way of a frame from an endpoint, also from one whose droplet has no daemon: it sends to a bouncer."""
    if source.workload:
        return planned.fleet.send(planned.host(source), planned.ifindexes[source.uid], frame)
    bouncer, vpc = bouncer_for(planned, source), planned.world.vpcs[source.vni]
    host = next(one for one in addresses_of(planned, source.host) if len(one) == len(bouncer))
    kind, options = TUNNELS[source.tunnel].name.lower(), b""
    if vpc.identity:
        kind, options = "geneve", ours(IDENTITY, vpc.identity)
    outer = build.tunnel(
        kind, frame, src=host, dst=bouncer, options=options,
        src_mac=mac_on_substrate(host), dst_mac=mac_on_substrate(bouncer), vni=vpc.wire_vni or vpc.vni,
    )  # fmt: skip
    return planned.fleet.inject(planned.world.droplets[first_bouncer(planned, source)].address, outer)


def first_bouncer(planned: Planned, source: EndpointFact) -> str:
    return planned.world.networks[source.vni, source.network_id].bouncers[0]


def addresses_of(planned: Planned, name: str) -> list[bytes]:
    """Of a droplet: IPv4 first."""
    fact = planned.world.droplets[name]
    return [one for one in (fact.address, fact.second) if one]


def bouncer_for(planned: Planned, source: EndpointFact) -> bytes:
    """The address of its bouncer at which a droplet without a daemon reaches it."""
    own = {len(one) for one in addresses_of(planned, source.host)}
    return next(one for one in addresses_of(planned, first_bouncer(planned, source)) if len(one) in own)


@st.composite
def hostile(draw: Draw, planned: Planned, source: EndpointFact) -> bytes:
    """Any frame of an endpoint: to an address, or a whole tunnel packet inside, with any bytes changed."""
    here = draw(st.sampled_from(source.addresses))
    targets = [a for each in planned.world.endpoints.values() for a in each.addresses if len(a) == len(here)]
    frame = datagram(source.mac, here, draw(st.sampled_from(targets)), draw(st.integers(0, 0xFFFF)))
    if draw(st.booleans()):
        payload = build.tunnel(
            draw(st.sampled_from(["geneve", "vxlan"])), frame, src=here[:4], dst=here[:4], src_mac=source.mac,
            dst_mac=build.ROUTER, vni=draw(st.sampled_from(VNIS)),
        )[42:]  # fmt: skip
        frame = datagram(source.mac, here, draw(st.sampled_from(targets)), 6081, payload)
    return bytes(draw(mangled(st.just(frame))))
