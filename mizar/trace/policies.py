# SPDX-License-Identifier: Apache-2.0
"""Policies of a live droplet, of which only those entries are read that a packet asks for. Called by tables.py."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mizar.model.addresses import to_mapped
from mizar.oracle.policies import (
    Direction,
    EndpointPolicy,
    NetworkAcl,
    PolicyFlow,
    PolicyFlowKey,
    PolicyFlows,
    PolicySet,
    RuleVerdict,
)
from mizar.trace.rows import Asked, Fields, Point, Rows, address_of, text_of

_ALLOW, _LOG, _AUDIT, _KEEP = 1, 2, 4, 8  # enum policy_action
_DIRECTION, _ENDED, _KEPT = 3, 4, 8  # enum policy_flow_begun
_ANSWERED, _CLOSING, _CONFIRMED = 1, 2, 8  # enum policy_flow_state


@dataclass(frozen=True, slots=True, eq=False)
class AskedSet(PolicySet):
    """A set of rules by its number: the map itself finds the longest prefix."""

    by_address: Mapping[bytes, int] = field(default_factory=dict)
    by_groups: Mapping[int, int] = field(default_factory=dict)
    by_row: Mapping[tuple[int, int, int | None], RuleVerdict] = field(default_factory=dict)

    def class_of(self, peer: bytes) -> int:
        """Of an address."""
        return self.by_address.get(peer, 0)

    def class_of_groups(self, group_set: int) -> int | None:
        """Of a set of groups."""
        return self.by_groups.get(group_set)

    def verdict_of(self, class_: int, protocol: int, port: int | None) -> RuleVerdict | None:
        """Of a class."""
        return self.by_row.get((class_, protocol, port))


def policies_of(rows: Rows, own: bytes) -> dict[str, EndpointPolicy]:
    """The records of policed endpoints, by their slot as text."""
    found = {}
    for slot, record in rows.items("endpoint_policies"):
        if not record["generation"]:
            continue
        audit = frozenset(direction for direction in Direction if record["flags"] & direction.value)
        found[str(slot)] = EndpointPolicy(
            _set(rows, own, record["ingress"]),
            _set(rows, own, record["egress"]),
            record["generation"],
            record["since"],
            audit,
            _later(record["grace_until"], rows.itself["tick"]),
            _set(rows, own, record["beside_ingress"]),
            _set(rows, own, record["beside_egress"]),
        )
    return found


def _later(tick: int, now: int) -> bool:
    """As the data plane compares the record's time of grace with its clock: 32 bits, that turn over. 0 is never."""
    return 0 < (tick - now) & 0xFFFFFFFF < 1 << 31


def network_acls_of(rows: Rows, own: bytes) -> dict[tuple[int, bytes, int], NetworkAcl]:
    """By what the prefixes of networks are judged."""
    found = {}
    for key, value in rows.items("network_acls"):
        address = address_of(key["addr"])
        length = key["prefix_bits"] - 32 - (96 if len(address) == 4 else 0)
        sets = (_set(rows, own, value[way]) for way in ("ingress", "ingress_later", "egress", "egress_later"))
        found[_big(key["vni_be"]), address, length] = NetworkAcl(value["network"], *sets)
    return found


def _set(rows: Rows, own: bytes, number: int) -> PolicySet | None:
    if not number:
        return None

    def peer(address: bytes) -> Point:
        key = {"prefix_bits": 160, "set_be": _big(number), "addr": to_mapped(address).hex()}
        return Point("policy_peers", text_of(key))

    def group(group_set: int) -> Point:
        return Point("policy_groups", text_of({"set": number, "group_set": group_set}))

    def row(asked: tuple[int, int, int | None]) -> Point:
        class_, protocol, port = asked
        key = {
            "prefix_bits": 72 if port is None else 88,
            "set_be": _big(number),
            "class_be": _big(class_),
            "protocol": protocol,
            "port_be": (port or 0).to_bytes(2, "big").hex(),
        }
        return Point("policy_verdicts", text_of(key))

    return AskedSet(
        by_address=Asked(rows, own, peer, lambda _, value: _number(value)),
        by_groups=Asked(rows, own, group, lambda _, value: _number(value)),
        by_row=Asked(rows, own, row, lambda _, value: _verdict(value)),
    )


def _number(value: Any) -> int:
    return int(value)


def _verdict(value: Fields) -> RuleVerdict:
    allow, log, audit, keep = (bool(value["action"] & bit) for bit in (_ALLOW, _LOG, _AUDIT, _KEEP))
    return RuleVerdict(value["rank"], allow, value["rule"], log, audit, keep)


def _big(number: int) -> int:
    return int.from_bytes(number.to_bytes(4, "big"), sys.byteorder)


class AskedPolicyFlows(PolicyFlows):
    """Flows of policed endpoints, which change as packets pass."""

    def __init__(self, room: Mapping[int, int], rows: Rows, own: bytes) -> None:
        super().__init__(room)
        self._before = Asked(rows, own, _flow_point, lambda _, value: _flow(value))

    def get(self, key: object, default: Any = None) -> Any:
        """The flow of a key."""
        if key not in self:
            found = self._before.get(key)  # type: ignore[call-overload]
            if found is None:
                return default
            self[key] = found  # type: ignore[index]
        return self[key]  # type: ignore[index]


def _flow_point(key: PolicyFlowKey) -> Point:
    fields = {
        "vni": key.vni,
        "slot": int(key.endpoint),
        "peer": to_mapped(key.peer).hex(),
        "own_port_be": int.from_bytes(key.own_port, sys.byteorder),
        "peer_port_be": int.from_bytes(key.peer_port, sys.byteorder),
        "protocol": key.protocol,
        "later": int(key.later),
    }
    return Point("policy_flows", text_of(fields))


def _flow(value: Fields) -> PolicyFlow:
    begun, state = value["begun"], value["state"]
    return PolicyFlow(
        value["generation"],
        Direction(begun & _DIRECTION),
        value["rule"],
        value["group_set"],
        bool(state & _ANSWERED),
        bool(state & _CONFIRMED),
        bool(state & _CLOSING),
        bool(begun & _ENDED),
        bool(begun & _KEPT),
    )
