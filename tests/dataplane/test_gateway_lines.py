# SPDX-License-Identifier: Apache-2.0
"""Where entries of connections stand (dataplane/gateway/lines.h): in lines, and far in the hash when a group is full.

Every promise is about both versions of IP, and about what user space reads of it.
"""

from __future__ import annotations

import os
import random
import struct
import threading
from collections import Counter
from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from mizar.gateway import rules
from mizar.gateway.entries import GONE, ORIGINAL, flow_of, key, twin
from mizar.gateway.flow_table import FlowTable
from mizar.kernel import bpffs, libbpf, programs
from mizar.kernel.bpffs import Pins
from mizar.kernel.connection_table import ConnectionTable, settle
from mizar.kernel.gateway_keeper import Keeper
from mizar.kernel.gateway_tables import GatewayTables, created, tick
from mizar.kernel.layout import U32, constant
from mizar.kernel.libbpf import lib
from mizar.kernel.test_run import run_xdp
from mizar.pipeline.description import State
from mizar.pipeline.nat import Masquerade, NatRules
from mizar.pipeline.ranges import Ranges
from tests.dataplane.gateway_nat import ROOT, Gateway, compiled, has_clang, loaded
from tests.dataplane.test_gateway_nat import BLUE, PEERS, RED, nat, udp

pytestmark = [pytest.mark.root, pytest.mark.skipif(not has_clang(), reason="no clang")]

INNER = {4: "10.0.0.1", 6: "fd00:10::1"}
META, WORLD = 5, 0x02FF0064  # of bench/gateway_cost/cost.c


@pytest.fixture(scope="module")
def one_group() -> Iterator[Gateway]:
    with loaded({"connections4": 256, "connections6": 256, "lines4": 4, "lines6": 4}) as found:
        yield found


def table(tables: GatewayTables, version: int) -> ConnectionTable:
    return tables.connections4 if version == 4 else tables.connections6


def far_of(word: int) -> int:
    return word & constant("GROUP_FAR")


def whole(tables: GatewayTables, version: int) -> None:
    """Nothing is under way: each entry is in one place, has its twin, is counted where it stands, and is found."""
    found = table(tables, version)
    assert found.groups
    everything = list(found.items())
    keys = [flow_of(one) for one, _ in everything]
    assert len(set(keys)) == len(keys)
    for (one, value), flow in zip(everything, keys, strict=True):
        assert found.get(one) == value
        assert twin(flow, value) in set(keys)
        assert not value["flags"] & GONE
    far = Counter(found.group(one) for one, _ in found.far.items())
    in_lines = len(keys) - sum(far.values())
    taken = 0
    for group in range(found.groups):
        word = found.word(group)
        assert far_of(word) == far[group]
        assert not word & constant("GROUP_PENDING")
        assert not word & 0xF0000000  # BUSY
        taken += (word >> 24 & 0xF).bit_count()
    assert taken == in_lines


@pytest.mark.parametrize("version", [4, 6])
def test_who_finds_the_group_full_is_far_and_as_good_as_any(one_group: Gateway, version: int) -> None:
    """One group of four: forty entries, of which 36 are far and counted so. All are established from both sides; when
    they have gone, nothing is left of them, and the next ones stand in lines."""
    one_group.write(nat(ports=(1024, 65535)))
    found = table(one_group.tables, version)
    frames = [udp(INNER[version], PEERS[version][0], 2000 + number) for number in range(20)]
    for again in range(2):
        assert [one_group.run(frame, RED).state for frame in frames] == [State.NEW] * 20
        assert [one_group.run(frame, RED).state for frame in frames] == [State.ESTABLISHED] * 20
        assert len(list(found.items())) == 40
        assert len(list(found.far.items())) == far_of(found.word(0)) == 36
        whole(one_group.tables, version)
        if not again:
            one_group.write(nat(ports=(1024, 65535)))
            assert found.word(0) & ~constant("GROUP_VERSION") == 0


def test_a_line_that_has_become_free_is_used_although_others_are_far(one_group: Gateway) -> None:
    """What is far stays there, where it is found; who comes now gets the line, unless its key is far."""
    one_group.write(nat(ports=(1024, 65535)))
    found = one_group.tables.connections4
    for number in range(6):
        one_group.run(udp(INNER[4], PEERS[4][0], 2000 + number), RED)
    far = len(list(found.far.items()))
    in_lines = {flow_of(one) for one, _ in found.items()} - {flow_of(one) for one, _ in found.far.items()}
    one, value = next(
        (one, value) for one, value in found.items() if flow_of(one) in in_lines and value["flags"] & ORIGINAL
    )
    assert one_group.keeper.remove(4, one, key(twin(flow_of(one), value)))
    one_group.run(udp(INNER[4], PEERS[4][1], 3000), BLUE)
    assert len(list(found.far.items())) == far
    whole(one_group.tables, 4)


def test_another_program_over_the_same_maps_knows_what_stands_in_both_places() -> None:
    """A restart: pinned maps, another program and another process find every connection, from both sides."""
    bpffs.ensure_mounted()
    pins = Pins.of(f"gateway-lines-{os.getpid()}")
    pins.make()
    frames = [udp(INNER[4], PEERS[4][0], 2000 + number) for number in range(20)]
    try:
        for state in (State.NEW, State.ESTABLISHED, State.ESTABLISHED):
            with loaded({"connections4": 256, "lines4": 8}, pins) as gateway:
                if state is State.NEW:
                    gateway.write(nat(ports=(1024, 65535)))
                assert [gateway.run(frame, RED).state for frame in frames] == [state] * 20
                assert len(list(gateway.tables.connections4.far.items())) == 32
                whole(gateway.tables, 4)
    finally:
        pins.remove()


def test_rules_that_change_end_connections_in_both_places(one_group: Gateway) -> None:
    """What the new rules do not allow goes, wherever it stands; what they allow stays where it was."""
    one_group.write(nat(ports=(1024, 65535)))
    for number in range(20):
        one_group.run(udp(INNER[4], PEERS[4][0], 2000 + number), RED)
    flows = FlowTable(one_group.tables, one_group.keeper, lambda: tick(one_group.now_ns))
    assert flows.judge(nat(ports=(1024, 65535))) == 0
    assert flows.judge(nat(ports=(2010, 65535))) == 10
    whole(one_group.tables, 4)
    states = [one_group.run(udp(INNER[4], PEERS[4][0], 2000 + number), RED).state for number in range(20)]
    assert states == [State.NEW] * 10 + [State.ESTABLISHED] * 10


@pytest.mark.parametrize("version", [4, 6])
def test_user_space_and_programs_agree_where_a_key_stands(version: int) -> None:
    """Python counts the groups as the programs do: every entry that is read from a line is found by its key."""
    with loaded({"connections4": 256, "connections6": 256, "lines4": 256, "lines6": 256}) as gateway:
        gateway.write(nat(ports=(1024, 65535)))
        for number in range(60):
            gateway.run(udp(INNER[version], PEERS[version][0], 2000 + number), RED)
        assert len(list(table(gateway.tables, version).items())) == 120
        whole(gateway.tables, version)
        words = [table(gateway.tables, version).word(group) for group in range(64)]
        assert len({word for word in words if word >> 24}) > 1  # not all in one


def test_maps_of_a_program_that_knew_no_lines_stay_a_hash() -> None:
    """Entries in the hash that no group counts: nothing stands in lines, and they are found as before."""
    with created({"lines4": 64, "lines6": 64}) as made, Keeper(made.maps) as keeper:
        rules.write(made, nat())
        unsettled = struct.pack("=II12Q", 0, 0, *[0] * 12)
        places = made.maps["connection_places"]
        libbpf.check(lib().bpf_map_update_elem(places, U32.pack(0), unsettled, 0), "forget the places")
        original = flow_of({"meta": RED, "src_be": 1, "dst_be": 2, "src_port_be": 3, "dst_port_be": 4, "protocol": 17})
        becomes = flow_of({"meta": 9, "src_be": 5, "dst_be": 2, "src_port_be": 6, "dst_port_be": 4, "protocol": 17})
        assert FlowTable(made, keeper).install(original, becomes, nat())
        after = GatewayTables.of(made.maps)
        assert (after.connections4.groups, after.connections6.groups) == (0, 16)
        assert after.connections4.get(key(original)) is not None
        again = GatewayTables.of(made.maps)
        assert again.connections4.groups == 0


def test_a_free_line_is_not_used_for_a_key_that_is_far(one_group: Gateway) -> None:
    """One port outside: whose way back is far keeps it, although a line of the group has become free."""
    one_group.write(nat(ports=(40000, 40000)))
    for port in (53, 54, 55):
        assert one_group.run(udp(INNER[4], PEERS[4][0], dport=port), RED).reason == ""
    found = one_group.tables.connections4
    assert len(list(found.far.items())) == 2
    first = next(one for one in FlowTable(one_group.tables, one_group.keeper, lambda: tick(one_group.now_ns)).listed()
                 if one.original.destination_port == 53)  # fmt: skip
    assert one_group.keeper.remove(4, key(first.original), key(first.becomes.reversed()))
    assert one_group.run(udp(INNER[4], PEERS[4][0], dport=55), BLUE).reason == "PORTS_EXHAUSTED"
    whole(one_group.tables, 4)


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_of_cpus_that_insert_one_key_at_once_one_does(groups: int) -> None:
    """Sixteen keys in so many groups, inserted and removed by two CPUs as fast as they can: nobody gets what another
    has, and what somebody has is there. With one group most are far, with six few are."""
    source = ROOT / "tests" / "dataplane" / "gateway_nat" / "lines.c"
    sizes = {"connections4": 64, "connections6": 1, "lines4": 4 * groups, "lines6": 1}
    with programs.load(b"", objects={"lines": compiled(source)}, max_entries=sizes) as loaded_race:
        maps = loaded_race.maps
        settle(maps)
        frame = bytes(64)

        def run(cpu: int) -> None:
            os.sched_setaffinity(0, {cpu})
            run_xdp(loaded_race.programs["lines"].fd, frame, repeat=1_000_000)

        racers = [threading.Thread(target=run, args=(cpu,)) for cpu in sorted(os.sched_getaffinity(0))[:2]]
        for one in racers:
            one.start()
        for one in racers:
            one.join()
        out = libbpf.ffi.new("char[]", 76)
        libbpf.check(lib().bpf_map_lookup_elem(maps["race"], U32.pack(0), out), "read the race")
        *held, inserted, twice, lost = struct.unpack("=19I", bytes(libbpf.ffi.buffer(out)))
        assert (twice, lost) == (0, 0)
        assert inserted > 1000
        found = ConnectionTable(4, maps)
        there = sorted(one["src_be"] for one, _ in found.items())
        assert there == [number for number, one in enumerate(held) if one]
        far = Counter(found.group(one) for one, _ in found.far.items())
        for group in range(groups):
            assert found.word(group) & 0xF000FFFF == far[group]
        taken = sum((found.word(group) >> 24 & 0xF).bit_count() for group in range(groups))
        assert taken == len(there) - sum(far.values())


@pytest.mark.parametrize(
    ("ports", "lines", "rounds"),
    [pytest.param(None, 64, 40, id="all have room"), pytest.param((40000, 40031), 16, 12, id="for 32 ports")],
)
def test_cpus_and_the_process_at_the_same_lines_leave_them_whole(
    ports: tuple[int, int] | None, lines: int, rounds: int
) -> None:
    """Two CPUs begin 512 connections in a few groups, in one case all for the same 32 ports outside, and begin again
    what the process ends meanwhile. Afterwards no entry is in two places, lost, without twin or counted wrongly, the
    tenant's count is right, and all are translated that there are ports for."""
    addresses = tuple(ip_address(f"203.0.113.{number}") for number in range(1, 2 if ports else 9))
    config = struct.pack("II", 0, 0)
    source = ROOT / "bench" / "gateway_cost" / "cost.c"
    sizes = {"connections4": 4096, "connections6": 1, "lines4": lines, "lines6": 1}
    with programs.load(config, objects={"cost": compiled(source, "-DTRANSLATE")}, max_entries=sizes) as cost:
        tables = GatewayTables.of(cost.maps)
        inside = Ranges.of(32, [META])
        rule = Masquerade(inside=inside, outside=WORLD, addresses=addresses, ports=ports or (1024, 65535))
        rules.write(tables, NatRules(masquerade=(rule,)))
        begin = struct.pack("QIIQII", 0, 511, 0, 0, 17, bool(ports))
        libbpf.check(lib().bpf_map_update_elem(cost.maps["bench_flows"], U32.pack(0), begin, 0), "begin")
        frame = bytes(12) + b"\x08\x00" + struct.pack("!BBHHHBBH", 0x45, 0, 40, 0, 0, 64, 17, 0) + bytes(8)
        frame += struct.pack("!HHHH", 0, 0, 20, 0) + bytes(12)
        cpus = sorted(os.sched_getaffinity(0))[:2]

        def run(cpu: int) -> None:
            os.sched_setaffinity(0, {cpu})
            for _ in range(rounds):
                run_xdp(cost.programs["cost"].fd, frame, repeat=5000)

        racers = [threading.Thread(target=run, args=(cpu,)) for cpu in cpus]
        ended = 0
        with Keeper(tables.maps) as keeper:
            flows = FlowTable(tables, keeper)
            for one in racers:
                one.start()
            choose = random.Random(7)
            while any(one.is_alive() for one in racers):
                for connection in list(flows.listed()):
                    if choose.random() < 0.5:
                        ended += flows.end(connection)
            for one in racers:
                one.join()
            whole(tables, 4)
            assert ended
            run_xdp(cost.programs["cost"].fd, frame, repeat=1024)  # all of them, twice
            whole(tables, 4)
            room = 32 if ports else 512
            assert len(list(flows.listed())) == room
            assert (tables.nat_tenants.get(META) or {})["in_use"] == room
            for connection in list(flows.listed()):
                assert flows.end(connection)
            assert all(not tables.connections4.word(group) & ~constant("GROUP_VERSION") for group in range(lines // 4))
