# SPDX-License-Identifier: Apache-2.0
"""What policies of one VPC are about: its endpoints, networks and policies as plain facts, and whom a policy means.
Pure.

Fed by mizar.manager.policies; read by policy_sets (what droplets need) and policy_findings (what people should know).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_network
from typing import NamedTuple

from mizar.model.addresses import Prefix, parse_prefix, to_mapped, within
from mizar.model.groups import Selector
from mizar.model.policy import Action, Mode, OnChange, Peer, PolicySpec, Rule
from mizar.planner.policy import ALLOW, AUDIT, KEEP, LOG, Matcher, rule_number
from mizar.planner.policy_peers import Area, area_of
from mizar.planner.policy_ports import Span


@dataclass(frozen=True, slots=True)
class EndpointView:
    """An endpoint as policies see it.

    `group_set`: the number that its packets tell, 0 for none; `told`: they tell it all the way, whatever the tunnel of
    who gets them. `policed`: its droplet can judge what it sends and gets.
    """

    uid: str
    name: str
    labels: Mapping[str, str]
    network: str
    groups: tuple[str, ...]
    group_set: int
    addresses: tuple[bytes, ...]
    told: bool
    policed: bool
    areas: tuple[Area, ...] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "areas", tuple(Area((to_mapped(one), 128)) for one in self.addresses))


@dataclass(frozen=True, slots=True)
class PolicyView:
    """A policy by uid, its id in the VPC, its name and what it says."""

    uid: str
    id: int
    name: str
    spec: PolicySpec

    def rules(self, egress: bool) -> tuple[Rule, ...] | None:
        """Of one direction; None where it says nothing about that."""
        return self.spec.egress if egress else self.spec.ingress

    @property
    def audits(self) -> bool:
        """Whether it only tells."""
        return self.spec.mode is Mode.AUDIT

    def rule_text(self, egress: bool, place: int) -> str:
        """A rule's name, for people."""
        direction = "egress" if egress else "ingress"
        return f"policy {self.name} {direction} rule {place + 1} (priority {self.spec.priority})"


class _Named(NamedTuple):
    """Endpoints that a peer names: their addresses, those of whom no number is told, and the numbers of the others."""

    everybody: tuple[Area, ...] = ()
    untold: tuple[Area, ...] = ()
    group_sets: frozenset[int] = frozenset()


_NOBODY = _Named()
Meant = dict[tuple[str | None, str], _Named]
"""By group, or by selector."""


@dataclass(slots=True)
class World:
    """One VPC. `networks`: prefixes of its subnets, by name; `groups`: names of its groups."""

    policies: dict[str, PolicyView] = field(default_factory=dict)
    endpoints: dict[str, EndpointView] = field(default_factory=dict)
    networks: dict[str, tuple[Prefix, ...]] = field(default_factory=dict)
    groups: set[str] = field(default_factory=set)

    def means(self, policy: PolicyView, endpoint: EndpointView) -> bool:
        """Whether an endpoint is among a policy's subjects."""
        subjects = policy.spec.subjects
        return (
            subjects.everybody
            or endpoint.name in subjects.names
            or endpoint.network in subjects.networks
            or any(group in subjects.groups for group in endpoint.groups)
            or (subjects.endpoints is not None and subjects.endpoints.holds(endpoint.labels))
        )

    def judging(self, policies: Iterable[PolicyView], egress: bool) -> tuple[PolicyView, ...]:
        """Those of an endpoint's policies that decide about a direction, in order. What only audits decides nothing
        beside what enforces."""
        about = [policy for policy in policies if policy.rules(egress) is not None]
        return _in_order([policy for policy in about if not policy.audits] or about)

    def beside(self, policies: Iterable[PolicyView], egress: bool) -> tuple[PolicyView, ...]:
        """All of an endpoint's policies about a direction, in order, where some enforce and others only audit: what
        would decide if these enforced as well. Else none."""
        about = [policy for policy in policies if policy.rules(egress) is not None]
        return _in_order(about) if len({policy.audits for policy in about}) == 2 else ()

    def missing(self, policy: PolicyView) -> Iterator[str]:
        """What a policy names that is not there."""
        subjects = policy.spec.subjects
        names = {endpoint.name for endpoint in self.endpoints.values()} if subjects.names else set()
        peers = [
            peer for rules in (policy.spec.ingress, policy.spec.egress) for rule in rules or () for peer in rule.peers
        ]
        groups = (*subjects.groups, *(peer.group for peer in peers if peer.group))
        networks = (*subjects.networks, *(peer.network for peer in peers if peer.network))
        yield from (f"there is no group {name}" for name in dict.fromkeys(groups) if name not in self.groups)
        yield from (f"there is no network {name}" for name in dict.fromkeys(networks) if name not in self.networks)
        yield from (f"there is no endpoint {name}" for name in subjects.names if name not in names)

    # ---- rules as packets meet them

    def matchers(
        self, policies: Iterable[PolicyView], egress: bool, *, by_address: bool = False
    ) -> list[tuple[PolicyView, int, Matcher]]:
        """The rules of policies about a direction, in the order in which they stand, each with its policy and place.

        `by_address`: members of groups stand as addresses, whatever their packets tell.
        """
        found = [(policy, place, rule) for policy in policies for place, rule in enumerate(policy.rules(egress) or ())]
        meant: Meant = {}
        found.sort(key=lambda one: (one[0].spec.priority, one[2].action is Action.ALLOW, one[0].name, one[1]))
        return [
            (policy, place, self._matcher(policy, egress, place, rule, by_address or egress, meant))
            for policy, place, rule in found
        ]

    def _matcher(
        self, policy: PolicyView, egress: bool, place: int, rule: Rule, by_address: bool, meant: Meant
    ) -> Matcher:
        areas: list[Area] = []
        group_sets: set[int] = set()
        for peer in rule.peers:
            by_name = self._meant_by(peer, meant)
            told = bool(peer.group) and not by_address
            group_sets |= by_name.group_sets if told else frozenset()
            areas += by_name.untold if told else by_name.everybody
            areas += self._areas(peer)
        return Matcher(
            rule_number(policy.id, egress, place),
            _action(policy, rule),
            not rule.peers,
            tuple(areas),
            frozenset(group_sets),
            tuple(Span(ports.number, *ports.range) for ports in rule.ports),
        )

    def _meant_by(self, peer: Peer, meant: Meant) -> _Named:
        """The endpoints that a peer names by group or labels; many rules name the same, so `meant` remembers them."""
        if peer.group is None and peer.endpoints is None:
            return _NOBODY
        key = peer.group, peer.endpoints.model_dump_json() if peer.endpoints is not None else ""
        if key not in meant:
            found = [one for one in self.endpoints.values() if is_meant(peer.group, peer.endpoints, one)]
            meant[key] = _Named(
                tuple(area for one in found for area in one.areas),
                tuple(area for one in found if not one.told for area in one.areas),
                frozenset(one.group_set for one in found if one.told),
            )
        return meant[key]

    def _areas(self, peer: Peer) -> Iterator[Area]:
        if peer.cidr is not None:
            yield area_of(parse_prefix(peer.cidr), map(parse_prefix, peer.except_))
        for prefix in self.networks.get(peer.network or "", ()):
            others = (other for name, prefixes in self.networks.items() if name != peer.network for other in prefixes)
            yield area_of(prefix, (other for other in others if within(other, prefix)))


def _in_order(policies: Iterable[PolicyView]) -> tuple[PolicyView, ...]:
    return tuple(sorted(policies, key=lambda policy: (policy.spec.priority, policy.name)))


def is_meant(group: str | None, selector: Selector | None, endpoint: EndpointView) -> bool:
    """Whether a peer of that group, or with that selector, means an endpoint."""
    if group is not None:
        return group in endpoint.groups
    return selector is not None and selector.holds(endpoint.labels)


def _action(policy: PolicyView, rule: Rule) -> int:
    """As enum policy_action."""
    action = LOG if rule.log else 0
    if rule.action is Action.ALLOW:
        return action | ALLOW | (KEEP if policy.spec.on_change is OnChange.KEEP else 0)
    return action | (AUDIT if policy.audits else 0)


def host_of(address: bytes) -> Prefix:
    """The prefix that holds one address alone."""
    return ip_network((address, 8 * len(address)))
