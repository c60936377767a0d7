# SPDX-License-Identifier: Apache-2.0
"""Whole checksums that look as if they were left to hardware, where a load balancer's address is in an option: what XDP
cannot tell is left to tc, where the kernel can. A test run's packet is one of whole checksums."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import pytest
from scapy.packet import Raw

from mizar.kernel import layout, test_run
from mizar.kernel.layout import U32
from mizar.kernel.libbpf import check, ffi, lib, possible_cpus
from mizar.kernel.programs import HANDING_OVER
from tests.oracle.build import summed

from .frames import tunnel
from .plan import FAMILIES, HOST, ME, ROUTER_MAC, B, R
from .test_public import in_option, request, to_member, vip
from .testbed import TC_REDIRECT, XDP_PASS, XDP_TX, Testbed

UNSURE, UDP = layout.constant("HANDOVER_UNSURE"), 1 << 16
every_family = pytest.mark.parametrize("family", FAMILIES)
every_kind = pytest.mark.parametrize("tcp", [True, False], ids=["tcp", "udp"])


@pytest.fixture(scope="module")
def loaded() -> Iterator[Testbed]:
    testbed = Testbed(send_by_tc=1)
    yield testbed
    testbed.close()


@pytest.fixture
def droplet(loaded: Testbed) -> Testbed:
    loaded.reset()
    return loaded


@pytest.fixture
def at_tc(droplet: Testbed) -> Iterator[Testbed]:
    droplet.at_tc = True
    yield droplet
    droplet.at_tc = False


def looking_partial(packet: Any, family: int, *, tcp: bool) -> bytes:
    """The payload with which its checksum is the sum of its pseudo header."""
    at = 34 if family == 4 else 54
    place = at + (16 if tcp else 6)

    def parts(payload: bytes) -> tuple[int, int]:
        packet[Raw].load = payload
        frame = bytes(packet)
        upper, addresses = frame[at:], frame[26:34] if family == 4 else frame[22:54]
        pseudo = addresses + struct.pack("!II", len(upper), 6 if tcp else 17)
        return ~summed(pseudo) & 0xFFFF, int.from_bytes(frame[place : place + 2], "big")

    pseudo, whole = parts(bytes(8))
    found = bytes(6) + summed(struct.pack("!HH", pseudo, ~whole & 0xFFFF)).to_bytes(2, "big")
    assert parts(found) == (pseudo, pseudo)
    return found


def at_chooser(droplet: Testbed, family: int, *, tcp: bool) -> tuple[test_run.TestRun, bytes]:
    """What becomes of a client's packet, and what is to."""
    in_option(droplet, R)
    sent, inner = request(family, tcp=tcp), to_member(family, R, 63, tcp=tcp)
    inner[Raw].load = looking_partial(sent, family, tcp=tcp)
    result = droplet.transit(bytes(sent))
    port = int.from_bytes(result.frame[34:36], "big")
    return result, tunnel("geneve", inner, src=ME, dst=HOST, sport=port, options=vip(family))


def at_member(droplet: Testbed, family: int, *, tcp: bool) -> tuple[test_run.TestRun, bytes]:
    """The same where the member is, and the frame in the tunnel looks so."""
    in_option(droplet, B)
    came, wanted = to_member(family, B, tcp=tcp), request(family, tcp=tcp, macs=(ROUTER_MAC, B.mac))
    wanted[Raw].load = looking_partial(came, family, tcp=tcp)
    return droplet.transit(tunnel("geneve", came, src=HOST, options=vip(family))), bytes(wanted)


def settled(run: test_run.TestRun) -> bytes:
    """The frame with its checksum as the note says that it is to be, if it is whole (RFC 1624)."""
    note = layout.parse("handover", run.metadata)
    assert note["flags"] & UNSURE
    at, change = note["serial"] >> 17, struct.pack("=H", note["serial"] & 0xFFFF)
    now = summed(bytes(255 - octet for octet in run.frame[at : at + 2]) + change)
    if note["serial"] & UDP:
        now = now or 0xFFFF
    return run.frame[:at] + now.to_bytes(2, "big") + run.frame[at + 2 :]


@every_family
@every_kind
def test_xdp_leaves_it_to_deliver(droplet: Testbed, family: int, tcp: bool) -> None:
    """With its place and what is to be taken from it; of any other checksum the note says nothing."""
    for run, wanted in (at_chooser(droplet, family, tcp=tcp), at_member(droplet, family, tcp=tcp)):
        assert (run.retval, run.frame == wanted, settled(run)) == (XDP_PASS, False, wanted)
    run = droplet.transit(tunnel("geneve", to_member(family, B, tcp=tcp), src=HOST, options=vip(family)))
    note = layout.parse("handover", run.metadata)
    assert (note["flags"] & UNSURE, note["serial"]) == (0, 0)


@every_family
@every_kind
def test_tc_sends_it_whole(at_tc: Testbed, family: int, tcp: bool) -> None:
    run, wanted = at_chooser(at_tc, family, tcp=tcp)
    assert (run.retval, run.frame) == (XDP_TX, wanted)


def leave(droplet: Testbed, note: bytes) -> None:
    """For `deliver` at tc, on whatever CPU it runs."""
    values = note.ljust((layout.size("handover") + 7) // 8 * 8, b"\0") * possible_cpus()
    notes = droplet.programs.maps["handover_notes"]
    check(lib().bpf_map_update_elem(notes, U32.pack(0), ffi.from_buffer(values), 0), "leave a note")


@every_family
@every_kind
def test_deliver_hands_it_over_whole(at_tc: Testbed, family: int, tcp: bool) -> None:
    """To the member, whose address and port are in it then."""
    run, wanted = at_member(at_tc, family, tcp=tcp)
    assert settled(run) == wanted
    at_tc.agent(B)
    leave(at_tc, run.metadata)
    delivered = test_run.run_tc(at_tc.programs.programs[HANDING_OVER].fd, run.frame)
    leave(at_tc, b"")
    inner = to_member(family, B, tcp=tcp)
    inner.src, inner[Raw].load = ROUTER_MAC, wanted[-8:]
    assert (delivered.retval, delivered.frame) == (TC_REDIRECT, bytes(inner))
