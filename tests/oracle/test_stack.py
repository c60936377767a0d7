# SPDX-License-Identifier: Apache-2.0
"""The way into the host's own stack and back from it: oracle and programs, octet by octet."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from mizar.oracle.outcome import Verdict
from mizar.oracle.tables import Droplet, Endpoint
from tests.oracle import build
from tests.oracle.differential import Arrival, check, check_arrival, predict
from tests.oracle.droplets import ME, RED, address, mac_of, packed
from tests.oracle.golden_droplet import droplet
from tests.oracle.real import RealDroplet
from tests.oracle.seeds import octet_by_octet

pytestmark = pytest.mark.root
OUTSIDE = {4: packed("192.0.2.1"), 6: packed("2001:db8:5::1")}
NOT_ROUTED = {4: packed("198.51.100.1"), 6: packed("2001:db8:6::1")}


def routed() -> Droplet:
    """The golden droplet; the network of its endpoints has routes into the substrate, and there are two of them."""
    here = droplet()
    table = {(packed("192.0.2.0"), 24): "substrate", (packed("2001:db8:5::"), 64): "substrate"}
    table |= {(address(family, 1, 31), 32 if family == 4 else 128): "substrate" for family in (4, 6)}
    other = Endpoint(1, mac_of(1, 31), ME, ifindex=3, uid="c")
    whole = Endpoint(1, mac_of(1, 41), ME, ifindex=4, uid="d", bypass=True)
    ends = {(RED, address(family, 1, host)): row for family in (4, 6) for host, row in ((31, other), (41, whole))}
    stack = {address(family, 1, host): RED for family in (4, 6) for host in (11, 21, 31, 41)}
    agents = {1: replace(here.agents[1], routes=table)}
    return replace(here, endpoints={**here.endpoints, **ends}, agents=agents, stack_link=True, stack=stack)


def frame(family: int, source: bytes, to: bytes, body: bytes, protocol: int = 17, mac: bytes = build.ROUTER) -> bytes:
    packet = build.ipv4(source, to, protocol, body) if family == 4 else build.ipv6(source, to, protocol, body)
    return build.ethernet(build.ROUTER, mac, 0x0800 if family == 4 else 0x86DD, packet)


def arrivals() -> Iterator[Arrival]:
    """Into the stack, as a tunnel's packet too; out of it: for an endpoint here, elsewhere and nowhere, from those that
    its network has a route to, another endpoint among them, and from others."""
    for family in (4, 6):
        own = address(family, 1, 11)
        for port in (4002, 6081, 4789):
            yield Arrival(
                "agent", frame(family, own, OUTSIDE[family], build.udp(4001, port, b"mizar!"), mac=mac_of(1, 11))
            )
        for source in (OUTSIDE[family], NOT_ROUTED[family], address(family, 1, 31)):
            for host in (11, 21, 41, 99):
                yield Arrival("stack", frame(family, source, address(family, 1, host), build.udp(1, 2, b"mizar!")))
    for next_header in (0, 43, 44, 60):
        chain = bytes([17, 0, 1, 4, 0, 0, 0, 0]) + build.udp(4001, 6081, b"mizar!")
        yield Arrival("agent", frame(6, address(6, 1, 11), OUTSIDE[6], chain, next_header, mac=mac_of(1, 11)))


def test_every_octet_of_what_goes_into_the_stack_and_comes_out(real: RealDroplet) -> None:
    """Whatever one octet is changed to, and however much is missing."""
    here = routed()
    real.fill(here)
    seen = set()
    for each in arrivals():
        check_arrival(real, here, each)
        outcome = predict(here, each)
        seen.add(outcome.reason or outcome.verdict)
        check(real, here, octet_by_octet(each, frozenset()))
    assert seen == {
        Verdict.STACK, Verdict.DELIVER, "SUBSTRATE_TUNNEL", "SUBSTRATE_SOURCE", "SUBSTRATE_DESTINATION",
        "BYPASS_SUBSTRATE",
    }  # fmt: skip


def test_an_endpoint_never_reaches_the_stack_of_a_droplet_without_a_link(real: RealDroplet) -> None:
    """The route is there before the link is, or after it."""
    here = replace(routed(), stack_link=False)
    real.fill(here)
    each = next(arrivals())
    check_arrival(real, here, each)
    assert predict(here, each).reason == "SUBSTRATE_UNREADY"
