# SPDX-License-Identifier: Apache-2.0
"""The direct path in the data plane: what was learned is used by agents alone, steadily, and given up in band."""

from __future__ import annotations

from typing import Any

import pytest

from mizar.kernel.events import EventReader

from .every import every_tunnel_and_family
from .frames import datagram, tunnel
from .plan import BACK, DIVIDER, FAMILIES, FRONT, HOST, ME, RED, ROUTER_MAC, STRANGER, A, R, S, mapped
from .test_health import O_BIT, control
from .testbed import TC_REDIRECT, XDP_DROP, XDP_PASS, XDP_TX, Testbed

LEARNED, GONE, ELSEWHERE = 8, 4, 0xFFFFFFFF
UNKNOWN_NOTICE, GONE_NOTICE, ASK_NOTICE, HINT_NOTICE = 1, 2, 3, 4


def entry(droplet: Testbed, family: int) -> dict[str, Any]:
    """What is held of s."""
    found = droplet.tables.endpoints.get({"vni": RED.vni, "addr": mapped(S.address(family))})
    assert found is not None
    return found


def notices(droplet: Testbed) -> list[dict[str, Any]]:
    reader = EventReader(droplet.programs.maps["notices"], "notice")
    try:
        return reader.read()
    finally:
        reader.close()


@pytest.fixture(autouse=True)
def drained(droplet: Testbed) -> None:
    """Nobody has noticed anything yet: other tests share the ring."""
    notices(droplet)


def learned(droplet: Testbed, kind: str = "geneve", **fields: Any) -> None:
    """ME hosts a, and has learned that s is on HOST; no network here holds s."""
    droplet.as_host()
    droplet.endpoint(S, tunnel=kind, **({"flags": LEARNED, "network": ELSEWHERE} | fields))


def returned(inner: Any, kind: str = "geneve", src: Any = HOST) -> bytes:
    """The frame as a droplet sends it back."""
    frame = bytearray(bytes(tunnel(kind, inner, src=src)))
    frame[O_BIT] = 0x80
    return bytes(frame)


@every_tunnel_and_family
def test_an_agent_sends_straight_to_the_host(droplet: Testbed, kind: str, family: int) -> None:
    """In its tunnel, as the last hop would: final, one virtual hop, counted as direct; steadily the same bytes."""
    learned(droplet, kind)
    before = entry(droplet, family) | {"used": 0}
    frame = datagram(family, A, S.address(family))
    run = droplet.send(frame)
    inner = datagram(family, A, S.address(family), ttl=63, src_mac=ROUTER_MAC, dst_mac=S.mac)
    port = int.from_bytes(run.frame[34:36], "big")
    expected = tunnel(kind, inner, src=ME, dst=HOST, src_mac=ME.mac, dst_mac=HOST.mac, sport=port)
    assert (run.retval, run.frame.hex()) == (TC_REDIRECT, bytes(expected).hex())
    counted = droplet.counted()["vpc", RED.slot]
    assert (counted["sent_packets"], counted["direct_packets"]) == (1, 1)
    assert counted["sent_bytes"] == counted["direct_bytes"] == len(inner)
    stamped = entry(droplet, family)
    assert stamped["used"]
    for _ in range(1000):
        droplet.send(frame)
    assert entry(droplet, family) | {"used": 0} == before, "steady traffic writes nothing but the stamp"
    assert notices(droplet) == []


def test_within_a_network_no_hop_is_counted(droplet: Testbed) -> None:
    """As between two endpoints of one droplet."""
    droplet.as_host()
    droplet.endpoint(R, flags=LEARNED)
    assert droplet.send(datagram(4, A, R.address(4))).frame[50 + 14 + 8] == 64


@pytest.mark.parametrize("why", ["gone", "down"])
def test_what_cannot_be_used_is_unknown(droplet: Testbed, why: str) -> None:
    """Denied by its host, or its host is dead: the hops have the word, and the daemon is asked to find out."""
    learned(droplet, flags=LEARNED | GONE) if why == "gone" else learned(droplet)
    if why == "down":
        droplet.droplets(HOST, down=True)
    notices(droplet)
    frame = droplet.send(datagram(4, A, S.address(4))).frame
    assert frame[30:34] == bytes((192, 0, 2, 2)), "to the bouncer"
    assert "direct_packets" not in droplet.counted()["vpc", RED.slot]


def test_an_agent_asks_its_daemon_once_in_a_while(droplet: Testbed) -> None:
    """A first packet is noticed with source and destination; a thousand more of the flow are not a thousand notices."""
    droplet.as_host()
    for _ in range(1000):
        droplet.send(datagram(4, A, S.address(4), sport=7001))
    found = notices(droplet)
    assert 1 <= len(found) < 200
    first = found[0]
    assert (first["kind"], first["vni"]) == (UNKNOWN_NOTICE, RED.vni)
    assert (first["src"], first["dst"]) == (mapped(A.address(4)), mapped(S.address(4)))


def test_forwarders_do_not_use_what_was_learned(droplet: Testbed) -> None:
    """A droplet on the way must be sure: it asks a divider as if it knew nothing."""
    learned(droplet)
    frame = droplet.transit(bytes(tunnel("geneve", datagram(4, R, S.address(4)), src=HOST))).frame
    assert frame[30:34] == bytes((192, 0, 2, 3)), "to the divider"


@every_tunnel_and_family
@pytest.mark.parametrize("known", ["network", "vpc", "nothing"])
def test_a_final_frame_for_nobody_goes_back(droplet: Testbed, kind: str, family: int, known: str) -> None:
    """Whole, as Geneve with the O bit, whatever this droplet still knows of the VPC."""
    droplet.droplets(ME, HOST)
    if known != "nothing":
        droplet.vpc(RED, DIVIDER)
    if known == "network":
        droplet.network(FRONT, HOST)
    inner = datagram(family, R, A.address(family), src_mac=ROUTER_MAC, dst_mac=A.mac, payload=b"z" * 1400)
    run = droplet.transit(bytes(tunnel(kind, inner, src=HOST)))
    expected = bytearray(bytes(tunnel("geneve", inner, src=ME, dst=HOST)))
    expected[O_BIT] = 0x80
    assert (run.retval, run.frame.hex()) == (XDP_TX, expected.hex())
    assert droplet.counted() == ({("vpc", RED.slot): {"returned_packets": 1}} if known != "nothing" else {})


@pytest.mark.parametrize("family", FAMILIES)
def test_what_comes_back_sets_out_anew(droplet: Testbed, family: int) -> None:
    """The entry is out of use, the daemon hears of it, and the frame goes to a divider as its sender's."""
    learned(droplet)
    inner = datagram(family, A, S.address(family), ttl=63, src_mac=ROUTER_MAC, dst_mac=S.mac)
    run = droplet.transit(returned(inner))
    assert entry(droplet, family)["flags"] == LEARNED | GONE
    again = datagram(family, A, S.address(family), ttl=62, src_mac=A.mac, dst_mac=ROUTER_MAC)
    expected = bytes(tunnel("geneve", again, src=ME, dst=DIVIDER, src_mac=ME.mac, dst_mac=DIVIDER.mac))
    assert (run.retval, run.frame.hex()) == (XDP_TX, expected.hex())
    (found,) = notices(droplet)
    assert (found["kind"], found["vni"]) == (GONE_NOTICE, RED.vni)
    assert (found["src"], found["dst"]) == (mapped(A.address(family)), mapped(S.address(family)))


@pytest.mark.parametrize("family", FAMILIES)
def test_what_came_back_is_not_sent_straight_again(droplet: Testbed, family: int) -> None:
    """Not once more, though the CPU has just remembered that it may be: the data plane's own write is seen as well."""
    frame = datagram(family, A, S.address(family))
    inner = datagram(family, A, S.address(family), ttl=63, src_mac=ROUTER_MAC, dst_mac=S.mac)
    learned(droplet)
    for _ in range(10):  # mostly within one tick of the clock
        droplet.endpoint(S, tunnel="geneve", flags=LEARNED, network=ELSEWHERE)
        assert droplet.send(frame).frame[30:34] == bytes((192, 0, 2, 4)), "to its host"
        assert droplet.transit(returned(inner)).retval == XDP_TX
        assert droplet.send(frame).frame[30:34] == bytes((192, 0, 2, 2)), "to the bouncer"


def test_only_the_host_in_question_is_believed(droplet: Testbed) -> None:
    """Another droplet's word changes nothing; the frame is served all the same. A stranger is not even heard."""
    learned(droplet)
    inner = datagram(4, A, S.address(4), src_mac=ROUTER_MAC, dst_mac=S.mac)
    assert droplet.transit(returned(inner, src=DIVIDER)).retval == XDP_TX
    assert entry(droplet, 4)["flags"] == LEARNED
    assert droplet.transit(returned(inner, src=STRANGER)).retval == XDP_PASS
    assert entry(droplet, 4)["flags"] == LEARNED
    assert notices(droplet) == []


def test_a_frame_that_was_never_sent_does_not_come_back(droplet: Testbed) -> None:
    """From an address that is no endpoint here, to one that was never learned."""
    droplet.as_host()
    assert droplet.transit(returned(datagram(4, R, S.address(4)))).retval == XDP_DROP
    assert ("drop", "RETURNED_STRANGE") in droplet.counted()


def test_a_bouncer_that_is_wrong_itself_lets_the_frame_go(droplet: Testbed) -> None:
    """Its table is the planner's: it is not changed, and the frame does not circle."""
    droplet.as_bouncer()
    inner = datagram(4, A, R.address(4), src_mac=ROUTER_MAC, dst_mac=R.mac)
    assert droplet.transit(returned(inner)).retval == XDP_DROP
    assert ("drop", "ENDPOINT_UNKNOWN") in droplet.counted()


@pytest.mark.parametrize(("kind", "notice"), [(3, ASK_NOTICE), (4, HINT_NOTICE)])
def test_questions_and_answers_are_passed_to_the_daemon(droplet: Testbed, kind: int, notice: int) -> None:
    """All that they say; of an unknown VPC they are none of ours; a stranger's are not heard."""
    droplet.as_host()
    places = b"".join(mapped(each) for each in (A.address(4), S.address(4), HOST.address))
    data = bytes((kind, 2, 1, 0)) + b"\2\0\0\0\2\x16\0\0" + (7).to_bytes(4, "big") + (99).to_bytes(4, "big") + places
    option = bytes.fromhex("ff0185") + bytes([len(data) // 4]) + data
    assert droplet.transit(with_vni(control(option), RED.vni)).retval == XDP_DROP
    assert droplet.counted() == {}
    (found,) = notices(droplet)
    assert found == {
        "kind": notice,
        "vni": RED.vni,
        "network_id": 7,
        "nonce": 99,
        "src": mapped(A.address(4)),
        "dst": mapped(S.address(4)),
        "droplet": mapped(HOST.address),
        "mac": b"\2\0\0\0\2\x16",
        "tunnel": 2,
        "hops": 1,
    }
    assert droplet.transit(with_vni(control(option), 5)).retval == XDP_PASS
    assert droplet.transit(with_vni(control(option, src=STRANGER), RED.vni)).retval == XDP_PASS
    short = bytes.fromhex("ff018510") + data[:64]
    assert droplet.transit(with_vni(control(short), RED.vni)).retval == XDP_DROP
    assert ("drop", "GENEVE_CONTROL") in droplet.counted()
    assert notices(droplet) == []


def test_an_endpoint_cannot_speak_as_a_droplet(droplet: Testbed) -> None:
    """A tunnel packet that it makes is its payload: it travels inside of one that its agent makes."""
    droplet.as_host()
    droplet.network(BACK, HOST)
    probe = control(bytes.fromhex("ff018501 01000000"))
    frame = datagram(4, A, R.address(4), dport=6081, payload=probe[42:])
    run = droplet.send(frame)
    assert run.retval == TC_REDIRECT
    assert run.frame[O_BIT] == 0
    assert run.frame[50 + 6 : 50 + 12].hex(":") == A.mac


def with_vni(frame: bytes, vni: int) -> bytes:
    return frame[:46] + (vni << 8).to_bytes(4, "big") + frame[50:]
