# SPDX-License-Identifier: Apache-2.0
"""Planning of policies: sets of rules, and the records of endpoints that are judged by them.

A base of `batch.Plan`. Readers in the data plane never meet half of a set: what cannot change row by row gets another
number, is written whole, and takes the place of the old one in the records. A record's generation is raised last, so
that nothing judged by old rows bears it. It must never do I/O, but asks for the time.
"""

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from mizar.kernel.layout import constant
from mizar.model.errors import ExhaustedError, NotFoundError
from mizar.transit import network_acls, services
from mizar.transit.entries import Op, Rows
from mizar.transit.errors import InUseError
from mizar.transit.network_acls import NetworkAclPlan
from mizar.transit.policy_values import (
    GRACE_TICKS,
    NOT_BOUND,
    SETS_OF_A_RECORD,
    TABLES,
    Judged,
    PolicySet,
    PolicySetId,
    Raw,
    ranked,
    raw_rows,
)
from mizar.transit.state import State
from mizar.transit.values import Local, Wanted


class PolicyPlan(NetworkAclPlan):
    """A plan in the making."""

    def put_policy_set(self, new: PolicySet) -> bool:
        """Plan a set of rules, new or changed; False when it is there already."""
        state, journal = self.state, self.journal
        if new.vni not in state.vpcs:
            raise NotFoundError(f"VPC {new.vni} is not known; put it first")
        old = state.policy_sets.get(new.key)
        if old is not None and replace(new, number=old.number) == old:
            return False
        self._check_room(new)
        in_place = old is not None and _same_order(old, new)
        number = old.number if old is not None and in_place else journal.take(state.policy_slots)
        rules = replace(new, number=number)
        journal.put(state.policy_sets, rules.key, rules)
        before = raw_rows(old) if old is not None and in_place else dict[str, Raw]()
        after = raw_rows(rules)
        self.ops += [rows for table in TABLES if (rows := _written(table, before.get(table, {}), after[table]))]
        if old is None or not in_place:
            self.ops.append(note_put(rules))
        gone = [rows for table in TABLES if (rows := _removed(table, before.get(table, {}), after[table]))]
        self.ops += [rows for rows in gone if rows.table != "policy_verdicts"]
        for uid in list(users(state, rules.key)):
            self._raise(state.locals[uid])
        if not in_place:
            self.ops += [op for acl in network_acls.judged_by(state, rules.key) for op in network_acls.rows(state, acl)]
        self.ops += [rows for rows in gone if rows.table == "policy_verdicts"]
        if old is not None and not in_place:
            self._drop(old)
        return True

    def delete_policy_set(self, key: PolicySetId) -> bool:
        """Plan the end of a set; False when it is not there."""
        old = self.state.policy_sets.get(key)
        if old is None:
            return False
        user = next(users(self.state, key), None)
        if user is not None:
            raise InUseError(f"{old} is still in use by local endpoint {user}; bind that to another first")
        acl = next(network_acls.judged_by(self.state, key), None)
        if acl is not None:
            raise InUseError(f"{old} is still in use by the {acl}; bind that to another first")
        self.journal.drop(self.state.policy_sets, key)
        self._drop(old)
        return True

    def refuse_ruled(self, vni: int) -> None:
        """Raise when a VPC still has sets of rules, or networks that are judged."""
        acls = (one for one in self.state.network_acls.values() if one.vni == vni)
        found = next(acls, None) or next((one for one in self.state.policy_sets.values() if one.vni == vni), None)
        if found:
            raise InUseError(f"VPC {vni} still has a {found}; delete that first")

    def check_local(self, wanted: Wanted) -> None:
        """Raises what would keep an endpoint from being put here."""
        super().check_local(wanted)
        for number in sorted(wanted.policy.sets):
            if (wanted.endpoint.vni, number) not in self.state.policy_sets:
                what = f"the set of rules {number:016x} of VPC {wanted.endpoint.vni}"
                raise NotFoundError(f"{what} is not known; put it first")

    def put_local(self, wanted: Wanted, host_interface: str, ifindex: int) -> Local:
        """As of any endpoint. Its record is there before its agent, or anybody who has packets for it, asks for it."""
        before, at = self.state.locals.get(wanted.uid), len(self.ops)
        local = super().put_local(wanted, host_interface, ifindex)
        rest = self.ops[at:]
        del self.ops[at:]
        bound, was_bound = wanted.policy != NOT_BOUND, before is not None and before.wanted.policy != NOT_BOUND
        if bound and (before is None or before.wanted.policy != wanted.policy):
            self._raise(local, young=before is not None and not was_bound)
        self.ops += rest
        if was_bound and not bound:
            self.journal.drop(self.state.judged, wanted.uid)
            self.ops.append(Op("endpoint_policies", local.slot, {}))
        if bound != was_bound:
            self.ops += services.follow_members(self.state, local)
        return local

    def delete_local(self, uid: str) -> Local | None:
        """As of any endpoint; its record goes last."""
        local = super().delete_local(uid)
        if local is not None and uid in self.state.judged:
            self.journal.drop(self.state.judged, uid)
            self.ops.append(Op("endpoint_policies", local.slot, {}))
        return local

    def _raise(self, local: Local, *, young: bool = False) -> None:
        """The record of an endpoint whose sets, or what they hold, have changed: sets first, then the generation.
        `young`: it was there without one, so that some of its connections have no flow."""
        state, uid = self.state, local.wanted.uid
        old = state.judged.get(uid)
        generation = state.next_generation()
        if old is not None:
            self.ops.append(record_put(state, local, old))
        until = old.grace_until if old else (now_tick() + GRACE_TICKS if young else 0)
        judged = Judged(old.since if old else generation, generation, until)
        self.journal.put(state.judged, uid, judged)
        self.ops.append(record_put(state, local, judged))

    def _drop(self, old: PolicySet) -> None:
        self.ops.append(Op("policy_sets", old.number, None))
        rows = raw_rows(old)
        self.ops += [found for table in reversed(TABLES) if (found := _removed(table, rows[table], {}))]
        self.journal.give_back(self.state.policy_slots, old.number)

    def _check_room(self, new: PolicySet) -> None:
        """Both are held for a moment."""
        limit = self.state.limits.policy_rows
        for what in ("peers", "verdicts", "groups"):
            size = {"peers": 21, "verdicts": 17, "groups": 8}[what]
            held = sum(len(getattr(one, what)) for one in self.state.policy_sets.values())
            asked = (held + len(getattr(new, what))) // size
            if asked > limit:
                raise ExhaustedError(
                    f"the {what} of all sets of rules, {asked}, are more than {limit}; use fewer rules, "
                    "or start the daemon with a larger --max-policy-rows"
                )


def now_tick() -> int:
    """As flows are stamped."""
    return (time.monotonic_ns() >> constant("FLOW_STAMP_SHIFT")) & 0xFFFFFFFF


def users(state: State, key: PolicySetId) -> Iterator[str]:
    """The endpoints that are bound to a set, by uid."""
    vni, number = key
    for uid, local in list(state.locals.items()):  # others come and go meanwhile
        if local.endpoint.vni == vni and number in local.wanted.policy.sets:
            yield uid


def implied(state: State) -> Iterator[Op]:
    """What maps hold because of policies, but for the rows of sets (`policy_audit` looks at those)."""
    for rules in state.policy_sets.values():
        yield note_put(rules)
    for uid, judged in state.judged.items():
        yield record_put(state, state.locals[uid], judged)
    yield from network_acls.implied(state)


def note_put(rules: PolicySet) -> Op:
    """What a number stands for."""
    return Op("policy_sets", rules.number, {"id": rules.id, "vni": rules.vni})


def record_put(state: State, local: Local, judged: Judged) -> Op:
    """What an endpoint is judged by."""
    binding, vni = local.wanted.policy, local.endpoint.vni
    flags = constant("POLICY_AUDIT_INGRESS") if binding.audit_ingress else 0
    flags |= constant("POLICY_AUDIT_EGRESS") if binding.audit_egress else 0
    ways = ((way, getattr(binding, way)) for way in SETS_OF_A_RECORD)
    value: dict[str, Any] = {
        **{way: state.policy_sets[vni, number].number if number else 0 for way, number in ways},
        "flags": flags,
        "since": judged.since,
        "generation": judged.generation,
        "grace_until": judged.grace_until,
        "vni": vni,
    }
    return Op("endpoint_policies", local.slot, value)


def _same_order(old: PolicySet, new: PolicySet) -> bool:
    """Whether rows of both may stand beside one another for a moment: a rank means the same in both."""
    was, will_be = ranked(old), ranked(new)
    return all(will_be.get(rank, found) == found for rank, found in was.items())


def _written(table: str, before: Raw, after: Raw) -> Rows | None:
    if not before:
        return Rows(table, tuple((key, None, value) for key, value in after.items())) if after else None
    changed = [(key, before.get(key), value) for key, value in after.items() if before.get(key) != value]
    return Rows(table, tuple(changed)) if changed else None


def _removed(table: str, before: Raw, after: Raw) -> Rows | None:
    gone = [(key, value, None) for key, value in before.items() if key not in after]
    return Rows(table, tuple(gone)) if gone else None
