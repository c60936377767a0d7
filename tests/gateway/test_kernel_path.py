# SPDX-License-Identifier: Apache-2.0
"""The kernel's slow path on its own: what comes in VXLAN is translated by nftables and goes on, each tenant by itself.

No hot path is there: every packet goes through the kernel.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from ipaddress import ip_address

import pytest

from mizar.gateway import kernel_path as slow
from mizar.gateway.kernel_plan import KernelPlan, planned
from mizar.gateway.ruleset import ruleset
from mizar.kernel.conntrack import Conntrack, Event, Listener
from mizar.kernel.namespaces import Namespace
from mizar.lab.probes import readable
from mizar.model.errors import InvalidError
from mizar.pipeline.kernel_path import KernelPath
from mizar.pipeline.nat import Mapping, NatRules
from tests.gateway.rig import (
    BLUE,
    FORWARD4,
    GREEN,
    LIMIT_S,
    POOL4,
    POOL6,
    PORT,
    STATIC4,
    TENANT4,
    WORLD4,
    WORLD6,
    Rig,
    UdpEcho,
    heard_from,
    kernel_path,
    nat,
    rig,
    tunnels,
)
from tests.peers.foreign import command

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]


@dataclass(frozen=True)
class Settled:
    """A rig with its slow path."""

    rig: Rig
    path: KernelPath
    plan: KernelPlan

    def again(self, rules: NatRules) -> KernelPlan:
        """The same with other rules."""
        return self.rig.on_host(lambda: slow.settle(self.rig.prefix, self.path, rules, tunnels()))


@pytest.fixture(scope="module")
def settled() -> Iterator[Settled]:
    with rig() as made:
        path = kernel_path(made.prefix)
        plan = made.on_host(lambda: slow.settle(made.prefix, path, nat(), tunnels()))
        try:
            yield Settled(made, path, plan)
        finally:
            made.on_host(lambda: slow.remove(made.prefix, plan))


def test_tenants_with_equal_addresses_share_a_pool(settled: Settled) -> None:
    """One source address and port of two tenants are two outer ends, in both families; a port that is free is kept."""
    blue, green = settled.rig.ends["blue"], settled.rig.ends["green"]
    with UdpEcho(settled.rig.ends["world"], WORLD4), UdpEcho(settled.rig.ends["world"], WORLD6):
        assert heard_from(blue, WORLD6, source_port=4000) == (POOL6, 4000)
        address, port = heard_from(green, WORLD6, source_port=4000)
        assert (address, port != 4000) == (POOL6, True)
        assert heard_from(blue, WORLD4, source_port=4001) == (POOL4, 4001)
        assert heard_from(green, WORLD4, source_port=4001) == (STATIC4, 4001)


def test_tcp_and_its_bulk(settled: Settled) -> None:
    """A connection carries more than a window, with segments of the tunnel's MTU."""
    world, blue = settled.rig.ends["world"], settled.rig.ends["blue"]
    data = bytes(range(256)) * 4096
    with contextlib.closing(world.run(lambda: socket.create_server((WORLD4, PORT)))) as server:
        server.settimeout(LIMIT_S)
        with blue.run(lambda: socket.create_connection((WORLD4, PORT), LIMIT_S)) as client:
            taken, sender = server.accept()
            assert sender[0] == POOL4
            with taken:
                taken.settimeout(LIMIT_S)
                sending = threading.Thread(target=_send, args=(client, data))
                sending.start()
                with taken.makefile("rb") as stream:
                    assert stream.read() == data
                sending.join()


def test_from_outside_to_what_is_forwarded(settled: Settled) -> None:
    """A range of ports to blue's address, a whole address to green's: each sees who asked."""
    world = settled.rig.ends["world"]
    with UdpEcho(settled.rig.ends["blue"], TENANT4, PORT + 1), UdpEcho(settled.rig.ends["green"], TENANT4, PORT + 2):
        assert heard_from(world, FORWARD4, 8081, source_port=4002) == (WORLD4, 4002)
        assert heard_from(world, STATIC4, PORT + 2, source_port=4003) == (WORLD4, 4003)


@pytest.mark.parametrize(("family", "world"), [(socket.AF_INET, WORLD4), (socket.AF_INET6, WORLD6)])
def test_errors_find_their_way_back(settled: Settled, family: int, world: str) -> None:
    """A port that nobody has outside is refused to who asked (RFC 5508 REQ-4)."""
    blue = settled.rig.ends["blue"]
    with blue.run(lambda: socket.socket(family, socket.SOCK_DGRAM)) as asking:
        asking.connect((world, 9))
        asking.send(b"who")
        while not readable([asking.fileno()], 0.25):
            asking.send(b"who")
        with pytest.raises(ConnectionRefusedError):
            asking.recv(100)


def test_ping(settled: Settled) -> None:
    """Echo requests of both tenants with one id."""
    for name in ("blue", "green"):
        command("ping", "-c1", "-W10", "-e77", WORLD4, namespace=f"{settled.rig.prefix}-{name}")


def test_what_begins_and_ends_is_told(settled: Settled) -> None:
    """With the tenant's mark, both directions, and zones by which it can be kept and ended."""
    blue = settled.rig.ends["blue"]
    with Namespace.by_name(settled.path.namespace) as inside, Conntrack(inside) as conntrack:
        listener = Listener(inside)
        with contextlib.closing(listener), UdpEcho(settled.rig.ends["world"], WORLD4, PORT + 5):
            heard_from(blue, WORLD4, PORT + 5, source_port=4010)
            begun = next(event for event in _events(listener) if event.entry.original.source_port == 4010)
            entry = begun.entry
            assert (begun.ended, entry.mark) == (False, BLUE)
            assert entry.original.source == ip_address(TENANT4).packed
            assert (entry.reply.destination, entry.reply.destination_port) == (ip_address(POOL4).packed, 4010)
            assert conntrack.keep(entry, 5000)
            assert max(one.timeout_s for one in conntrack.entries() if one.original == entry.original) > 4000
            assert conntrack.delete(entry)
            assert not conntrack.delete(entry)
            assert any(event.ended and event.entry.key == entry.key for event in _events(listener))


def test_again_nothing_ends(settled: Settled) -> None:
    """Described again, with other rules beside, connections go on and tenants keep their zones."""
    world, blue = settled.rig.ends["world"], settled.rig.ends["blue"]
    with contextlib.closing(world.run(lambda: socket.create_server((WORLD4, PORT + 6)))) as server:
        server.settimeout(LIMIT_S)
        with (
            blue.run(lambda: socket.create_connection((WORLD4, PORT + 6), LIMIT_S)) as client,
            server.accept()[0] as taken,
        ):
            assert settled.again(replace(nat(), forward=())).zones == settled.plan.zones
            taken.settimeout(LIMIT_S)
            client.sendall(b"still there")
            assert taken.recv(100) == b"still there"
            assert settled.again(nat()).zones == settled.plan.zones


def test_what_nftables_cannot_do_is_refused_by_name() -> None:
    """Endpoint-independent mapping; two sides outside with one address; a port without tunnel end."""
    path = kernel_path("none")
    free = replace(nat().masquerade[0], mapping=Mapping.ENDPOINT_INDEPENDENT)
    with pytest.raises(InvalidError, match="no endpoint-independent mapping"):
        planned(path, NatRules(masquerade=(free,)), tunnels(), {})
    with pytest.raises(InvalidError, match="no tunnel end 'fabric'"):
        planned(path, nat(), {}, {})
    elsewhere = replace(nat().masquerade[0], outside=GREEN + 1)
    with pytest.raises(InvalidError, match="leads to 0x1000007, which has no port"):
        planned(path, NatRules(masquerade=(elsewhere,)), tunnels(), {})


def test_a_tenant_without_a_rule_has_no_way_out() -> None:
    """Neither route nor forwarding: its own addresses mean nothing outside."""
    plan = planned(kernel_path("none"), replace(nat(), masquerade=(), static=()), tunnels(), {})
    assert "oifname . " not in ruleset(plan)
    assert "snat" not in ruleset(plan).replace("status & snat == 0 drop", "")


def _send(client: socket.socket, data: bytes) -> None:
    client.sendall(data)
    client.shutdown(socket.SHUT_WR)


def _events(listener: Listener) -> Iterator[Event]:
    """Events as they come, until none comes any more."""
    while readable([listener.fileno()], LIMIT_S):
        yield from listener.read()
    raise AssertionError("no such event")
