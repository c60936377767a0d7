# SPDX-License-Identifier: Apache-2.0
"""What each CPU remembers of endpoints and agents is never older than what was written (mizar/kernel/versioned.py)."""

from __future__ import annotations

from itertools import cycle
from typing import Any

import pytest

from mizar.kernel.maps import Table

from .frames import datagram, tunnel
from .plan import BOUNCER, DIVIDER, FAMILIES, FRONT, HOST, RED, A, EndpointPlan, R, mac_bytes, mapped
from .testbed import TC_REDIRECT, TC_SHOT, XDP_DROP, XDP_TX, Testbed

every_family = pytest.mark.parametrize("family", FAMILIES)


def write(table: Table[Any, Any], way: int, key: Any, value: Any) -> None:
    """In one of the three ways that there are."""
    if way == 0:
        table.put(key, value)
    elif way == 1:
        table.put_many([(key, value)])
    else:
        table.put_raw([(table._key.pack(key), table._value.pack(value))])


def test_an_endpoint_that_moves_or_goes_is_nowhere_it_was(droplet: Testbed) -> None:
    """Within the same tick, whichever way it is written; with addresses all over the places of versions."""
    droplet.as_bouncer()
    endpoints = droplet.tables.endpoints
    ways = cycle(range(3))
    for host, family in zip(range(30, 150), cycle(FAMILIES), strict=False):
        one = EndpointPlan(FRONT, host, HOST)
        frame = tunnel("geneve", datagram(family, A, one.address(family)), src=DIVIDER)
        key = {"vni": RED.vni, "addr": mapped(one.address(family))}
        assert droplet.transit(frame).retval == XDP_DROP
        droplet.endpoint(one)
        value = endpoints.get(key)
        assert value is not None
        assert droplet.transit(frame).frame[:6] == mac_bytes(HOST.mac)
        write(endpoints, next(ways), key, value | {"droplet": BOUNCER.slot})
        assert droplet.transit(frame).frame[:6] == mac_bytes(BOUNCER.mac)
        write(endpoints, next(ways), key, value)
        assert droplet.transit(frame).frame[:6] == mac_bytes(HOST.mac)
        assert endpoints.delete(key) if host % 4 < 2 else endpoints.delete_many([key])
        assert droplet.transit(frame).retval == XDP_DROP


@every_family
def test_many_endpoints_at_a_time_are_seen_too(droplet: Testbed, family: int) -> None:
    """From so many keys on, every place gets another version."""
    droplet.as_bouncer()
    many = [EndpointPlan(FRONT, host, HOST) for host in range(100, 200)]
    frames = [tunnel("geneve", datagram(family, A, one.address(family)), src=DIVIDER) for one in (many[0], many[-1])]
    keys = [{"vni": RED.vni, "addr": mapped(one.address(family))} for one in many]
    assert [droplet.transit(frame).retval for frame in frames] == [XDP_DROP] * 2
    droplet.tables.endpoints.put_many([(key, {"droplet": HOST.slot, "tunnel": 1}) for key in keys])
    assert [droplet.transit(frame).retval for frame in frames] == [XDP_TX] * 2
    droplet.tables.endpoints.delete_many(keys)
    assert [droplet.transit(frame).retval for frame in frames] == [XDP_DROP] * 2


@every_family
def test_an_agent_that_changes_or_goes_is_believed_no_longer(droplet: Testbed, family: int) -> None:
    """What an endpoint may send as is what was written last."""
    droplet.as_host()
    frame = datagram(family, A, R.address(family))
    assert droplet.send(frame).retval == TC_REDIRECT
    droplet.agent(A, mac=mac_bytes(R.mac))
    assert droplet.send(frame).retval == TC_SHOT
    droplet.agent(A)
    assert droplet.send(frame).retval == TC_REDIRECT
    droplet.tables.agents.delete(A.ifindex)
    assert droplet.send(frame).retval == TC_SHOT
    assert droplet.counted()["drop", "AGENT_UNCONFIGURED"]["packets"] == 1
