# SPDX-License-Identifier: Apache-2.0
"""What WireGuard's engine is told, and when a tunnel is called up or down."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest

from mizar.functions.wireguard.uapi import settings
from mizar.functions.wireguard.values import Judge, Seen, Tunnel

PEER = (ip_address("192.0.2.9"), 51820)


def tunnel(peer: object = PEER, preshared: bytes = b"") -> Tunnel:
    remote = (ip_network("10.9.0.0/24"), ip_network("fd09::/64"))
    return Tunnel(b"p" * 32, b"q" * 32, preshared, 51900, 25, remote, peer)  # type: ignore[arg-type]


def test_the_request_keeps_the_peer_and_ends_strangers() -> None:
    """A peer that stays is set in place, so that its session goes on."""
    lines = settings(tunnel(), {"aa" * 32}).splitlines()
    assert lines[:3] == ["set=1", "private_key=" + "70" * 32, "listen_port=51900"]
    assert lines[3:5] == ["public_key=" + "aa" * 32, "remove=true"]
    assert lines[5:9] == [
        "public_key=" + "71" * 32,
        "preshared_key=" + "00" * 32,
        "endpoint=192.0.2.9:51820",
        "persistent_keepalive_interval=25",
    ]
    assert lines[9:] == ["replace_allowed_ips=true", "allowed_ip=10.9.0.0/24", "allowed_ip=fd09::/64", ""]
    assert "replace_peers=true" not in lines
    assert "endpoint=[fd02::1]:5" in settings(tunnel((ip_address("fd02::1"), 5)), set())
    assert "endpoint" not in settings(tunnel(None), set())


def test_nobody_is_shown_a_key() -> None:
    """Whatever prints a tunnel."""
    shown = repr(tunnel(preshared=b"s" * 32))
    assert "pppp" not in shown
    assert "ssss" not in shown


def test_a_peer_that_never_answers_is_told_after_a_while() -> None:
    """Not before, and with where it should be."""
    judge = Judge(tunnel(), 15, begun_s=100)
    assert judge.take(Seen(0, 148, 0), 101)[0] == "connecting"
    state, why = judge.take(Seen(0, 296, 0), 116)
    assert state == "down"
    assert "192.0.2.9:51820 has never answered" in why
    assert "it has to" in Judge(tunnel(None), 15, 100).take(Seen(), 116)[1]
    assert judge.take(Seen(1700000000, 500, 300), 117) == ("up", "")


@pytest.mark.parametrize(("sent", "state"), [(32, "up"), (0, "up"), (148, "down"), (96, "down")])
def test_silence_counts_where_an_answer_was_due(sent: int, state: str) -> None:
    """Who is sent keepalives alone may be silent; who is sent data, or asked for a handshake, may not."""
    judge = Judge(tunnel(), 15, begun_s=0)
    seen = Seen(1700000000, 1000, 1000)
    assert judge.take(seen, 1)[0] == "up"
    for second in range(2, 40):
        seen = Seen(seen.handshake_unix_s, seen.sent_bytes + sent, seen.received_bytes)
        found = judge.take(seen, second)
    assert found[0] == state
    assert judge.take(Seen(1700000009, seen.sent_bytes, 1092), 41) == ("up", "")
