# SPDX-License-Identifier: Apache-2.0
"""Which sets of rules the endpoints of a VPC need, and what is in them, as endpoints, groups and policies change. Pure.

Owned by mizar.manager.policies. Endpoints that the same policies judge share a set. A change of an endpoint looks at
the policies of its VPC and makes anew only those sets in which it is a peer.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from mizar.model.addresses import Prefix
from mizar.model.errors import ExhaustedError
from mizar.model.groups import Selector
from mizar.model.policy import Peer
from mizar.model.policy_rows import GROUP, PEER, VERDICT
from mizar.planner.entries import NOT_POLICED, PolicyBinding, PolicySetEntry
from mizar.planner.policy import Tables, compile_rules
from mizar.planner.policy_world import EndpointView, PolicyView, World, is_meant

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Set:
    """A set in use; `users`: the endpoints that are bound to it."""

    id: int
    policies: tuple[PolicyView, ...]
    egress: bool
    entry: PolicySetEntry
    users: set[str] = field(default_factory=set)

    @property
    def terms(self) -> Iterable[tuple[str | None, Selector | None]]:
        """Peers of its rules that follow from endpoints."""
        return ((peer.group, peer.endpoints) for peer in self.peers if peer.group or peer.endpoints is not None)

    @property
    def peers(self) -> Iterable[Peer]:
        """All that its rules name."""
        return (peer for policy in self.policies for rule in policy.rules(self.egress) or () for peer in rule.peers)


@dataclass(slots=True)
class Effects:
    """What a change asks for at once: new sets, sets that nobody needs any more, and endpoints (by uid) that are bound
    to others. What is in sets follows with `settle`."""

    sets: dict[int, PolicySetEntry] = field(default_factory=dict)
    unused: set[int] = field(default_factory=set)
    endpoints: dict[str, None] = field(default_factory=dict)


class PolicySets:
    """The sets of one VPC."""

    def __init__(self, vni: int) -> None:
        self.world = World()
        self.vni = vni
        self.version = 0
        """Another after each change."""
        self._sets: dict[int, _Set] = {}
        self._selected: dict[str, set[str]] = {}  # policy → endpoints
        self._selecting: dict[str, set[str]] = {}  # endpoint → policies
        self._bindings: dict[str, PolicyBinding] = {}
        self._stale: dict[int, dict[str, None]] = {}  # sets to be made anew → who is the cause, by uid

    def binding(self, uid: str) -> PolicyBinding:
        """By which sets an endpoint is judged."""
        return self._bindings.get(uid, NOT_POLICED)

    def selected(self, policy: str) -> set[str]:
        """The endpoints that a policy selects."""
        return self._selected.get(policy, set())

    def companies(self, policy: PolicyView, *, egress: bool) -> Iterator[tuple[PolicyView, ...]]:
        """The policies that decide together for some endpoint that one selects, it among them; where it selects none,
        those that select all. It may be another than the one that is known by its uid."""
        world = self.world
        same = world.policies.get(policy.uid) is policy
        uids = self.selected(policy.uid) if same else self._would_select(policy)
        keys = {frozenset({*self._selecting.get(uid, ()), policy.uid}) for uid in uids}
        everybody = (one.uid for one in world.policies.values() if one.spec.subjects.everybody)
        for key in keys or {frozenset({*everybody, policy.uid})}:
            others = (world.policies[uid] for uid in key if uid != policy.uid and uid in world.policies)
            company = policy, *others
            together = world.judging(company, egress)
            if policy.audits and policy not in together:
                together = world.beside(company, egress)
            if policy in together:
                yield together

    def _would_select(self, policy: PolicyView) -> Iterable[str]:
        return (uid for uid, endpoint in self.world.endpoints.items() if self._selects(policy, endpoint))

    # ---- changes

    def put_endpoint(self, new: EndpointView) -> Effects:
        """An endpoint comes, or its labels or groups change."""
        old, effects = self.world.endpoints.get(new.uid), Effects()
        if old == new:
            return effects
        self.version += 1
        self.world.endpoints[new.uid] = new
        self._follow_peer(old, new)
        policies = {policy.uid for policy in self.world.policies.values() if self._selects(policy, new)}
        for policy in policies ^ self._selecting.get(new.uid, set()):
            self._selected[policy] ^= {new.uid}
        self._selecting[new.uid] = policies
        self._bind(new.uid, effects)
        return effects

    def remove_endpoint(self, uid: str) -> Effects:
        """An endpoint goes."""
        old, effects = self.world.endpoints.pop(uid, None), Effects()
        if old is None:
            return effects
        self.version += 1
        for policy in self._selecting.pop(uid, set()):
            self._selected[policy].discard(uid)
        self._bind(uid, effects)
        self._follow_peer(old, None)
        effects.endpoints.pop(uid, None)
        return effects

    def put_policy(self, new: PolicyView) -> Effects:
        """A policy comes or changes."""
        old, effects = self.world.policies.get(new.uid), Effects()
        if old == new:
            return effects
        self.world.policies[new.uid] = new
        self.version += 1
        before = self._selected.get(new.uid, set())
        after = {uid for uid, endpoint in self.world.endpoints.items() if self._selects(new, endpoint)}
        self._selected[new.uid] = after
        for uid in before ^ after:
            self._selecting.setdefault(uid, set()).symmetric_difference_update({new.uid})
        self._renew(new.uid)
        for uid in before | after:
            self._bind(uid, effects)
        return effects

    def remove_policy(self, uid: str) -> Effects:
        """A policy goes."""
        effects = Effects()
        if self.world.policies.pop(uid, None) is None:
            return effects
        self.version += 1
        for endpoint in self._selected.pop(uid, set()):
            self._selecting[endpoint].discard(uid)
            self._bind(endpoint, effects)
        return effects

    def put_network(self, name: str, prefixes: tuple[Prefix, ...] | None) -> None:
        """A subnet comes, or goes: what rules mean by it, or by one around it."""
        if self.world.networks.get(name) == prefixes:
            return
        self.version += 1
        if prefixes is None:
            del self.world.networks[name]
        else:
            self.world.networks[name] = prefixes
        for one in list(self._sets.values()):
            if any(peer.network for peer in one.peers):
                self._stale.setdefault(one.id, {})

    def settle(self) -> Iterator[tuple[PolicySetEntry, Iterable[str]]]:
        """Sets that are other than before what was put and removed since the last time, each once, and on whose behalf:
        many changes of endpoints may be changes of one large set."""
        stale, self._stale = self._stale, {}
        for number, causes in stale.items():
            one = self._sets.get(number)
            if one is not None and self._make_anew(one):
                yield one.entry, causes

    # ---- what follows

    def _selects(self, policy: PolicyView, endpoint: EndpointView) -> bool:
        return endpoint.policed and self.world.means(policy, endpoint)

    def _follow_peer(self, old: EndpointView | None, new: EndpointView | None) -> None:
        """Sets that mean an endpoint as a peer, or no more, or as another than before."""
        telling = old is None or new is None or (old.addresses, old.group_set, old.told) != (
            new.addresses, new.group_set, new.told,
        )  # fmt: skip
        for one in list(self._sets.values()):
            for group, selector in one.terms:
                was = old is not None and is_meant(group, selector, old)
                now = new is not None and is_meant(group, selector, new)
                if was != now or (now and telling):
                    self._stale.setdefault(one.id, {})[(new or old).uid] = None  # type: ignore[union-attr]
                    break

    def _renew(self, policy: str) -> None:
        """The sets in which a policy's rules are."""
        for one in list(self._sets.values()):
            if any(part.uid == policy for part in one.policies):
                one.policies = tuple(self.world.policies[part.uid] for part in one.policies)
                self._stale.setdefault(one.id, {})[policy] = None

    def _make_anew(self, one: _Set) -> bool:
        """Whether it is another one now."""
        try:
            entry = self._entry(one.id, one.policies, one.egress)
        except ExhaustedError as error:  # apply refuses such rules; a group that grew into them keeps what it had
            log.error("policy_set_too_large vni=%s set=%s reason=%s", self.vni, one.id, error)
            return False
        changed, one.entry = entry != one.entry, entry
        return changed

    def _bind(self, uid: str, effects: Effects) -> None:
        """An endpoint's sets, as its policies are now."""
        old = self.binding(uid)
        policies = [self.world.policies[one] for one in self._selecting.get(uid, ()) if one in self.world.policies]
        sets = [
            self._use(uid, select(policies, direction), direction, effects)
            for select in (self.world.judging, self.world.beside)
            for direction in (False, True)
        ]
        ids = [one.id if one else 0 for one in sets]
        new = PolicyBinding(ids[0], ids[1], _audits(sets[0]), _audits(sets[1]), ids[2], ids[3])
        for gone in old.sets - new.sets:
            self._leave(uid, gone, effects)
        if new == NOT_POLICED:
            self._bindings.pop(uid, None)
        else:
            self._bindings[uid] = new
        if new != old:
            effects.endpoints[uid] = None

    def _use(self, uid: str, judging: tuple[PolicyView, ...], egress: bool, effects: Effects) -> _Set | None:
        if not judging:
            return None
        number = _id(judging, egress)
        one = self._sets.get(number)
        if one is None:
            entry = self._entry_or_nothing(number, judging, egress)
            one = self._sets[number] = _Set(number, judging, egress, entry)
            effects.sets[number] = entry
            effects.unused.discard(number)
        one.users.add(uid)
        return one

    def _leave(self, uid: str, number: int, effects: Effects) -> None:
        one = self._sets.get(number)
        if one is not None:
            one.users.discard(uid)
            if not one.users:
                del self._sets[number]
                effects.sets.pop(number, None)
                effects.unused.add(number)

    def _entry_or_nothing(self, number: int, policies: tuple[PolicyView, ...], egress: bool) -> PolicySetEntry:
        """Rules that are too many, which apply refuses but a group that grows does not, allow nothing."""
        try:
            return self._entry(number, policies, egress)
        except ExhaustedError as error:
            log.error("policy_set_too_large vni=%s set=%s reason=%s", self.vni, number, error)
            return PolicySetEntry(self.vni, number, b"", b"", b"")

    def _entry(self, number: int, policies: tuple[PolicyView, ...], egress: bool) -> PolicySetEntry:
        rules = [matcher for _, _, matcher in self.world.matchers(policies, egress)]
        return PolicySetEntry(self.vni, number, *rows_of(compile_rules(rules)))


def rows_of(tables: Tables) -> tuple[bytes, bytes, bytes]:
    """Peers, groups and verdicts as messages bear them, each ascending."""
    peers = sorted(PEER.pack(*place, number) for place, number in tables.peers.items())
    groups = sorted(GROUP.pack(*pair) for pair in tables.groups.items())
    verdicts = sorted(
        VERDICT.pack(number, row.protocol, row.port, row.bits, row.rank, row.action, row.rule)
        for number, rows in tables.classes.items()
        for row in rows
    )
    return b"".join(peers), b"".join(groups), b"".join(verdicts)


def _audits(one: _Set | None) -> bool:
    return one is not None and all(policy.audits for policy in one.policies)


def _id(policies: Iterable[PolicyView], egress: bool) -> int:
    """The same for the same policies, also by another server."""
    text = f"{egress:d} {' '.join(sorted(policy.uid for policy in policies))}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") or 1
