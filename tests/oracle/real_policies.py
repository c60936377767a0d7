# SPDX-License-Identifier: Apache-2.0
"""Policies of the oracle in the maps of a real droplet, and the flows that it has then. Called by real.py alone."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

from mizar.kernel.layout import constant
from mizar.kernel.tables import network_key
from mizar.model.addresses import from_mapped, to_mapped
from mizar.oracle.policies import Direction, PolicyFlow, PolicyFlowKey, PolicyFlows, PolicyRow, PolicySet, RuleVerdict
from mizar.oracle.tables import Droplet

if TYPE_CHECKING:
    from tests.oracle.real import RealDroplet

POLICED, MEMBER_POLICED = 64, 2
ALLOW, LOG, AUDIT, KEEP = 1, 2, 4, 8
DIRECTION, ENDED, KEPT = 3, 4, 8
ANSWERED, CLOSING, CONFIRMED = 1, 2, 8


class RealPolicies:
    """Numbers of sets, from 1 on."""

    def __init__(self, droplet: RealDroplet) -> None:
        self.droplet = droplet
        self.policed: frozenset[str] = frozenset()
        self.used = False
        self.sets: dict[PolicySet, int] = {}

    def forget(self) -> None:
        """The flows that programs have begun."""
        if self.used:
            flows = self.droplet.tables.policy_flows
            flows.delete_many([key for key, _ in flows.items()])
        self.policed, self.sets = frozenset(), {}

    def fill(self, here: Droplet) -> None:
        """Records, sets and flows."""
        tables, write = self.droplet.tables, self.droplet.write
        self.used = bool(here.policies or here.policy_flows)
        for uid, policy in here.policies.items():
            record = {
                "ingress": self.set_number(policy.ingress),
                "egress": self.set_number(policy.egress),
                "flags": sum(direction.value for direction in policy.audit),
                "since": policy.since,
                "generation": policy.generation,
                "grace_until": young_until() if policy.grace else 0,
                "beside_ingress": self.set_number(policy.beside_ingress),
                "beside_egress": self.set_number(policy.beside_egress),
            }
            write(tables.endpoint_policies, self.droplet.uid_slots.of(uid), record)
        for vni in here.acl_vpcs:
            write(tables.acl_vpcs, self.droplet.vpc_slots.of(vni), 1)
        for (vni, prefix, length), acl in here.network_acls.items():
            value = {"network": acl.network} | {
                name: self.set_number(getattr(acl, name))
                for name in ("ingress", "ingress_later", "egress", "egress_later")
            }
            write(tables.network_acls, network_key(vni, to_mapped(prefix), length), value)
        for vni, room in here.policy_flows.room.items():
            slot = self.droplet.vpc_slots.of(vni)
            write(tables.policy_budgets, slot, {"until": room})
            write(tables.policy_counts, slot, {"inserted": 0})
        for key, flow in here.policy_flows.items():
            begun = flow.direction.value + flow.ended * ENDED + flow.kept * KEPT
            value = {"generation": flow.generation, "rule": flow.rule, "group_set": flow.group_set, "begun": begun}
            state = flow.answered * ANSWERED + flow.confirmed * CONFIRMED + flow.closing * CLOSING
            tables.policy_flows.put(self.flow_key(key), value | {"state": state})

    def set_number(self, rules: PolicySet | None) -> int:
        """The number of a set, after writing it."""
        if rules is None:
            return 0
        if rules not in self.sets:
            tables, write = self.droplet.tables, self.droplet.write
            number = self.sets[rules] = len(self.sets) + 1
            for (prefix, length), class_ in rules.peers.items():
                bits = 32 + length + (96 if len(prefix) == 4 else 0)
                key = {"prefix_bits": bits, "set_be": big(number), "addr": to_mapped(prefix)}
                write(tables.policy_peers, key, class_)
            for group_set, class_ in rules.groups.items():
                write(tables.policy_groups, {"set": number, "group_set": group_set}, class_)
            for row, verdict in rules.verdicts.items():
                write(tables.policy_verdicts, row_key(number, row), row_value(verdict))
        return self.sets[rules]

    def flow_key(self, key: PolicyFlowKey) -> dict[str, Any]:
        """As the table has it."""
        return {
            "vni": key.vni,
            "slot": self.droplet.uid_slots.of(key.endpoint),
            "peer": to_mapped(key.peer),
            "own_port_be": int.from_bytes(key.own_port, sys.byteorder),
            "peer_port_be": int.from_bytes(key.peer_port, sys.byteorder),
            "protocol": key.protocol,
            "later": key.later,
        }

    def flows(self) -> PolicyFlows:
        """What the table has now."""
        found = PolicyFlows()
        for key, value in self.droplet.tables.policy_flows.items():
            own, peer = (key[name].to_bytes(2, sys.byteorder) for name in ("own_port_be", "peer_port_be"))
            uid = self.droplet.uid_slots.name(key["slot"])
            name = PolicyFlowKey(
                key["vni"], uid, from_mapped(key["peer"]), own, peer, key["protocol"], bool(key["later"])
            )
            begun, state = value["begun"], value["state"]
            found[name] = PolicyFlow(
                value["generation"], Direction(begun & DIRECTION), value["rule"], value["group_set"],
                bool(state & ANSWERED), bool(state & CONFIRMED), bool(state & CLOSING),
                bool(begun & ENDED), bool(begun & KEPT),
            )  # fmt: skip
        return found


def young_until() -> int:
    """A time that no test sees."""
    return (time.monotonic_ns() >> constant("FLOW_STAMP_SHIFT")) + 3600


def big(number: int) -> int:
    """The number whose bytes here are those of network order."""
    return int.from_bytes(number.to_bytes(4, "big"), sys.byteorder)


def row_key(number: int, row: PolicyRow) -> dict[str, Any]:
    """The key of a row in `policy_verdicts`."""
    bits = 64 if row.protocol is None else 72 + row.bits
    key = {"prefix_bits": bits, "set_be": big(number), "class_be": big(row.class_), "protocol": row.protocol or 0}
    return key | {"port_be": row.port.to_bytes(2, "big")}


def row_value(verdict: RuleVerdict) -> dict[str, int]:
    """Its value."""
    action = verdict.allow * ALLOW + verdict.log * LOG + verdict.audit * AUDIT + verdict.keep * KEEP
    return {"rank": verdict.rank, "action": action, "rule": verdict.rule}
