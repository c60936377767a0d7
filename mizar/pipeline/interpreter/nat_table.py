# SPDX-License-Identifier: Apache-2.0
"""The interpreter's connection tracking and translation: what docs/nat.md says, in plain Python.

Owns the connections; the rules are the pipeline's (`nat_rules`), what a packet does to its connection is in
`nat_connection`, which ports are tried in `nat_choice`. Other engines are compared with this one. Never evicts a
connection that lives.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from mizar.pipeline.description import State
from mizar.pipeline.interpreter import nat_rules
from mizar.pipeline.interpreter.connection import Answer, Flow, Seen
from mizar.pipeline.interpreter.fragments import Fragments
from mizar.pipeline.interpreter.nat_choice import address_for, ports_for
from mizar.pipeline.interpreter.nat_connection import Connection, tick
from mizar.pipeline.interpreter.nat_mappings import End, Mappings, destination_end, source_end
from mizar.pipeline.interpreter.nat_reason import TOLD, Event, Reason
from mizar.pipeline.interpreter.nat_rules import Fixed
from mizar.pipeline.nat import Mapping, Masquerade, NatRules


@dataclass(slots=True)
class _Plan:
    """A connection that could be made; `inner` and `outer` are ends of a mapping that it would hold."""

    original: Flow
    becomes: Flow
    tenant: int
    inner: End | None = None
    outer: End | None = None


@dataclass(frozen=True, slots=True)
class _Refusal:
    reason: Reason
    tenant: int


@dataclass
class NatTable:
    """Rules and their connections; `room` bounds these (None: any number).

    `reasons` counts what was refused and why.
    """

    rules: NatRules = field(default_factory=NatRules)
    room: int | None = None
    reasons: Counter[Reason] = field(default_factory=Counter)
    events: list[Event] = field(default_factory=list)
    in_use: Counter[int] = field(default_factory=Counter)
    mappings: Mappings = field(default_factory=Mappings)
    _entries: dict[Flow, Connection] = field(default_factory=dict)
    _fragments: Fragments = field(default_factory=Fragments)

    def __len__(self) -> int:
        """How many connections there are, those that ran out and were not asked for since included."""
        return len(self._entries) // 2

    def connections(self, now_ns: int) -> Iterator[Connection]:
        """Every connection that lives, in the order of beginning."""
        for flow, connection in self._entries.items():
            if flow == connection.original and connection.lives(tick(now_ns), self.rules.timeouts):
                yield connection

    def look(self, seen: Seen, now_ns: int) -> Answer:
        """Established or related with its translation; new where a packet may begin a connection; else invalid."""
        self._fragments.note(seen, tick(now_ns))
        if seen.later:
            ports = self._fragments.ports(seen, tick(now_ns), self.rules.timeouts)
            if ports is None:
                return self._invalid(Reason.FRAGMENT_BEFORE_FIRST)
            seen = replace(seen, flow=replace(seen.flow, source_port=ports[0], destination_port=ports[1]))
        connection = self._find(seen.flow, now_ns)
        if connection is None:
            return Answer(State.NEW) if seen.may_begin else self._invalid(_why_invalid(seen))
        becomes = connection.translated(seen.flow)
        if seen.is_error:
            return Answer(State.RELATED, becomes)
        connection.saw(seen, tick(now_ns))
        return Answer(State.ESTABLISHED, becomes)

    def allocate(self, seen: Seen, now_ns: int) -> Flow | None:
        """The connection that begins with this packet: the one there is, or a new one; None, with a reason counted."""
        connection = self._find(seen.flow, now_ns)
        if connection is not None:
            return connection.translated(seen.flow)
        plan = self._plan(seen.flow, now_ns)
        if isinstance(plan, _Refusal):
            self._refuse(plan, seen.flow, now_ns)
            return None
        made = Connection(seen.flow, plan.becomes, plan.tenant)
        if plan.inner is not None and plan.outer is not None:
            made.inner, made.contact = plan.inner, seen.flow.destination
            self.mappings.hold(made, plan.inner, plan.outer, seen.flow.destination)
        made.begin(seen, tick(now_ns))
        self._entries[seen.flow] = self._entries[plan.becomes.reversed()] = made
        self.in_use[plan.tenant] += 1
        return plan.becomes

    def expire(self, now_ns: int) -> None:
        """Forgets every connection whose time is up."""
        for connection in list(dict.fromkeys(self._entries.values())):
            if not connection.lives(tick(now_ns), self.rules.timeouts):
                self._forget(connection)

    def _plan(self, flow: Flow, now_ns: int) -> _Plan | _Refusal:
        """What an engine would do with a new flow, nothing changed yet but what has run out."""
        source = nat_rules.source_of(self.rules, flow)
        inner = self._entered(flow, now_ns) if source is None else None
        tenant = flow.meta if source is not None else inner.meta if inner is not None else None
        if tenant is None:
            return _Refusal(Reason.NO_RULE, flow.meta)
        full = self._full(tenant)
        if full is not None:
            self.expire(now_ns)
            full = self._full(tenant)
        found: _Plan | Reason
        if full is not None:
            found = full
        elif isinstance(source, Masquerade):
            found = self._masqueraded(source, flow, now_ns)
        else:
            found = self._fixed(flow, source, inner, tenant, now_ns)
        return _Refusal(found, tenant) if isinstance(found, Reason) else found

    def _fixed(self, flow: Flow, source: Fixed | None, inner: Fixed | None, tenant: int, now_ns: int) -> _Plan | Reason:
        """By rules that leave no choice: from an address with one of its own, or to an outer end."""
        if source is not None:
            plan = self._turned(_Plan(flow, _from(flow, source), tenant), now_ns, fixed=True)
        else:
            assert inner is not None  # else there is no rule
            plan = _Plan(flow, _to(flow, inner), tenant)
        return self._if_free(plan, now_ns) or Reason.END_TAKEN

    def _masqueraded(self, rule: Masquerade, flow: Flow, now_ns: int) -> _Plan | Reason:
        address = int(address_for(rule, flow.source))
        mapped = rule.mapping is Mapping.ENDPOINT_INDEPENDENT
        inner = source_end(flow) if mapped else None
        known = None if inner is None else self._mapped(inner, now_ns)
        for port in [known[4]] if known is not None else ports_for(rule, flow):
            outer = (rule.outside, flow.version, flow.protocol, address, port)
            if mapped and known is None and self._taken(outer, now_ns):
                continue
            becomes = _from(flow, Fixed(rule.outside, address, port))
            plan = self._turned(_Plan(flow, becomes, flow.meta, inner, outer if mapped else None), now_ns)
            if self._if_free(plan, now_ns) is not None:
                return plan
        return Reason.PORTS_EXHAUSTED if known is None else Reason.END_TAKEN

    def _turned(self, plan: _Plan, now_ns: int, fixed: bool = False) -> _Plan:
        """Hairpin (RFC 4787 REQ-9): what goes to an outer end that lets it in goes to who is behind it.

        The source is the sender's outer end already. Of an ICMP query the id that it came with says whom it is for, and
        the sender's outer id goes on, for the reply.
        """
        flow = plan.becomes
        inner = self._entered(replace(flow, destination_port=plan.original.destination_port), now_ns)
        if inner is None:
            return plan
        if flow.protocol.startswith("icmp") and not fixed:
            inner = replace(inner, port=flow.source_port)
        return replace(plan, becomes=_to(flow, inner))

    def _entered(self, flow: Flow, now_ns: int) -> Fixed | None:
        """The inner end that a flow which comes to an outer end may begin a connection with."""
        found = nat_rules.destination_of(self.rules, flow)
        if found is not None:
            return found
        rule = nat_rules.rule_of_outer(self.rules, flow.meta, flow.version, flow.destination, flow.destination_port)
        outer = destination_end(flow)
        if rule is None or not self._taken(outer, now_ns):
            return None
        inner = self.mappings.entered(rule, flow)
        return None if inner is None else Fixed(inner[0], inner[3], inner[4])

    def _mapped(self, inner: End, now_ns: int) -> End | None:
        outer = self.mappings.outer.get(inner)
        return outer if outer is not None and self._taken(outer, now_ns) else None

    def _taken(self, outer: End, now_ns: int) -> bool:
        """Whether a mapping has this outer end; one whose connections have all run out is forgotten."""
        inner = self.mappings.inner.get(outer)
        if inner is None:
            return False
        for one in list(self.mappings.holders[inner]):
            if not one.lives(tick(now_ns), self.rules.timeouts):
                self._forget(one)
        return outer in self.mappings.inner

    def _if_free(self, plan: _Plan, now_ns: int) -> _Plan | None:
        """The plan, unless packets of another connection already come in under the same ends."""
        twin = plan.becomes.reversed()
        return plan if twin != plan.original and self._find(twin, now_ns) is None else None

    def _full(self, tenant: int) -> Reason | None:
        quota = self.rules.quota(tenant)
        if quota is not None and self.in_use[tenant] >= quota:
            return Reason.QUOTA_EXCEEDED
        return Reason.TABLE_FULL if self.room is not None and len(self) >= self.room else None

    def _find(self, flow: Flow, now_ns: int) -> Connection | None:
        connection = self._entries.get(flow)
        if connection is not None and not connection.lives(tick(now_ns), self.rules.timeouts):
            self._forget(connection)
            return None
        return connection

    def _forget(self, connection: Connection) -> None:
        del self._entries[connection.original], self._entries[connection.becomes.reversed()]
        self.in_use[connection.tenant] -= 1
        if connection.inner is not None and connection.contact is not None:
            self.mappings.release(connection, connection.inner, connection.contact)

    def _invalid(self, reason: Reason) -> Answer:
        self.reasons[reason] += 1
        return Answer(State.INVALID)

    def _refuse(self, refusal: _Refusal, flow: Flow, now_ns: int) -> None:
        self.reasons[refusal.reason] += 1
        if refusal.reason in TOLD:
            self.events.append(Event(now_ns, refusal.reason, refusal.tenant, flow))


def _from(flow: Flow, end: Fixed) -> Flow:
    """The flow from another source; an ICMP id is both ports."""
    port = end.port if flow.protocol.startswith("icmp") else flow.destination_port
    return replace(flow, meta=end.meta, source=end.address, source_port=end.port, destination_port=port)


def _to(flow: Flow, end: Fixed) -> Flow:
    port = end.port if flow.protocol.startswith("icmp") else flow.source_port
    return replace(flow, meta=end.meta, destination=end.address, destination_port=end.port, source_port=port)


def _why_invalid(seen: Seen) -> Reason:
    if seen.later:
        return Reason.FRAGMENT_WITHOUT_CONNECTION
    if seen.is_error:
        return Reason.ERROR_WITHOUT_CONNECTION
    return Reason.TCP_WITHOUT_CONNECTION if seen.flow.protocol == "tcp" else Reason.REPLY_WITHOUT_QUERY
