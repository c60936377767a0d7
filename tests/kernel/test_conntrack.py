# SPDX-License-Identifier: Apache-2.0
"""One of the kernel's connections, asked for by the packet that it began with."""

from __future__ import annotations

import socket
import subprocess
from dataclasses import replace
from functools import partial
from ipaddress import ip_address

import pytest

from mizar._built import transit_pb2 as pb
from mizar.kernel import conntrack, nftables
from mizar.kernel.conntrack import Conntrack, Tuple
from mizar.kernel.namespaces import anonymous
from mizar.model.addresses import ROUTER_MAC
from mizar.trace.packet import Asked, build
from mizar.transit.engines.balance_foretold import foretold
from tests.kernel.test_nat_balance_rules import BALANCE

pytestmark = pytest.mark.root
RULES = """
add table inet seen
add chain inet seen first { type nat hook output priority -100; }
add rule inet seen first ip daddr 127.0.0.9 udp dport 53 dnat ip to 127.0.0.1:5353
add rule inet seen first ip6 daddr fd09::9 udp dport 53 dnat ip6 to [::1]:5353
"""


def test_a_connection_is_found_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of both families, with what it was translated to; none by another port or protocol, nor by its answers. A trace
    is told by it, and never lists the others, of which a tenant may have 131,072."""
    with anonymous() as made:
        for words in (("link", "set", "lo", "up"), ("addr", "add", "fd09::9/128", "dev", "lo")):
            made.run(partial(subprocess.check_call, ("ip", *words)))
        nftables.apply(RULES, made)
        for family, source, target, member in (
            (socket.AF_INET, "127.0.0.1", "127.0.0.9", "127.0.0.1"),
            (socket.AF_INET6, "::1", "fd09::9", "::1"),
        ):
            with made.run(partial(socket.socket, family, socket.SOCK_DGRAM)) as sender:
                sender.bind((source, 0))
                port = sender.getsockname()[1]
                sender.sendto(b"hello", (target, 53))
            began = Tuple(17, ip_address(source).packed, ip_address(target).packed, port, 53)
            with Conntrack(made) as table:
                found = table.find(began)
                assert found is not None
                assert (found.original, found.reply.source_port) == (began, 5353)
                assert found.reply.source == ip_address(member).packed
                assert found.key in [one.key for one in table.entries()]
                others = replace(began, destination_port=54), replace(began, protocol=6), found.reply
                assert [table.find(one) for one in others] == [None] * 3
                monkeypatch.delattr(conntrack.Conntrack, "entries")
                frame = build(Asked("udp", port, 53, 0), ROUTER_MAC, began.source, began.destination)
                told = foretold(frame, BALANCE, table.find)
                assert (told.fate, told.known) == (pb.TraceEngineReply.TRANSLATED, True)
                monkeypatch.undo()
