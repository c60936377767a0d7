# SPDX-License-Identifier: Apache-2.0
"""A change that is not decided yet: what one apply would make, seen as if it were there already.

Made and filled by mizar.manager.intake, handed to mizar.manager.manager to keep. Reads fall through to the registry,
which it must never change: a refused apply leaves nothing behind but a forgotten draft.
"""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TypeVar

from mizar.manager import address_pools, numbers
from mizar.manager.proxied import granted_target, shared_families, vpc_name
from mizar.manager.registry import Item, Registry, half_of, vpc_of
from mizar.model.addresses import Address, Prefix, gateway_of, mac_text, parse_address, parse_mac, parse_prefix
from mizar.model.errors import ConflictError, Problem
from mizar.model.http_balancer import HttpLoadBalancer
from mizar.model.load_balancer import LoadBalancer
from mizar.model.peering import VPCPeering
from mizar.model.prefixes import PrefixTable
from mizar.model.proxied import ClientsSpec
from mizar.model.resources import (
    VPC,
    Endpoint,
    EndpointSpec,
    Identity,
    Metadata,
    NatGateway,
    Network,
    NetworkAcl,
    Policy,
    Ref,
    Resource,
)
from mizar.model.secret import SecretText
from mizar.planner import ipam, vni
from mizar.store.protocol import Allocation

R = TypeVar("R", bound=Resource)


def now() -> datetime:
    """The time, in UTC, in whole microseconds as the store keeps it."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Planned:
    """One object as the apply would leave it; `before` is None for a new one."""

    resource: Resource
    allocations: tuple[Allocation, ...]
    before: Resource | None


class Cursors:
    """Where the last allocation of each pool was, so that the next one is found at its first try."""

    def __init__(self, above: Cursors | None = None, vnis: range = vni.ALL_VNIS) -> None:
        """`vnis`: those that may be chosen for a VPC that asks for none."""
        self._above = above
        self.vnis: range = above.vnis if above else vnis
        self.vni: int = above.vni if above else 0
        self.number: int = above.number if above else 0
        self._network_ids: dict[str, int] = {}
        self._addresses: dict[tuple[str, str], Address] = {}

    def network_id(self, vpc_uid: str) -> int:
        """The last network id of a VPC."""
        above = self._above.network_id(vpc_uid) if self._above else 0
        return self._network_ids.get(vpc_uid, above)

    def address(self, network_uid: str, prefix: str) -> Address | None:
        """The last address of a prefix."""
        above = self._above.address(network_uid, prefix) if self._above else None
        return self._addresses.get((network_uid, prefix), above)

    def note(self, resource: Resource, network: Network | None = None, vpc: VPC | None = None) -> None:
        """Moves on to what a resource was given."""
        if isinstance(resource, VPC):
            if resource.shares_vni:
                self.number = resource.number or self.number
            else:
                self.vni = resource.number or self.vni
        elif isinstance(resource, Network) and vpc is not None and vpc.metadata.uid and resource.status.id:
            self._network_ids[vpc.metadata.uid] = resource.status.id
        elif isinstance(resource, Endpoint) and not resource.spec.addresses and network and network.metadata.uid:
            for prefix, address in zip(network.spec.cidrs, resource.status.addresses, strict=False):
                self._addresses[network.metadata.uid, prefix] = parse_address(address)

    def merge(self, below: Cursors) -> None:
        """Takes over what a draft, now kept, has moved."""
        self.vni, self.number = below.vni, below.number
        self._network_ids |= below._network_ids
        self._addresses |= below._addresses


class Draft:
    """The objects and allocations that an apply adds to the registry's."""

    def __init__(self, registry: Registry, cursors: Cursors, visible: Callable[[Ref], bool] = lambda _: True) -> None:
        self._registry = registry
        self._visible = visible
        self.cursors = Cursors(cursors)
        self.planned: dict[Ref, Planned] = {}
        self.dooms: list[Item] = []
        """Objects whose deletion follows from the others' change."""
        self._holders: dict[Allocation, Ref] = {}
        self._networks: dict[Ref, list[Network]] = {}
        self._prefixes: dict[Ref, PrefixTable[Ref]] = {}  # of networks that are new
        self._inside: dict[tuple[str, str], tuple[Network | None, VPC | None]] = {}
        """By tenant and name of a network: it and its VPC, until either changes."""

    @property
    def registry(self) -> Registry:
        """What there is already, to be read alone."""
        return self._registry

    def find(self, ref: Ref) -> Resource | None:
        """An object by name, as it would be; one that is being deleted is none."""
        if (planned := self.planned.get(ref)) is not None:
            return planned.resource
        item = self._registry.find(ref)
        return None if item is None or item.deleting else item.resource

    def of_kind(self, model: type[R]) -> list[R]:
        """All objects of a kind, as they would be."""
        items = self._registry.of_kind(model.__name__)
        kept = (item.resource for item in items if not item.deleting and item.ref not in self.planned)
        found = (*kept, *(planned.resource for planned in self.planned.values()))
        return [resource for resource in found if isinstance(resource, model)]

    def networks_of(self, vpc: VPC) -> Iterator[Network]:
        """All networks of a VPC, those of this draft included, and those being deleted (their prefixes are in use)."""
        item = self._registry.find(vpc.ref)
        for child in self._registry.children(item) if item else ():
            if child.ref not in self.planned and isinstance(child.resource, Network):
                yield child.resource
        yield from self._networks.get(vpc.ref, ())

    def peerings_of(self, vpc: VPC) -> Iterator[VPCPeering]:
        """The halves of a VPC, those of this draft included."""
        item = self._registry.find(vpc.ref)
        for child in self._registry.children(item) if item else ():
            if isinstance(child.resource, VPCPeering) and not child.deleting:
                yield child.resource
        for planned in self.planned.values():
            if isinstance(planned.resource, VPCPeering) and planned.resource.own == vpc.ref and not planned.before:
                yield planned.resource

    def groups_of(self, vpc: Ref) -> Iterator[Network]:
        """The networks of type group of a VPC, those of this draft included, without those being deleted."""
        for item in self._registry.groups(vpc):
            if item.ref not in self.planned and isinstance(item.resource, Network) and not item.deleting:
                yield item.resource
        for planned in self.planned.values():
            network = planned.resource
            if isinstance(network, Network) and network.is_group and vpc_of(network) == vpc:
                yield network

    def network_at(self, vpc: Ref, address: Address) -> tuple[Prefix, Ref] | None:
        """The network of a VPC that an address belongs to: of several, the one with the longest prefix."""
        tables = self._registry.prefixes(vpc), self._prefixes.get(vpc)
        found = [one for table in tables if table is not None and (one := table.longest(address)) is not None]
        return max(found, key=lambda one: one[0].prefixlen, default=None)

    def squatters(self, network: Network) -> Iterator[Endpoint]:
        """Endpoints of a shorter prefix around a new network whose addresses would belong to that network."""
        table = self._registry.prefixes(vpc_of(network))
        for prefix in map(parse_prefix, network.spec.cidrs):
            around = next(table.around(prefix), None)
            item = self._registry.find(around[1]) if around else None
            for child in self._registry.children(item) if item else ():
                if isinstance(child.resource, Endpoint) and any(
                    parse_address(text) in prefix for text in child.resource.status.addresses
                ):
                    yield child.resource

    def holder(self, allocation: Allocation) -> Ref | None:
        """Who would hold a value."""
        if (ref := self._holders.get(allocation)) is not None:
            return ref
        item = self._registry.holder(*allocation)
        return None if item is None else item.ref

    def keep(self, resource: Resource) -> None:
        """Takes the next state of an object that is there; its allocations stay."""
        ref = resource.ref
        item = self._registry.find(ref)
        assert item is not None
        self._plan(ref, Planned(resource, item.allocations, item.resource))
        self._note(resource)

    def _plan(self, ref: Ref, planned: Planned) -> None:
        self.planned[ref] = planned
        if ref.kind in ("Network", "VPC"):
            self._inside.clear()

    def amend(self, resource: Resource) -> None:
        """Takes what follows from this change for an object, be it one of the draft or another."""
        ref = resource.ref
        planned = self.planned.get(ref)
        if planned is None:
            self.keep(resource)
        else:
            self._plan(ref, Planned(resource, planned.allocations, planned.before))

    def create(self, resource: Resource, families: Sequence[int] = (4, 6)) -> None:
        """Takes a new object: gives it uid, time and all that has to be allocated. Raises what the planner raises.

        `families`: of addresses that an endpoint is given, as far as its network has them.
        """
        metadata = resource.metadata.model_copy(
            update={"uid": str(uuid.uuid4()), "generation": 1, "created_at": now(), "deleted_at": None}
        )
        resource = resource.model_copy(update={"metadata": metadata, "status": type(resource.status)()})
        resource, allocations = self._allocate(resource, families)
        ref = resource.ref
        self._plan(ref, Planned(resource, allocations, None))
        for allocation in allocations:
            self._holders[allocation] = ref
        self._note(resource)

    def settle_proxied(self, endpoint: Endpoint) -> None:
        """Brings a proxied endpoint into service, with a source in its target's VPC, or out of it."""
        item = self._registry.find(endpoint.ref)
        source = self._registry.source_of(item.uid) if item else None
        target = granted_target(self.find, endpoint)
        families = shared_families(endpoint, target) if target else ()
        if source is not None and not (target and families and _stands_before(source.resource, target, families)):
            self.dooms.append(source)
            source = None
        found = source.resource if source and isinstance(source.resource, Endpoint) else None
        if target is not None and families and found is None:
            found = self._source(endpoint, target, families)
        status = {
            "target": f"{target.tenant}/{target.name}" if found and target else "",
            "source_addresses": found.status.addresses if found else (),
        }
        if any(getattr(endpoint.status, name) != value for name, value in status.items()):
            resource = endpoint.model_copy(update={"status": endpoint.status.model_copy(update=status)})
            if endpoint.ref in self.planned:
                self.planned[endpoint.ref] = replace(self.planned[endpoint.ref], resource=resource)
            else:
                self.keep(resource)

    def _source(self, endpoint: Endpoint, target: Endpoint, families: Sequence[int]) -> Endpoint:
        """What stands for the clients of a proxied endpoint beside its target."""
        uid = endpoint.metadata.uid or ""
        clients = ClientsSpec(tenant=endpoint.tenant, vpc=vpc_name(self.find, endpoint), proxied=uid)
        spec = EndpointSpec(network=target.spec.network, type="source", clients=clients)
        metadata = Metadata(name=f"proxy-{uuid.uuid4()}", tenant=target.tenant)
        source = Endpoint(metadata=metadata, spec=spec)
        self.create(source, families)
        made = self.planned[source.ref].resource
        assert isinstance(made, Endpoint)
        return made

    def parent(self, resource: Resource) -> tuple[Network | None, VPC | None]:
        """The network and the VPC that a resource is in, as far as it is in any."""
        network = resource if isinstance(resource, Network) else None
        if isinstance(resource, Endpoint | HttpLoadBalancer | LoadBalancer | NatGateway):
            name = resource.tenant, resource.spec.network
            known = self._inside.get(name)
            if known is None:
                found = self.find(Ref("Network", *name))
                known = self._inside[name] = self.parent(found) if isinstance(found, Network) else (None, None)
            return known
        vpc = self.find(Ref("VPC", network.tenant, network.spec.vpc)) if network else None
        return network, vpc if isinstance(vpc, VPC) else None

    def _note(self, resource: Resource) -> None:
        network, vpc = self.parent(resource)
        self.cursors.note(resource, network, vpc)
        if network is resource and isinstance(resource, Network) and vpc is not None:
            self._networks.setdefault(vpc.ref, []).append(resource)
            table = self._prefixes.setdefault(vpc.ref, PrefixTable())
            for cidr in resource.spec.cidrs:
                table.put(parse_prefix(cidr), resource.ref)

    def _allocate(self, resource: Resource, families: Sequence[int]) -> tuple[Resource, tuple[Allocation, ...]]:
        network, vpc = self.parent(resource)
        found: tuple[Allocation, ...] = ()
        status: dict[str, object] = {}
        if isinstance(resource, VPC):
            if resource.spec.vni is not None and resource.spec.identity is Identity.AUTO:
                allocation, hint = Allocation("vni", str(resource.spec.vni)), "; spec.identity tells how to share it"
                self.refuse_taken(allocation, f"VNI {resource.spec.vni}", "spec.vni", hint)
            tenant = self.find(Ref("Tenant", "", resource.tenant))
            status, found = numbers.allocate(
                resource,
                lambda number: self.holder(Allocation("vni", str(number))) is not None,
                tenant.metadata.uid or "" if tenant else "",
                vnis=self.cursors.vnis,
                cursor=self.cursors.vni,
                number_cursor=self.cursors.number,
            )
        elif isinstance(resource, Network) and vpc is not None:
            scope = f"network/{vpc.metadata.uid}"
            number = vni.allocate_network_id(
                lambda number: self.holder(Allocation(scope, str(number))) is not None,
                cursor=self.cursors.network_id(vpc.metadata.uid or ""),
            )
            gateways = tuple(str(gateway_of(parse_prefix(text))) for text in resource.spec.cidrs)
            status, found = {"id": number, "gateways": gateways}, (Allocation(scope, str(number)),)
        elif isinstance(resource, Endpoint) and network is not None and vpc is not None:
            status, found = self._endpoint(resource, network, vpc, families)
        elif isinstance(resource, VPCPeering) and (own := self.find(resource.own)) is not None:
            found = (half_of(own.metadata.uid or "", resource.other),)
        elif isinstance(resource, Policy | NetworkAcl) and (
            own := self.find(Ref("VPC", resource.tenant, resource.spec.vpc))
        ):
            scope = f"policy/{own.metadata.uid}"
            number = vni.allocate_policy_id(lambda number: self.holder(Allocation(scope, str(number))) is not None)
            status, found = {"id": number}, (Allocation(scope, str(number)),)
        elif isinstance(resource, LoadBalancer):
            if resource.spec.public is not None:
                given, found = address_pools.claim(self, resource, resource.spec.public, "spec.public")
                status = {"public_addresses": given["addresses"]}
        elif resource.kind in address_pools.USERS:
            status, found = address_pools.claim(self, resource)
            if isinstance(resource, NatGateway):
                status = {**status, "pair_key": SecretText(secrets.token_hex(32))}
        elif resource.kind == "Droplet":
            status = {"address": resource.spec.address}
            found = tuple(Allocation("droplet", text) for text in resource.spec.addresses)
            for one in found:
                where = "spec.address" if one.value == resource.spec.address else "spec.secondAddress"
                self.refuse_taken(one, f"the address {one.value}", where)
        return resource.model_copy(update={"status": resource.status.model_copy(update=status)}), found

    def _endpoint(
        self, endpoint: Endpoint, network: Network, vpc: VPC, families: Sequence[int]
    ) -> tuple[dict[str, object], tuple[Allocation, ...]]:
        scope, mac_scope = f"address/{vpc.metadata.uid}", f"mac/{vpc.metadata.uid}"

        def taken(address: Address) -> bool:
            return self.holder(Allocation(scope, str(address))) is not None

        def other(address: Address) -> Prefix | None:
            found = self.network_at(vpc.ref, address)
            return found[0] if found and found[1] != network.ref else None

        texts = endpoint.spec.addresses
        if texts:
            for place, text in enumerate(texts):  # check_endpoint has found them usable
                self.refuse_taken(Allocation(scope, text), f"the address {text}", f"spec.addresses[{place}]")
        else:
            addresses: list[Address] = []
            for prefix in (prefix for prefix in map(parse_prefix, network.spec.cidrs) if prefix.version in families):
                cursor = self.cursors.address(network.metadata.uid or "", str(prefix))
                addresses.append(ipam.allocate(prefix, taken, cursor=cursor, other=other))
            texts = tuple(str(address) for address in addresses)
        if endpoint.spec.mac:
            mac = parse_mac(endpoint.spec.mac)
            self.refuse_taken(Allocation(mac_scope, mac_text(mac)), f"the MAC {mac_text(mac)}", "spec.mac")
        else:
            mac = ipam.derive_mac(
                endpoint.metadata.uid or "", lambda mac: self.holder(Allocation(mac_scope, mac_text(mac))) is not None
            )
        shown = mac_text(mac)
        status: dict[str, object] = {"addresses": texts, "mac": shown, "host": endpoint.spec.droplet or ""}
        return status, (*(Allocation(scope, text) for text in texts), Allocation(mac_scope, shown))

    def sees(self, ref: Ref) -> bool:
        """Whether the caller may be told of an object."""
        return self._visible(ref)

    def refuse_taken(self, allocation: Allocation, what: str, field: str, hint: str = "") -> None:
        """Raises ConflictError when somebody holds a value, whom the caller is told of if it may see it."""
        holder = self.holder(allocation)
        if holder is not None:
            owner = str(holder) if self._visible(holder) else "somebody else"
            raise ConflictError(Problem(f"{what} belongs to {owner}{hint}", field=field))


def _stands_before(source: Resource, target: Endpoint, families: Sequence[int]) -> bool:
    """Whether a source is where the target is, with addresses of these families."""
    assert isinstance(source, Endpoint)
    beside = (source.tenant, source.spec.network) == (target.tenant, target.spec.network)
    return beside and tuple(6 if ":" in text else 4 for text in source.status.addresses) == tuple(families)
