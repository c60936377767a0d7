# SPDX-License-Identifier: Apache-2.0
"""What the kernel translates becomes a hot connection, in both directions, and the two end together."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from ipaddress import ip_address

import pytest

from mizar.gateway import kernel_path as slow
from mizar.gateway import rules
from mizar.gateway.entries import Connection
from mizar.gateway.flow_table import FlowTable
from mizar.gateway.kernel_sync import KernelSync
from mizar.gateway.sweep import Sweep
from mizar.kernel.conntrack import Conntrack, Listener
from mizar.kernel.gateway_keeper import Keeper
from mizar.kernel.gateway_tables import created, tick, ticks
from mizar.kernel.namespaces import Namespace
from mizar.lab.probes import readable
from mizar.pipeline.interpreter.connection import Flow
from mizar.pipeline.nat import NatRules
from tests.gateway.rig import (
    BLUE,
    GREEN,
    LIMIT_S,
    OUTSIDE,
    POOL4,
    PORT,
    TENANT4,
    WORLD4,
    Rig,
    UdpEcho,
    heard_from,
    kernel_path,
    nat,
    rig,
    tunnels,
)

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]


@dataclass
class Synced:
    """A rig with its slow path, and hot connections that no data plane uses."""

    rig: Rig
    conntrack: Conntrack
    listener: Listener
    table: FlowTable
    sync: KernelSync
    ahead: list[int]

    def wait(self, flow: Flow) -> Connection:
        """A flow's connection, as soon as the kernel has told of it."""
        while (found := self.table.find(flow)) is None:
            assert readable([self.listener.fileno()], LIMIT_S), f"nothing is told of {flow}"
            for event in self.listener.read():
                self.sync.told(event)
        return found


@pytest.fixture(scope="module")
def synced() -> Iterator[Synced]:
    with rig() as made, created() as tables, Keeper(tables.maps) as keeper:
        path = kernel_path(made.prefix)
        plan = made.on_host(lambda: slow.settle(made.prefix, path, nat(), tunnels()))
        rules.write(tables, nat())
        with Namespace.by_name(path.namespace) as inside, Conntrack(inside) as conntrack:
            ahead = [0]
            table = FlowTable(tables, keeper, lambda: tick() + ahead[0])
            with closing(Listener(inside)) as listener:
                sync = KernelSync(table, conntrack, nat())
                table.ended = sync.ended
                yield Synced(made, conntrack, listener, table, sync, ahead)
        made.on_host(lambda: slow.remove(made.prefix, plan))


def flow(port: int, meta: int = BLUE) -> Flow:
    """From a tenant's address to the world."""
    return Flow(meta, 4, "udp", int(ip_address(TENANT4)), int(ip_address(WORLD4)), port, PORT)


def in_kernel(synced: Synced, port: int) -> list[int]:
    """Time-outs of the kernel's connections with a source port."""
    return [one.timeout_s for one in synced.conntrack.entries() if one.original.source_port == port]


def test_it_becomes_hot_and_the_kernel_keeps_it(synced: Synced) -> None:
    """With what it becomes outside; the kernel keeps its own as long as any may be silent. Ended hot, it ends there."""
    with UdpEcho(synced.rig.ends["world"], WORLD4):
        heard_from(synced.rig.ends["blue"], WORLD4, source_port=5000)
        found = synced.wait(flow(5000))
    assert found.becomes == replace(flow(5000), meta=OUTSIDE, source=int(ip_address(POOL4)))
    assert found.tenant == BLUE
    assert in_kernel(synced, 5000)[0] > nat().timeouts.tcp_s
    synced.table.end(found)
    assert in_kernel(synced, 5000) == []


def test_it_ends_with_the_kernels(synced: Synced) -> None:
    """Deleted there, as an administrator does, it is hot no more."""
    with UdpEcho(synced.rig.ends["world"], WORLD4):
        heard_from(synced.rig.ends["blue"], WORLD4, source_port=5001)
        synced.wait(flow(5001))
    entry = next(one for one in synced.conntrack.entries() if one.original.source_port == 5001)
    synced.conntrack.delete(entry)
    while synced.table.find(flow(5001)) is not None:
        assert readable([synced.listener.fileno()], LIMIT_S)
        for event in synced.listener.read():
            synced.sync.told(event)


def test_what_was_begun_from_outside(synced: Synced) -> None:
    """A static address: the connection is the tenant's, the first flow the world's."""
    with UdpEcho(synced.rig.ends["green"], TENANT4, PORT + 2):
        heard_from(synced.rig.ends["world"], "203.0.113.9", PORT + 2, source_port=5002)
        there = int(ip_address("203.0.113.9"))
        begun = Flow(OUTSIDE, 4, "udp", int(ip_address(WORLD4)), there, 5002, PORT + 2)
        found = synced.wait(begun)
    assert found.becomes == replace(begun, meta=GREEN, destination=int(ip_address(TENANT4)))
    assert found.tenant == GREEN


def test_a_comparison_finds_what_was_missed_and_ends_what_has_expired(synced: Synced) -> None:
    """As after lost events, and after a restart; a connection that was silent too long ends on both sides."""
    with UdpEcho(synced.rig.ends["world"], WORLD4):
        heard_from(synced.rig.ends["blue"], WORLD4, source_port=5003)
    synced.sync.refresh()
    assert synced.table.find(flow(5003)) is not None
    synced.ahead[0] += ticks(nat().timeouts.udp_s) + 1
    Sweep(synced.table).run()
    assert synced.table.find(flow(5003)) is None
    assert in_kernel(synced, 5003) == []


def test_rules_that_are_gone_end_it_on_both_sides(synced: Synced) -> None:
    """A changed description: judged out of the hot table, the kernel has it no more either."""
    with UdpEcho(synced.rig.ends["world"], WORLD4):
        heard_from(synced.rig.ends["blue"], WORLD4, source_port=5004)
        synced.wait(flow(5004))
    try:
        synced.sync.nat = NatRules(static=nat().static)
        synced.table.judge(synced.sync.nat)
        synced.sync.refresh()
        assert synced.table.find(flow(5004)) is None
        assert in_kernel(synced, 5004) == []
    finally:
        synced.sync.nat = nat()
