# SPDX-License-Identifier: Apache-2.0
"""RETURN_TO_SENDER: the first hop says where a packet set out, the last droplet notices it. (How it looks on the wire,
with everything else a hop does, is in test_transit_paths.py and test_ipv6_substrate.py.)"""

from __future__ import annotations

from typing import Any

import pytest

from .frames import datagram, option, origin_option, tunnel
from .plan import (
    BOUNCER,
    DIVIDER,
    FAMILIES,
    HOST,
    ME,
    RED,
    ROUTER_MAC,
    SERVICE_MAC,
    STRANGER,
    UNTOLD_MAC,
    A,
    R,
    S,
    mapped,
)
from .test_direct import notices
from .testbed import TC_REDIRECT, XDP_PASS, XDP_TX, Testbed

ORIGIN_NOTICE, THROUGH_DIVIDER, NOT_TOLD = 5, 0x400, option(0xFF01, 1, bytes(4))


@pytest.fixture(autouse=True)
def drained(droplet: Testbed) -> None:
    """Nobody has noticed anything yet: other tests share the ring."""
    notices(droplet)


def to_divider(droplet: Testbed, src: Any = HOST, options: bytes = b"", **fields: Any) -> bytes:
    """What a bouncer makes of a packet into another network."""
    run = droplet.transit(tunnel("geneve", datagram(4, A, S.address(4), **fields), src=src, options=options))
    assert run.retval == XDP_TX
    return run.frame


def limit(droplet: Testbed, mtu: int) -> None:
    """How long packets to the divider may be."""
    value = droplet.tables.droplets.get(DIVIDER.slot)
    assert value is not None
    droplet.tables.droplets.put(DIVIDER.slot, value | {"mtu": mtu})


@pytest.mark.parametrize("options", [origin_option(STRANGER), NOT_TOLD, origin_option(HOST.in_ipv6)])
def test_what_the_first_hop_said_stays(droplet: Testbed, options: bytes) -> None:
    """Whatever it said: only the one who learns judges."""
    droplet.as_bouncer()
    onward = datagram(4, A, S.address(4), ttl=63)
    assert to_divider(droplet, DIVIDER, options) == tunnel("geneve", onward, src=ME, dst=DIVIDER, options=options)


@pytest.mark.parametrize(("short", "told"), [(0, True), (1, False)])
def test_a_packet_without_room_goes_on_saying_so(droplet: Testbed, short: int, told: bool) -> None:
    """The next hop must not take this one for where it set out; nor does one add it to such a frame."""
    droplet.as_bouncer()
    size = 14 + 20 + 8 + 30
    limit(droplet, size + 50 - 14 + 8 - short)
    if told:
        onward = datagram(4, A, S.address(4), ttl=63)
        assert to_divider(droplet) == tunnel("geneve", onward, src=ME, dst=DIVIDER, told=HOST)
    else:
        onward = datagram(4, A, S.address(4), ttl=63, dst_mac=UNTOLD_MAC)
        assert to_divider(droplet) == tunnel("geneve", onward, src=ME, dst=DIVIDER)
        limit(droplet, 9000)
        assert to_divider(droplet, dst_mac=UNTOLD_MAC) == tunnel("geneve", onward, src=ME, dst=DIVIDER)


def test_a_service_sets_out_nowhere(droplet: Testbed) -> None:
    """Its source address lives on no one droplet."""
    droplet.as_bouncer()
    onward = datagram(4, A, S.address(4), ttl=63, src_mac=SERVICE_MAC)
    assert to_divider(droplet, src_mac=SERVICE_MAC) == tunnel("geneve", onward, src=ME, dst=DIVIDER)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_agent_says_nothing_for_a_network_behind_its_divider(droplet: Testbed, family: int) -> None:
    """Its packets over a hop are such that no hop adds the option."""
    droplet.as_host()
    droplet.agent(A, network_flags=THROUGH_DIVIDER)
    run = droplet.send(datagram(family, A, S.address(family)))
    sent = bytes(datagram(family, A, S.address(family), dst_mac=UNTOLD_MAC))
    assert (run.retval, run.frame[50:]) == (TC_REDIRECT, sent)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_last_droplet_notices_where_a_packet_set_out(droplet: Testbed, family: int) -> None:
    """Rarely, with all that the daemon has to know; not what says nothing, nor a service's."""
    droplet.as_host()
    quiet = datagram(family, R, A.address(family), src_mac=SERVICE_MAC, dst_mac=A.mac)
    frame = datagram(family, R, A.address(family), src_mac=ROUTER_MAC, dst_mac=A.mac)
    for inner, options in ((frame, b""), (frame, NOT_TOLD), (quiet, origin_option(HOST))):
        assert droplet.transit(tunnel("geneve", inner, src=BOUNCER, options=options)).retval == XDP_PASS
    assert notices(droplet) == []
    for _ in range(1000):
        droplet.transit(tunnel("geneve", frame, src=BOUNCER, options=origin_option(HOST), sport=0xC777))
    found = notices(droplet)
    assert 1 <= len(found) < 200
    assert {name: found[0][name] for name in ("kind", "vni", "src", "dst", "droplet")} == {
        "kind": ORIGIN_NOTICE,
        "vni": RED.vni,
        "src": mapped(R.address(family)),
        "dst": mapped(A.address(family)),
        "droplet": mapped(HOST.address),
    }
