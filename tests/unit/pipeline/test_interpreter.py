# SPDX-License-Identifier: Apache-2.0
"""Every path of both shipped pipelines, with frames built by scapy: verdict, whole frame and counters."""

from __future__ import annotations

from typing import Any

import pytest
from scapy.all import ICMP, IP, TCP, UDP, VXLAN, Dot1Q, Ether, IPv6, Raw

from mizar.pipeline import builder as b
from mizar.pipeline.interpreter.connection import read
from mizar.pipeline.interpreter.machine import Machine, Outcome, Verdict
from mizar.pipeline.interpreter.nat_table import NatTable
from mizar.pipeline.nat import NatRules
from tests.unit.pipeline import frames as f

SHIPPED = ["gateway-trap", "gateway-queue"]
LAST = 10_000_000_000


def table() -> NatTable:
    """Both tenants behind the same public addresses, and one host of tenant A with an address of its own."""
    return NatTable(
        NatRules(
            static=(b.static(f.TENANT_A, "10.0.0.9", f.WORLD, "203.0.113.9"),),
            masquerade=(
                b.masquerade([f.TENANT_A, f.TENANT_B], f.WORLD, f.PUBLIC, mapping="endpoint-independent"),
                b.masquerade(f.TENANT_A, f.WORLD, f.PUBLIC6),
            ),
        )
    )


def machine(name: str) -> Machine:
    return Machine(f.shipped(name), table())


def establish(machine: Machine, inner: Any, meta: int = f.TENANT_A) -> None:
    """What the slow path does for a new connection."""
    seen = read(bytes(inner), meta)
    assert seen is not None
    assert machine.conntrack.allocate(seen, 0) is not None


def counted(machine: Machine) -> dict[tuple[str, int | None], int]:
    return {key: tally.packets for key, tally in machine.counters.items()}


def encapsulated(inner: bytes, vni: int, target: int, vid: int | None = None) -> bytes:
    """What raw encap makes, by scapy; `target` is the last byte of the tunnel end."""
    eth = Ether(src="02:00:00:00:02:01", dst=f"02:00:00:00:02:{target:02x}")
    outer = eth / Dot1Q(vlan=vid) if vid is not None else eth
    ip = IP(src="192.0.2.1", dst=f"192.0.2.{target}", flags="DF", id=0, ttl=64)
    return bytes(outer / ip / UDP(sport=49152, dport=4789, chksum=0) / VXLAN(vni=vni, flags=8) / Raw(inner))


NEW = [f.tcp(), f.udp(), f.echo(), f.echo6(), f.tcp(f.INSIDE6, f.SERVER6), f.udp(f.INSIDE6, f.SERVER6)]


@pytest.mark.parametrize("inner", NEW)
def test_new_connections_are_trapped_with_their_tenant(inner: Any) -> None:
    """From the fabric: decapsulated, counted, encapsulated again towards the kernel with the same VNI."""
    run = machine("gateway-trap")
    outcome = run.run(f.in_vxlan(inner))
    assert outcome == Outcome(Verdict.KERNEL, encapsulated(bytes(inner), 5, 9), f.TENANT_A)
    assert counted(run) == {("new", f.TENANT_A): 1}


def test_new_connections_from_a_vlan_are_trapped_with_a_vni_of_their_own() -> None:
    """VLAN 100 is VNI 0xff0064 to the kernel, which no tenant of the fabric can send."""
    run = machine("gateway-trap")
    outcome = run.run(f.in_vlan(f.tcp()))
    assert outcome == Outcome(Verdict.KERNEL, encapsulated(bytes(f.tcp()), 0xFF0064, 9), f.WORLD)
    stolen = run.run(f.in_vxlan(f.tcp(), vni=0xFF0064))
    assert (stolen.verdict, stolen.reason) == (Verdict.DROP, "Decap: no case")


@pytest.mark.parametrize("inner", NEW)
def test_new_connections_go_to_the_queue(inner: Any) -> None:
    """The first pass hands over the bare frame; metadata says whose it is."""
    outcome = machine("gateway-queue").run(f.in_vxlan(inner))
    assert outcome == Outcome(Verdict.QUEUE, bytes(inner), f.TENANT_A, 0)


@pytest.mark.parametrize("name", SHIPPED)
@pytest.mark.parametrize(
    ("inner", "public", "answer"),
    [
        (f.tcp(), f.tcp(f.PUBLIC), f.tcp(f.SERVER, f.PUBLIC, 80, 40000, "SA")),
        (f.udp(), f.udp(f.PUBLIC), f.udp(f.SERVER, f.PUBLIC, 53, 40000)),
        (f.echo(number=2000), f.echo(f.PUBLIC, number=2000), f.echo(f.SERVER, f.PUBLIC, 2000, reply=True)),
        (f.udp(f.INSIDE6, f.SERVER6), f.udp(f.PUBLIC6, f.SERVER6), f.udp(f.SERVER6, f.PUBLIC6, 53, 40000)),
    ],
)
def test_established_connections_are_translated_both_ways(name: str, inner: Any, public: Any, answer: Any) -> None:
    """Fabric → world: the tag of the world. World → fabric: the tenant's VNI. Checksums are right."""
    run = machine(name)
    establish(run, inner)
    out = run.run(f.in_vxlan(inner))
    assert out == Outcome(Verdict.EGRESS, f.in_vlan(public), f.WORLD)
    back = run.run(f.in_vlan(answer))
    assert (back.verdict, back.meta) == (Verdict.EGRESS, f.TENANT_A)
    target = f.INSIDE6 if inner.haslayer(IPv6) else f.INSIDE
    delivered = answer.copy()
    delivered[IPv6 if inner.haslayer(IPv6) else IP].dst = target
    assert back.frame == encapsulated(f.same(bytes(delivered)), 5, 2, vid=2)
    if name == "gateway-trap":
        expected = {("established", f.TENANT_A): 1, ("established", f.WORLD): 1}
        assert counted(run) == expected | {("vlan out", None): 1, ("vxlan out", None): 1}


@pytest.mark.parametrize("name", SHIPPED)
def test_tenants_with_equal_addresses_do_not_meet(name: str) -> None:
    """The same flow of two tenants is two connections with two ports; answers find their own."""
    run = machine(name)
    for meta in (f.TENANT_A, f.TENANT_B):
        establish(run, f.tcp(), meta)
    ports = [Ether(run.run(f.in_vxlan(f.tcp(), vni=vni)).frame)[TCP].sport for vni in (5, 6)]
    assert len(set(ports)) == 2
    for port, meta in zip(ports, (f.TENANT_A, f.TENANT_B), strict=True):
        assert run.run(f.in_vlan(f.tcp(f.SERVER, f.PUBLIC, 80, port, "SA"))).meta == meta


@pytest.mark.parametrize("name", SHIPPED)
def test_a_static_address_takes_connections_from_outside(name: str) -> None:
    """The slow path allocates by the destination; the first packet then passes as any other."""
    run = machine(name)
    knock = f.tcp("198.51.100.8", "203.0.113.9", 5000, 22)
    establish(run, knock, f.WORLD)
    outcome = run.run(f.in_vlan(knock))
    assert (outcome.verdict, outcome.meta) == (Verdict.EGRESS, f.TENANT_A)
    assert outcome.frame == encapsulated(bytes(f.tcp("198.51.100.8", "10.0.0.9", 5000, 22)), 5, 2, vid=2)


@pytest.mark.parametrize("name", SHIPPED)
def test_icmp_errors_find_the_connection_inside_of_them(name: str) -> None:
    """RFC 5508: outside addresses and those of the packet inside are translated, with all checksums."""
    run = machine(name)
    establish(run, f.udp())
    sent = bytes(f.udp(f.PUBLIC))[14:]
    inside = bytes(f.udp())[14:]
    error = f.eth() / IP(src="198.51.100.1", dst=f.PUBLIC) / ICMP(type=3, code=3) / Raw(sent)
    outcome = run.run(f.in_vlan(error))
    wanted = f.eth() / IP(src="198.51.100.1", dst=f.INSIDE) / ICMP(type=3, code=3) / Raw(inside)
    assert (outcome.verdict, outcome.meta) == (Verdict.EGRESS, f.TENANT_A)
    assert outcome.frame == encapsulated(bytes(wanted), 5, 2, vid=2)
    stray = f.eth() / IP(src="198.51.100.1", dst=f.PUBLIC) / ICMP(type=3) / Raw(bytes(f.udp(f.PUBLIC, sport=9))[14:])
    assert run.run(f.in_vlan(stray)).reason == "NAT, case 1, case 3, step 2: drop"


@pytest.mark.parametrize("name", SHIPPED)
@pytest.mark.parametrize(
    "inner", [f.tcp(flags="A"), f.tcp(flags="R"), f.tcp(flags="SA"), f.tcp(flags="SF"), f.echo(reply=True)]
)
def test_what_cannot_begin_a_connection_is_counted_and_dropped(name: str, inner: Any) -> None:
    """Invalid: without a connection of its own, and none may begin like this."""
    run = machine(name)
    outcome = run.run(f.in_vxlan(inner))
    assert (outcome.verdict, outcome.reason) == (Verdict.DROP, "NAT, case 1, case 3, step 2: drop")
    assert counted(run) == {("invalid", None): 1, (outcome.reason, None): 1}


@pytest.mark.parametrize("inner", [f.arp(), f.neighbour()])
def test_neighbour_discovery_is_handed_over_with_its_tenant(inner: Any) -> None:
    """Encapsulated with the tenant's VNI, to the kernel or to the queue."""
    outcome = machine("gateway-trap").run(f.in_vxlan(inner, vni=6))
    assert outcome == Outcome(Verdict.KERNEL, encapsulated(bytes(inner), 6, 9), f.TENANT_B)
    outcome = machine("gateway-queue").run(f.in_vlan(inner))
    assert outcome == Outcome(Verdict.QUEUE, encapsulated(bytes(inner), 0xFF0064, 9), f.WORLD, 0)


def test_neighbour_discovery_is_limited_for_each_tenant() -> None:
    """100 a second, 20 at once; another tenant's share is untouched; what exceeds it is counted."""
    run = machine("gateway-trap")
    verdicts = [run.run(f.in_vxlan(f.arp()), LAST).verdict for _ in range(25)]
    assert verdicts == [Verdict.KERNEL] * 20 + [Verdict.DROP] * 5
    assert run.run(f.in_vxlan(f.arp(), vni=6), LAST).verdict is Verdict.KERNEL
    assert run.run(f.in_vxlan(f.arp()), LAST + 9_999_999).verdict is Verdict.DROP
    assert run.run(f.in_vxlan(f.arp()), LAST + 10_000_000).verdict is Verdict.KERNEL
    assert counted(run)["neighbours exceeded", f.TENANT_A] == 6


BROKEN = {
    "untagged": (bytes(f.tcp()), "Decap: no case"),
    "empty": (b"", "no Ethernet header"),
    "cut in the Ethernet header": (bytes(f.tcp())[:13], "no Ethernet header"),
    "fabric VLAN without VXLAN": (f.in_vlan(f.tcp(), vid=2), "Decap: no case"),
    "VXLAN without the I flag": (f.in_vxlan(f.tcp()).replace(b"\x08\0\0\0\0\0\x05\0", b"\0\0\0\0\0\0\x05\0"), "Decap"),
    "cut in the inner Ethernet header": (f.in_vxlan(f.eth())[:-1], "Decap: no case"),
    "inner IPv4 cut": (f.in_vxlan(Raw(bytes(f.tcp())[:30])), "NAT: no case"),
    "inner TCP cut": (f.in_vxlan(Raw(bytes(f.tcp() / Raw(b""))[:40])), "NAT: no case"),
    "later fragment": (f.in_vxlan(f.eth() / IP(src=f.INSIDE, frag=10, proto=6) / Raw(b"x" * 40)), "NAT: no case"),
    "other protocol": (f.in_vxlan(f.eth() / IP(src=f.INSIDE, proto=47) / Raw(b"x" * 40)), "NAT: no case"),
    "IPv6 with an extension header": (f.in_vxlan(f.eth() / IPv6(nh=0) / Raw(b"\x11" + b"\0" * 40)), "NAT: no case"),
    "tag inside of a tag": (f.in_vlan(f.in_vlan(f.tcp())), "NAT: no case"),
}


@pytest.mark.parametrize("name", SHIPPED)
@pytest.mark.parametrize("what", BROKEN)
def test_what_no_case_takes_is_dropped_and_counted(name: str, what: str) -> None:
    """A header that is broken is not there; the switch that misses it counts the packet."""
    frame, reason = BROKEN[what]
    run = machine(name)
    outcome = run.run(frame)
    assert outcome.verdict is Verdict.DROP
    assert outcome.reason.startswith(reason)
    assert counted(run) == {(outcome.reason, None): 1}


def test_a_frame_too_long_to_encapsulate_is_dropped_and_counted() -> None:
    """IPv4 has 65,535 bytes."""
    inner = f.eth() / IP(src=f.INSIDE, dst=f.SERVER) / UDP() / Raw(b"x" * 65480)
    run = machine("gateway-trap")
    assert run.run(f.in_vlan(inner)).reason == "NAT, case 1, case 1, step 3: too long"
