# SPDX-License-Identifier: Apache-2.0
"""Planning of limits: the limiters that endpoints of this droplet share, and the record of each endpoint.

A base of `batch.Plan`. Endpoints bring their network's and their VPC's rates along, and the last word about those
counts for all. A limiter is there before a record refers to it, and stays until none does. It must never do I/O.
"""

import time
from collections.abc import Iterator
from typing import Any

from mizar.kernel.layout import constant
from mizar.kernel.shaper import MAJOR, MOST, REST, ShapedClass
from mizar.kernel.tables import Tables
from mizar.transit.endpoints import EndpointPlan
from mizar.transit.entries import Op
from mizar.transit.limit_values import (
    NO_QOS,
    UNLIMITED,
    Limiter,
    LimiterKey,
    Qos,
    Rate,
    key_of,
    limiter_value,
    rate_of,
    uplink_value,
)
from mizar.transit.services import follow_members
from mizar.transit.state import State
from mizar.transit.values import Local, Wanted

LIMITED = frozenset({"LIMIT_EGRESS", "LIMIT_INGRESS", "UPLINK_FULL"})
"""Reasons of drops."""
EGRESS, INGRESS = 0, 1
"""enum limit_direction."""
_PLACES = 3
"""Below it, in enum limit_place, are limits; above, a guarantee."""


class LimitPlan(EndpointPlan):
    """A plan in the making."""

    def put_local(self, wanted: Wanted, host_interface: str, ifindex: int) -> Local:
        """As of any endpoint. Its limiters and its record are there before its agent asks for them."""
        before, at = self.state.locals.get(wanted.uid), len(self.ops)
        local = super().put_local(wanted, host_interface, ifindex)
        old, new = before.wanted.qos if before else NO_QOS, wanted.qos
        if old == new and (before is None or _is_shared_alike(before, local)):
            return local
        rest = self.ops[at:]
        del self.ops[at:]
        for key, rate in rates(local):
            self._keep(key, rate)
        changed = self._count_unshaped(local, 1)
        if new != NO_QOS:
            self.ops.append(record_put(self.state, local))
        self.ops += rest
        if new == NO_QOS:
            self.ops.append(Op("endpoint_limits", local.slot, {}))
        if before is not None:
            changed |= self._count_unshaped(before, -1)
            self._let_go(before)
        self._put_sharers(changed)
        if (old == NO_QOS) != (new == NO_QOS):
            self.ops += follow_members(self.state, local)
        return local

    def delete_local(self, uid: str) -> Local | None:
        """As of any endpoint; its record goes last, and what nobody else shares."""
        local = super().delete_local(uid)
        if local is not None and local.wanted.qos != NO_QOS:
            self.ops.append(Op("endpoint_limits", local.slot, {}))
            changed = self._count_unshaped(local, -1)
            self._let_go(local)
            self._put_sharers(changed)
        return local

    def _count_unshaped(self, local: Local, by: int) -> set[LimiterKey]:
        """Of its limiters, those that thereby begin or cease to be shaped for all who share them."""
        changed = set()
        for key in unshaped(self.state, local):
            was = self.state.uses["unshaped", key]
            self.journal.count(self.state.uses, ("unshaped", key), by)
            if not was or not was + by:
                changed.add(key)
        return changed

    def _put_sharers(self, changed: set[LimiterKey]) -> None:
        for other in self.state.locals.values() if changed else ():
            if any(key in changed for key, _ in rates(other)):
                self.ops.append(record_put(self.state, other))

    def _keep(self, key: LimiterKey, rate: Rate) -> None:
        state, journal = self.state, self.journal
        held = state.limiters.get(key)
        journal.count(state.uses, ("limiter", key), 1)
        if held is not None and held.rate == rate:
            return
        slot = held.slot if held else journal.take(state.limiter_slots)
        journal.put(state.limiters, key, Limiter(key, slot, rate))
        if held is None:
            self.ops.append(Op("limiter_states", slot, {}))
        self.ops.append(Op("limiters", slot, limiter_value(key, rate)))

    def _let_go(self, local: Local) -> None:
        state, journal = self.state, self.journal
        for key, _ in rates(local):
            journal.count(state.uses, ("limiter", key), -1)
            if not state.uses["limiter", key]:
                slot = state.limiters[key].slot
                journal.drop(state.limiters, key)
                journal.give_back(state.limiter_slots, slot)
                self.ops.append(Op("limiters", slot, {}))


def _is_shared_alike(one: Local, other: Local) -> bool:
    return one.endpoint.network_id == other.endpoint.network_id and one.wanted.bypass == other.wanted.bypass


def rates(local: Local) -> Iterator[tuple[LimiterKey, Rate]]:
    """The limiters of an endpoint, with the rates that it brought along."""
    vni, network_id = local.endpoint.vni, local.endpoint.network_id
    qos, owners = local.wanted.qos, (local.slot, network_id, 0)
    for direction, chain in ((EGRESS, qos.egress), (INGRESS, qos.ingress)):
        for place, rate in enumerate(chain):
            if rate != UNLIMITED:
                yield (place, direction, vni, owners[place]), rate
    if qos.guarantee != UNLIMITED:
        yield (constant("LIMIT_GUARANTEE"), EGRESS, vni, local.slot), qos.guarantee


def unshaped(state: State, local: Local) -> list[LimiterKey]:
    """Limiters of bits of an endpoint that it keeps others out of the shaper with.

    A limit that some wait for and others are policed by would have two clocks, and let pass twice what it is.
    """
    keys = [key for key, rate in rates(local) if key[0] < _PLACES and rate.bits_per_second]
    found = [key for key in keys if key[1] == INGRESS] if local.wanted.bypass else []
    for direction in (EGRESS, INGRESS):
        one = [key for key in keys if key[1] == direction]
        if any(key in state.limiters and state.limiters[key].slot > MOST for key in one):
            found += [key for key in one if key not in found]
    return found


def shaped_classes(state: State) -> dict[int, ShapedClass]:
    """The shaper's tree: a class for each limiter of bits, below that of what is around it. Those of networks and VPCs
    have a leaf for endpoints without a limit of their own."""
    found: dict[int, ShapedClass] = {}
    for local in state.locals.values():
        for direction in (EGRESS, INGRESS):
            chain = _chain(state, local, direction)
            for number, (place, limiter) in enumerate(chain):
                parent = chain[number + 1][1].slot if number + 1 < len(chain) else 0
                rate = limiter.rate
                leaf = place == 0
                found[limiter.slot] = ShapedClass(rate.bits_per_second, rate.burst_bytes, parent, leaf)
                if not leaf:
                    below = ShapedClass(rate.bits_per_second, rate.burst_bytes, limiter.slot, leaf=True)
                    found[REST | limiter.slot] = below
    return found


def _chain(state: State, local: Local, direction: int) -> list[tuple[int, Limiter]]:
    """The limiters of bits that hold for an endpoint in one direction, from the inside out; none where they are not
    shaped."""
    if direction == EGRESS and state.limits.paced:
        return []
    keys = [key for key, rate in rates(local) if key[1] == direction and key[0] < _PLACES and rate.bits_per_second]
    if any(state.uses["unshaped", key] for key in keys):
        return []
    return [(key[0], state.limiters[key]) for key in keys if key in state.limiters]


def _class_of(state: State, local: Local, direction: int) -> int:
    """Where its packets wait, as skb->priority has it; 0: nowhere."""
    chain = _chain(state, local, direction)
    if not chain:
        return 0
    place, limiter = chain[0]
    return MAJOR | limiter.slot | (REST if place else 0)


def record_put(state: State, local: Local) -> Op:
    """Which limiters hold for an endpoint, and how it is marked."""
    slots: dict[tuple[int, int], int] = {key[:2]: state.limiters[key].slot for key, _ in rates(local)}
    dscp = local.wanted.qos.dscp
    value = {
        "egress": tuple(slots.get((place, EGRESS), 0) for place in range(3)),
        "ingress": tuple(slots.get((place, INGRESS), 0) for place in range(3)),
        "guarantee": slots.get((constant("LIMIT_GUARANTEE"), EGRESS), 0),
        "dscp": 0 if dscp is None else constant("DSCP_MARKED") | dscp,
        "egress_class": _class_of(state, local, EGRESS),
        "ingress_class": _class_of(state, local, INGRESS),
    }
    return Op("endpoint_limits", local.slot, value)


def limit_text(state: State, slot: int) -> tuple[str, str]:
    """Whose a limit is, by its slot, and what it is: "endpoint", "egress: 10000000 bit/s". Empty where it has just
    gone."""
    if slot == constant("LIMITER_UPLINK"):
        return "uplink", f"{state.limits.uplink.bits_per_second} bit/s"
    found = next((one for one in list(state.limiters.values()) if one.slot == slot), None)
    if found is None:
        return "", ""
    place, direction = found.key[:2]
    rate = found.rate
    parts = [f"{rate.bits_per_second} bit/s"] if rate.bits_per_second else []
    parts += [f"{rate.packets_per_second} packets/s"] if rate.packets_per_second else []
    return ("endpoint", "network", "vpc")[place], f"{('egress', 'ingress')[direction]}: {', '.join(parts)}"


def waits(state: State, local: Local) -> bool:
    """Whether what an endpoint sends waits in the shaper."""
    return bool(_chain(state, local, EGRESS))


def used_up(tables: Tables, state: State, local: Local) -> str:
    """Whose limit keeps an endpoint from sending just now, from the inside out; empty: none (any more)."""
    now = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    for key, _ in rates(local):
        limiter = state.limiters.get(key)
        if key[1] != EGRESS or key[0] >= _PLACES or limiter is None:
            continue
        held, clock = tables.limiters.get(limiter.slot) or {}, tables.limiter_states.get(limiter.slot) or {}
        for of in ("byte", "packet"):
            if held.get(f"{of}_cost") and clock.get(f"{of}s_due", 0) > now + held[f"{of}_burst_ns"]:
                return limit_text(state, limiter.slot)[0]
    return ""


def implied(state: State) -> Iterator[Op]:
    """What maps hold because of limits."""
    if state.limits.uplink != UNLIMITED:
        yield Op("limiters", constant("LIMITER_UPLINK"), uplink_value(state.limits.uplink))
    for limiter in state.limiters.values():
        yield Op("limiters", limiter.slot, limiter_value(limiter.key, limiter.rate))
    for local in state.locals.values():
        if local.wanted.qos != NO_QOS:
            yield record_put(state, local)


def read(record: dict[str, Any], held: dict[int, dict[str, Any]], vni: int, network_id: int, slot: int) -> Qos:
    """What a record says, as far as the limiters `held` are those that it means. What is missing is put once more by
    who wants it."""
    owners = (slot, network_id, 0, slot)

    def rate(number: int, place: int, direction: int) -> Rate:
        value = held.get(number) if number else None
        return rate_of(value) if value and key_of(value) == (place, direction, vni, owners[place]) else UNLIMITED

    out = [rate(number, place, EGRESS) for place, number in enumerate(record["egress"])]
    into = [rate(number, place, INGRESS) for place, number in enumerate(record["ingress"])]
    dscp = record["dscp"] & constant("DSCP_BITS") if record["dscp"] & constant("DSCP_MARKED") else None
    guarantee = rate(record["guarantee"], constant("LIMIT_GUARANTEE"), EGRESS)
    return Qos((out[0], out[1], out[2]), (into[0], into[1], into[2]), guarantee, dscp)
