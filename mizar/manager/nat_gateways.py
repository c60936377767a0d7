# SPDX-License-Identifier: Apache-2.0
"""NAT gateways: what a manifest may ask for, the endpoint that it brings, the routes that lead there, what runs behind.

Asked by intake, by function_routes for tables of networks, and by mizar.manager.desired for what droplets must hold. It
must never write.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from ipaddress import ip_address
from typing import Any

from mizar.manager.address_pools import pool_of
from mizar.manager.draft import Draft
from mizar.manager.engines import EngineReports
from mizar.manager.instances import Wish, instances_of
from mizar.manager.registry import Item, Registry, vpc_of
from mizar.model.address_pool import ANY, AddressPool
from mizar.model.addresses import NOT_PUBLIC, Address, Prefix, containing, overlap, parse_address, parse_prefix
from mizar.model.errors import ConflictError, ExhaustedError, Problem
from mizar.model.nat_gateway import NatGateway, PortForwardSpec
from mizar.model.resources import VPC, Droplet, Endpoint, Network, Ref
from mizar.model.routes import Route, ViaEndpoint
from mizar.planner.engines import EngineEntry, NatForwardEntry, NatGatewayEntry, NatPairEntry, Subnet

MOST_OF_TENANT, MOST_CONNECTIONS = 16, 1 << 20
"""Gateways, and connections of all of them: each is a process that has memory for its connections all the time."""
MOST_NAME = 50
"""Characters of a name: instances have it with a number behind, which grows."""
WORLD = {4: "0.0.0.0/0", 6: "::/0"}
_PROTOCOLS = {"tcp": 6, "udp": 17}
_STATES = {0: "unknown", 1: "starting", 2: "running", 3: "failed"}


def wish_of(gateway: NatGateway, pool: AddressPool | None) -> Wish:
    """The endpoint that a gateway needs: where the pool's addresses are attracted, and it may be."""
    allowed = pool.spec.droplets if pool else ()
    droplets = tuple(name for name in allowed if not gateway.spec.droplets or name in gateway.spec.droplets)
    count = 2 if gateway.spec.standby and _pair_key(gateway) else 1
    return Wish(gateway.spec.network, count, droplets, forwarding=True, apart=True)


def carriers_of(registry: Registry, gateway: Item) -> list[Item]:
    """Its instances: the first one attracts its addresses, which is the one that has been there the longest; one that
    stands by is behind it."""
    return instances_of(registry, gateway)


def problems(new: NatGateway, draft: Draft) -> Iterator[Problem]:
    """What speaks against a gateway as it would be. Raises ConflictError, ExhaustedError or InvalidError."""
    network, vpc = draft.parent(new)
    pool = pool_of(draft, new)
    if network is None or not isinstance(vpc, VPC):
        return
    if len(new.name) > MOST_NAME:
        message = f"expected at most {MOST_NAME} characters, because its endpoint has a number behind it"
        yield Problem(message, "metadata.name")
    if network.is_group:
        yield Problem(f"{network.ref} is a group, and has no addresses", "spec.network")
    families = _families(new, pool)
    for version in sorted(families - {parse_prefix(text).version for text in network.spec.cidrs}):
        yield Problem(f"{network.ref} has no IPv{version} for the addresses of that family", "spec.network")
    for prefix in pool.prefixes:
        for cidr in vpc.spec.cidrs:
            if overlap(prefix, parse_prefix(cidr)):
                yield Problem(f"the pool's addresses lie in {cidr} of {vpc.ref}", "spec.pool")
    for place, name in enumerate(new.spec.droplets):
        if name not in pool.spec.droplets:
            yield Problem(f"expected droplets of the pool, found {name}", f"spec.droplets[{place}]")
    for place, name in enumerate(new.spec.networks):
        found = draft.find(Ref("Network", new.tenant, name))
        if not isinstance(found, Network) or found.is_group or vpc_of(found) != vpc.ref:
            yield Problem(f"there is no subnet {name} in {vpc.ref}", f"spec.networks[{place}]")
    for place, forward in enumerate(new.spec.port_forwards):
        yield from _forward_problems(new, forward, f"spec.portForwards[{place}]", vpc, draft, families)
    _refuse_others(new, vpc, draft, families)


def _forward_problems(
    new: NatGateway, forward: PortForwardSpec, field: str, vpc: VPC, draft: Draft, families: set[int]
) -> Iterator[Problem]:
    endpoint = draft.find(Ref("Endpoint", new.tenant, forward.endpoint))
    if not isinstance(endpoint, Endpoint) or draft.parent(endpoint)[1] != vpc:
        yield Problem(f"there is no endpoint {forward.endpoint} in {vpc.ref}", f"{field}.endpoint")
        return
    if endpoint.spec.type not in ("simple", "scaled"):
        message = f"{endpoint.ref} is of type {endpoint.spec.type}; expected a simple or a scaled endpoint"
        yield Problem(message, f"{field}.endpoint")
    own = {parse_address(text).version for text in endpoint.status.addresses}
    if forward.address is not None:
        claimed = new.status.addresses or new.spec.addresses
        if forward.address not in claimed:
            message = f"expected one of the gateway's addresses, by name in spec.addresses, found {forward.address}"
            yield Problem(message, f"{field}.address")
        families = {parse_address(forward.address).version}
    if own and not own & families:
        yield Problem(f"{endpoint.ref} has no address of a family that it shares", f"{field}.endpoint")


def _refuse_others(new: NatGateway, vpc: VPC, draft: Draft, families: set[int]) -> None:
    others = [one for one in draft.of_kind(NatGateway) if one.ref != new.ref and one.tenant == new.tenant]
    for other in others:
        beside = draft.parent(other)[1]
        pool = draft.find(Ref("AddressPool", "", other.spec.pool))
        if beside != vpc or not isinstance(pool, AddressPool) or not families & _families(other, pool):
            continue
        mine, theirs = set(new.spec.networks), set(other.spec.networks)
        if not mine or not theirs or mine & theirs:
            shared = ", ".join(sorted(mine & theirs or mine or theirs)) or "all networks"
            raise ConflictError(Problem(f"{other.ref} is the way into the world for {shared} already", "spec.networks"))
    if len(others) >= MOST_OF_TENANT:
        raise ExhaustedError(f"tenant {new.tenant} has {len(others)} NAT gateways, of {MOST_OF_TENANT} at most")
    used = sum(one.spec.connections for one in (new, *others))
    if used > MOST_CONNECTIONS:
        message = f"all NAT gateways of tenant {new.tenant} would have {used}; expected at most {MOST_CONNECTIONS}"
        raise ExhaustedError(Problem(message, "spec.connections"))


def _families(gateway: NatGateway, pool: AddressPool) -> set[int]:
    """Of its addresses, be they given already or not."""
    wanted = gateway.status.addresses or gateway.spec.addresses
    if not wanted:
        return {prefix.version for prefix in pool.prefixes}
    return {ANY[word] if word in ANY else parse_address(word).version for word in wanted}


def gateways_of(registry: Registry, vpc: Ref) -> Iterator[Item]:
    """Those of a VPC that are not being deleted."""
    item = registry.find(vpc)
    for network in registry.children(item) if item else ():
        for one in registry.children(network) if isinstance(network.resource, Network) else ():
            if isinstance(one.resource, NatGateway) and not one.deleting:
                yield one


def with_gateways(registry: Registry, network: Network) -> Network:
    """A subnet with routes to its VPC's NAT gateways; routes of its own for the same prefix stay."""
    if network.is_group:
        return network
    own = {route.to for route in network.spec.routes}
    more = []
    for item in gateways_of(registry, vpc_of(network)):
        gateway = item.resource
        assert isinstance(gateway, NatGateway)
        carriers = carriers_of(registry, item)
        if not carriers or (gateway.spec.networks and network.name not in gateway.spec.networks):
            continue
        via = ViaEndpoint(endpoint=carriers[0].resource.name)
        versions = sorted({parse_address(text).version for text in gateway.status.addresses})
        more += [Route(to=WORLD[one], via=via) for one in versions if WORLD[one] not in own]
    if not more:
        return network
    routes = (*network.spec.routes, *more)
    return network.model_copy(update={"spec": network.spec.model_copy(update={"routes": routes})})


def entry_of(registry: Registry, owner: Item, instance: Item) -> EngineEntry | None:
    """What an instance runs."""
    gateway = owner.resource
    assert isinstance(gateway, NatGateway)
    network = registry.find(Ref("Network", gateway.tenant, gateway.spec.network))
    vpc = registry.find(vpc_of(network.resource)) if network and isinstance(network.resource, Network) else None
    pool = registry.find(Ref("AddressPool", "", gateway.spec.pool))
    if vpc is None or not isinstance(vpc.resource, VPC) or pool is None or not isinstance(pool.resource, AddressPool):
        return None
    reach = tuple(map(parse_prefix, pool.resource.spec.reach))
    droplets = (one.resource for one in registry.of_kind("Droplet"))
    hosts = {
        address.packed
        for one in droplets
        if isinstance(one, Droplet)
        for address in map(parse_address, one.spec.addresses)
        if _may_reach(reach, address)
    }
    return EngineEntry.of(
        NatGatewayEntry(
            gateway.tenant,
            gateway.name,
            instance.resource.name,
            tuple(ip_address(text).packed for text in gateway.status.addresses),
            tuple(map(_subnet, map(parse_prefix, vpc.resource.spec.cidrs))),
            tuple(_forwards(registry, gateway)),
            gateway.spec.connections,
            tuple(sorted((address, len(address) * 8) for address in hosts)),
            tuple(map(_subnet, reach)),
            *_pair(gateway, carriers_of(registry, owner), instance),
        )
    )


def _pair(gateway: NatGateway, carriers: Sequence[Item], instance: Item) -> tuple[bool, NatPairEntry | None]:
    """Whether an instance stands by, and with whom it is a pair, once both have addresses."""
    others = [one for one in carriers if one is not instance]
    standby = bool(others) and carriers[0] is not instance
    if not others or not _pair_key(gateway):
        return standby, None
    own, other = (
        {len(found): found for text in one.resource.status.addresses if (found := ip_address(text).packed)}
        for one in (instance, others[0])
        if isinstance(one.resource, Endpoint)
    )
    family = next((length for length in own if length in other), 0)
    if not family:
        return standby, None
    return standby, NatPairEntry(own[family], other[family], _pair_key(gateway))


def _pair_key(gateway: NatGateway) -> str:
    """Empty where there is none: of one that is older than this."""
    key = gateway.status.pair_key
    return key.reveal() if key is not None and key.known else ""


def may_reach(registry: Registry, gateway: Item, droplet: Droplet) -> bool:
    """Whether nothing but its name keeps a droplet from being reached: it is in no range that is nobody's, or in one
    that the pool opens."""
    pool = registry.find(Ref("AddressPool", "", gateway.resource.spec.pool))
    reach = pool.resource.spec.reach if pool else ()
    return any(_may_reach(tuple(map(parse_prefix, reach)), parse_address(text)) for text in droplet.spec.addresses)


def _may_reach(reach: Sequence[Prefix], address: Address) -> bool:
    return containing(NOT_PUBLIC, address) is None or containing(reach, address) is not None


def _forwards(registry: Registry, gateway: NatGateway) -> Iterator[NatForwardEntry]:
    """Those whose endpoint is there now."""
    for one in gateway.spec.port_forwards:
        item = registry.find(Ref("Endpoint", gateway.tenant, one.endpoint))
        if item is None or item.deleting or not isinstance(item.resource, Endpoint):
            continue
        inside = {len(found): found for text in item.resource.status.addresses if (found := ip_address(text).packed)}
        for text in [one.address] if one.address else gateway.status.addresses:
            public = ip_address(text).packed
            if (address := inside.get(len(public))) is not None:
                port = one.target_port or one.port
                yield NatForwardEntry(_PROTOCOLS[one.protocol], public, one.port, address, port)


def forward_of(
    registry: Registry, gateway: NatGateway, protocol: str, public: bytes, port: int
) -> tuple[PortForwardSpec, bytes] | None:
    """The forward that takes what comes for a public address, and the address of its endpoint that is there now."""
    for one in gateway.spec.port_forwards:
        mine = [one.address] if one.address else gateway.status.addresses
        item = registry.find(Ref("Endpoint", gateway.tenant, one.endpoint))
        if (one.protocol, one.port) != (protocol, port) or public not in [ip_address(text).packed for text in mine]:
            continue
        if item is None or item.deleting or not isinstance(item.resource, Endpoint):
            continue
        found = (ip_address(text).packed for text in item.resource.status.addresses)
        if to := next((address for address in found if len(address) == len(public)), None):
            return one, to
    return None


def forwarding_to(registry: Registry, endpoint: Item) -> list[Item]:
    """The gateways with forwards to an endpoint."""
    return [
        item
        for item in registry.of_kind("NatGateway")
        if not item.deleting
        and item.resource.tenant == endpoint.resource.tenant
        and any(one.endpoint == endpoint.resource.name for one in item.resource.spec.port_forwards)
    ]


def told(registry: Registry, reports: EngineReports, owner: Item) -> dict[str, Any]:
    """What the status of a gateway says."""
    carriers = carriers_of(registry, owner)
    found: dict[str, Any] = {"quota": owner.resource.spec.connections}
    if not carriers:
        return found | {"state": "waiting", "detail": "no droplet of the pool can carry it"}
    report = reports.of(carriers[0])
    found |= {"droplet": carriers[0].resource.spec.droplet, "state": _STATES[report.state if report else 0]}
    if report is not None:
        found["detail"] = report.reason
        if report.HasField("nat"):
            for name in ("connections", "begun", "refused", "exhausted"):
                found[name] = getattr(report.nat, name)
    return found | (_standby(reports, carriers[1]) if len(carriers) > 1 else {})


def _standby(reports: EngineReports, instance: Item) -> dict[str, Any]:
    report = reports.of(instance)
    state = _STATES[report.state if report else 0]
    if report is not None and state == "running":
        state = "ready" if report.nat.whole else "catching up"
    return {"standby": instance.resource.spec.droplet, "standbyState": state}


def way_out(registry: Registry, vpc: Ref, to: Address) -> str:
    """Who takes packets of a VPC to an address in the world, for traces; empty: nobody does."""
    found = []
    for item in gateways_of(registry, vpc):
        carriers = carriers_of(registry, item)
        gateway = item.resource
        assert isinstance(gateway, NatGateway)
        public = [text for text in gateway.status.addresses if parse_address(text).version == to.version]
        if carriers and public:
            endpoint = f"{gateway.tenant}/{carriers[0].resource.name}"
            found.append(f"{endpoint}, where {item.ref} {_fate(registry, item, to, public)},")
    return " or ".join(found)


def _fate(registry: Registry, gateway: Item, to: Address, public: Sequence[str]) -> str:
    pool = registry.find(Ref("AddressPool", "", gateway.resource.spec.pool))
    reach = tuple(map(parse_prefix, pool.resource.spec.reach)) if pool else ()
    if str(to) in public:
        return "takes it for its portForwards, and leads it back into the VPC as from itself where one has the port"
    holder = registry.holder("droplet", str(to))
    if holder is not None or not _may_reach(reach, to):
        return "refuses it: the operator lets nobody there"
    return f"sends it into the world as {' or '.join(public)}"


def _subnet(prefix: Prefix) -> Subnet:
    return prefix.network_address.packed, prefix.prefixlen
