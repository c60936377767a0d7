# SPDX-License-Identifier: Apache-2.0
"""To whom a traced packet is handed on its own droplet: whom the agent meant, and no stranger with the same MAC."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from mizar._built import transit_pb2 as pb
from mizar.transit.state import Limits, State
from mizar.transit.tracing import Tracer, neighbour
from mizar.transit.values import Endpoint, Local, Peering, Tunnel, Wanted
from mizar.transit.workloads import InNamespace, NamespaceBy

OWN, MAC, OTHER = bytes((172, 30, 9, 1)), bytes.fromhex("020000000042"), bytes.fromhex("020000000001")
RED, PEER, STRANGER = 7, 8, 9
ADDRESSES = {RED: bytes((10, 7, 0, 2)), PEER: bytes((10, 8, 0, 2)), STRANGER: bytes((10, 9, 0, 2))}


def local(vni: int, address: bytes, mac: bytes = MAC, *, bypass: bool = False) -> Local:
    endpoint = Endpoint(vni, 1, (address,), mac, OWN, Tunnel.GENEVE)
    workload = InNamespace(NamespaceBy.NAME, "x", "eth0")
    return Local(Wanted(f"{vni}-{mac[5]}", endpoint, workload, 0, bypass=bypass), "mz", vni, vni)


def droplet(*locals_: Local) -> State:
    state = State(OWN, Limits())
    state.locals = {one.wanted.uid: one for one in locals_}
    state.peerings = {pair: Peering(*pair, ()) for pair in ((RED, PEER), (PEER, RED))}
    return state


def frame(to: bytes) -> bytes:
    return MAC + bytes.fromhex("024d5a000001") + b"\x08\x00" + bytes(16) + to + bytes(20)


SENDER = local(RED, bytes((10, 7, 0, 9)), OTHER)


@pytest.mark.parametrize("present", [(STRANGER, PEER, RED), (STRANGER, PEER), (STRANGER,)])
def test_a_stranger_with_the_same_mac_gets_nothing(present: tuple[int, ...]) -> None:
    """In another VPC the address decides, and one that no packet crosses into has no part in it."""
    state = droplet(SENDER, *(local(vni, ADDRESSES[vni]) for vni in present))
    for to in (RED, PEER):
        found = neighbour(state, SENDER, frame(ADDRESSES[to]))
        expected = to if to in present else RED if RED in present else None
        assert (found and found.endpoint.vni) == expected
    found = neighbour(state, SENDER, frame(ADDRESSES[STRANGER]))
    assert found is None or found.endpoint.vni == RED  # an appliance gets what is for others


def test_a_peers_function_gets_the_tunnel_packet_and_no_strangers() -> None:
    """Its outer address is the droplet's."""
    functions = [local(vni, ADDRESSES[vni], bypass=True) for vni in (STRANGER, PEER)]
    found = neighbour(droplet(SENDER, *functions), SENDER, frame(OWN))
    assert found is functions[1]


class Sender:
    """What was sent: interface and frame."""

    def __init__(self) -> None:
        self.sent: list[tuple[int, bytes]] = []

    def send(self, ifindex: int, frame: bytes) -> bool:
        self.sent.append((ifindex, frame))
        return True


@pytest.mark.parametrize(
    ("mac", "did", "sent"), [("020000000042", "DELIVERED", []), ("024d5a000004", "STACK", [99])], ids=["gone", "stack"]
)
def test_the_stack_gets_what_is_for_it_alone(mac: str, did: str, sent: list[int]) -> None:
    """A frame whose receiver has gone is handed to nobody, and the report says so."""
    uplink = SimpleNamespace(mac=b"\2" * 6, index=3, mtu=1500)
    tables = SimpleNamespace(substrate_link={0: 99})
    around: Any = SimpleNamespace(
        _uplink=lambda: uplink,
        _ledger=SimpleNamespace(state=droplet(SENDER)),
        _loaded=SimpleNamespace(tables=tables),
    )
    sender: Any = Sender()
    report = pb.TraceReport(program="agent")
    for_whom = bytes.fromhex(mac) + frame(bytes((192, 0, 2, 7)))[6:]
    Tracer._go_on(around, pb.SendTracedRequest(mark=1), SENDER, for_whom, sender, report)
    assert pb.TraceReport.Did.Name(report.did) == did
    assert [ifindex for ifindex, _ in sender.sent] == sent
    assert bool(report.problem) is not bool(sent)
