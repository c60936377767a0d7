# SPDX-License-Identifier: Apache-2.0
"""Attaching: the best mode that works, replaced without a gap, recovered when dead, never at another's cost."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest

from mizar.kernel import attach, clsact, interfaces, libbpf
from mizar.kernel.attach import attach_tc, attach_xdp, attached, detach_tc, detach_xdp
from mizar.kernel.bpffs import Pins
from mizar.kernel.links import Links
from mizar.kernel.namespaces import Namespace
from mizar.kernel.programs import Programs, load
from mizar.model.errors import ConflictError, InvalidError, NotFoundError

from .conftest import CONFIG, SMALL
from .test_links import LINK

pytestmark = pytest.mark.root


@pytest.fixture
def index(links: Links, workload: Namespace) -> int:
    """A veth in `host`."""
    return links.ensure_endpoint(LINK, workload)[0].index


@pytest.fixture
def newer() -> Iterator[Programs]:
    """The next version of the programs."""
    with load(CONFIG, max_entries=SMALL) as loaded:
        yield loaded


def program_id(fd: int) -> int:
    return int(libbpf.info("prog", fd).id)


def test_xdp_runs_in_driver_mode(host: Namespace, links: Links, index: int, pins: Pins, programs: Programs) -> None:
    """Where the driver can; the interface says so."""
    made = host.run(lambda: attach_xdp(programs.transit.fd, index, pins.links / "transit"))
    assert (made.mode, made.fallback_reason, made.updated) == ("driver", "", False)
    facts = interfaces.get(links.netlink, index)
    assert (facts.xdp_mode, facts.xdp_program) == ("driver", program_id(programs.transit.fd))


def test_generic_mode_is_the_stated_fallback(
    host: Namespace, links: Links, index: int, pins: Pins, programs: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A driver that refuses is quoted in the reason."""
    monkeypatch.setitem(attach._KINDS, "driver", (37, 1 << 3))  # XDP_FLAGS_HW_MODE: no veth can
    made = host.run(lambda: attach_xdp(programs.transit.fd, index, pins.links / "transit"))
    assert made.mode == "generic"
    assert "driver mode" in made.fallback_reason
    assert interfaces.get(links.netlink, index).xdp_mode == "generic"


def test_a_forced_mode_replaces_the_other(
    host: Namespace, links: Links, index: int, pins: Pins, programs: Programs
) -> None:
    """From driver to generic and back."""
    pin = pins.links / "transit"
    modes: tuple[attach.XdpMode, ...] = ("driver", "generic", "generic", "driver")
    for mode in modes:
        assert host.run(partial(attach_xdp, programs.transit.fd, index, pin, force=mode)).mode == mode
        assert interfaces.get(links.netlink, index).xdp_mode == mode


def test_tc_attaches_by_tcx(host: Namespace, index: int, pins: Pins, programs: Programs) -> None:
    """The pin tells hook, interface and program."""
    made = host.run(lambda: attach_tc(programs.agent.fd, index, pins.links / "agent"))
    assert (made.mode, made.fallback_reason) == ("tcx", "")
    assert attached(pins.links / "agent") == attach.PinnedLink("tcx", index, program_id(programs.agent.fd))


def test_clsact_is_the_stated_fallback(
    host: Namespace, index: int, pins: Pins, programs: Programs, newer: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kernel that does not know tcx gets a filter, which is recognised and replaced."""
    monkeypatch.setitem(attach._KINDS, "tcx", (9999, 0))  # no kernel knows this attach type
    pin = pins.links / "agent"
    first = host.run(lambda: attach_tc(programs.agent.fd, index, pin))
    assert (first.mode, first.updated) == ("clsact", False)
    assert "Invalid argument" in first.fallback_reason
    assert host.run(lambda: attach_tc(newer.agent.fd, index, pin)).updated
    assert host.run(lambda: clsact.attached(index)) == ["agent"]
    assert host.run(lambda: detach_tc(index, pin))
    assert host.run(lambda: clsact.attached(index)) == []
    assert not host.run(lambda: detach_tc(index, pin))


def test_tc_moves_between_tcx_and_clsact(host: Namespace, index: int, pins: Pins, programs: Programs) -> None:
    """Only one of both is left each time."""
    pin = pins.links / "agent"
    host.run(lambda: attach_tc(programs.agent.fd, index, pin))
    assert host.run(lambda: attach_tc(programs.agent.fd, index, pin, force="clsact")).mode == "clsact"
    assert attached(pin) is None
    assert host.run(lambda: attach_tc(programs.agent.fd, index, pin)).mode == "tcx"
    assert host.run(lambda: clsact.attached(index)) == []


def test_a_new_program_goes_into_the_same_link(
    host: Namespace, index: int, pins: Pins, programs: Programs, newer: Programs
) -> None:
    """The link stays, so there is no moment without a program."""
    xdp, tc = pins.links / "transit", pins.links / "deliver"
    host.run(lambda: (attach_tc(programs.deliver.fd, index, tc), attach_xdp(programs.transit.fd, index, xdp)))
    assert host.run(lambda: attach_tc(newer.deliver.fd, index, tc)).updated
    assert host.run(lambda: attach_xdp(newer.transit.fd, index, xdp)).updated
    assert attached(tc) == attach.PinnedLink("tcx", index, program_id(newer.deliver.fd))
    assert attached(xdp) == attach.PinnedLink("xdp", index, program_id(newer.transit.fd))


def test_an_attachment_outlives_its_program_handles(host: Namespace, links: Links, index: int, pins: Pins) -> None:
    """Closing everything in the process, as its death would, changes nothing in the kernel."""
    with load(CONFIG, max_entries=SMALL, pins=pins) as loaded:
        host.run(lambda: attach_xdp(loaded.transit.fd, index, pins.links / "transit"))
        number = program_id(loaded.transit.fd)
    assert interfaces.get(links.netlink, index).xdp_program == number


def test_a_dead_link_is_replaced(
    host: Namespace, workload: Namespace, links: Links, index: int, pins: Pins, programs: Programs
) -> None:
    """The interface vanished and came back: its pins are of no use, and no obstacle."""
    tc, xdp = pins.links / "agent", pins.links / "transit"
    host.run(lambda: (attach_tc(programs.agent.fd, index, tc), attach_xdp(programs.transit.fd, index, xdp)))
    links.delete(LINK.host_name)
    for pin in (tc, xdp):
        dead = attached(pin)
        assert dead is not None
        assert dead.ifindex == 0
    again = links.ensure_endpoint(LINK, workload)[0].index
    assert not host.run(lambda: attach_tc(programs.agent.fd, again, tc)).updated
    assert not host.run(lambda: attach_xdp(programs.transit.fd, again, xdp)).updated
    assert interfaces.get(links.netlink, again).xdp_mode == "driver"


def test_another_programs_interface_is_a_conflict(
    host: Namespace, links: Links, index: int, pins: Pins, programs: Programs, newer: Programs
) -> None:
    """Whoever came first keeps it."""
    host.run(lambda: attach_xdp(programs.transit.fd, index, pins.links / "first"))
    with pytest.raises(ConflictError, match="another XDP program"):
        host.run(lambda: attach_xdp(newer.transit.fd, index, pins.links / "second"))
    assert interfaces.get(links.netlink, index).xdp_program == program_id(programs.transit.fd)
    host.run(lambda: attach_tc(programs.agent.fd, index, pins.links / "first_tc", force="clsact"))
    with pytest.raises(ConflictError, match="has the tc filter first_tc"):
        host.run(lambda: attach_tc(newer.agent.fd, index, pins.links / "second_tc", force="clsact"))


def test_detaching_works_at_once_and_twice(
    host: Namespace, links: Links, index: int, pins: Pins, programs: Programs
) -> None:
    """Even while somebody holds the link open; the second time there is nothing to do."""
    pin = pins.links / "transit"
    host.run(lambda: attach_xdp(programs.transit.fd, index, pin))
    assert detach_xdp(pin)
    assert interfaces.get(links.netlink, index).xdp_mode == ""
    assert not detach_xdp(pin)


def test_a_program_of_another_kind_is_refused(host: Namespace, index: int, pins: Pins, programs: Programs) -> None:
    """And nothing stays pinned."""
    with pytest.raises(InvalidError):
        host.run(lambda: attach_xdp(programs.agent.fd, index, pins.links / "transit"))
    with pytest.raises(InvalidError):
        host.run(lambda: attach_tc(programs.transit.fd, index, pins.links / "agent"))
    assert list(pins.links.iterdir()) == []


def test_a_missing_interface_is_not_found(host: Namespace, pins: Pins, programs: Programs) -> None:
    """XDP and tc alike."""
    with pytest.raises(NotFoundError):
        host.run(lambda: attach_xdp(programs.transit.fd, 999, pins.links / "transit"))
    with pytest.raises(NotFoundError):
        host.run(lambda: attach_tc(programs.agent.fd, 999, pins.links / "agent"))
