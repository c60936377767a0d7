# SPDX-License-Identifier: Apache-2.0
"""tc's filters: what they say, that they hang together, and what is refused by name."""

from __future__ import annotations

from collections import defaultdict

import pytest

from mizar.model.errors import InvalidError
from mizar.pipeline import builder as b
from mizar.pipeline.description import Pipeline, Switch
from mizar.pipeline.steps import Step
from mizar.pipeline.tc.compile import compile_rules
from mizar.pipeline.tc.depth import MAX_HOPS, hops
from mizar.pipeline.tc.lowering import TOKENS, Ports, zones
from mizar.pipeline.tc.rules import BLOCK, Plan
from tests.unit.pipeline.frames import TENANT_A, TENANT_B, WORLD, shipped

PORTS = Ports("uplink", kernel="kernel", worker="worker")
TENANTS = (TENANT_A, TENANT_B, WORLD)


def planned(pipeline: Pipeline) -> list[str]:
    return [one.command(7) for one in compile_rules(pipeline, PORTS, TENANTS).filters]


def refused(
    *steps: Step | Switch, ports: Ports = PORTS, tenants: tuple[int, ...] = TENANTS, encaps: bool = False
) -> str:
    """Why a pipeline of one group is refused."""
    end = b.tunnel("there", "192.0.2.1", "192.0.2.2", "02:00:00:00:02:01", "02:00:00:00:02:02", vid=2)
    with pytest.raises(InvalidError) as found:
        compile_rules(b.pipeline("p", *([end] if encaps else []), b.group("G", *steps)), ports, tenants)
    return str(found.value)


@pytest.mark.parametrize("name", ["gateway-trap", "gateway-queue"])
def test_filters_hang_together(name: str) -> None:
    """Every chain that a filter leads to is there, before it; one protocol to a priority; no way is too deep."""
    plan = compile_rules(shipped(name), PORTS, TENANTS)
    there: set[tuple[str, int]] = set()
    protocols: defaultdict[tuple[str, int, int], set[str]] = defaultdict(set)
    for one in plan.filters:
        if one.place != BLOCK:
            continue
        protocols[one.place, one.chain, one.priority].add(one.protocol)
        leads = [done.get("goto chain") for done in one.actions if done.get("goto chain") is not None]
        assert all((one.place, chain) in there for chain in leads), one
        there.add((one.place, one.chain))
    assert all(len(found) == 1 for found in protocols.values())
    assert hops(plan.filters) <= MAX_HOPS
    assert len({one.command(7) for one in plan.filters}) == len(plan.filters)


def test_a_tunnel_is_asked_for_on_two_devices() -> None:
    """On the uplink by outer headers, which gives a mark; behind the tunnel device by that mark and the VNI."""
    plan = compile_rules(shipped("gateway-trap"), PORTS, TENANTS)
    assert plan.ingress == ("uplink", "mizar-vxlan")
    lines = [one.command(7) for one in plan.filters]
    (uplink,) = [line for line in lines if "dst_port 4789" in line and "tunnel_key" not in line]
    token = int(uplink.partition("ptype host mark ")[2].split()[0])
    assert token >= TOKENS
    assert "action vlan pop" in uplink
    assert uplink.endswith("action gact pass")
    (root,) = [line for line in lines if f"chain 0 prio 10 protocol all handle {token:#x}/0xffffffff fw" in line]
    inside = root.rpartition(" ")[2]
    known = [line for line in lines if f" chain {inside} " in line]
    assert [line.partition("enc_key_id ")[2].split()[0] for line in known[:2]] == ["5", "6"]
    assert "gact drop" in known[2]


def test_what_is_put_on_is_what_raw_encap_puts_on() -> None:
    """The kernel's outer headers get the description's MACs, source port, tag, DF and id at the egress."""
    plan = compile_rules(shipped("gateway-trap"), PORTS, TENANTS)
    (touch,) = [str(one.actions[0]) for one in plan.filters if one.place == "uplink" and one.classifier == "flower"]
    assert "munge eth src set 02:00:00:00:02:01 munge eth dst set 02:00:00:00:02:02" in touch
    assert "munge offset 4 u32 set 16384 munge udp sport set 49152" in touch
    assert "neighbour replace 192.0.2.2 lladdr 02:00:00:00:02:02 nud permanent dev uplink" in plan.links()


def test_an_exclusion_goes_around() -> None:
    """flower cannot say `vlan != 2`: VLAN 2 goes on with the cases behind."""
    lines = planned(
        b.pipeline("p", b.group("G", b.parse(b.case("eth / vlan != 2", b.drop()), b.case("eth", b.stop()))))
    )
    (around,) = [line for line in lines if "vlan_id 2 " in line]
    chain = around.rpartition("goto chain ")[2]
    assert any(f" chain {chain} " in line and "redirect dev uplink" in line for line in lines)


def test_two_generations_share_no_number() -> None:
    """So a new plan stands beside the old one until the first filter leads to it."""
    one, other = (compile_rules(shipped("gateway-trap"), PORTS, TENANTS, number) for number in (0, 1))

    def numbers(plan: Plan) -> set[object]:
        marks = {(found.place, found.priority, found.mark) for found in plan.filters if not found.chain}
        chains = {found.chain for found in plan.filters if found.chain}
        return marks | chains | {limit.number for limit in plan.policers}

    first = [found for found in one.filters if not found.chain and found.priority == 1]
    assert len(first) == 1
    assert numbers(one) & numbers(other) == {(BLOCK, 1, None)}


def test_zones_are_apart_and_stay() -> None:
    """Each tenant has its own zone, which does not change when others come and go."""
    few, many = zones(TENANTS), zones((*TENANTS, *range(1, 500)))
    assert len(set(many.values())) == len(many)
    assert all(1 <= zone <= 65535 for zone in many.values())
    assert sum(few[meta] != many[meta] for meta in TENANTS) == 0


def test_everything_else_is_refused_by_name() -> None:
    """With the place, and what forces it."""
    vxlan = "eth / vlan 2 / ipv4 / udp / vxlan"
    way = (b.set_meta("vni", add=0x01000000), b.decap("vxlan", vlan=True))
    assert "tc has filters for each tenant, and none is known" in refused(
        b.parse(b.case("eth / vlan != 2", b.set_meta("vlan"), b.stop())), tenants=()
    )
    assert "G, step 1: trap: name the interface" in refused(b.trap(), ports=Ports())
    assert "G, step 1: tc has no queue 3" in refused(b.queue(3), ports=Ports())
    assert "expected 0x1 to 0xfeffffff, found 0xff000000" in refused(b.drop(), tenants=(0xFF000000,))
    assert "found 0x0" in refused(b.drop(), tenants=(0,))
    assert "flower matches one vid at a time" in refused(
        b.parse(b.case("eth / vlan 100-2000", b.stop()), b.case("otherwise", b.drop()))
    )
    assert "before decap: the vxlan device has decapsulated" in refused(
        b.parse(b.case(vxlan, b.pop_vlan(), b.drop()), b.case("otherwise", b.drop()))
    )
    assert "may want a frame that the vxlan device has decapsulated" in refused(
        b.parse(b.case(vxlan, *way, b.stop()), b.case("eth / vlan 2", b.stop()), b.case("otherwise", b.drop()))
    )
    assert "asks for VNIs that a case before takes" in refused(
        b.parse(
            b.case(f"{vxlan} 1-99", *way, b.stop()), b.case(f"{vxlan} 99-100", b.decap("vxlan", vlan=True), b.stop())
        )
    )
    assert "pop_vlan behind encap" in refused(
        b.parse(
            b.case(
                "eth / vlan != 2",
                b.set_meta("vlan"),
                b.pop_vlan(),
                b.encap("vxlan", to="there", vlan=True),
                b.set_vni(),
                b.pop_vlan(),
                b.stop(),
            )
        ),
        tenants=(100,),
        encaps=True,
    )
    assert "tc writes no VLAN id 4095" in refused(
        b.parse(b.case("eth / vlan != 2", b.set_meta("vlan"), b.set_vid(), b.stop())), tenants=(4095,)
    )


def test_what_is_too_deep_is_refused() -> None:
    """The kernel follows sixteen chains, then it drops."""
    groups = [b.group(f"G{number}", b.count(f"c{number}")) for number in range(17)]
    with pytest.raises(InvalidError, match="through 18 chains, the kernel follows 16"):
        compile_rules(b.pipeline("p", *groups, b.group("End", b.stop())), PORTS, TENANTS)


def test_what_tc_cannot_allocate_is_refused_by_name() -> None:
    """The shipped pipeline that allocates in line wants what conntrack does not have; each of it is named."""
    with pytest.raises(InvalidError) as found:
        compile_rules(shipped("gateway-inline"), PORTS)
    for words in (
        "NAT, case 1, case 1, step 3: masquerade 1: tc takes a pool of addresses that follow each other",
        "masquerade 2: tc's conntrack maps and filters per destination",
        "tc's conntrack has no quotas",
    ):
        assert words in str(found.value)
    assert any(
        " nat src addr 203.0.113.1" in line for line in compile_rules(shipped("gateway-masquerade"), PORTS).commands()
    )


def test_masquerading_translates_in_two_zones() -> None:
    """To an address that stands for the tenant, and from there to the pool; the marks lead there and back."""
    nat = b.conntrack(
        b.case("new | established | related", b.nat(allocate=True), b.drop()), b.case("invalid", b.drop())
    )
    way = b.parse(
        b.case("eth / vlan 2 / ipv4 / udp / vxlan", b.set_meta("vni", add=0x01000000), b.decap("vxlan", vlan=True)),
        b.case("eth / vlan != 2", b.set_meta("vlan", add=0x02FF0000), b.pop_vlan()),
    )
    only = b.parse(b.case("eth / ip / (tcp | udp | icmp)", nat), b.case("otherwise", b.drop()))
    rule = b.masquerade(TENANT_A, WORLD, "203.0.113.1-203.0.113.3", ports="2000-3000")
    plan = compile_rules(b.pipeline("p", rule, b.group("In", way), b.group("NAT", only)), PORTS)
    zone = dict(plan.zones)
    (line,) = [one.command(7) for one in plan.filters if "commit" in one.command(7)]
    inner = (
        f"ct commit zone {zone[TENANT_A]} mark {WORLD} nat src addr 240.0.{zone[TENANT_A] >> 8}.{zone[TENANT_A] & 255}"
    )
    outer = f"ct commit zone {zone[WORLD]} mark {TENANT_A} nat src addr 203.0.113.1-203.0.113.3 port 2000-3000"
    assert f"{inner} action skbedit mark {WORLD} action {outer}" in line
