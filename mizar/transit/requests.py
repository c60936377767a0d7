# SPDX-License-Identifier: Apache-2.0
"""From messages to values: the edge where hostile input stops.

Called by the servicer. Checks every length, count, range and enum of a request; what it returns is valid in itself.
It knows neither the state nor the kernel. Raises InvalidError, with what was found and what is expected.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from ipaddress import ip_address

from mizar._built import transit_pb2 as pb
from mizar.model.addresses import APPLIANCE_MAC, MAPPED, ROUTER_MAC, SERVICE_MAC, UNTOLD_MAC, mac_text, text_of
from mizar.model.errors import InvalidError
from mizar.transit import marks, policy_values
from mizar.transit.guest.lease import Settings
from mizar.transit.limit_values import Qos, Rate
from mizar.transit.policy_values import (
    NOT_BOUND,
    Binding,
    DeleteNetworkAcl,
    DeletePolicySet,
    NetworkAcl,
    PolicySet,
    PutNetworkAcl,
    PutPolicySet,
)
from mizar.transit.service_values import (
    MAX_MEMBERS as MAX_SERVICE_MEMBERS,
)
from mizar.transit.service_values import (
    MAX_WEIGHT,
    MOST_INSIDE,
    MOST_LISTENERS,
    DeleteService,
    HealthCheck,
    Listener,
    Member,
    MemberState,
    PutService,
    Service,
)
from mizar.transit.values import (
    MAX_GROUP_SET,
    MAX_MEMBERS,
    MAX_NUMBER,
    MAX_VNI,
    BarePrefix,
    Change,
    DeleteDroplet,
    DeleteEndpoint,
    DeleteGroupSet,
    DeleteNetwork,
    DeletePeering,
    DeleteProxy,
    DeleteVpc,
    Droplet,
    Endpoint,
    Network,
    NextHop,
    Peering,
    Prefix,
    Proxy,
    PutDroplet,
    PutEndpoint,
    PutGroupSet,
    PutNetwork,
    PutPeering,
    PutProxy,
    PutVpc,
    Route,
    RouteAction,
    Tunnel,
    Vpc,
    Wanted,
)
from mizar.transit.workloads import InNamespace, NamespaceBy, OvsPort, Tap, Workload

MAX_CHANGES = 65536
MAX_ATTACH = 4096
MAX_ROUTES = 1024

_MAX_NAME = 255
_PATH = re.compile("/[!-~]{0,255}")
_MAX_UID = 64
_MAX_PATH = 120  # what the alias of an interface has room for, beside the uid
_MAX_PID = 1 << 22
_MIN_MTU = {4: 576, 16: 1280}
_MAX_MTU = 65535
_MAX_DIGEST = 64
_MAX_DNS = 4
_MAX_DOMAIN = 63
_MAX_INTERFACE = 15
_MAX_USER = 2**32 - 2
_MAX_QUEUES = 16
_MAX_VLAN = 4094
_MAPPED_NETWORK = int.from_bytes(MAPPED, "big")


def change(message: pb.Change) -> Change:
    """One change of a batch."""
    match message.WhichOneof("change"):
        case "put_droplet":
            return PutDroplet(droplet(message.put_droplet))
        case "delete_droplet":
            return DeleteDroplet(substrate_address(message.delete_droplet, "delete_droplet"))
        case "put_vpc":
            return PutVpc(vpc(message.put_vpc))
        case "delete_vpc":
            return DeleteVpc(vni(message.delete_vpc))
        case "put_network":
            return PutNetwork(network(message.put_network))
        case "delete_network":
            return DeleteNetwork(vni(message.delete_network.vni), network_id(message.delete_network.id))
        case "put_group_set":
            return put_group_set(message.put_group_set)
        case "delete_group_set":
            group_set = message.delete_group_set
            return DeleteGroupSet(vni(group_set.vni), marks.group_set(group_set.number))
        case "put_policy_set":
            rules = message.put_policy_set
            found = PolicySet(vni(rules.vni), rules.id, rules.peers, rules.groups, rules.verdicts)
            return PutPolicySet(policy_values.checked(found))
        case "delete_policy_set":
            return DeletePolicySet(vni(message.delete_policy_set.vni), message.delete_policy_set.id)
        case "put_network_acl":
            return PutNetworkAcl(network_acl(message.put_network_acl))
        case "delete_network_acl":
            return DeleteNetworkAcl(vni(message.delete_network_acl.vni), network_id(message.delete_network_acl.id))
        case "put_endpoint":
            return PutEndpoint(endpoint(message.put_endpoint))
        case "delete_endpoint":
            key = message.delete_endpoint
            return DeleteEndpoint(vni(key.vni), addresses(key.addresses))
        case "put_service":
            return PutService(service(message.put_service))
        case "delete_service":
            key = message.delete_service
            return DeleteService(vni(key.vni), addresses(key.addresses)[0])
        case "put_proxy":
            return PutProxy(proxy(message.put_proxy))
        case "delete_proxy":
            key = message.delete_proxy
            return DeleteProxy(vni(key.vni), addresses(key.addresses)[0])
        case "put_peering":
            return PutPeering(peering(message.put_peering))
        case "delete_peering":
            return DeletePeering(vni(message.delete_peering.vni), vni(message.delete_peering.peer))
    raise InvalidError("it is empty or of a kind that this version does not know; set one of the fields of Change")


def address(packed: bytes, what: str) -> bytes:
    """A unicast address of 4 or 16 bytes. IPv4 in 16 bytes is refused: each address has one form."""
    if len(packed) not in (4, 16):
        raise InvalidError(f"{what} has {len(packed)} bytes; an address has 4 or 16")
    if packed.startswith(MAPPED) and len(packed) == 16:
        raise InvalidError(f"{what} is an IPv4-mapped address; send the 4 bytes of {text_of(packed[12:])}")
    if not any(packed) or packed[0] == 255 or (len(packed) == 4 and packed[0] >= 224):
        raise InvalidError(f"{what} is {text_of(packed)}; expected a unicast address")
    return packed


def substrate_address(packed: bytes, what: str) -> bytes:
    """An address that a droplet can have: its host's, on more than its own link."""
    found = ip_address(address(packed, what))
    if found.is_loopback or (found.version == 6 and found.is_link_local):
        raise InvalidError(f"{what} is {found}; expected one that other hosts can reach")
    return packed


def droplet(message: pb.Droplet) -> Droplet:
    """A droplet."""
    if len(message.name) > _MAX_NAME or not message.name.isprintable():
        raise InvalidError(f"a droplet's name has at most {_MAX_NAME} printable characters")
    if message.mtu > _MAX_MTU:
        raise InvalidError(f"the droplet's MTU {message.mtu} is more than {_MAX_MTU}")
    found = Droplet(substrate_address(message.address, "the droplet's address"), message.name, mtu=message.mtu)
    found = replace(found, foreign=message.foreign)
    if not message.second_address:
        return found
    second = substrate_address(message.second_address, "the droplet's second address")
    if (len(found.address), len(second)) != (4, 16):
        raise InvalidError("a droplet with two addresses is named by the IPv4 one, and the second is IPv6")
    return replace(found, second=second)


def vni(number: int) -> int:
    """The number of a VPC: 32 bits, not 0."""
    if not 1 <= number <= MAX_NUMBER:
        raise InvalidError(f"VPC {number} is outside of 1 to {MAX_NUMBER}")
    return number


def network_id(number: int) -> int:
    """The id of a network: 32 bits, not 0."""
    if number == 0:
        raise InvalidError("network id 0 is outside of 1 to 4294967295")
    return number


def members(found: Iterable[bytes], what: str) -> tuple[bytes, ...]:
    """The droplets of a hop set, ascending: at most sixteen, none twice."""
    packed = [substrate_address(member, f"{what} {place}") for place, member in enumerate(found)]
    if len(packed) > MAX_MEMBERS:
        raise InvalidError(f"there are {len(packed)} {what}s; at most {MAX_MEMBERS} are possible")
    if len(set(packed)) != len(packed):
        raise InvalidError(f"the same {what} is named twice")
    return tuple(sorted(packed))


def vpc(message: pb.Vpc) -> Vpc:
    """A VPC: its number is its VNI, or it has a VNI that it shares and an identity."""
    number, shared = vni(message.vni), message.vni > MAX_VNI
    if shared and not (1 <= message.wire_vni <= MAX_VNI and len(message.identity) == 16):
        raise InvalidError(
            f"VPC {number} is no VNI; expected a VNI of 1 to {MAX_VNI} and an identity of 16 bytes beside"
        )
    if not shared and (message.identity or message.wire_vni not in (0, number)):
        raise InvalidError(f"VPC {number} is named by its VNI; expected no other VNI and no identity")
    wire_vni = message.wire_vni if shared else 0
    return Vpc(number, members(message.dividers, "divider"), wire_vni=wire_vni, identity=message.identity)


def prefix(message: pb.Prefix) -> Prefix:
    """A prefix with zero host bits, and its gateway inside."""
    address_, length = bare_prefix(message)
    found = Prefix(address_, length, address(message.gateway, "the gateway"))
    if not found.holds(found.gateway):
        raise InvalidError(f"the gateway {text_of(found.gateway)} lies outside of the prefix {found}")
    return found


def bare_prefix(message: pb.Prefix) -> BarePrefix:
    """A prefix with zero host bits, that holds no mapped addresses."""
    address_, length = host_bits_zero(message.address, message.length)
    # In a trie of mapped addresses such a prefix would hold the whole of IPv4.
    shift, number = 128 - length, int.from_bytes(address_, "big")
    if len(address_) == 16 and length <= 96 and _MAPPED_NETWORK << 32 >> shift == number >> shift:
        found = f"{text_of(address_)}/{length}"
        raise InvalidError(f"the prefix {found} holds the IPv4-mapped addresses; use a longer one")
    return address_, length


def host_bits_zero(packed: bytes, length: int) -> BarePrefix:
    """A prefix with zero host bits."""
    size = len(packed)
    if size not in (4, 16):
        raise InvalidError(f"the prefix's address has {size} bytes; an address has 4 or 16")
    bits = 8 * size
    if length > bits:
        raise InvalidError(f"the prefix's length is {length}; {text_of(packed)} allows 0 to {bits}")
    if int.from_bytes(packed, "big") & ((1 << (bits - length)) - 1):
        raise InvalidError(f"the prefix {text_of(packed)}/{length} has host bits that are not zero")
    return packed, length


def peering(message: pb.Peering) -> Peering:
    """A peering: at least one prefix of the peer, at most one per family."""
    prefixes = sorted((bare_prefix(found) for found in message.prefixes), key=lambda found: len(found[0]))
    _one_per_family([address for address, _ in prefixes], "prefix")
    return Peering(vni(message.vni), vni(message.peer), tuple(prefixes))


def network_acl(message: pb.NetworkAcl) -> NetworkAcl:
    """What a network is judged by: at least one prefix, at most one per family."""
    prefixes = sorted((bare_prefix(found) for found in message.prefixes), key=lambda found: len(found[0]))
    _one_per_family([address for address, _ in prefixes], "prefix")
    sets = message.ingress, message.ingress_later, message.egress, message.egress_later
    return NetworkAcl(vni(message.vni), network_id(message.network_id), tuple(prefixes), *sets)


def network(message: pb.Network) -> Network:
    """A network: at least one prefix, at most one per family."""
    prefixes = sorted((prefix(found) for found in message.prefixes), key=lambda found: len(found.address))
    _one_per_family([found.address for found in prefixes], "prefix")
    return Network(
        vni=vni(message.vni),
        id=network_id(message.id),
        prefixes=tuple(prefixes),
        bouncers=members(message.bouncers, "bouncer"),
        dhcp=dhcp(message.dhcp),
        routes=routes(message.routes),
        through_divider=message.through_divider,
    )


def dhcp(message: pb.Dhcp) -> Settings:
    """What endpoints that ask are told."""
    servers = tuple(address(server, "the DNS server") for server in message.dns)
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
        place = host_bits_zero(message.address, message.length)
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
    host = substrate_address(message.host, "the host of an appliance")
    return NextHop(mac(message.mac), host, tunnel(message.tunnel), network_id(message.network_id))


def sources(messages: Sequence[pb.Route]) -> tuple[Route, ...]:
    """What an appliance may send from."""
    found = routes(messages)
    if any(route.action not in (RouteAction.VPC, RouteAction.BLACKHOLE) for route in found):
        raise InvalidError("a source is VIA_VPC (1), allowed, or BLACKHOLE (2), not allowed")
    return found


def addresses(found: Iterable[bytes]) -> tuple[bytes, ...]:
    """The addresses of an endpoint, IPv4 first."""
    packed = sorted((address(one, "the endpoint's address") for one in found), key=len)
    _one_per_family(packed, "address")
    return tuple(packed)


def _one_per_family(packed: Sequence[bytes], what: str) -> None:
    if not packed:
        raise InvalidError(f"there is no {what}; expected one, or one of each family")
    sizes = [len(one) for one in packed]
    if len(set(sizes)) != len(sizes):
        raise InvalidError(f"there is more than one {what} of the same family; expected at most one of each")


def endpoint(message: pb.Endpoint) -> Endpoint:
    """An endpoint as its bouncers know it."""
    return Endpoint(
        vni=vni(message.vni),
        network_id=network_id(message.network_id),
        addresses=addresses(message.addresses),
        mac=mac(message.mac),
        host=substrate_address(message.host, "the host"),
        tunnel=tunnel(message.tunnel),
    )


def mac(found: bytes) -> bytes:
    """The MAC of an endpoint."""
    if len(found) != 6:
        raise InvalidError(f"the MAC has {len(found)} bytes; expected 6")
    if found[0] & 1 or not any(found) or found in (ROUTER_MAC, SERVICE_MAC, APPLIANCE_MAC, UNTOLD_MAC):
        raise InvalidError(f"the MAC is {mac_text(found)}; expected a unicast one, not the virtual router's")
    return found


def tunnel(found: int) -> Tunnel:
    """The tunnel in which packets reach an endpoint's host."""
    if found not in (pb.GENEVE, pb.VXLAN):
        raise InvalidError(f"the tunnel protocol is {found}; expected GENEVE (1) or VXLAN (2)")
    return Tunnel(found)


def service(message: pb.Service) -> Service:
    """A scaled endpoint and its members."""
    if len(message.members) > MAX_SERVICE_MEMBERS:
        raise InvalidError(f"there are {len(message.members)} members; at most {MAX_SERVICE_MEMBERS} are possible")
    found = tuple(member(one) for one in message.members)
    if len({one.mac for one in found}) != len(found):
        raise InvalidError("two members have the same MAC, which could not be told from one another")
    return Service(
        vni(message.vni),
        network_id(message.network_id),
        addresses(message.addresses),
        found,
        message.colocated,
        health=health_check(message.health) if message.HasField("health") else None,
        listeners=listeners(message.listeners),
        by_client=message.by_client,
        public=addresses(message.public) if message.public else (),
        attracted=message.attracted,
        inside=inside(message.inside),
        vip_option=message.vip_option,
    )


def inside(found: Iterable[pb.Prefix]) -> tuple[tuple[bytes, int], ...]:
    """From where nobody outside can come, in order."""
    read = tuple(sorted(map(bare_prefix, found)))
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
        addresses(message.addresses),
        message.mac,
        substrate_address(message.host, "a member's host"),
        Tunnel(message.tunnel),
        message.weight,
        MemberState(message.state),
    )


def proxy(message: pb.Proxy) -> Proxy:
    """A proxied endpoint; the source has an address of each of the target's families, and no other."""
    found = Proxy(endpoint(message.client), endpoint(message.source), addresses(message.targets))
    if [len(one) for one in found.source.addresses] != [len(one) for one in found.targets]:
        raise InvalidError("the source of a proxied endpoint needs one address of each family of its target")
    both = {(side.vni, one) for side in found.sides for one in side.addresses}
    if len(both) != sum(len(side.addresses) for side in found.sides):
        raise InvalidError("the two sides of a proxied endpoint have the same address")
    return found


def put_group_set(message: pb.GroupSet) -> PutGroupSet:
    """What the number of a set of groups means."""
    groups = tuple(message.groups)
    if not 1 <= message.number <= MAX_GROUP_SET:
        raise InvalidError(f"the number {message.number} of a set of groups is outside of 1 to {MAX_GROUP_SET}")
    if not 1 <= len(groups) <= marks.MAX_GROUPS or 0 in groups or list(groups) != sorted(set(groups)):
        raise InvalidError(f"expected 1 to {marks.MAX_GROUPS} ids of groups, ascending, none twice and none 0")
    return PutGroupSet(vni(message.vni), message.number, groups)


def uid(text: str) -> str:
    """The uid of an endpoint: printable ASCII without spaces, because the alias of its interface holds it."""
    if not 1 <= len(text) <= _MAX_UID or not all("!" <= character <= "~" for character in text):
        raise InvalidError(f"the uid {text[:_MAX_UID]!r} is not 1 to {_MAX_UID} printable ASCII letters")
    return text


def workload(message: pb.Workload) -> Workload:
    """Where an endpoint's own side is."""
    if message.WhichOneof("place") == "tap":
        return tap(message.tap)
    if message.WhichOneof("place") == "ovs":
        return ovs(message.ovs)
    interface = message.interface or "eth0"
    if len(interface.encode()) > _MAX_INTERFACE or interface in (".", "..", "lo") or not _is_word(interface, "/:%"):
        raise InvalidError(f"{interface[:32]!r} cannot name an interface; expected 1 to {_MAX_INTERFACE} letters")
    match message.WhichOneof("place"):
        case "name" | "pool" as place:
            name = getattr(message, place)
            if len(name.encode()) > _MAX_PATH or name in (".", "..") or not _is_word(name, "/"):
                raise InvalidError(f"{name[:_MAX_PATH]!r} is no name of a namespace under /run/netns")
            return InNamespace(NamespaceBy[place.upper()], name, interface, message.self_configured)
        case "path":
            path = message.path
            if not path.startswith("/") or len(path.encode()) > _MAX_PATH or not path.isprintable():
                raise InvalidError(f"the namespace's path must be absolute, printable, at most {_MAX_PATH} bytes")
            return InNamespace(NamespaceBy.PATH, path, interface, message.self_configured)
        case "pid":
            if not 1 <= message.pid <= _MAX_PID:
                raise InvalidError(f"pid {message.pid} is outside of 1 to {_MAX_PID}")
            return InNamespace(NamespaceBy.PID, str(message.pid), interface, message.self_configured)
    raise InvalidError("the workload names no place; set name, pool, path, pid, tap or ovs")


def tap(message: pb.Tap) -> Tap:
    """A tap device. Its agent's pin bears its name, which therefore has no dot."""
    name = message.name
    if len(name.encode()) > _MAX_INTERFACE or name.startswith("-") or (name and not _is_word(name, "/:%.")):
        raise InvalidError(f"{name[:32]!r} cannot name a tap; expected at most {_MAX_INTERFACE} letters, no dot")
    if message.owner > _MAX_USER:
        raise InvalidError(f"owner {message.owner} is no user id; expected 0 to {_MAX_USER}")
    if message.queues > _MAX_QUEUES:
        raise InvalidError(f"{message.queues} queues are more than the {_MAX_QUEUES} that a tap may have")
    return Tap(name, message.owner, message.queues or 1)


def ovs(message: pb.OvsPort) -> OvsPort:
    """A port of an Open vSwitch bridge."""
    for name, what in ((message.bridge, "a bridge"), (message.port or "any", "a port")):
        if len(name.encode()) > _MAX_INTERFACE or name in (".", "..", "-") or not _is_word(name, "/:%"):
            raise InvalidError(f"{name[:32]!r} cannot name {what}; expected 1 to {_MAX_INTERFACE} letters")
    if message.vlan > _MAX_VLAN:
        raise InvalidError(f"VLAN {message.vlan} is outside of 1 to {_MAX_VLAN}; 0 is none")
    return OvsPort(message.bridge, message.port, message.vlan)


def _is_word(text: str, excluded: str) -> bool:
    return bool(text) and text.isprintable() and not any(c.isspace() or c in excluded for c in text)


def binding(message: pb.PolicyBinding) -> Binding:
    """By which sets an endpoint is judged."""
    found = Binding(
        message.ingress, message.egress, message.audit_ingress, message.audit_egress,
        message.beside_ingress, message.beside_egress,
    )  # fmt: skip
    audited = found.audit_ingress or found.beside_ingress, found.audit_egress or found.beside_egress
    if (audited[0] and not found.ingress) or (audited[1] and not found.egress):
        raise InvalidError("an endpoint is audited in a direction in which it is bound to no set of rules")
    return found


def rate(message: pb.Rate) -> Rate:
    """What may pass at a time."""
    return Rate(message.bits_per_second, message.packets_per_second, message.burst_bytes, message.burst_packets)


def qos(message: pb.Qos) -> Qos:
    """The limits of an endpoint."""
    guarantee = rate(message.guarantee)
    if guarantee.packets_per_second:
        raise InvalidError("a guarantee is of bits, not of packets")
    return Qos(
        (rate(message.egress), rate(message.network_egress), rate(message.vpc_egress)),
        (rate(message.ingress), rate(message.network_ingress), rate(message.vpc_ingress)),
        guarantee,
        message.dscp if message.HasField("dscp") else None,
    )


def engine_of(message: pb.LocalEndpoint) -> bytes:
    """What serves behind an endpoint, as it is kept; empty for nothing."""
    engine = message.engine
    if not message.HasField("engine"):
        return b""
    if not 1 <= len(engine.digest) <= _MAX_DIGEST or engine.WhichOneof("kind") is None:
        raise InvalidError(f"a function needs a digest of 1 to {_MAX_DIGEST} bytes, and says what it is")
    if message.bypass or message.workload.WhichOneof("place") not in ("name", "path", "pool"):
        raise InvalidError("a function runs in a namespace that has a name or a path, and takes plain packets")
    return engine.SerializeToString(deterministic=True)


def wanted(message: pb.LocalEndpoint) -> Wanted:
    """An endpoint to be made on this droplet."""
    found = Wanted(
        uid(message.uid), endpoint(message.endpoint), workload(message.workload), message.mtu,
        marks.checked(message.options), marks.group_set(message.group_set), message.standby,
        message.bypass,
        message.forwarding, sources(message.sources), binding(message.policy), qos(message.qos),
        engine_of(message),
    )  # fmt: skip
    if found.bypass and (found.mtu or not isinstance(found.workload, InNamespace) or found.workload.self_configured):
        raise InvalidError(
            "an endpoint that bypasses decapsulation needs a workload in a namespace that does not configure itself, "
            "and no MTU of its own: its interface has that of the droplet's"
        )
    if found.bypass and found.policy != NOT_BOUND:
        raise InvalidError(
            "an endpoint that bypasses decapsulation cannot be policed: its droplet unpacks nothing for it"
        )
    least = max(_MIN_MTU[len(one)] for one in found.endpoint.addresses)
    if found.sources and not found.forwarding:
        raise InvalidError("there are sources of an endpoint that does not forward")
    if found.mtu and not least <= found.mtu <= _MAX_MTU:
        raise InvalidError(f"the MTU {found.mtu} is outside of {least} to {_MAX_MTU}")
    return found
