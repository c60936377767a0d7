# SPDX-License-Identifier: Apache-2.0
"""Scaled endpoints: their members, how those are checked, and what a load balancer takes."""

import re
from collections.abc import Iterable

from mizar._built import transit_pb2 as pb
from mizar.model.errors import InvalidError
from mizar.transit.requests import fields
from mizar.transit.service_values import (
    MAX_MEMBERS,
    MAX_WEIGHT,
    MOST_INSIDE,
    MOST_LISTENERS,
    HealthCheck,
    Listener,
    Member,
    MemberState,
    Service,
)
from mizar.transit.values import Tunnel

_PATH = re.compile("/[!-~]{0,255}")


def service(message: pb.Service) -> Service:
    """A scaled endpoint and its members."""
    if len(message.members) > MAX_MEMBERS:
        raise InvalidError(f"there are {len(message.members)} members; at most {MAX_MEMBERS} are possible")
    found = tuple(member(one) for one in message.members)
    if len({one.mac for one in found}) != len(found):
        raise InvalidError("two members have the same MAC, which could not be told from one another")
    return Service(
        fields.vni(message.vni),
        fields.network_id(message.network_id),
        fields.addresses(message.addresses),
        found,
        message.colocated,
        health=health_check(message.health) if message.HasField("health") else None,
        listeners=listeners(message.listeners),
        by_client=message.by_client,
        public=fields.addresses(message.public) if message.public else (),
        attracted=message.attracted,
        inside=inside(message.inside),
        vip_option=message.vip_option,
    )


def inside(found: Iterable[pb.Prefix]) -> tuple[tuple[bytes, int], ...]:
    """From where nobody outside can come, in order."""
    read = tuple(sorted(map(fields.bare_prefix, found)))
    if len(read) > MOST_INSIDE:
        raise InvalidError(f"there are {len(read)} prefixes inside; at most {MOST_INSIDE} are possible")
    return read


def listeners(found: Iterable[pb.Listener]) -> tuple[Listener, ...]:
    """What a load balancer takes, in order."""
    read = sorted(Listener(one.protocol, one.port, one.target) for one in found)
    if len(read) > MOST_LISTENERS:
        raise InvalidError(f"there are {len(read)} listeners; at most {MOST_LISTENERS} are possible")
    if len({(one.protocol, one.port) for one in read}) != len(read):
        raise InvalidError("two listeners have the same protocol and port")
    for one in read:
        if one.protocol not in (6, 17):
            raise InvalidError(f"the protocol of a listener is {one.protocol}; expected TCP (6) or UDP (17)")
        if not (1 <= one.port <= 65535 and 1 <= one.target <= 65535):
            raise InvalidError(f"the ports of a listener are {one.port} and {one.target}; expected 1 to 65535")
    return tuple(read)


def health_check(message: pb.HealthCheck) -> HealthCheck:
    """How members are checked."""
    if message.kind not in (pb.HealthCheck.TCP, pb.HealthCheck.HTTP):
        raise InvalidError(f"the kind of a check is {message.kind}; expected TCP (1) or HTTP (2)")
    limits = {
        "port": (1, 65535), "interval_ms": (100, 600000), "timeout_ms": (10, 60000),
        "healthy_after": (1, 100), "unhealthy_after": (1, 100),
    }  # fmt: skip
    for name, (least, most) in limits.items():
        if not least <= (found := getattr(message, name)) <= most:
            raise InvalidError(f"{name} of a check is {found}; expected {least} to {most}")
    http = message.kind == pb.HealthCheck.HTTP
    if http and not _PATH.fullmatch(message.path):
        raise InvalidError("the path of a check is not a slash and up to 255 printable ASCII letters")
    return HealthCheck(
        http,
        message.port,
        message.path if http else "",
        message.interval_ms / 1000,
        message.timeout_ms / 1000,
        message.healthy_after,
        message.unhealthy_after,
    )


def member(message: pb.Member) -> Member:
    """A member of a scaled endpoint."""
    if len(message.mac) != 6:
        raise InvalidError(f"the MAC of a member has {len(message.mac)} bytes; expected 6")
    if message.tunnel not in (pb.GENEVE, pb.VXLAN):
        raise InvalidError(f"the tunnel protocol is {message.tunnel}; expected GENEVE (1) or VXLAN (2)")
    if not 1 <= message.weight <= MAX_WEIGHT:
        raise InvalidError(f"the weight {message.weight} is outside of 1 to {MAX_WEIGHT}")
    if int(message.state) not in {int(known) for known in MemberState}:
        raise InvalidError(f"the state of a member is {message.state}; expected 0 to 4")
    return Member(
        fields.addresses(message.addresses),
        message.mac,
        fields.substrate_address(message.host, "a member's host"),
        Tunnel(message.tunnel),
        message.weight,
        MemberState(message.state),
    )
