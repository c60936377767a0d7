# SPDX-License-Identifier: Apache-2.0
"""A DPDK program in a namespace of its own makes the connections whose first packets a gateway's queue brings."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

import pytest

from mizar.gateway import rules
from mizar.gateway.entries import FIXED, INSTALLED, Connection, pair
from mizar.gateway.flow_table import FlowTable
from mizar.kernel import libbpf
from mizar.kernel.attach import create_link
from mizar.kernel.layout import U32
from mizar.kernel.programs import load
from mizar.pipeline.interpreter.connection import Flow
from mizar.pipeline.nat import Forward, Mapping, Masquerade, NatRules, Quota, Static
from mizar.pipeline.ranges import Ranges
from tests.queue_worker.build import CannotBuildError, worker
from tests.queue_worker.rig import Rig, Tap, Worker, rig, standin, wait_until
from tests.unit.pipeline import frames as f

pytestmark = pytest.mark.root

CONE, PINCHED, FIXED_TENANT, ONE = 0x01000007, 0x01000008, 0x01000009, 0x0100000A
"""Tenants: behind an endpoint-independent mapping, behind a single port, with a static rule, with a quota of one."""
POOL, POOL6, PINCHED_END, STATIC, FORWARDED = (
    "203.0.113.1",
    "2001:db8:ff::1",
    "203.0.113.2",
    "203.0.113.3",
    "203.0.113.4",
)


def nat() -> NatRules:
    """A rule of each kind."""

    def behind(meta: int, address: str, **more: Any) -> Masquerade:
        inside = Ranges.of(32, [meta])
        return Masquerade(inside=inside, outside=f.WORLD, addresses=(ip_address(address),), **more)

    return NatRules(
        masquerade=(
            behind(f.TENANT_A, POOL),
            behind(f.TENANT_A, POOL6),
            behind(ONE, POOL),
            behind(PINCHED, PINCHED_END, ports=(2000, 2000)),
            behind(CONE, "203.0.113.5", mapping=Mapping.ENDPOINT_INDEPENDENT),
        ),
        static=(
            Static(
                inside=FIXED_TENANT,
                inside_address=ip_address(f.INSIDE),
                outside=f.WORLD,
                outside_address=ip_address(STATIC),
            ),
        ),
        forward=(
            Forward(
                outside=f.WORLD,
                outside_address=ip_address(FORWARDED),
                outside_ports=(8080, 8089),
                inside=f.TENANT_A,
                inside_address=ip_address(f.INSIDE),
                inside_ports=(80, 89),
            ),
        ),
        quotas=(Quota(inside=Ranges.of(32, [ONE]), connections=1),),
    )


@dataclass
class Gateway:
    """The rig with its program at work, and packet sockets on the fabric and where the worker gives frames back."""

    rig: Rig
    worker: Worker
    fabric: Tap
    back: Tap

    def flows(self) -> FlowTable:
        """What there is."""
        return FlowTable(self.rig.tables, self.rig.keeper)

    def made(self, flow: Flow) -> Connection:
        """The connection that begins with a flow; waits for it."""
        found: list[Connection] = []

        def look() -> bool:
            found[:] = [one for one in self.flows().listed() if one.original == flow]
            return bool(found)

        wait_until(look)
        return found[0]


@pytest.fixture(scope="module")
def program() -> Any:
    """The worker, built if it is not there."""
    try:
        return worker()
    except CannotBuildError as error:
        pytest.skip(f"the queue worker cannot be built: {error}")


@pytest.fixture
def gateway(program: Any) -> Iterator[Gateway]:
    """Everything at work: two seconds."""
    with rig() as where:
        rules.write(where.tables, nat())
        programs = load(bytes(8), objects={"gateway": standin()})
        leads = where.ifindex("host", "veth.kernel")
        gw = where.ifindex("host", "gw")

        def at_host(call: Callable[[], int]) -> int:
            return libbpf.check(where.spaces["host"].run(call), "prepare the gateway's stand-in")

        ports = programs.maps["gateway_queue_ports"]
        at_host(lambda: libbpf.lib().bpf_map_update_elem(ports, U32.pack(0), U32.pack(leads), 0))
        link = at_host(lambda: create_link(programs.programs["gateway"].fd, gw, "driver"))
        fabric, back = Tap(where.spaces["peers"], "wire"), Tap(where.spaces["host"], "veth.kernel")
        try:
            with Worker(program, where) as running:
                yield Gateway(where, running, fabric, back)
        finally:
            fabric.close()
            back.close()
            os.close(link)
            programs.close()


def number(text: str) -> int:
    """An address as a number."""
    return int(ip_address(text))


def test_first_packets_make_connections_and_come_back(gateway: Gateway) -> None:
    """Of every protocol and family, outward and inward: both entries as the contract has them, the frame as it came."""
    a, server = number(f.INSIDE), number(f.SERVER)
    a6, server6 = number(f.INSIDE6), number(f.SERVER6)
    cases = [
        (f.TENANT_A, f.udp(), "udp", (a, server, 40000, 53), (number(POOL), server, 40000, 53), 0),
        (f.TENANT_A, f.tcp(), "tcp", (a, server, 40000, 80), (number(POOL), server, 40000, 80), 0),
        (f.TENANT_A, f.echo(number=2000), "icmp4", (a, server, 2000, 2000), (number(POOL), server, 2000, 2000), 0),
        (
            f.TENANT_A,
            f.udp(f.INSIDE6, f.SERVER6),
            "udp",
            (a6, server6, 40000, 53),
            (number(POOL6), server6, 40000, 53),
            0,
        ),
        (
            f.TENANT_A,
            f.tcp(f.INSIDE6, f.SERVER6),
            "tcp",
            (a6, server6, 40000, 80),
            (number(POOL6), server6, 40000, 80),
            0,
        ),
        (FIXED_TENANT, f.udp(), "udp", (a, server, 40000, 53), (number(STATIC), server, 40000, 53), FIXED),
        (
            f.WORLD,
            f.tcp(f.SERVER, FORWARDED, 5555, 8081),
            "tcp",
            (server, number(FORWARDED), 5555, 8081),
            (server, a, 5555, 81),
            FIXED,
        ),
        (
            f.WORLD,
            f.udp(f.SERVER, STATIC, 5555, 7),
            "udp",
            (server, number(STATIC), 5555, 7),
            (server, a, 5555, 7),
            FIXED,
        ),
    ]
    for meta, inner, protocol, before, after, flags in cases:
        version = 6 if before[0] >> 32 else 4
        inward = meta == f.WORLD
        tenant = meta if not inward else FIXED_TENANT if before[1] == number(STATIC) else f.TENANT_A
        flow = Flow(meta, version, protocol, *before)
        becomes = Flow(tenant if inward else f.WORLD, version, protocol, *after)
        frame = f.in_vlan(inner) if inward else f.in_vxlan(inner, meta & 0xFFFFFF)
        gateway.back.wait(bytes(inner), frame, gateway.fabric)
        found = gateway.made(flow)
        assert (found.becomes, found.tenant) == (becomes, tenant)
        table = gateway.rig.tables.connections4 if version == 4 else gateway.rig.tables.connections6
        stamp = found.stamps[0]
        for entry, value in pair(flow, becomes, tenant=tenant, stamp=stamp, flags=flags | INSTALLED, rules=1):
            assert {name: one for name, one in (table.get(entry) or {}).items() if one} == {
                name: one for name, one in value.items() if one
            }


def test_what_makes_no_connection(gateway: Gateway) -> None:
    """Each is told from the others; no frame of them comes back, and nothing is left in the maps."""
    back = f.in_vxlan(f.udp())
    send = gateway.fabric.send
    send(f.in_vxlan(f.tcp(flags="A")))  # no first packet
    send(f.in_vxlan(f.arp()))
    send(f.in_vxlan(f.udp(), vni=6))  # a tenant without a rule
    send(f.in_vxlan(f.udp(), vni=CONE & 0xFFFFFF))
    for port in (1, 2):  # one port, one destination: the second finds none
        send(f.in_vxlan(f.udp(sport=port), vni=PINCHED & 0xFFFFFF))
        send(f.in_vxlan(f.udp(sport=port), vni=ONE & 0xFFFFFF))
    for _ in range(80):  # the pipeline would not ask so often for one that is there
        send(back)
    gateway.back.wait(bytes(f.udp()), back, gateway.fabric)
    assert {one.original.meta for one in gateway.flows().listed()} == {f.TENANT_A, PINCHED, ONE}
    tenants = dict(gateway.rig.tables.nat_tenants.items())
    assert (tenants[ONE]["in_use"], tenants[ONE]["refused"]) == (1, 1)
    gateway.worker.stop()
    ended = gateway.worker.ended
    assert {name: count for name, count in ended.items() if name not in ("known", "too often", "strange")} == {
        "made": 3,
        "no rule": 1,
        "mapped": 1,
        "quota": 1,
        "exhausted": 1,
        "full": 0,
    }
    assert ended["strange"] >= 2
    assert ended["known"] + ended["too often"] > 0  # which of the two follows from how quickly they were sent
