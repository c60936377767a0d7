# SPDX-License-Identifier: Apache-2.0
"""Scaled endpoints: which endpoints are their members now, and what a manifest may ask for.

Owned by mizar.manager.fleet, which asks here whose tables change with an endpoint; the checks are called by intake. A
change of one endpoint looks at the services of its VPC, never at all endpoints.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mizar.manager.registry import Item, Registry
from mizar.model.addresses import parse_mac
from mizar.model.errors import Problem
from mizar.model.resources import VPC, Endpoint, Network, Ref, Resource, TunnelProtocol
from mizar.model.scaled import MOST_MEMBERS, Affinity, HealthSpec, HealthType, MemberSpec, matches
from mizar.planner.entries import HealthEntry, ListenerEntry
from mizar.planner.facts import MemberFact, PublicFact, ServiceFact, endpoint_fact

if TYPE_CHECKING:  # a rehearsal does without what is generated
    from mizar._built import transit_pb2 as pb

Find = Callable[[Ref], Resource | None]
PublicOf = Callable[[Endpoint], PublicFact | None]

_PROTOCOLS = {"tcp": 6, "udp": 17}
_HEALTHY, _DOWN = 1, 4
"""enum State of Member in contracts/transit.proto."""
BYPASSES = "it bypasses decapsulation, and so its droplet cannot write the port of the load balancer's members for it"
CANNOT_ANSWER = (
    "its droplet has no daemon, which would answer clients of a public address straight; use mode nat or vip option"
)
NO_OPTIONS = "its tunnels are VXLAN, which has no options; set tunnelProtocol to geneve, or leave out vip option"
_UNTRANSLATED = "its droplet has no daemon, which would write the member's address in place of the scaled endpoint's"
_NO_NAMESPACE = "its workload is not in a namespace of a droplet with a daemon, where alone it can be checked"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the host of a member said of it last."""

    droplet: str
    state: int
    reason: str


@dataclass(frozen=True, slots=True)
class _Standing:
    """Of a member: its number in the tables (0: as they are), and the word and reason for people."""

    number: int
    word: str
    reason: str = ""


class Services:
    """The scaled endpoints of all VPCs, and the endpoints that their selectors match."""

    def __init__(self, registry: Registry, public_of: PublicOf = lambda _: None) -> None:
        """`public_of`: the public addresses of a scaled endpoint."""
        self._registry = registry
        self._public_of = public_of
        self._of_vpc: dict[Ref, dict[str, Item]] = {}
        self._matched: dict[str, dict[str, Item]] = {}
        self._verdicts: dict[str, dict[str, Verdict]] = {}
        self._at: dict[tuple[int, bytes], Item] = {}
        self._bypassing: dict[str, set[str]] = {}

    def put(self, item: Item) -> None:
        """A scaled endpoint comes or changes."""
        endpoint = _endpoint(item)
        vpc = vpc_of(self._registry_find, endpoint)
        if vpc is None:
            return
        self._of_vpc.setdefault(vpc.ref, {})[item.uid] = item
        if (fact := self.fact(item)) is not None:
            self._at.update({(fact.vni, address): item for address in fact.addresses})
        found = self._matched[item.uid] = {}
        if endpoint.spec.selector:
            for other in self._endpoints_of(vpc):
                if self._selects(endpoint, other):
                    found[other.uid] = other

    def remove(self, item: Item) -> None:
        """A scaled endpoint goes."""
        for services in self._of_vpc.values():
            services.pop(item.uid, None)
        self._matched.pop(item.uid, None)
        self._verdicts.pop(item.uid, None)
        self._at = {key: service for key, service in self._at.items() if service.uid != item.uid}

    def touched_by(self, item: Item) -> list[Item]:
        """The scaled endpoints whose members change with this endpoint: it came, changed or goes."""
        if not self._of_vpc:
            return []
        endpoint = _endpoint(item)
        vpc = vpc_of(self._registry_find, endpoint)
        found = []
        for service in self._of_vpc.get(vpc.ref, {}).values() if vpc else ():
            spec, matched = _endpoint(service).spec, self._matched[service.uid]
            was = matched.pop(item.uid, None) is not None
            if item.deleting:
                self._verdicts.get(service.uid, {}).pop(item.uid, None)
            if not item.deleting and self._selects(_endpoint(service), item):
                matched[item.uid] = item
            named = service.resource.tenant == item.resource.tenant and any(
                member.endpoint == item.resource.name for member in spec.members
            )
            if (was or named or item.uid in matched) and not service.deleting:
                found.append(service)
        return found

    def fact(self, item: Item) -> ServiceFact | None:
        """What the planner has to know of a scaled endpoint."""
        endpoint = _endpoint(item)
        network = self._registry_find(Ref("Network", endpoint.tenant, endpoint.spec.network))
        vpc = vpc_of(self._registry_find, endpoint)
        if not isinstance(network, Network) or vpc is None:
            return None
        own = endpoint_fact(endpoint, network, vpc)
        members = tuple(
            MemberFact(found.uid, spec.weight, self._standing(item, spec, found).number)
            for spec, found in self.members(item)
            if found is not None
        )
        colocated = endpoint.spec.selection.value == "colocated"
        return ServiceFact(
            own.uid, own.vni, own.network_id, own.addresses, colocated, members, health_of(endpoint),
            listeners_of(endpoint), endpoint.spec.affinity is Affinity.CLIENT, self._public_of(endpoint),
        )  # fmt: skip

    def members(self, item: Item) -> Iterator[tuple[MemberSpec, Item | None]]:
        """Its members in order, those that are named first; None where there is no such endpoint (any more)."""
        endpoint, seen = _endpoint(item), set()
        for spec in endpoint.spec.members:
            found = self._registry.find(Ref("Endpoint", endpoint.tenant, spec.endpoint))
            found = None if found is None or found.deleting else found
            seen.add(found.uid if found else "")
            yield spec, found
        for other in list(self._matched.get(item.uid, {}).values())[: MOST_MEMBERS - len(seen)]:
            if other.uid not in seen and not other.deleting:
                yield MemberSpec(endpoint=other.resource.name), other

    def bypassing(self, item: Item) -> list[Item]:
        """The members of a scaled endpoint that bypass decapsulation, and those that did so the last time: what they
        may send from may have changed."""
        members = [] if item.deleting else [found for _, found in self.members(item) if found is not None]
        now = {found.uid for found in members if _endpoint(found).spec.bypass_decapsulation}
        before = self._bypassing.pop(item.uid, set())
        if now:
            self._bypassing[item.uid] = now
        return [found for uid in sorted(now | before) if (found := self._registry.by_uid(uid)) is not None]

    def answers(self, item: Item) -> set[bytes]:
        """The addresses of the scaled endpoints that an endpoint answers for: its droplet hands it what is addressed to
        these."""
        vpc = vpc_of(self._registry_find, _endpoint(item))
        found: set[bytes] = set()
        for service in self._of_vpc.get(vpc.ref, {}).values() if vpc else ():
            if item.uid in self._bypassing.get(service.uid, ()) and (fact := self.fact(service)) is not None:
                found.update(fact.addresses)
        return found

    def all(self, vpc: Ref | None = None) -> list[Item]:
        """Every one of them, or of a VPC."""
        if vpc is not None:
            return list(self._of_vpc.get(vpc, {}).values())
        return [item for items in self._of_vpc.values() for item in items.values()]

    def checked(self, droplet: str, row: pb.MemberHealth) -> Item | None:
        """Keeps what a droplet found out about a member; the scaled endpoint, where it is the droplet's to say."""
        service = self._at.get((row.vni, row.service))
        for _, found in self.members(service) if service else ():
            endpoint = _endpoint(found) if found else None
            if found and endpoint and parse_mac(endpoint.status.mac) == row.mac and endpoint.spec.droplet == droplet:
                verdicts = self._verdicts.setdefault(service.uid if service else "", {})
                verdicts[found.uid] = Verdict(droplet, int(row.state), row.reason)
                return service
        return None

    def verdicts(self) -> dict[str, dict[str, Verdict]]:
        """A copy of all that droplets found out: by uid of the scaled endpoint and of the member."""
        return {service: dict(found) for service, found in self._verdicts.items()}

    def adopt(self, verdicts: Mapping[str, Mapping[str, Verdict]]) -> None:
        """Takes what another one knew."""
        self._verdicts = {service: dict(found) for service, found in verdicts.items()}

    def _standing(self, service: Item, spec: MemberSpec, found: Item, *, straight: bool = True) -> _Standing:
        """What a member may get, if it has to answer `straight`. Whoever was not heard of leaves the tables as they
        are."""
        if _endpoint(service).spec.listeners and _endpoint(found).spec.bypass_decapsulation:
            return _Standing(3, "unknown", BYPASSES)
        well = _Standing(2, "draining") if spec.drain else _Standing(1, "healthy")
        member, public = _endpoint(found), self._public_of(_endpoint(service))
        by_option = public is not None and public.in_option
        if by_option and speaks_vxlan(self._registry_find, member):
            return _Standing(3, "unknown", NO_OPTIONS)
        if straight and not by_option and member.spec.workload is None:
            return _Standing(3, "unknown", CANNOT_ANSWER if public else _UNTRANSLATED)
        if not _endpoint(service).spec.health.checks:
            return well
        if not can_be_checked(member):
            return _Standing(3, "unknown", _NO_NAMESPACE)
        verdict = self._verdicts.get(service.uid, {}).get(found.uid)
        if verdict is None or verdict.droplet != member.spec.droplet:
            return _Standing(0, "unknown", f"droplet {member.spec.droplet} has not told of it")
        if verdict.state == _HEALTHY:
            return well
        if verdict.state == _DOWN:
            return _Standing(_DOWN, "down", verdict.reason)
        return _Standing(3, "unknown", verdict.reason)

    def told(self, item: Item, down_by: Callable[[str], list[str]]) -> dict[str, Any]:
        """What the status of a scaled endpoint says of its members; `down_by`: who calls a droplet down."""
        rows, endpoint = [], _endpoint(item)
        straight = not self._is_translated(endpoint)
        for spec, found in self.members(item):
            standing = self._standing(item, spec, found, straight=straight) if found else _Standing(0, "absent")
            host = _endpoint(found).spec.droplet if found else None
            if host and down_by(host):
                standing = _Standing(0, "down", f"droplet {host} is down")
            addresses = list(_endpoint(found).status.addresses) if found else []
            row = {"endpoint": spec.endpoint, "weight": spec.weight, "state": standing.word, "addresses": addresses}
            rows.append(row | ({"reason": standing.reason} if standing.reason else {}))
        ready = sum(row["state"] == "healthy" for row in rows)
        return {"members": rows, "ready": f"{ready}/{len(rows)}"}

    def standings(self, item: Item) -> Iterator[tuple[int, int, Endpoint]]:
        """Its members that are there, for one who translates their answers: weight, state in the tables (0: as they
        are), and who it is."""
        for spec, found in self.members(item):
            if found is not None:
                yield spec.weight, self._standing(item, spec, found, straight=False).number, _endpoint(found)

    def _selects(self, service: Endpoint, item: Item) -> bool:
        endpoint = _endpoint(item)
        return (
            endpoint.spec.type == "simple"
            and endpoint.tenant == service.tenant
            and (endpoint.spec.instance_of is None or endpoint.spec.instance_of != service.spec.instance_of)
            and matches(service.spec.selector, endpoint.metadata.labels)
            and families(service.status.addresses) <= families(endpoint.status.addresses)
        )

    def _endpoints_of(self, vpc: VPC) -> Iterator[Item]:
        item = self._registry.find(vpc.ref)
        for network in self._registry.children(item) if item else ():
            for endpoint in self._registry.children(network):
                if isinstance(endpoint.resource, Endpoint) and not endpoint.deleting:
                    yield endpoint

    def _is_translated(self, service: Endpoint) -> bool:
        """Whether what comes to its public addresses is translated both ways."""
        public = self._public_of(service)
        return public is not None and public.translated

    def _registry_find(self, ref: Ref) -> Resource | None:
        item = self._registry.find(ref)
        return item.resource if item else None


def speaks_vxlan(find: Find, member: Endpoint) -> bool:
    """Whether packets reach it in VXLAN, by its own word or its network's."""
    network = find(Ref("Network", member.tenant, member.spec.network))
    own = member.spec.tunnel_protocol or (network.spec.tunnel_protocol if isinstance(network, Network) else None)
    return own is TunnelProtocol.VXLAN


def can_be_checked(member: Endpoint) -> bool:
    """Whether the daemon of its droplet can ask it from inside of its namespace."""
    workload = member.spec.workload
    return workload is not None and workload.tap is None and workload.ovs is None


def listeners_of(service: Endpoint) -> tuple[ListenerEntry, ...]:
    """What it takes, in the order that droplets have them in; none: all."""
    listeners = service.spec.listeners
    return tuple(
        sorted(ListenerEntry(_PROTOCOLS[one.protocol], one.port, one.target_port or one.port) for one in listeners)
    )


def health_of(service: Endpoint) -> HealthEntry | None:
    """How the members of a scaled endpoint are checked."""
    spec: HealthSpec = service.spec.health
    if not spec.checks or spec.port is None:
        return None
    path = (spec.path or "/") if spec.type is HealthType.HTTP else ""
    return HealthEntry(spec.port, path, spec.interval_ms, spec.timeout_ms, spec.healthy_after, spec.unhealthy_after)


def vpc_of(find: Find, endpoint: Endpoint) -> VPC | None:
    """The VPC that an endpoint is in."""
    network = find(Ref("Network", endpoint.tenant, endpoint.spec.network))
    vpc = find(Ref("VPC", network.tenant, network.spec.vpc)) if isinstance(network, Network) else None
    return vpc if isinstance(vpc, VPC) else None


def families(addresses: tuple[str, ...]) -> set[bool]:
    """Of addresses or prefixes as text: whether each is IPv6."""
    return {":" in text for text in addresses}


def problems_of(find: Find, service: Endpoint, network: Network, foreign: str = _UNTRANSLATED) -> list[Problem]:
    """What speaks against the members that a scaled endpoint names. `foreign`: against those behind tunnel ends without
    a daemon; empty: nothing."""
    found: list[Problem] = []
    if not service.spec.members:
        return found
    vpc = vpc_of(find, service)
    needed = families(service.spec.addresses or network.spec.cidrs)
    seen: set[str] = set()
    for place, member in enumerate(service.spec.members):
        field, ref = f"spec.members[{place}].endpoint", Ref("Endpoint", service.tenant, member.endpoint)
        other = find(ref)
        message = ""
        if member.endpoint in seen:
            message = f"{member.endpoint} is a member already"
        elif ref == service.ref:
            message = "a scaled endpoint cannot be a member of itself"
        elif not isinstance(other, Endpoint):
            message = f"there is no {ref}"
        elif other.spec.type != "simple":
            message = f"{ref} is of type {other.spec.type}; expected a simple endpoint"
        elif vpc is None or vpc_of(find, other) != vpc:
            message = f"{ref} is in another VPC"
        elif foreign and other.spec.workload is None:
            message = f"{ref} cannot be a member: {foreign}"
        elif service.spec.health.checks and not can_be_checked(other):
            message = f"{ref} cannot be checked: {_NO_NAMESPACE}; leave health out, or type none"
        elif not needed <= families(other.status.addresses):
            message = f"{ref} lacks an address of a family that the scaled endpoint has"
        if message:
            found.append(Problem(message, field, str(service.ref)))
        seen.add(member.endpoint)
    return found


def _endpoint(item: Item) -> Endpoint:
    assert isinstance(item.resource, Endpoint)
    return item.resource
