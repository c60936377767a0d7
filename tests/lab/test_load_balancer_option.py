# SPDX-License-Identifier: Apache-2.0
"""A load balancer whose public addresses travel in a Geneve option: a member behind a tunnel end without a daemon
learns from it as what to answer (tests/peers/vip_end.py). The objects: examples/load-balancer-option.yaml."""

from __future__ import annotations

import itertools
import socket
from collections.abc import Iterator

import pytest

from mizar.api.client import Client
from mizar.lab.names import LabName
from tests.lab.conftest import wait_until
from tests.lab.serving import KINDS, answer, begun, family_of, opened, said
from tests.lab.test_load_balancer import SERVERS, TARGET
from tests.lab.test_public_load_balancer import GUEST, PUBLIC, Public
from tests.peers.vip_end import VipEnd, vip_end

pytestmark = [pytest.mark.root, pytest.mark.long]
PEER, MEMBER = ("172.31.0.100", "fd31::64"), ("10.0.1.200", "fd00:10:0:1::c8")
EVERYBODY = {*SERVERS, "legacy"}


class Optioned(Public):
    """The lab, with servers at the public addresses behind the foreign end."""

    example = "load-balancer-option"
    end: VipEnd

    def begin(self) -> None:
        """All members answer, and the client's way leads over d3."""
        super().begin()
        self.end = self.ended.enter_context(vip_end(self.name, *PEER, PUBLIC))
        for address, kind in itertools.product(PUBLIC, KINDS):
            made = self.ended.enter_context(opened(self.end.namespace, family_of(address), kind))
            answer(made, address, 80 if kind == socket.SOCK_STREAM else 53, "legacy")
        self.go_over("d3")


@pytest.fixture
def optioned(lab: LabName) -> Iterator[Optioned]:
    """The example's lab, up."""
    with begun(Optioned(lab)) as found:
        yield found


def test_a_foreign_member_answers_as_what_the_option_says(optioned: Optioned) -> None:
    """TCP and UDP of both families from outside, of members at home and behind a foreign end that reads the option.
    Without the option the foreign end hands nothing to its servers, and the first assertion fails. From inside of the
    VPC members with a daemon alone are reached; a connection outlives the daemons; the trace tells what the option
    bears; the audit finds nothing."""
    for address in PUBLIC:
        assert {optioned.who("outside", address) for _ in range(40)} == EVERYBODY
        assert {optioned.who_by_udp("outside", address) for _ in range(40)} == EVERYBODY
        assert {optioned.who("client", address) for _ in range(20)} == set(SERVERS)
    assert optioned.end.learned == {
        (vip, port, own, TARGET) for vip, own in zip(PUBLIC, MEMBER, strict=True) for port in (80, 53)
    }
    held = [optioned.ended.enter_context(optioned.connect("outside", PUBLIC[number % 2])) for number in range(48)]
    before = [said(one) for one in held]
    assert set(before) == EVERYBODY
    optioned.restart("d1", "d2", "d3", "server")
    wait_until(lambda: optioned.end is not None and {optioned.who("outside", one) for one in PUBLIC} <= EVERYBODY)
    assert [said(one) for one in held] == before
    with Client(optioned.name.server_url) as client:
        status = client.get("LoadBalancer", "shop", "blue")["status"]
        assert (status["mode"], status["vip"], status["ready"]) == ("direct", "option", "3/3")
        for source, address in zip(GUEST, PUBLIC, strict=True):
            question = {"source": source, "destination": address, "protocol": "tcp", "destinationPort": 80}
            ends = set()
            for port in range(40000, 40040):
                found = client.trace(question | {"sourcePort": port, "droplet": "d3"})
                assert f"VIP option: {address} port 80; the inner destination is" in found["hops"][0]["table"], found
                ends.add(found["ending"])
                if found["hops"][-1]["program"] == "deliver":
                    assert f"as from {address} port 80" in found["hops"][-1]["table"]
                    sent = client.trace(question | {"sourcePort": port, "droplet": "d3", "live": True})
                    assert (sent["ok"], sent["divergence"]) == (True, ""), sent
            assert {f"delivered to blue/{one} on d{one[-1]}" for one in SERVERS} <= ends, ends
        for droplet in ("d1", "d3"):
            assert client.audit(droplet)["findings"] == []
