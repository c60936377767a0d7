# SPDX-License-Identifier: Apache-2.0
"""Attaches programs to interfaces: XDP (driver mode, else generic) and tc ingress (tcx, else clsact).

Called by the daemon and by tests, in the network namespace of the interface. Where the kernel has links for it, an
attachment is a link pinned at the caller's path: it outlives the daemon, and a new daemon puts a new program into it
without a packet passing unseen. clsact has no links; there the filter itself stays, and is recognised by its name.
It must never displace a program that somebody else attached.

Order: attach `deliver` before `transit`, and detach `transit` before `deliver`; what XDP decapsulates needs both.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mizar.kernel import clsact, interfaces, libbpf
from mizar.kernel.libbpf import ffi, lib
from mizar.kernel.netlink import Netlink
from mizar.model.errors import ConflictError, MizarError

XdpMode = Literal["driver", "generic"]
TcMode = Literal["tcx", "clsact"]

_BPF_XDP, _BPF_TCX_INGRESS = 37, 46  # enum bpf_attach_type; libbpf 1.1 does not know the second, the kernel does
_KINDS: dict[str, tuple[int, int]] = {  # attach type and flags: XDP_FLAGS_DRV_MODE, XDP_FLAGS_SKB_MODE
    "driver": (_BPF_XDP, 1 << 2),
    "generic": (_BPF_XDP, 1 << 1),
    "tcx": (_BPF_TCX_INGRESS, 0),
}
_LINK_TYPE_XDP, _LINK_TYPE_TCX = 6, 11  # enum bpf_link_type


@dataclass(frozen=True)
class Attachment:
    """A program at work on an interface."""

    ifindex: int
    mode: XdpMode | TcMode
    fallback_reason: str = ""
    """Why it is not the first choice (driver, tcx); empty when it is, or when this mode was asked for."""
    updated: bool = False
    """The attachment was there already, and has the new program now."""


@dataclass(frozen=True)
class PinnedLink:
    """What a pin of a link says. `ifindex` is 0 when the interface has vanished: the link is dead."""

    hook: Literal["xdp", "tcx", "other"]
    ifindex: int
    program_id: int


def attach_xdp(
    fd: int, ifindex: int, pin: Path, *, force: XdpMode | None = None, generic: Callable[[], int] | None = None
) -> Attachment:
    """Attaches an XDP program by a link pinned at `pin`, or puts it into the link that is pinned there already.

    Tries driver mode, then generic, for which it asks `generic` for the program when given; `force` allows one mode
    only, and replaces a link of the other. Raises ConflictError when another program has the interface, and the
    driver's error when no mode works.
    """
    with Netlink() as netlink:
        running = interfaces.get(netlink, ifindex).xdp_mode

    def program(mode: str) -> int:
        return fd if mode == "driver" or generic is None else generic()

    if force is not None and running and running != force and attached(pin) is not None:
        _remove(pin)
    elif _update(program("generic" if running == "generic" else "driver"), ifindex, pin, "xdp"):
        if running == "driver":
            return Attachment(ifindex, "driver", updated=True)
        kept = "it was attached so before, and stays so lest packets are lost; force driver mode to change it"
        return Attachment(ifindex, "generic", "" if force else kept, updated=True)
    reason = ""
    modes: tuple[XdpMode, ...] = ("driver", "generic") if force is None else (force,)
    for mode in modes:
        try:
            _create_pinned(program(mode), ifindex, mode, pin)
        except ConflictError as error:
            raise ConflictError(f"{error}; another XDP program has the interface") from error
        except MizarError as error:
            if mode == modes[-1]:
                raise
            reason = str(error)
        else:
            return Attachment(ifindex, mode, reason)
    raise AssertionError("the last mode returns or raises")


def attach_tc(fd: int, ifindex: int, pin: Path, *, force: TcMode | None = None) -> Attachment:
    """Attaches a tc program to the ingress of an interface, or replaces it where the same `pin` did before.

    Tries tcx, then clsact, where the filter is called after the last part of `pin`; `force` allows one of both, and
    removes what the other had attached.
    """
    if force == "clsact":
        updated = clsact.attach(fd, ifindex, pin.name)
        _remove(pin)
        return Attachment(ifindex, "clsact", updated=updated)
    if _update(fd, ifindex, pin, "tcx"):
        return Attachment(ifindex, "tcx", updated=True)
    try:
        _create_pinned(fd, ifindex, "tcx", pin)
    except MizarError as error:
        # EINVAL is what kernels before 6.6 say to the unknown attach type; anything else would fail with clsact too.
        if force is not None or libbpf.errno_of(error) != errno.EINVAL:
            raise
        return Attachment(ifindex, "clsact", str(error), updated=clsact.attach(fd, ifindex, pin.name))
    clsact.detach(ifindex, pin.name)
    return Attachment(ifindex, "tcx")


def guard_tc(fd: int, ifindex: int, pin: Path, *, force: TcMode | None = None) -> Attachment:
    """The same as attach_tc(), for an interface that was just made and is waited for: where nothing is pinned yet, by
    a filter, because a tcx link waits for the kernel's readers (about 12 ms). Call attach_tc() when there is time: the
    link runs before the filter, so no frame passes unseen while they change places."""
    if force == "tcx":
        return attach_tc(fd, ifindex, pin, force=force)
    if _update(fd, ifindex, pin, "tcx"):
        return Attachment(ifindex, "tcx", updated=True)
    try:
        return Attachment(ifindex, "clsact", updated=clsact.guard(fd, ifindex, pin.name))
    except MizarError:
        return attach_tc(fd, ifindex, pin, force=force)


def detach_xdp(pin: Path) -> bool:
    """Detaches the XDP program whose link is pinned there, and removes the pin; False when there was none."""
    return _remove(pin)


def detach_tc(ifindex: int, pin: Path) -> bool:
    """Detaches a tc program, in whichever mode it is attached; False when there was none."""
    removed = _remove(pin)
    return clsact.detach(ifindex, pin.name) or removed


def attached(pin: Path) -> PinnedLink | None:
    """What is pinned there; None when nothing is."""
    fd = libbpf.open_pin(pin)
    if fd is None:
        return None
    try:
        return _facts(fd)
    finally:
        os.close(fd)


def fault(fds: Iterable[int], ifindex: int, pin: Path) -> str | None:
    """What is wrong with an attachment that should run one of these programs; None: nothing, "": nothing runs."""
    link = attached(pin)
    if link is None or link.ifindex != ifindex:
        if pin.name in clsact.attached(ifindex):
            return None
        return f"attached to interface {link.ifindex}" if link is not None and link.ifindex else ""
    builds = [libbpf.info("prog", fd).id for fd in fds]
    return None if link.program_id in builds else f"program {link.program_id}, of another build"


def _facts(fd: int) -> PinnedLink:
    info = libbpf.info("link", fd)
    if info.type == _LINK_TYPE_XDP:
        return PinnedLink("xdp", info.ifindex, info.prog_id)
    if info.type == _LINK_TYPE_TCX and info.attach_type == _BPF_TCX_INGRESS:
        return PinnedLink("tcx", info.ifindex, info.prog_id)
    return PinnedLink("other", 0, info.prog_id)


def _update(fd: int, ifindex: int, pin: Path, hook: Literal["xdp", "tcx"]) -> bool:
    """Puts the program into the pinned link, atomically. A link that is dead or of another interface is removed."""
    link = libbpf.open_pin(pin)
    if link is None:
        return False
    try:
        facts = _facts(link)
        if (facts.hook, facts.ifindex) != (hook, ifindex):
            _detach(link, pin)
            return False
        libbpf.check(lib().bpf_link_update(link, fd, ffi.NULL), f"replace the program of {pin}")
        return True
    finally:
        os.close(link)


def create_link(fd: int, ifindex: int, mode: Literal["driver", "generic", "tcx"]) -> int:
    """A new link without a pin, as a file descriptor: the program is attached until it is closed. For probes."""
    kind, flags = _KINDS[mode]
    opts = ffi.new("struct link_create_opts *", {"sz": ffi.sizeof("struct link_create_opts"), "flags": flags})
    what = f"attach to interface {ifindex} by {mode}" if mode == "tcx" else f"attach XDP to {ifindex} ({mode} mode)"
    return libbpf.check(lib().bpf_link_create(fd, ifindex, kind, opts), what)


def _create_pinned(fd: int, ifindex: int, mode: Literal["driver", "generic", "tcx"], pin: Path) -> None:
    link = create_link(fd, ifindex, mode)
    try:
        libbpf.pin(link, pin)
    finally:
        os.close(link)  # without the pin, this also detaches


def _remove(pin: Path) -> bool:
    link = libbpf.open_pin(pin)
    if link is None:
        return False
    try:
        _detach(link, pin)
        return True
    finally:
        os.close(link)


def _detach(link: int, pin: Path) -> None:
    # Taking the pin away would do, but later: the kernel detaches in the background, and only when nobody has the
    # link open. The result does not matter: a dead link has nothing to detach.
    lib().bpf_link_detach(link)
    pin.unlink()
