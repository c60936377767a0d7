# SPDX-License-Identifier: Apache-2.0
"""Transit at tc ingress does what it does in XDP, and takes superpackets."""

from __future__ import annotations

import os
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from mizar._built import transit_pb2 as pb
from mizar.kernel import libbpf, test_run
from mizar.kernel.features import _EXIT, _insn, _wide
from mizar.kernel.layout import U32
from mizar.kernel.programs import object_bytes
from mizar.kernel.test_run import TestRun
from mizar.model.errors import ConflictError, MizarError
from mizar.transit import without_xdp
from mizar.transit.options import Options
from mizar.transit.values import EndpointFlag

from . import test_answers, test_drop_reasons, test_icmp, test_transit_paths
from .frames import SOURCE_PORT, datagram, tunnel
from .ingress import XDP_TX
from .plan import BOUNCER, HOST, ME, RED, A, R, S
from .refused_by_transit import TRANSIT_CASES
from .test_agent_paths import with_source_port
from .testbed import TC_REDIRECT, Testbed

SHORTER_THAN_THE_KERNEL_RUNS = {"OUTER_TRUNCATED-ethernet-only", "OUTER_TRUNCATED-in-ip"}
PROG_ARRAY, SCHED_CLS, CALL, ADJUST_ROOM, TAIL_CALL = 3, 3, 0x85, 50, 12


def marked(array: int) -> bytes:
    """A program that puts a tunnel's headers on and off by the kernel's means, and ends in the array's first."""
    flags = 1 << 0 | 1 << 1 | 1 << 4 | 14 << 56 | 1 << 6  # FIXED_GSO, ENCAP_L3_IPV4, L4_UDP, L2(14), L2_ETH
    code = _insn(0xBF, 6, 1)
    for bytes_, how in ((50, flags), (-50, 1)):
        code += _insn(0xBF, 1, 6) + _insn(0xB7, 2, imm=bytes_) + _insn(0xB7, 3, imm=1) + _wide(4, how)
        code += _insn(CALL, imm=ADJUST_ROOM)
    at_map = _insn(0x18, 2, 1, imm=array) + _insn(0)
    return (
        code
        + _insn(0xBF, 1, 6)
        + at_map
        + _insn(0xB7, 3, imm=0)
        + _insn(CALL, imm=TAIL_CALL)
        + _insn(0xB7, 0, imm=0)
        + _EXIT
    )


@pytest.fixture
def at_tc(droplet: Testbed) -> Iterator[Testbed]:
    """The testbed, whose Transit runs at tc."""
    droplet.at_tc = True
    yield droplet
    droplet.at_tc = False


@pytest.mark.parametrize("kind", ["geneve", "vxlan"])
def test_it_delivers_as_xdp_does(at_tc: Testbed, kind: str) -> None:
    test_transit_paths.test_delivery_leaves_the_inner_frame_and_a_note_for_the_endpoint(at_tc, kind, 6)


@pytest.mark.parametrize("family", [4, 6])
def test_it_answers_as_xdp_does(at_tc: Testbed, family: int) -> None:
    test_answers.test_transit_answers_a_ping_of_a_gateway(at_tc, "geneve", family)


@pytest.mark.parametrize(("size", "fits"), [(1000, True), (1440, False)])
def test_a_superpacket_is_bounced_whole_and_judged_by_its_segments(at_tc: Testbed, size: int, fits: bool) -> None:
    """Whatever its outer lengths say, which nobody has written."""
    at_tc.as_bouncer()
    at_tc.narrow(1500, HOST)
    inner = datagram(4, S, R.address(4), dst_mac=R.mac, payload=bytes(3000))
    whole = bytearray(bytes(tunnel("geneve", inner, src=HOST)))
    whole[16:18] = b"\0\x0e"
    whole[38:40] = b"\xff\xff"
    result = at_tc.transit(bytes(whole), gso_size=size, gso_segs=3)
    if fits:
        assert (result.retval, len(result.frame)) == (XDP_TX, len(whole))
        assert at_tc.counted()["vpc", RED.slot]["bounced_packets"] == 3
    else:
        assert at_tc.counted()["drop", "PACKET_TOO_BIG"]["packets"] == 3


@pytest.mark.long
def test_it_refuses_for_the_same_reasons(at_tc: Testbed) -> None:
    """All that a frame may be refused for; the kernel runs no program at tc on frames without a whole IP header."""
    for case in TRANSIT_CASES:
        if str(case) not in SHORTER_THAN_THE_KERNEL_RUNS:
            at_tc.reset()
            test_drop_reasons.test_transit_refuses(at_tc, case)


@pytest.mark.long
def test_it_tells_senders_the_same() -> None:
    """ICMP errors, over tunnels and to clients outside."""
    testbed = Testbed(icmp_errors=test_icmp.MANY)
    testbed.at_tc = True
    try:
        for family in (4, 6):
            for kind in ("geneve", "vxlan"):
                testbed.reset()
                test_icmp.test_a_bouncer_tells_the_sender(testbed, family, kind)
            testbed.reset()
            test_icmp.test_a_bouncer_tells_what_fits(testbed, family, b"")
            testbed.reset()
            test_icmp.test_a_client_outside_is_told_how_long_packets_may_be(testbed, family)
    finally:
        testbed.close()


def test_a_packet_that_bears_the_mark_of_a_tunnel_is_encapsulated_again(droplet: Testbed) -> None:
    """As what an endpoint forwards that came out of one: the kernel sets the mark once. Without open_marked() the
    packet is dropped. Superpackets, which a test run cannot make: tests/lab/test_without_xdp.py."""
    droplet.as_host()
    array = libbpf.make_map(PROG_ARRAY, 4, 4, 1)
    libbpf.check(libbpf.lib().bpf_map_update_elem(array, U32.pack(0), U32.pack(droplet.programs.agent.fd), 0), "put")
    marking = libbpf.load_program(SCHED_CLS, marked(array))
    try:
        inner = datagram(4, A, R.address(4), tcp=True, payload=b"sent on")
        result = test_run.run_tc(marking, bytes(inner))
        assert result.retval == TC_REDIRECT
        assert with_source_port(result.frame, SOURCE_PORT) == tunnel("geneve", inner, src=ME, dst=BOUNCER)
    finally:
        os.close(marking)
        os.close(array)


def test_leftovers_of_a_droplet_with_xdp_are_refused(droplet: Testbed, tmp_path: Path) -> None:
    """Each by itself: functions of XDP, protections against floods, endpoints here that bypass decapsulation."""
    options = Options(interface="u0", run_folder=tmp_path)
    droplet.endpoint(A, ifindex=A.ifindex)
    droplet.agent(A)
    without_xdp.refuse_leftovers(options, droplet.tables)
    data = object_bytes("function_missing")
    function = pb.Function(name="function-missing", object=data, digest=sha256(data).digest(), stages=[0])
    told = pb.Functions(functions=[pb.FunctionState(function=function)])
    options.functions_file.write_bytes(told.SerializeToString())
    with pytest.raises(ConflictError, match="function-missing runs in XDP"):
        without_xdp.refuse_leftovers(options, droplet.tables)
    options.functions_file.write_bytes(b"\xff")
    with pytest.raises(MizarError, match="cannot be read"):
        without_xdp.refuse_leftovers(options, droplet.tables)
    options.functions_file.unlink()
    options.ddos_file.touch()
    with pytest.raises(ConflictError, match="protections against floods"):
        without_xdp.refuse_leftovers(options, droplet.tables)
    options.ddos_file.unlink()
    droplet.endpoint(A, ifindex=A.ifindex, flags=EndpointFlag.BYPASS)
    with pytest.raises(ConflictError, match="bypasses decapsulation"):
        without_xdp.refuse_leftovers(options, droplet.tables)


def test_a_kernel_that_cannot_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """With what it lacks and what to do."""

    def refuse(*_: object, **__: object) -> TestRun:
        return TestRun(0xFFFFFFEA, b"", b"", 0)

    without_xdp.refuse_kernel()
    monkeypatch.setattr("mizar.kernel.test_run.run_tc", refuse)
    with pytest.raises(MizarError, match=r"too old for --xdp off .*6\.3 or later"):
        without_xdp.refuse_kernel()
