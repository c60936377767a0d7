# SPDX-License-Identifier: Apache-2.0
"""Planning of network ACLs: by which sets of rules networks are judged.

A base of `batch.Plan`. Rules are sets as those of policies, and there before a network is bound to them. It must never
do I/O.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from mizar.model.addresses import from_mapped, mapped_length, text_of
from mizar.model.errors import ConflictError, NotFoundError
from mizar.transit.endpoints import EndpointPlan
from mizar.transit.entries import Op, network_key, number_of
from mizar.transit.policy_values import NetworkAcl, PolicySetId
from mizar.transit.state import State

WAYS = ("ingress", "ingress_later", "egress", "egress_later")


class NetworkAclPlan(EndpointPlan):
    """A plan in the making."""

    def put_network_acl(self, new: NetworkAcl) -> bool:
        """Plan what a network is judged by, new or changed; False when it is there already."""
        state = self.state
        if new.vni not in state.vpcs:
            raise NotFoundError(f"VPC {new.vni} is not known; put it first")
        for number in new.sets:
            if (new.vni, number) not in state.policy_sets:
                raise NotFoundError(f"the set of rules {number:016x} of VPC {new.vni} is not known; put it first")
        old = state.network_acls.get(new.key)
        if old == new:
            return False
        for other in state.network_acls.values():
            taken = next((one for one in new.prefixes if one in other.prefixes), None)
            if other.vni == new.vni and other.key != new.key and taken:
                raise ConflictError(f"{text_of(taken[0])}/{taken[1]} belongs to {other}; delete that first")
        gone = [one for one in old.prefixes if one not in new.prefixes] if old else []
        self.journal.put(state.network_acls, new.key, new)
        self.ops += rows(state, new)
        self.ops += [Op("network_acls", network_key(new.vni, *prefix), None) for prefix in gone]
        self.ops.append(mark(state, new.vni))
        return True

    def delete_network_acl(self, vni: int, network_id: int) -> bool:
        """Plan that a network is judged no more; False when it is not."""
        state = self.state
        old = state.network_acls.get((vni, network_id))
        if old is None:
            return False
        self.journal.drop(state.network_acls, old.key)
        self.ops.append(mark(state, vni))
        self.ops += [Op("network_acls", network_key(vni, *prefix), None) for prefix in old.prefixes]
        return True


def rows(state: State, acl: NetworkAcl) -> Iterator[Op]:
    """One entry per prefix."""
    numbers = {way: state.policy_sets[acl.vni, number].number for way in WAYS if (number := getattr(acl, way))}
    value: dict[str, Any] = {"network": acl.network_id, **numbers}
    return (Op("network_acls", network_key(acl.vni, *prefix), value) for prefix in acl.prefixes)


def mark(state: State, vni: int) -> Op:
    """Whether packets of a VPC are to be looked at."""
    return Op("acl_vpcs", state.vpcs[vni].slot, int(any(one.vni == vni for one in state.network_acls.values())))


def judged_by(state: State, key: PolicySetId) -> Iterator[NetworkAcl]:
    """The networks that are bound to a set."""
    return (one for one in state.network_acls.values() if one.vni == key[0] and key[1] in one.sets)


def implied(state: State) -> Iterator[Op]:
    """What maps hold because of them."""
    for acl in state.network_acls.values():
        yield from rows(state, acl)
    for vni in dict.fromkeys(one.vni for one in state.network_acls.values()):
        yield mark(state, vni)


def sets_named(maps: Any) -> set[int]:
    """Numbers of the sets that entries name."""
    return {value[way] for _, value in maps.network_acls.items() for way in WAYS}


def read_acls(entries: Iterable[tuple[Any, Any]], state: State) -> Iterator[NetworkAcl]:
    """What entries say, of VPCs that are known. A network whose entries differ is left out, and put once more."""
    ids = {(one.vni, one.number): one.id for one in state.policy_sets.values()}
    found: dict[tuple[int, int], NetworkAcl] = {}
    whole, seen = Counter[tuple[int, int]](), Counter[tuple[int, int]]()
    for key, value in entries:
        vni, address = number_of(key["vni_be"]), from_mapped(key["addr"])
        prefix = address, key["prefix_bits"] - 32 - mapped_length(address, 0)
        sets = {way: ids.get((vni, value[way]), 0) for way in WAYS}
        acl = NetworkAcl(vni, value["network"], (prefix,), **sets)
        seen[acl.key] += 1
        known = found.setdefault(acl.key, acl)
        if vni in state.vpcs and replace(known, prefixes=()) == replace(acl, prefixes=()):
            whole[acl.key] += 1
            prefixes = tuple(sorted({*known.prefixes, prefix}, key=lambda one: (len(one[0]), one)))
            found[acl.key] = replace(known, prefixes=prefixes)
    return (acl for key, acl in found.items() if whole[key] == seen[key])
