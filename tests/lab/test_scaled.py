# SPDX-License-Identifier: Apache-2.0
"""A scaled endpoint with real daemons and real traffic: who answers, what stays while members come and go, and what is
said when nobody is left. The objects are those of examples/scaled.yaml: members on all droplets, one over VXLAN."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Iterator

import pytest

from mizar.kernel.namespaces import Namespace
from mizar.lab.names import LabName
from tests.lab.serving import EXAMPLES, Serving, begun, family_of, said

EXAMPLE = (EXAMPLES / "scaled.yaml").read_text()
UNCHECKED = "\n".join(line for line in EXAMPLE.splitlines() if not line.startswith("  health:")) + "\n"
SERVICE = ("10.0.1.100", "fd00:10:0:1::100")
PORT = 8080
WEB = ("web-1", "web-2", "web-3")


class Scaled(Serving):
    """Its service is a scaled endpoint, whose members nobody checks unless told otherwise."""

    example, kind, called = "scaled", "Endpoint", "web"
    servers, port, target = WEB, PORT, PORT
    limit_s = connect_s = 10.0

    def __init__(self, name: LabName, text: str = UNCHECKED) -> None:
        super().__init__(name, text)

    def who_by_udp(self, source: str, address: str, size: int = 10) -> str:
        """Who answers a datagram of this size, with an answer as long."""
        with self.open(source, family_of(address), socket.SOCK_DGRAM) as made:
            made.sendto(bytes(size), (address, PORT))
            answer, sender = made.recvfrom(65535)
            assert sender[0] == address
            assert len(answer) >= size
            return answer.rstrip(b"\0").decode()


@pytest.fixture
def scaled(lab: LabName) -> Iterator[Scaled]:
    """The example's lab, up."""
    with begun(Scaled(lab)) as found:
        yield found


def test_flows_are_shared_and_stay(scaled: Scaled) -> None:
    """TCP and UDP of both families from a client, and from a member; by weights; small and in fragments; connections
    outlive a member that drains, one that goes and one that comes."""
    assert scaled.status()["ready"] == "3/3"
    for address in SERVICE:
        found = Counter(scaled.who("client", address) for _ in range(240))
        assert set(found) == set(WEB)
        assert found["web-2"] > max(found["web-1"], found["web-3"])  # of 240: 120, 60, 60, with chance far away
        assert {scaled.who_by_udp("client", address) for _ in range(40)} == set(WEB)
        assert scaled.who_by_udp("client", address, 4000) in WEB
        assert {scaled.who("web-1", address) for _ in range(40)} == set(WEB)  # itself among them
    connections = [scaled.connect("client", SERVICE[number % 2]) for number in range(24)]
    before = [said(connection) for connection in connections]
    assert set(before) == set(WEB)
    scaled.apply(members=[{"endpoint": "web-1"}, {"endpoint": "web-2", "drain": True}, {"endpoint": "web-3"}])
    assert [said(connection) for connection in connections] == before
    assert {scaled.who("client", SERVICE[0]) for _ in range(40)} == {"web-1", "web-3"}
    assert [row["state"] for row in scaled.status()["members"]] == ["healthy", "draining", "healthy"]
    scaled.apply(members=[{"endpoint": "web-1"}, {"endpoint": "web-2"}])
    stayed = [(connection, name) for connection, name in zip(connections, before, strict=True) if name != "web-3"]
    assert [said(connection) for connection, _ in stayed] == [name for _, name in stayed]
    assert {scaled.who("client", SERVICE[1]) for _ in range(40)} == {"web-1", "web-2"}
    scaled.apply(members=[], selector={"app": "web"})
    assert {scaled.who("client", SERVICE[1]) for _ in range(60)} == set(WEB)
    assert [said(connection) for connection, _ in stayed] == [name for _, name in stayed]
    for connection in connections:
        connection.close()


def test_colocated_and_nobody_left(scaled: Scaled) -> None:
    """A member on the client's droplet comes first; without members, a connection is refused at once as unreachable."""
    scaled.apply(selection="colocated")
    for address in SERVICE:
        assert {scaled.who("client", address) for _ in range(20)} == {"web-1"}
    scaled.apply(members=[{"endpoint": "web-2"}])
    assert scaled.who("client", SERVICE[0]) == "web-2"
    scaled.apply(members=[], selection="hash")
    assert scaled.status()["ready"] == "0/0"
    for address in SERVICE:
        with pytest.raises(OSError, match="No route to host"):
            scaled.who("client", address)


@pytest.mark.long
def test_tapped_interfaces_change_nothing(scaled: Scaled) -> None:
    """While packet sockets look on at every droplet, the kernel copies frames that are written to."""
    taps = []
    for droplet in ("d1", "d2", "d3"):
        with Namespace.by_name(scaled.name.droplet_namespace(droplet)) as namespace:
            taps.append(namespace.run(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))))
    try:
        for address in SERVICE:
            assert {scaled.who("client", address) for _ in range(40)} == set(WEB)
    finally:
        for tap in taps:
            tap.close()
