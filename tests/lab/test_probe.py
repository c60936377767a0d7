# SPDX-License-Identifier: Apache-2.0
"""The probes themselves: what they call good is good, and what is not is told."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from mizar.kernel import namespaces
from mizar.lab.findings import Member
from mizar.lab.isolation import foreign
from mizar.lab.names import LabName
from mizar.lab.probe import UDP_SINK_PORT
from mizar.lab.probes import Probes
from mizar.lab.substrate import ensure_namespace
from tests.lab.conftest import wait_until

WAYS = ("icmp", "udp", "tcp")


@pytest.fixture
def probes(lab: LabName) -> Iterator[Probes]:
    """Two probes of two tenants in one namespace: each has the loopback addresses, one ends up hearing both."""
    names = [lab.endpoint_namespace(tenant, "web") for tenant in ("blue", "red")]
    for name in names:
        ensure_namespace(name).close()
    members = [
        Member(tenant, "main", "front", "web", "d1", name, ("127.0.0.1", "::1"))
        for tenant, name in zip(("blue", "red"), names, strict=True)
    ]
    with Probes(lab.name, members) as made:
        yield made
    for name in names:
        namespaces.remove(name)


def ask(probes: Probes, way: str, address: str, limit_s: float = 0.3) -> dict[str, object]:
    return dict(probes[0].ask("check", way=way, address=address, limit_s=limit_s, bytes=200_000))


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("way", WAYS)
def test_a_check_that_works_names_who_answered(probes: Probes, way: str, address: str) -> None:
    """Every way works over loopback, and all but ICMP tell whose token came back."""
    answer = ask(probes, way, address, 20.0)
    assert answer["ok"], answer
    assert answer["answered_by"] == ("" if way == "icmp" else probes[0].token.hex())
    wait_until(lambda: (way, 0) in probes.heard(probes[0]))


@pytest.mark.parametrize("address", ["192.0.2.1", "2001:db8::1"])
@pytest.mark.parametrize("way", WAYS)
def test_a_check_without_a_way_fails_with_a_reason(probes: Probes, way: str, address: str) -> None:
    """Unreachable addresses are failures with words, not crashes."""
    answer = ask(probes, way, address)
    assert not answer["ok"]
    assert answer["detail"]


def test_a_stranger_is_heard_and_named(probes: Probes) -> None:
    """A listener that hears another tenant's token says so, by every way: this is what isolation relies on."""
    probes[0].ask("sniff")
    assert foreign(probes) == []

    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            udp.sendto(b"before " + probes[1].token + b" behind", ("127.0.0.1", UDP_SINK_PORT))

    with namespaces.Namespace.by_name(probes[0].member.namespace) as namespace:
        namespace.run(send)
    ask(probes, "udp", "127.0.0.1", 20.0)  # the listener has read what came before it when this is answered
    found = foreign(probes)
    assert any("by sink" in line for line in found), found
    assert any("by frame" in line for line in found), found
