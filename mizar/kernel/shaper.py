# SPDX-License-Identifier: Apache-2.0
"""The shaper: a veth pair of this droplet with a tree of classes (htb), where bytes of limited endpoints wait.

Owns making and deleting the pair and its classes; whose a pair is, its group tells. Classes are compared with what the
kernel has, so that one pass after a restart is like any other. It must never touch another interface's queue.
"""

from __future__ import annotations

import contextlib
import hashlib
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.tcmsg import tcmsg

from mizar.kernel import interfaces
from mizar.kernel.interfaces import RTM_DELLINK, RTM_NEWLINK, RTM_SETLINK, Interface, no_link_local, set_link
from mizar.kernel.netlink import CREATE, EXCL, REPLACE, Message, Netlink, Order
from mizar.model.errors import ConflictError, NotFoundError

MAJOR = 1 << 16
"""Of all classes: what stands above the number in skb->priority."""
MOST = 0x7FFF
"""The highest number of a class that others may stand below."""
REST = 0x8000
"""Beside the number of a class: its leaf for who has no class of his own below it."""

_GROUP = 0x4D5C
_MTU = 65535
_RTM_NEWQDISC, _RTM_NEWTCLASS, _RTM_DELTCLASS, _RTM_GETTCLASS = 36, 40, 41, 42
_ROOT = 0xFFFFFFFF
_ETHERNET = 1  # TC_LINKLAYER_ETHERNET: the kernel needs no table of rates
_QUANTUM = 65536
_NS = 10**9
_LEAST_QUEUE_BYTES, _QUEUE_S = 256 * 1024, 0.1
_OWN_BYTES = 1
_MOST_RATE = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class ShapedClass:
    """A class by its number: what it may send, in bits a second and bytes at once. `parent` 0: it is below nothing."""

    bits_per_second: int
    burst_bytes: int
    parent: int = 0
    leaf: bool = False


def names(instance: str) -> tuple[str, str]:
    """Of the near end, which has the queue, and of the far end, where packets come out."""
    tail = hashlib.sha256(instance.encode()).hexdigest()[:8]
    return f"mzqos{tail}", f"mzqosp{tail}"


def ensure(netlink: Netlink, instance: str, guard: Callable[[Interface], None]) -> Interface:
    """Makes the pair and the root of its tree, or finds them; returns the near end.

    `guard` is called with the far end before anything can come out there; what it raises is raised. Raises
    ConflictError when a name is another's, InvalidError or NotFoundError where the kernel has no htb.
    """
    near, far = names(instance)
    found = interfaces.find(netlink, near)
    if found is not None and found.group != _GROUP:
        raise ConflictError(f"the interface {near} was not made by Mizar and is left alone")
    if found is None:
        _create(netlink, near, far)
        found = interfaces.get(netlink, near)
    guard(interfaces.get(netlink, far))
    if not found.up:
        netlink.tell([(_qdisc(found.index), _RTM_NEWQDISC, CREATE | REPLACE, f"shape what leaves by {near}")])
        for name in (far, near):
            what = f"configure {name}"
            netlink.tell([
                (no_link_local(name), RTM_SETLINK, 0, what), (set_link(name, up=True), RTM_SETLINK, 0, what)
            ])  # fmt: skip
    return found


def remove(netlink: Netlink, instance: str) -> bool:
    """Deletes the pair; False when there was none."""
    found = interfaces.find(netlink, names(instance)[0])
    if found is None or found.group != _GROUP:
        return False
    message = ifinfmsg()
    message["index"] = found.index
    netlink.tell([(message, RTM_DELLINK, 0, f"delete {found.name}")])
    return True


def arrange(
    netlink: Netlink, ifindex: int, wanted: Mapping[int, ShapedClass], done: Mapping[int, ShapedClass] | None = None
) -> None:
    """Makes the classes what is wanted. Parents come before those below them, and go after: a class whose parent goes
    is made anew. `done`: what an earlier call has made of them; what is still there of it is not made again."""
    held, before = _classes(netlink, ifindex), done or {}
    order = sorted(wanted, key=lambda number: _depth(wanted, number))
    staying = {number for number in held if _stays(held, wanted, number)}
    for number in sorted(held.keys() - staying, key=lambda number: -_held_depth(held, number)):
        with contextlib.suppress(NotFoundError):
            netlink.tell([(_class(ifindex, number, None), _RTM_DELTCLASS, 0, f"delete class {number:x}")])
    for number in order:
        one, most = wanted[number], _most_bits(wanted, number)
        if number in staying and before.get(number) == one and _most_bits(before, number) == most:
            continue
        orders: list[Order] = [
            (_class(ifindex, number, one), _RTM_NEWTCLASS, CREATE | REPLACE, f"shape class {number:x}")
        ]
        if one.leaf:
            orders.append((_queue(ifindex, number, most), _RTM_NEWQDISC, CREATE | REPLACE, f"queue class {number:x}"))
        netlink.tell(orders)


@dataclass(frozen=True, slots=True)
class Passed:
    """What a class has seen: packets and bytes that left it, packets that it dropped, bytes that wait there."""

    packets: int
    bytes: int
    dropped: int
    waiting: int


def statistics(ifindex: int) -> dict[int, Passed]:
    """Of each class, by its number."""
    question = tcmsg()
    question["index"] = ifindex
    found = {}
    with Netlink() as netlink:
        for answer in netlink.ask(question, _RTM_GETTCLASS, "read the classes of the shaper", dump=True):
            told = answer.get_attr("TCA_STATS2")
            basic, queue = (told.get_attr(name) if told else None for name in ("TCA_STATS_BASIC", "TCA_STATS_QUEUE"))
            if answer["index"] == ifindex and basic and queue:
                left = Passed(basic["packets"], basic["bytes"], queue["drops"], queue["backlog"])
                found[answer["handle"] & 0xFFFF] = left
    return found


def _depth(wanted: Mapping[int, ShapedClass], number: int) -> int:
    parent = wanted[number].parent
    return 1 + _depth(wanted, parent) if parent else 0


def _most_bits(wanted: Mapping[int, ShapedClass], number: int) -> int:
    """A second, that it can send as things are around it."""
    one = wanted[number]
    return min(one.bits_per_second, _most_bits(wanted, one.parent)) if one.parent else one.bits_per_second


def _stays(held: Mapping[int, int], wanted: Mapping[int, ShapedClass], number: int) -> bool:
    """Whether it has the parent that it shall have, and that one too."""
    while number:
        if number not in wanted or held.get(number) != wanted[number].parent:
            return False
        number = held[number]
    return True


def _held_depth(held: Mapping[int, int], number: int) -> int:
    parent = held.get(number, 0)
    return 1 + _held_depth(held, parent) if parent else 0


def _classes(netlink: Netlink, ifindex: int) -> dict[int, int]:
    """Number of each class → that of its parent."""
    question = tcmsg()
    question["index"] = ifindex
    found = {}
    for answer in netlink.ask(question, _RTM_GETTCLASS, "list the classes of the shaper", dump=True):
        if answer["index"] == ifindex and answer["handle"] >> 16 == MAJOR >> 16:
            parent = answer["parent"]
            found[answer["handle"] & 0xFFFF] = 0 if parent == _ROOT else parent & 0xFFFF
    return found


def _create(netlink: Netlink, near: str, far: str) -> None:
    peer = {"attrs": [("IFLA_IFNAME", far), ("IFLA_MTU", _MTU), ("IFLA_GROUP", _GROUP)]}
    info = [("IFLA_INFO_KIND", "veth"), ("IFLA_INFO_DATA", {"attrs": [("VETH_INFO_PEER", peer)]})]
    message = ifinfmsg()
    message["attrs"] = [
        ("IFLA_IFNAME", near),
        ("IFLA_MTU", _MTU),
        ("IFLA_GROUP", _GROUP),
        ("IFLA_LINKINFO", {"attrs": info}),
    ]
    netlink.tell([(message, RTM_NEWLINK, CREATE | EXCL, f"make the shaper {near}")])


def _message(ifindex: int, handle: int, parent: int, kind: str) -> Message:
    message = tcmsg()
    message["index"], message["handle"], message["parent"] = ifindex, handle, parent
    message["attrs"] = [("TCA_KIND", kind)]
    return message


def _qdisc(ifindex: int) -> Message:
    message = _message(ifindex, MAJOR, _ROOT, "htb")
    init = {"version": 3, "rate2quantum": 10, "defcls": 0, "debug": 0, "direct_pkts": 0}
    message["attrs"].append(("TCA_OPTIONS", {"attrs": [("TCA_HTB_INIT", init)]}))
    return message


def _class(ifindex: int, number: int, one: ShapedClass | None) -> Message:
    """What is below another has next to nothing of its own, and borrows all that it sends: so the upper limit holds,
    however much those below may send and however many they are."""
    parent = MAJOR | one.parent if one and one.parent else MAJOR
    message = _message(ifindex, MAJOR | number, parent, "htb")
    if one is None:
        return message
    ceil = one.bits_per_second // 8
    rate = _OWN_BYTES if one.parent else ceil
    parms = {
        "rate": min(rate, _MOST_RATE),
        "ceil": min(ceil, _MOST_RATE),
        "buffer": _ticks(one.burst_bytes, rate if not one.parent else ceil),
        "cbuffer": _ticks(one.burst_bytes, ceil),
        "quantum": _QUANTUM,
        "rate___reserved": _ETHERNET,
        "ceil___reserved": _ETHERNET,
    }
    options: list[tuple[str, object]] = [("TCA_HTB_PARMS", parms)]
    options += [("TCA_HTB_RATE64", rate)] if rate > _MOST_RATE else []
    options += [("TCA_HTB_CEIL64", ceil)] if ceil > _MOST_RATE else []
    message["attrs"].append(("TCA_OPTIONS", {"attrs": options}))
    return message


def _ticks(burst_bytes: int, bytes_per_second: int) -> int:
    """The time that a burst takes, as the kernel counts it: 64 ns each."""
    return min(burst_bytes * _NS // bytes_per_second >> 6, 0x7FFFFFFF)


def _queue(ifindex: int, number: int, bits_per_second: int) -> Message:
    """What may wait: a tenth of a second's worth."""
    message = _message(ifindex, number << 16, MAJOR | number, "bfifo")
    limit = max(_LEAST_QUEUE_BYTES, int(bits_per_second * _QUEUE_S / 8))
    message["attrs"].append(("TCA_OPTIONS", struct.pack("=I", min(limit, 0x7FFFFFFF))))
    return message
