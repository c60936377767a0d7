# SPDX-License-Identifier: Apache-2.0
"""Network functions as a droplet is told them: parsed from contracts/transit.proto, checked against their objects.

Called by the daemon's functions. Pure; a function that contradicts itself is an InvalidError that names it.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from mizar._built import transit_pb2 as pb
from mizar.kernel.function_chains import Member
from mizar.kernel.functions import HOOKS, Place, most_at_a_stage
from mizar.kernel.layout import constant
from mizar.model.errors import ExhaustedError, InvalidError
from mizar.model.function_object import STAGES, FunctionObject, read_object
from mizar.transit.state import State


@dataclass(frozen=True, slots=True)
class Function:
    """One function. `message` is what was told, with its object; `number` its bit on this droplet."""

    message: pb.Function
    about: FunctionObject
    number: int
    problem: str = ""
    """Why it cannot be loaded any more; empty: it is."""
    standing_in: bytes = b""
    """What is loaded in its place then."""

    @property
    def name(self) -> str:
        """As objects and people call it."""
        return self.about.name

    @property
    def bit(self) -> int:
        """Of masks."""
        return 1 << self.number

    @property
    def stages(self) -> tuple[str, ...]:
        """Where it runs."""
        wanted = [STAGES[number] for number in self.message.stages]
        return tuple(stage for stage in self.about.stages if stage in wanted or not wanted)

    @property
    def member(self) -> Member:
        """Of chains."""
        return Member(self.about, self.standing_in or self.message.object, self.number)

    @property
    def maps(self) -> Mapping[str, Mapping[bytes, bytes]]:
        """Content of its own maps that was told."""
        return {one.name: {entry.key: entry.value for entry in one.entries} for one in self.message.maps}


def parse(message: pb.Function, number: int) -> Function:
    """A function whose message has an object. Raises InvalidError."""
    if hashlib.sha256(message.object).digest() != message.digest:
        raise InvalidError(f"function {message.name}: the object is not the one that its digest names")
    about = read_object(message.object)
    if about.name != message.name:
        raise InvalidError(f"function {message.name}: its object says that it is {about.name}")
    for stage in message.stages:
        if stage >= len(STAGES) or STAGES[stage] not in about.stages:
            named = STAGES[stage] if stage < len(STAGES) else stage
            raise InvalidError(
                f"function {about.name} is not made for stage {named}, but for {', '.join(about.stages)}"
            )
    for one in message.maps:
        shape = about.maps.get(one.name)
        if shape is None:
            raise InvalidError(f"function {about.name} has no map {one.name} of its own")
        if len(one.entries) > shape.entries:
            raise ExhaustedError(f"function {about.name}: {one.name} has room for {shape.entries} entries")
    return Function(message, about, number)


_IN_A_ROW = ("ENDPOINT_EGRESS", "ON_XDP_SCALED_EP", "ENDPOINT_INGRESS")
_AT_THE_END = ("ON_XDP_TX", "ON_XDP_PASS", "ON_XDP_REDIRECT", "ON_XDP_DROP")
MET_TOGETHER = (*itertools.combinations(_IN_A_ROW, 2), *(("ON_XDP_SCALED_EP", stage) for stage in _AT_THE_END))
"""Stages of one packet, on one hook. With no more than FUNCTION_CHAIN at any two, all three have 24 at most."""


def chains_of(functions: Iterable[Function]) -> dict[Place, Sequence[Member]]:
    """Who stands at each place, in order. Raises ExhaustedError where a stage has too many."""
    ordered = sorted(functions, key=lambda one: (one.message.order, one.name))
    found: dict[Place, Sequence[Member]] = {}
    for stage in STAGES:
        members = [one.member for one in ordered if stage in one.stages]
        if len(members) > most_at_a_stage():
            names = ", ".join(one.function.name for one in members)
            raise ExhaustedError(f"stage {stage} has room for {most_at_a_stage()} functions, not for {names}")
        for hook in HOOKS[stage]:
            found[Place(stage, hook)] = members
    counts = {place.stage: len(members) for place, members in found.items()}
    for one, other in MET_TOGETHER:
        if counts[one] + counts[other] > most_at_a_stage():
            both = f"{counts[one]} at {one} and {counts[other]} at {other}"
            raise ExhaustedError(
                f"one packet may meet {most_at_a_stage()} functions at two stages, not {both}; attach fewer"
            )
    return found


@dataclass(frozen=True, slots=True)
class Masks:
    """For whom functions are, in the words of the maps: bits by slot, or by VPC and number of a set of groups."""

    droplet: int
    finer: int
    endpoints: Mapping[int, int]
    vpcs: Mapping[int, int]
    networks: Mapping[int, int]
    groups: Mapping[tuple[int, int], int]


def masks_of(functions: Iterable[Function], state: State) -> Masks:
    """What the scopes of functions mean on this droplet at present; one of something unknown means nothing."""
    droplet = finer = 0
    by_vpc: dict[int, int] = {}
    by_network: dict[tuple[int, int], int] = {}
    by_group: dict[tuple[int, int], int] = {}
    by_uid: dict[str, int] = {}
    for one in functions:
        for scope in one.message.scopes:
            match scope.WhichOneof("scope"):
                case "droplet":
                    droplet |= one.bit if scope.droplet else 0
                case "vni":
                    by_vpc[scope.vni] = by_vpc.get(scope.vni, 0) | one.bit
                case "network":
                    key = scope.network.vni, scope.network.id
                    by_network[key] = by_network.get(key, 0) | one.bit
                case "group":
                    key = scope.group.vni, scope.group.id
                    by_group[key] = by_group.get(key, 0) | one.bit
                case "uid":
                    by_uid[scope.uid] = by_uid.get(scope.uid, 0) | one.bit
            if scope.WhichOneof("scope") in ("network", "group"):
                finer |= sum(1 << STAGES.index(stage) for stage in one.stages)

    def of_groups(vni: int, number: int) -> int:
        bits = 0
        for group in state.group_sets.get((vni, number), ()) if by_group else ():
            bits |= by_group.get((vni, group), 0)
        return bits

    endpoints = {}
    if by_vpc or by_network or by_group or by_uid:
        for uid, local in state.locals.items():
            vni, network = local.endpoint.vni, local.endpoint.network_id
            bits = by_vpc.get(vni, 0) | by_network.get((vni, network), 0) | by_uid.get(uid, 0)
            endpoints[local.slot] = bits | of_groups(vni, local.wanted.group_set)
    return Masks(
        droplet,
        finer,
        {slot: bits for slot, bits in endpoints.items() if bits},
        {state.vpcs[vni].slot: bits for vni, bits in by_vpc.items() if vni in state.vpcs},
        {state.networks[key].hops: bits for key, bits in by_network.items() if key in state.networks},
        {key: bits for key in (state.group_sets if by_group else ()) if (bits := of_groups(*key))},
    )


def values_of(function: Function, state: State) -> dict[int, int]:
    """What the narrowest scope of a function says of each endpoint of this droplet that it means, by slot."""
    by: dict[str, dict[object, int]] = {kind: {} for kind in ("uid", "group", "network", "vni", "droplet")}
    for scope in function.message.scopes:
        kind = scope.WhichOneof("scope")
        where = getattr(scope, kind) if kind else None
        key: object = (where.vni, where.id) if isinstance(where, pb.NetworkKey) else where
        if kind and scope.value:
            by[kind].setdefault(key, scope.value)
    found = {}
    for uid, local in state.locals.items() if any(by.values()) else ():
        vni, group_set = local.endpoint.vni, local.wanted.group_set
        groups = state.group_sets.get((vni, group_set), ()) if by["group"] else ()
        keys: list[tuple[str, object]] = [("uid", uid), *(("group", (vni, group)) for group in sorted(groups))]
        keys += [("network", (vni, local.endpoint.network_id)), ("vni", vni), ("droplet", True)]
        value = next((by[kind][key] for kind, key in keys if key in by[kind]), 0)
        if value:
            found[local.slot] = value
    return found


def room_of(functions: Sequence[Function]) -> int:
    """How many more can be loaded."""
    return constant("FUNCTIONS") - len(functions)
