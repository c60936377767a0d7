# SPDX-License-Identifier: Apache-2.0
"""Where packets go: droplets, VPCs, networks with what their endpoints are told and their routes, peerings."""

from collections.abc import Sequence
from dataclasses import replace

from mizar._built import transit_pb2 as pb
from mizar.model.addresses import text_of
from mizar.model.errors import InvalidError
from mizar.transit.guest.lease import Settings
from mizar.transit.requests import fields
from mizar.transit.values import MAX_VNI, Droplet, Network, NextHop, Peering, Route, RouteAction, Vpc

MAX_ROUTES = 1024
_MAX_NAME = 255
_MAX_MTU = 65535
_MAX_DNS = 4
_MAX_DOMAIN = 63


def droplet(message: pb.Droplet) -> Droplet:
    """A droplet."""
    if len(message.name) > _MAX_NAME or not message.name.isprintable():
        raise InvalidError(f"a droplet's name has at most {_MAX_NAME} printable characters")
    if message.mtu > _MAX_MTU:
        raise InvalidError(f"the droplet's MTU {message.mtu} is more than {_MAX_MTU}")
    found = Droplet(fields.substrate_address(message.address, "the droplet's address"), message.name, mtu=message.mtu)
    found = replace(found, foreign=message.foreign)
    if not message.second_address:
        return found
    second = fields.substrate_address(message.second_address, "the droplet's second address")
    if (len(found.address), len(second)) != (4, 16):
        raise InvalidError("a droplet with two addresses is named by the IPv4 one, and the second is IPv6")
    return replace(found, second=second)


def vpc(message: pb.Vpc) -> Vpc:
    """A VPC: its number is its VNI, or it has a VNI that it shares and an identity."""
    number, shared = fields.vni(message.vni), message.vni > MAX_VNI
    if shared and not (1 <= message.wire_vni <= MAX_VNI and len(message.identity) == 16):
        raise InvalidError(
            f"VPC {number} is no VNI; expected a VNI of 1 to {MAX_VNI} and an identity of 16 bytes beside"
        )
    if not shared and (message.identity or message.wire_vni not in (0, number)):
        raise InvalidError(f"VPC {number} is named by its VNI; expected no other VNI and no identity")
    wire_vni = message.wire_vni if shared else 0
    return Vpc(number, fields.members(message.dividers, "divider"), wire_vni=wire_vni, identity=message.identity)


def network(message: pb.Network) -> Network:
    """A network: at least one prefix, at most one per family."""
    prefixes = sorted((fields.prefix(found) for found in message.prefixes), key=lambda found: len(found.address))
    fields.one_per_family([found.address for found in prefixes], "prefix")
    return Network(
        vni=fields.vni(message.vni),
        id=fields.network_id(message.id),
        prefixes=tuple(prefixes),
        bouncers=fields.members(message.bouncers, "bouncer"),
        dhcp=dhcp(message.dhcp),
        routes=routes(message.routes),
        through_divider=message.through_divider,
    )


def dhcp(message: pb.Dhcp) -> Settings:
    """What endpoints that ask are told."""
    servers = tuple(fields.address(server, "the DNS server") for server in message.dns)
    if len(servers) > _MAX_DNS:
        raise InvalidError(f"there are {len(servers)} DNS servers; at most {_MAX_DNS} are told")
    labels = message.domain.split(".") if message.domain else []
    if not message.domain.isascii() or len(message.domain) > _MAX_DOMAIN or not all(0 < len(x) < 64 for x in labels):
        raise InvalidError(f"the domain {message.domain[:_MAX_DOMAIN]!r} is not up to {_MAX_DOMAIN} ASCII letters")
    return Settings(servers, message.domain, message.lease_s or Settings().lease_s)


def routes(messages: Sequence[pb.Route]) -> tuple[Route, ...]:
    """A route table: no prefix twice, ascending."""
    if len(messages) > MAX_ROUTES:
        raise InvalidError(f"there are {len(messages)} routes; a network has at most {MAX_ROUTES}")
    found: dict[tuple[bytes, int], Route] = {}
    for message in messages:
        place = fields.host_bits_zero(message.address, message.length)
        if message.action not in (pb.VIA_VPC, pb.BLACKHOLE, pb.VIA_SUBSTRATE, pb.VIA_ENDPOINT):
            expected = "VIA_VPC (1), BLACKHOLE (2), VIA_SUBSTRATE (3) or VIA_ENDPOINT (4)"
            raise InvalidError(f"the route's action is {message.action}; expected {expected}")
        if message.HasField("next_hop") != (message.action == pb.VIA_ENDPOINT):
            raise InvalidError("a route VIA_ENDPOINT has a next hop, and no other has")
        if place in found:
            raise InvalidError(f"the route {text_of(message.address)}/{message.length} comes twice")
        via = next_hop(message.next_hop) if message.HasField("next_hop") else None
        found[place] = Route(*place, RouteAction(message.action), via)
    return tuple(sorted(found.values(), key=lambda route: route[:2]))


def next_hop(message: pb.NextHop) -> NextHop:
    """An appliance and its host."""
    host = fields.substrate_address(message.host, "the host of an appliance")
    return NextHop(fields.mac(message.mac), host, fields.tunnel(message.tunnel), fields.network_id(message.network_id))


def peering(message: pb.Peering) -> Peering:
    """A peering: at least one prefix of the peer, at most one per family."""
    prefixes = sorted((fields.bare_prefix(found) for found in message.prefixes), key=lambda found: len(found[0]))
    fields.one_per_family([address for address, _ in prefixes], "prefix")
    return Peering(fields.vni(message.vni), fields.vni(message.peer), tuple(prefixes))
