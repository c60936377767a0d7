# SPDX-License-Identifier: Apache-2.0
"""What each CPU remembers of endpoints and agents is never older than what was written (mizar/kernel/versioned.py)."""

from __future__ import annotations

from itertools import cycle
from typing import Any

from mizar.kernel.maps import Table

from .every import every_family
from .frames import datagram, tunnel
from .plan import BOUNCER, DIVIDER, FAMILIES, FRONT, HOST, RED, A, EndpointPlan, R, S, mac_bytes, mapped
from .test_public import attracted, request
from .test_services import scaled, service
from .testbed import TC_REDIRECT, TC_SHOT, XDP_DROP, XDP_PASS, XDP_TX, Testbed


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


@every_family
def test_a_public_address_that_goes_is_attracted_no_longer(droplet: Testbed, family: int) -> None:
    """Nor is one that comes passed on to the host, though a packet for it just was."""
    attracted(droplet, R)
    frame = bytes(request(family))
    addresses = droplet.tables.public_addresses
    kept = list(addresses.items())
    assert [droplet.transit(frame).retval for _ in range(3)] == [XDP_TX] * 3
    addresses.delete_many([key for key, _ in kept])
    assert droplet.transit(frame).retval == XDP_PASS
    addresses.put_many(kept)
    assert droplet.transit(frame).retval == XDP_TX


@every_family
def test_a_member_that_goes_gets_nothing_more_of_a_flow(droplet: Testbed, family: int) -> None:
    """Which its CPU remembers to be that member's; another takes it at once, and has it from then on."""
    droplet.as_bouncer()
    scaled(droplet, R, S)
    frame = tunnel("geneve", datagram(family, A, service(family)), src=DIVIDER)
    first = [droplet.transit(frame).frame[-200:] for _ in range(3)]
    assert first[0] == first[1] == first[2]
    chosen = next(slot for slot, member in droplet.tables.members.used() if member["mac"] in first[0])
    member = droplet.tables.members.get(chosen)
    assert member is not None
    droplet.tables.members.put(chosen, {})
    other = [droplet.transit(frame).frame[-200:] for _ in range(3)]
    assert other[0] == other[1] == other[2] != first[0]
    droplet.tables.members.put(chosen, member)
    assert droplet.transit(frame).frame[-200:] == other[0]
