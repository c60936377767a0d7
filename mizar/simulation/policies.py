# SPDX-License-Identifier: Apache-2.0
"""What the planner wants a droplet to know of policies, as the oracle has it. Called by tables.py. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from mizar.model.addresses import from_mapped
from mizar.model.policy_rows import GROUP, PEER, VERDICT
from mizar.oracle.policies import Direction, EndpointPolicy, NetworkAcl, PolicyRow, PolicySet, RuleVerdict
from mizar.planner.entries import LocalEntry, NetworkAclEntry, PolicySetEntry

ALLOW, LOG, AUDIT, KEEP = 1, 2, 4, 8
"""enum policy_action of contracts/dataplane.h."""


def verdict_of(rank: int, action: int, rule: int) -> RuleVerdict:
    """A verdict as maps hold it."""
    flags = (bool(action & bit) for bit in (LOG, AUDIT, KEEP))
    return RuleVerdict(rank, bool(action & ALLOW), rule, *flags)


def policy_set(entry: PolicySetEntry) -> PolicySet:
    """The rules of one direction."""
    peers = {}
    for address, length, number in PEER.iter_unpack(entry.peers):
        packed = from_mapped(address) if length >= 96 else address
        peers[packed, length - 96 if len(packed) == 4 else length] = number
    verdicts = {}
    for number, protocol, port, bits, *said in VERDICT.iter_unpack(entry.verdicts):
        row = PolicyRow(number, protocol, port, bits - 8) if bits else PolicyRow(number)
        verdicts[row] = verdict_of(*said)
    return PolicySet(peers, dict(GROUP.iter_unpack(entry.groups)), verdicts)


def endpoint_policies(sets: Iterable[PolicySetEntry], locals_: Iterable[LocalEntry]) -> dict[str, EndpointPolicy]:
    """The records of the endpoints of a droplet that are policed, by uid."""
    known = {(entry.vni, entry.id): policy_set(entry) for entry in sets}
    found = {}
    for local in locals_:
        binding, vni = local.policy, local.endpoint.vni
        audit = {Direction.INGRESS: binding.audit_ingress, Direction.EGRESS: binding.audit_egress}
        if binding.sets:
            found[local.uid] = EndpointPolicy(
                known.get((vni, binding.ingress)),
                known.get((vni, binding.egress)),
                audit=frozenset(direction for direction, audits in audit.items() if audits),
                beside_ingress=known.get((vni, binding.beside_ingress)),
                beside_egress=known.get((vni, binding.beside_egress)),
            )
    return found


def network_acls(
    sets: Iterable[PolicySetEntry], acls: Iterable[NetworkAclEntry]
) -> dict[tuple[int, bytes, int], NetworkAcl]:
    """By what the prefixes of networks are judged."""
    known = {(entry.vni, entry.id): entry for entry in sets}
    made: dict[tuple[int, int], PolicySet] = {}
    found = {}
    for acl in acls:
        bound = []
        for number in (acl.ingress, acl.ingress_later, acl.egress, acl.egress_later):
            key = acl.vni, number
            if key in known and key not in made:
                made[key] = policy_set(known[key])
            bound.append(made.get(key))
        row = NetworkAcl(acl.network_id, *bound)
        found.update({(acl.vni, address, length): row for address, length in acl.prefixes})
    return found
