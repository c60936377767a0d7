# SPDX-License-Identifier: Apache-2.0
"""tc's filters in a kernel that has them do with real frames what the interpreter does, byte for byte."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest
from scapy.all import ICMP, IP, TCP, UDP, VXLAN, Ether

from mizar.kernel import namespaces
from mizar.kernel.flower import GENERATIONS, TcBlock, missing
from mizar.model.errors import InvalidError
from mizar.pipeline.description import State
from mizar.pipeline.interpreter.connection import Answer, Flow, Seen
from mizar.pipeline.interpreter.machine import Machine, Verdict
from mizar.pipeline.reader import read_pipeline
from mizar.pipeline.tc.compile import compile_rules
from tests.guest.image import UnavailableError
from tests.guest.rooted import ROOT, Rooted, rooted_image
from tests.pipeline.corpus import corpus
from tests.pipeline.tc_guest import PORTS, TcGateway, wanted
from tests.pipeline.tc_unlike import UNLIKE, kind_of
from tests.unit.pipeline import frames as f

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]

VLANS = [0x02FF0000 + vid for vid in (0, 3, 7)]
TENANTS = (f.TENANT_A, f.TENANT_B, f.WORLD, *VLANS)


@pytest.fixture
def guest(tmp_path: Path) -> Iterator[Rooted]:
    """A guest of its own; the test is skipped, and says why, where there can be none."""
    try:
        image = rooted_image()
    except UnavailableError as error:
        pytest.skip(f"no virtual machine here: {error}")
    with Rooted(image, tmp_path) as running:
        yield running


class Recorded:
    """Connections that somebody else made."""

    def __init__(self, *pairs: tuple[Flow, Flow]) -> None:
        self.known = dict(pairs)
        self.known |= {becomes.reversed(): flow.reversed() for flow, becomes in pairs}

    def look(self, seen: Seen, now_ns: int) -> Answer:
        becomes = self.known.get(seen.flow)
        if becomes is None:
            return Answer(State.NEW if seen.may_begin else State.INVALID)
        return Answer(State.RELATED if seen.is_error else State.ESTABLISHED, becomes)

    def allocate(self, seen: Seen, now_ns: int) -> Flow | None:
        raise AssertionError("the shipped pipelines allocate nothing")


def flow(meta: int, protocol: str, source: str, target: str, sport: int, dport: int) -> Flow:
    one, other = ip_address(source), ip_address(target)
    return Flow(meta, one.version, protocol, int(one), int(other), sport, dport)


CONNECTIONS = [
    (flow(f.TENANT_A, "tcp", f.INSIDE, f.SERVER, 40000, 80), flow(f.WORLD, "tcp", f.PUBLIC, f.SERVER, 2000, 80)),
    (flow(f.TENANT_B, "tcp", f.INSIDE, f.SERVER, 40000, 80), flow(f.WORLD, "tcp", f.PUBLIC, f.SERVER, 2001, 80)),
    (flow(f.TENANT_A, "udp", f.INSIDE, f.SERVER, 40000, 53), flow(f.WORLD, "udp", f.PUBLIC, f.SERVER, 40000, 53)),
    (flow(f.TENANT_A, "icmp4", f.INSIDE, f.SERVER, 7, 7), flow(f.WORLD, "icmp4", f.PUBLIC, f.SERVER, 7, 7)),
    (flow(f.TENANT_A, "udp", f.INSIDE6, f.SERVER6, 40000, 53), flow(f.WORLD, "udp", f.PUBLIC6, f.SERVER6, 3000, 53)),
]


def established() -> list[tuple[str, bytes]]:
    """Both directions of every connection, and errors about them."""
    error = f.eth() / IP(src="198.51.100.99", dst=f.PUBLIC) / ICMP(type=11)
    return [
        ("tcp out", f.in_vxlan(f.tcp(flags="A"))),
        ("tcp out of the other tenant", f.in_vxlan(f.tcp(flags="A"), vni=6)),
        ("tcp in", f.in_vlan(f.tcp(f.SERVER, f.PUBLIC, 80, 2000, flags="A"))),
        ("tcp in of the other tenant", f.in_vlan(f.tcp(f.SERVER, f.PUBLIC, 80, 2001, flags="A"))),
        ("tcp in to nobody", f.in_vlan(f.tcp(f.SERVER, f.PUBLIC, 80, 2002, flags="A"))),
        ("udp out", f.in_vxlan(f.udp())),
        ("udp in", f.in_vlan(f.udp(f.SERVER, f.PUBLIC, 53, 40000))),
        ("echo out", f.in_vxlan(f.echo())),
        ("echo in", f.in_vlan(f.echo(f.SERVER, f.PUBLIC, reply=True))),
        ("udp6 out", f.in_vxlan(f.udp(f.INSIDE6, f.SERVER6))),
        ("udp6 in", f.in_vlan(f.udp(f.SERVER6, f.PUBLIC6, 53, 3000))),
        ("an error about udp", f.in_vlan(error / IP(src=f.PUBLIC, dst=f.SERVER) / UDP(sport=40000, dport=53) / b"odd")),
        ("an error about nothing", f.in_vlan(error / IP(src=f.PUBLIC, dst=f.SERVER) / UDP(sport=1, dport=2) / b"odd")),
    ]


def compared(gateway: TcGateway, machine: Machine, frames: list[tuple[str, bytes]]) -> None:
    """What comes out, and where, is what the interpreter says."""
    for (name, frame), came in zip(frames, gateway.pass_through([one for _, one in frames]), strict=True):
        assert came == wanted(machine.run(frame), TENANTS), name


def test_the_pipeline_that_traps(guest: Rooted, tmp_path: Path) -> None:
    """What begins a connection, what is no connection's, and connections in both directions with their errors: what
    leaves by the uplink and what the kernel gets are the interpreter's frames, its outer headers included."""
    pipeline = f.shipped("gateway-trap")
    plan = compile_rules(pipeline, PORTS, TENANTS)
    gateway = TcGateway(guest, tmp_path)
    gateway.load(plan)
    gateway.install(plan, CONNECTIONS)
    first = [
        ("syn", f.in_vxlan(f.tcp(sport=50000))),
        ("syn from the world", f.in_vlan(f.tcp(f.SERVER, f.PUBLIC, 50000, 22))),
        ("nobody's ack", f.in_vxlan(f.tcp(sport=50000, flags="A"))),
        ("udp6", f.in_vxlan(f.udp(f.INSIDE6, f.SERVER6, 50000))),
        ("arp", f.in_vxlan(f.arp(), vni=6)),
        ("neighbour", f.in_vlan(f.neighbour())),
        ("no tag", bytes(f.udp())),
        ("no tenant", f.in_vxlan(f.udp(), vni=9)),
        ("a vni of a vlan", f.in_vxlan(f.udp(), vni=0xFF0064)),
        ("another vlan with vxlan in it", f.in_vxlan(f.udp(), vid=3)),
    ]
    compared(gateway, Machine(pipeline, Recorded(*CONNECTIONS)), [*first, *established()])


@pytest.mark.long
@pytest.mark.parametrize("name", ["gateway-trap", "gateway-queue"])
def test_the_corpus(guest: Rooted, tmp_path: Path, name: str) -> None:
    """Every frame of the corpus that all targets share ends as the interpreter says, or is of a kind that is known to
    differ; and every such kind is met."""
    pipeline = f.shipped(name)
    gateway, machine = TcGateway(guest, tmp_path), Machine(pipeline, Recorded())
    gateway.load(compile_rules(pipeline, PORTS, TENANTS))
    kinds: dict[str, str | None] = {}
    for (word, frame), came in zip(corpus(), gateway.pass_through([one for _, one in corpus()]), strict=True):
        told = wanted(machine.run(frame), TENANTS)
        if came != told:
            kinds[word] = kind_of(frame, came, told)
    assert not [word for word, kind in kinds.items() if kind is None]
    assert set(kinds.values()) == set(UNLIKE)


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_a_plan_is_applied_replaced_and_removed(guest: Rooted, tmp_path: Path) -> None:
    """Over netlink: frames pass as by the printed filters; the same again changes nothing; what fails changes nothing;
    another plan takes the place of the first, which leaves nothing behind; at last there is nothing."""
    pipeline, gateway = f.shipped("gateway-trap"), TcGateway(guest, tmp_path)
    named = "examples/pipelines/gateway-trap.yaml", "--kernel kernel", *(f"--tenant {meta}" for meta in TENANTS)
    assert "filters on uplink" in gateway.mizar(*named, "--apply")
    plan = compile_rules(pipeline, PORTS, TENANTS)
    gateway.install(plan, CONNECTIONS)
    machine = Machine(pipeline, Recorded(*CONNECTIONS))
    compared(gateway, machine, established())
    before = gateway.tc("tc filter show block 7")
    assert "nothing to change" in gateway.mizar(*named, "--apply")
    assert "nowhere" in gateway.mizar(*named, "--egress nowhere --apply", code=1)
    assert gateway.tc("tc filter show block 7") == before
    assert "filters on uplink" in gateway.mizar(*named, "--tenant 0x1000009 --apply")
    after = gateway.tc("tc filter show block 7")
    chains = {int(chain) for chain in re.findall(r"goto chain (\d+)", after)}
    assert {chain >> 20 for chain in chains} == {GENERATIONS[1]}
    gateway.tc("conntrack -F")  # in a slow guest they have run out by now
    gateway.install(plan, CONNECTIONS)
    compared(gateway, machine, established())
    assert "removed" in gateway.mizar(*named, "--remove")
    assert "ingress_block" not in gateway.tc("tc qdisc show")
    assert "mizar" not in gateway.tc("ip link show; ip addr show; ip route show")
    assert "police" not in gateway.tc("tc actions list action police")
    assert "there was nothing" in gateway.mizar(*named, "--remove")


def begun() -> list[tuple[str, bytes]]:
    """Connections by every rule from their first packet on, in order."""
    error = f.eth() / IP(src="198.51.100.99", dst=f.PUBLIC) / ICMP(type=11)
    return [
        ("nobody's syn from the world", f.in_vlan(f.tcp(f.SERVER, f.PUBLIC, 80, 40000))),
        ("syn out", f.in_vxlan(f.tcp())),
        ("syn ack in", f.in_vlan(f.tcp(f.SERVER, f.PUBLIC, 80, 40000, flags="SA"))),
        ("syn of the other tenant", f.in_vxlan(f.tcp(sport=40001), vni=6)),
        ("its syn ack", f.in_vlan(f.tcp(f.SERVER, f.PUBLIC, 80, 40001, flags="SA"))),
        ("udp out", f.in_vxlan(f.udp())),
        ("udp in", f.in_vlan(f.udp(f.SERVER, f.PUBLIC, 53, 40000))),
        ("udp out again", f.in_vxlan(f.udp())),
        ("udp from another port", f.in_vlan(f.udp(f.SERVER, f.PUBLIC, 54, 40000))),
        ("an error about udp", f.in_vlan(error / IP(src=f.PUBLIC, dst=f.SERVER) / UDP(sport=40000, dport=53) / b"odd")),
        ("echo out", f.in_vxlan(f.echo(number=2000))),
        ("echo in", f.in_vlan(f.echo(f.SERVER, f.PUBLIC, number=2000, reply=True))),
        ("udp6 out", f.in_vxlan(f.udp(f.INSIDE6, f.SERVER6))),
        ("udp6 in", f.in_vlan(f.udp(f.SERVER6, f.PUBLIC6, 53, 40000))),
        ("static out", f.in_vxlan(f.udp("10.0.0.9", f.SERVER, 7, 53))),
        ("static back", f.in_vlan(f.udp(f.SERVER, "203.0.113.9", 53, 7))),
        ("static in", f.in_vlan(f.tcp(f.SERVER, "203.0.113.9", 5000, 22))),
        ("static answers", f.in_vxlan(f.tcp("10.0.0.9", f.SERVER, 22, 5000, flags="SA"))),
        ("forward in", f.in_vlan(f.tcp(f.SERVER, f.PUBLIC, 6000, 80))),
        ("forward answers", f.in_vxlan(f.tcp("10.0.0.80", f.SERVER, 8080, 6000, flags="SA"), vni=6)),
    ]


@pytest.mark.long
def test_connections_begin_in_line(guest: Rooted, tmp_path: Path) -> None:
    """By masquerading, static rules and forwards, of two tenants with equal addresses, there and back; and where two
    want the same port, each gets its own answers."""
    pipeline, gateway = f.shipped("gateway-masquerade"), TcGateway(guest, tmp_path)
    gateway.load(compile_rules(pipeline, PORTS))
    machine = Machine(pipeline)
    for (name, frame), came in zip(begun(), gateway.pass_through([one for _, one in begun()]), strict=True):
        assert came == wanted(machine.run(frame), (f.TENANT_A, f.TENANT_B, f.WORLD)), name
    ((_, out),) = gateway.pass_through([f.in_vxlan(f.tcp(), vni=6)])[0]
    port = Ether(out)[TCP].sport
    assert port != 40000
    ((_, back),) = gateway.pass_through([f.in_vlan(f.tcp(f.SERVER, f.PUBLIC, 80, port, flags="SA"))])[0]
    answer = Ether(back)
    assert (answer[VXLAN].vni, answer[VXLAN][IP].dst, answer[VXLAN][TCP].dport) == (6, f.INSIDE, 40000)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_stacks_talk_through(guest: Rooted, tmp_path: Path) -> None:
    """Two tenants' own stacks, with equal addresses and ports, and a server in the world: ping, UDP, a bulk by TCP
    both ways over a narrower link, and the errors that a socket hears, from the server and from a router."""
    gateway = TcGateway(guest, tmp_path)
    gateway.load(compile_rules(f.shipped("gateway-masquerade"), PORTS))
    guest.run(f"bash {ROOT}/tests/guest/conversation.sh", 120)
    talk = f"cd {ROOT} && ip netns exec"
    module = f"{sys.executable} -B -m tests.guest.talk"
    guest.run(f"({talk} far {module} serve >/run/serving 2>&1 &)")
    guest.run("for i in $(seq 60); do grep -q serving /run/serving && break; sleep 1; done; cat /run/serving", 120)
    unreachable, expired, big = {4: [3, 3, 0], 6: [1, 4, 0]}, {4: [11, 0, 0], 6: [3, 0, 0]}, {4: [3, 4], 6: [2, 0]}
    for tenant in ("a", "b"):
        for version, server, pool, router in (
            (4, f.SERVER, f.PUBLIC, "203.0.113.254"),
            (6, f.SERVER6, f.PUBLIC6, "2001:db8:ff::fe"),
        ):
            guest.run(f"{talk} {tenant} ping -{version} -c 1 -w 30 {server}", 60)
            said = guest.run(f"{talk} {tenant} {module} ask {server}", 240)
            assert json.loads(said) == {
                "datagram": {"seen": pool, "equal": True},
                "closed": [*unreachable[version], server],
                "hops": [*expired[version], router],
                "big": [*big[version], 1400, router],
                "bulk": {"seen": pool, "there": True, "back": True},
            }
    for version, server in ((4, f.SERVER), (6, f.SERVER6)):  # in fragments
        large = f"{talk} a ping -{version} -M dont -s 3000 -c 1 -w 30 {server}"
        guest.run(f"{large} || {large}", 90)  # the first may learn how narrow the way is


def test_a_kernel_without_flower_refuses() -> None:
    """By name, before anything is touched."""
    plan = compile_rules(f.shipped("gateway-trap"), PORTS, TENANTS)
    if not missing(plan):
        pytest.skip("this kernel has flower and all that the plan needs")
    with namespaces.anonymous() as place:

        def applied() -> None:
            with TcBlock(7) as block:
                block.apply(lambda number: compile_rules(f.shipped("gateway-trap"), PORTS, TENANTS, number))

        with pytest.raises(InvalidError, match="this kernel has no flower"):
            place.run(applied)


GENEVE = """
pipeline: geneve
tunnels:
  fabric:
    {source: 192.0.2.1, destination: 192.0.2.2,
     source_mac: "02:00:00:00:02:01", destination_mac: "02:00:00:00:02:02"}
groups:
  - name: In
    steps:
      - switch: parse
        cases:
          - when: eth / ipv4 / udp dst == 6081 / geneve
            steps: [set_meta: {from: vni, add: 0x01000000}, decap: geneve]
  - name: Out
    steps:
      - switch: parse
        cases:
          - when: eth / ipv4 / udp
            steps: [encap: {headers: geneve, to: fabric}, set_vni: {from: meta}, stop]
          - when: eth / ip / tcp
            steps: [encap: {headers: vxlan, to: fabric}, set_vni: {from: meta}, stop]
"""


@pytest.mark.long
def test_geneve(guest: Rooted, tmp_path: Path) -> None:
    """Taken off, and put on or VXLAN in its place; options are taken off unread, those that are critical too, which
    the interpreter does not take for Geneve (docs/pipeline.md)."""
    pipeline, gateway = read_pipeline(GENEVE, "geneve.yaml"), TcGateway(guest, tmp_path)
    gateway.load(compile_rules(pipeline, PORTS, TENANTS))
    machine = Machine(pipeline)
    frames = [one for one in corpus() if "geneve" in one[0] and not re.search("cut to|changed|critical", one[0])]
    compared(gateway, machine, frames)
    assert len(frames) > 20
    critical = next(frame for word, frame in corpus() if word == "geneve critical")
    assert machine.run(critical).verdict is Verdict.DROP
    assert gateway.pass_through([critical])[0] != []
