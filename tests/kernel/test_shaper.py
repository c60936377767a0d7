# SPDX-License-Identifier: Apache-2.0
"""The shaper's tree in the kernel: what it may send whoever is around it, and how it becomes another tree."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from mizar.kernel import shaper
from mizar.kernel.namespaces import Namespace
from mizar.kernel.netlink import Netlink
from mizar.kernel.shaper import MAJOR, REST, ShapedClass

pytestmark = pytest.mark.root

NETWORK, VPC, OWN = 5, 6, 7
SLOW, FAST = 80_000, 10**10
FRAME = bytes(12) + b"\x08\x00" + bytes(1186)
_SO_PRIORITY, _SO_SNDBUFFORCE = 12, 32


@pytest.fixture
def netlink(host: Namespace) -> Iterator[Netlink]:
    with Netlink(host) as found:
        yield found


@pytest.fixture
def near(netlink: Netlink) -> int:
    return shaper.ensure(netlink, "shaper", lambda far: None).index


def inside(*around: int) -> dict[int, ShapedClass]:
    """An endpoint's class below those of what is around it, from the inside out."""
    places = [*around, 0]
    found = {OWN: ShapedClass(FAST, 10_000, places[0], leaf=True)}
    for number, parent in zip(around, places[1:], strict=True):
        found[number] = ShapedClass(SLOW, 10_000, parent)
        found[REST | number] = ShapedClass(SLOW, 10_000, number, leaf=True)
    return found


def parents(netlink: Netlink, near: int) -> dict[int, int]:
    return shaper._classes(netlink, near)


def test_a_class_gets_another_parent_with_those_below_it(netlink: Netlink, near: int) -> None:
    """Its VPC has got a limit, and loses it: the network's class moves, and its endpoints' do with it."""
    done: dict[int, ShapedClass] = {}
    for tree in (inside(NETWORK), inside(NETWORK, VPC), inside(VPC), inside(NETWORK), inside()):
        shaper.arrange(netlink, near, tree, done)
        done = tree
        assert parents(netlink, near) == {number: one.parent for number, one in tree.items()}


def test_who_may_send_more_than_what_is_around_it_sends_no_more(host: Namespace, netlink: Netlink, near: int) -> None:
    """A class has hardly anything of its own: all of it is borrowed from the slow one around it. And no more waits than
    the slow one sends in a while."""
    shaper.arrange(netlink, near, inside(NETWORK))
    name = shaper.names("shaper")[0]
    with host.run(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW)) as sender:
        sender.bind((name, 0x0800))
        sender.setsockopt(socket.SOL_SOCKET, _SO_PRIORITY, MAJOR | OWN)
        sender.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, 1 << 23)
        begin = time.monotonic()
        for _ in range(1000):
            with contextlib.suppress(OSError):  # there is no room
                sender.send(FRAME)
        threading.Event().wait(1)
        took = time.monotonic() - begin
    found = host.run(lambda: shaper.statistics(near))[OWN]
    assert 0 < found.bytes <= 3 * 10_000 + 2 * took * SLOW / 8
    assert found.waiting <= 256 * 1024 + len(FRAME)
