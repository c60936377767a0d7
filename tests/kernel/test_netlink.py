# SPDX-License-Identifier: Apache-2.0
"""The conversation with the kernel: errors are explained, lists are whole, a socket serves many threads."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest

from mizar.kernel import interfaces, namespaces
from mizar.kernel.interfaces import RTM_SETLINK
from mizar.kernel.links import Links
from mizar.kernel.namespaces import Namespace
from mizar.kernel.netlink import Netlink
from mizar.model.errors import InvalidError, NotFoundError

from .test_links import LINK

pytestmark = pytest.mark.root


@pytest.fixture
def netlink(host: Namespace) -> Iterator[Netlink]:
    with Netlink(host) as found:
        yield found


def test_the_first_failure_of_several_orders_is_told(netlink: Netlink) -> None:
    """In the words of the one that failed; the others were carried out."""
    with pytest.raises(NotFoundError, match="configure nothing"):
        netlink.tell(
            [
                (interfaces.set_link("nothing", up=True), RTM_SETLINK, 0, "configure nothing"),
                (interfaces.set_link("lo", up=True), RTM_SETLINK, 0, "bring up the loopback"),
            ]
        )
    assert interfaces.get(netlink, "lo").up


def test_no_orders_are_nothing_to_do(netlink: Netlink) -> None:
    """Whoever found nothing to change need not ask first."""
    netlink.tell([])
    assert interfaces.get(netlink, "lo").index == 1


def test_the_kernels_own_reason_is_quoted(netlink: Netlink) -> None:
    """Where it gives one."""
    with pytest.raises(InvalidError, match="mtu"):
        netlink.tell([(interfaces.set_link("lo", mtu=-1 & 0xFFFFFFFF), RTM_SETLINK, 0, "set an impossible MTU")])


def test_threads_share_a_socket(netlink: Netlink) -> None:
    """Each gets the answer to its own question."""
    wrong: list[object] = []

    def ask() -> None:
        for _ in range(50):
            if interfaces.get(netlink, "lo").name != "lo" or interfaces.find(netlink, "nothing") is not None:
                wrong.append(threading.current_thread())

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_list_is_whole_while_others_come_and_go(links: Links, netlink: Netlink) -> None:
    """What is there all the time is in every list."""
    with namespaces.anonymous() as workload:
        for number in range(40):
            name = f"mz{number}"
            links.ensure_endpoint(
                replace(LINK, uid=name, host_name=name, inner_name=name, addresses=(), gateways=()), workload
            )
        done = threading.Event()

        def churn() -> None:
            try:
                for number in range(40, 60):
                    name = f"mz{number}"
                    wish = replace(LINK, uid=name, host_name=name, inner_name=name, addresses=(), gateways=())
                    links.ensure_endpoint(wish, workload)
            finally:
                done.set()

        thread = threading.Thread(target=churn)
        thread.start()
        lists = 0
        while not done.is_set() or not lists:
            names = {interface.name for interface in interfaces.listed(netlink, "veth")}
            assert {f"mz{number}" for number in range(40)} <= names
            lists += 1
        thread.join()
