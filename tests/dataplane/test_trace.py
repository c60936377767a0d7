# SPDX-License-Identifier: Apache-2.0
"""Packets that bear a trace mark: told of while somebody listens; the mark goes along, and nothing else differs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from mizar.kernel.events import EventReader
from mizar.kernel.layout import constant
from mizar.model import drop_reasons

from .frames import datagram, option, tunnel
from .plan import FAMILIES, FRONT, GHOST_HOST, HOST, ME, RED, ROUTER_MAC, TUNNELS, A, B, R, mapped
from .testbed import XDP_DROP, XDP_TX, Testbed

MARK = 0x5A
TRANSIT = 2


@pytest.fixture
def reader(droplet: Testbed) -> Iterator[EventReader]:
    """The ring, while somebody listens for the mark."""
    reader = EventReader(droplet.programs.maps["traces"], "trace_report")
    reader.read()
    droplet.tables.trace_marks.put(MARK, 1)
    yield reader
    droplet.tables.trace_marks.put(MARK, 0)
    reader.close()


def with_mark(frame: bytes, mark: int = MARK) -> bytes:
    """The mark in the last byte of the tunnel's header."""
    return frame[:49] + bytes([mark]) + frame[50:]


def only(reader: EventReader) -> dict[str, Any]:
    (report,) = reader.read()
    return dict(report)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", TUNNELS)
def test_a_marked_packet_is_forwarded_as_any_other_and_told_of(
    droplet: Testbed, reader: EventReader, kind: str, family: int
) -> None:
    """The frame differs in the mark alone; the report tells where it went, of which VPC it is, and between whom."""
    droplet.as_bouncer(tunnel=kind)
    frame = tunnel(kind, datagram(family, A, R.address(family)), src=HOST)
    plain = droplet.transit(frame)
    assert not reader.read()
    result = droplet.transit(with_mark(frame))
    assert (result.retval, result.frame) == (XDP_TX, with_mark(plain.frame))
    report = only(reader)
    assert report["did"] == constant("TRACE_SENT")
    assert (report["mark"], report["hook"], report["vni"], report["reason"]) == (MARK, TRANSIT, RED.vni, 0)
    assert report["to"] == mapped(HOST.address)
    assert (report["src"], report["dst"]) == (mapped(A.address(family)), mapped(R.address(family)))


def test_a_mark_stands_in_an_option_too_and_survives_a_change_of_tunnel(droplet: Testbed, reader: EventReader) -> None:
    """Geneve's options are left behind where VXLAN begins: the mark goes on in the header."""
    droplet.as_bouncer(tunnel="vxlan")
    trace = option(0xFF01, 0x04, bytes([0, 0, 0, MARK]))
    result = droplet.transit(tunnel("geneve", datagram(4, A, R.address(4)), src=HOST, options=trace))
    inner = datagram(4, A, R.address(4), ttl=63, src_mac=ROUTER_MAC, dst_mac=R.mac)
    assert result.frame == with_mark(tunnel("vxlan", inner, src=ME, dst=HOST))
    assert only(reader)["did"] == constant("TRACE_SENT")


def test_a_refusal_is_told_with_its_reason(droplet: Testbed, reader: EventReader) -> None:
    """Counted and refused as ever."""
    droplet.as_bouncer()
    frame = tunnel("geneve", datagram(4, A, FRONT.address(4, GHOST_HOST)), src=HOST)
    assert droplet.transit(with_mark(frame)).retval == XDP_DROP
    report = only(reader)
    number = drop_reasons.by_name()["ENDPOINT_UNKNOWN"].number
    assert (report["did"], report["reason"]) == (constant("TRACE_REFUSED"), number)
    assert droplet.counted()["drop", "ENDPOINT_UNKNOWN"]["packets"] == 1


def test_a_delivery_tells_to_which_interface(droplet: Testbed, reader: EventReader) -> None:
    """By transit; the note for `deliver` bears the mark on."""
    droplet.as_host()
    result = droplet.transit(with_mark(tunnel("geneve", datagram(4, B, A.address(4)), src=HOST)))
    assert result.metadata
    report = only(reader)
    assert (report["did"], report["ifindex"]) == (constant("TRACE_DELIVERED"), A.ifindex)


def test_nobody_is_told_of_marks_that_nobody_listens_for(droplet: Testbed, reader: EventReader) -> None:
    """A stranger's noise in that byte costs a look, and no more."""
    droplet.as_bouncer()
    droplet.transit(with_mark(tunnel("geneve", datagram(4, A, R.address(4)), src=HOST), MARK + 1))
    assert not reader.read()


def test_an_agent_that_is_run_by_hand_leaves_its_reason_in_the_mark(droplet: Testbed) -> None:
    """What the daemon learns of a frame that it runs through the agent and that does not leave."""
    droplet.as_bouncer()
    droplet.agent(A)
    frame = datagram(4, A, FRONT.address(4, GHOST_HOST))
    result = droplet.send(frame, ifindex=A.ifindex)
    (counted,) = [str(key) for kind, key in droplet.counted() if kind == "drop"]
    assert result.mark == drop_reasons.by_name()[counted].number
    assert droplet.send(datagram(4, A, R.address(4)), ifindex=A.ifindex).mark == 0
