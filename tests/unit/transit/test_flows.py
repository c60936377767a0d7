# SPDX-License-Identifier: Apache-2.0
"""Flows of proxied endpoints end when they are idle or closed, and no sooner; nothing else does."""

from __future__ import annotations

from typing import Any

import pytest

from mizar.kernel.layout import constant
from mizar.model.addresses import to_mapped
from mizar.transit import flows
from mizar.transit.flows import FlowAger
from mizar.transit.ledger import Ledger
from mizar.transit.state import Limits
from mizar.transit.values import Endpoint, Proxy, Tunnel
from tests.unit.transit.fakes import FakeMaps

OWN = bytes((172, 30, 9, 1))
CLIENT, LINK, SOURCE, TARGET = (bytes((10, 0, 1, host)) for host in (7, 100, 101, 9))
SLOT, INSTANCE = 3, 77
NOW = 100_000
TCP, UDP, ICMP = 6, 17, 1
FIN, RESET = 1, 2


class Bench:
    """A droplet that carries one proxied endpoint."""

    def __init__(self) -> None:
        self.maps = FakeMaps()
        self.ledger = Ledger(self.maps, OWN, Limits(8, 4, 8, 8, 4), list)
        sides = [
            Endpoint(vni, 1, (own,), bytes((2, 0, 0, 0, 0, vni)), OWN, Tunnel.GENEVE)
            for vni, own in ((1, LINK), (2, SOURCE))
        ]
        proxy = Proxy(sides[0], sides[1], (TARGET,), SLOT, INSTANCE)
        self.ledger.state.proxies[proxy.key] = proxy
        self.ager = FlowAger(self.ledger)

    def begin(
        self,
        protocol: int,
        idle_s: int,
        *,
        answered: bool,
        states: tuple[int, int] = (0, 0),
        port: int = 5,
        **fields: Any,
    ) -> None:
        """A flow whose last packet, from the client, is so long ago."""
        stamp = NOW - idle_s
        common = {"slot": SLOT, "instance": INSTANCE} | fields
        self.put(1, LINK, CLIENT, 80, port, protocol, TARGET, port, 80, common | {"stamp": stamp, "state": states[0]})
        behind = common | {"stamp": stamp - 1 if answered else 0, "state": states[1]}
        self.put(2, SOURCE, TARGET, port, 80, protocol, CLIENT, 80, port, behind)

    def put(
        self, vni: int, local: bytes, remote: bytes, local_port: int, remote_port: int, protocol: int, to: bytes,
        own: int, other: int, fields: dict[str, int],
    ) -> None:  # fmt: skip
        key = {
            "vni": vni, "local": to_mapped(local), "remote": to_mapped(remote), "local_port_be": local_port,
            "remote_port_be": remote_port, "protocol": protocol,
        }  # fmt: skip
        value = {"remote": to_mapped(to), "local_port_be": own, "remote_port_be": other} | fields
        self.maps.proxy_flows.put(key, value)

    def sweep(self) -> int:
        return self.ager.sweep(self.ledger.state, (NOW - 1) << constant("FLOW_STAMP_SHIFT"))

    def left(self) -> int:
        return len(list(self.maps.proxy_flows.items()))


@pytest.mark.parametrize(
    ("protocol", "answered", "states", "limit_s"),
    [
        (TCP, False, (0, 0), flows.UNANSWERED_S),
        (TCP, True, (0, 0), flows.ESTABLISHED_S),
        (TCP, True, (FIN, 0), flows.ESTABLISHED_S),
        (TCP, True, (FIN, FIN), flows.CLOSED_S),
        (TCP, True, (0, RESET), flows.RESET_S),
        (UDP, False, (0, 0), flows.UNANSWERED_S),
        (UDP, True, (0, 0), flows.UDP_S),
        (ICMP, True, (0, 0), flows.ECHO_S),
    ],
)
def test_a_flow_ends_when_it_has_been_idle_for_its_time(
    protocol: int, answered: bool, states: tuple[int, int], limit_s: int
) -> None:
    """Both of its entries, and the place in its proxy's budget; not before."""
    bench = Bench()
    bench.begin(protocol, limit_s, answered=answered, states=states)
    assert (bench.sweep(), bench.left()) == (0, 2)
    bench.maps = FakeMaps()
    bench = Bench()
    bench.begin(protocol, limit_s + 1, answered=answered, states=states)
    assert (bench.sweep(), bench.left()) == (1, 0)
    assert bench.maps.proxy_ended.get(SLOT) == 1


def test_others_stay() -> None:
    """Each flow is judged by itself."""
    bench = Bench()
    bench.begin(UDP, 10, answered=True, port=1)
    bench.begin(UDP, 1000, answered=True, port=2)
    bench.begin(UDP, 20, answered=True, port=3)
    assert (bench.sweep(), bench.left()) == (1, 4)


def test_flows_of_an_earlier_instance_go_at_once() -> None:
    """They belong to nobody, and count for nobody."""
    bench = Bench()
    bench.begin(TCP, 0, answered=True, instance=INSTANCE - 1)
    assert (bench.sweep(), bench.left()) == (0, 0)
    assert bench.maps.proxy_ended.get(SLOT) == 0


def test_half_a_flow_is_waited_for_once() -> None:
    """The data plane may be writing the other half just now."""
    bench = Bench()
    bench.put(2, SOURCE, TARGET, 5, 80, UDP, CLIENT, 80, 5, {"slot": SLOT, "instance": INSTANCE})
    assert (bench.sweep(), bench.left()) == (0, 1)
    assert (bench.sweep(), bench.left()) == (0, 0)
