# SPDX-License-Identifier: Apache-2.0
"""A gateway's connections as replication sees them: bytes out of the maps, and another gateway's into them.

Called by leader and follower. What comes in is judged by this gateway's rules, and made by the flow table's keeper, so
that quotas count. A connection that is here already is written only where the other gateway has had the later packet.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from mizar.gateway.entries import GONE, INSTALLED, MAPPED, ORIGINAL, becomes_of, flow_of, key
from mizar.gateway.flow_table import FlowTable
from mizar.gateway.judge import address_of, allows
from mizar.gateway.replication import frames
from mizar.gateway.replication.frames import Pair
from mizar.gateway.rules import mapped
from mizar.kernel.connection_table import ConnectionTable
from mizar.kernel.layout import Codec, Fields, constant, struct_codec
from mizar.model.errors import ConflictError, ExhaustedError, InvalidError
from mizar.pipeline.interpreter.connection import Flow
from mizar.pipeline.nat import NatRules


@dataclass
class SharedConnections:
    """Over a flow table and the rules that are in force."""

    flows: FlowTable
    nat: NatRules

    def tick(self) -> int:
        """The clock of stamps, now."""
        return self.flows.clock()

    def walk(self, version: int) -> Iterator[Pair]:
        """All of a version of IP."""
        values = _value(version)
        for found_key, value in self._table(version).raw_items():
            if values.unpack(value)["flags"] & ORIGINAL:
                found = self.find(version, found_key)
                if found is not None:
                    yield found

    def find(self, version: int, packed: bytes) -> Pair | None:
        """The one with this key, in either direction; None when it is gone, or going."""
        keys, values, table = _key(version), _value(version), self._table(version)
        fields = keys.unpack(packed)
        value = table.get(fields)
        if value is None:
            return None
        twin = _turned(fields, value)
        other = table.get(twin)
        if other is None:
            return None
        one, two = (packed, values.pack(value)), (keys.pack(twin), values.pack(other))
        pair: Pair = (*one, *two) if value["flags"] & ORIGINAL else (*two, *one)
        return None if value["flags"] & GONE else pair

    def adopt(self, version: int, pairs: Iterable[Pair]) -> int:
        """Takes what another gateway has; returns how many were taken. See Connections.adopt()."""
        rules = (self.flows.tables.nat_settings.get(0) or {}).get("rules", 0)
        return sum(self._adopted(version, pair, rules) for pair in pairs)

    def _adopted(self, version: int, pair: Pair, rules: int) -> bool:
        keys, values = _key(version), _value(version)
        first, twin = keys.unpack(pair[0]), keys.unpack(pair[2])
        there, back = ({**values.unpack(value), "rules": rules} for value in (pair[1], pair[3]))
        try:
            original = flow_of(first)
        except KeyError:
            raise InvalidError(f"the other gateway tells of protocol {first['protocol']}") from None
        becomes = becomes_of(original, there)
        if twin != _turned(first, there) or first != _turned(twin, back):
            raise InvalidError("the other gateway tells of a connection whose two entries do not fit each other")
        if not allows(self.nat, original, becomes):
            return False
        there["flags"] |= ORIGINAL | INSTALLED
        have = self.find(version, pair[0])
        if have is None:
            try:
                self.flows.keeper.install(version, (first, there), (twin, back))
            except (ConflictError, ExhaustedError):
                return False  # a port that both gave away meanwhile, or a quota: whoever came first has it
        elif have[2] == pair[2] and frames.newer(frames.stamp(version, pair), frames.stamp(version, have)):
            self.flows.keeper.renew(version, (first, there), (twin, back))
        else:
            return False
        if there["flags"] & MAPPED:
            self._map(original, becomes, there["stamp"])
        return True

    def _map(self, original: Flow, becomes: Flow, stamp: int) -> None:
        """The endpoint-independent mapping of a connection: its next one leaves by the same outer end."""
        inner, outer = (
            {
                "meta": flow.meta,
                "addr": _source(flow),
                "port_be": key(flow)["src_port_be"],
            }
            for flow in (original, becomes)
        )
        found = self._pool(becomes.meta, outer["addr"])
        if found is None:
            return
        slot, filters = found
        rows = [("MAPPING_INNER", inner, outer, bytes(16)), ("MAPPING_OUTER", outer, inner, bytes(16))]
        if filters:
            rows.append(("MAPPING_CONTACT", outer, inner, _source(becomes.reversed())))
        for kind, end, other, contact in rows:
            facts = {"contact": contact, "protocol": key(original)["protocol"], "kind": constant(kind)}
            self.flows.tables.nat_mappings.put({**end, **facts}, {**other, "pool": slot, "stamp": stamp})

    def _pool(self, meta: int, address: bytes) -> tuple[int, bool] | None:
        """Slot of the pool that an outer address is of, and whether it filters by address."""
        tables = self.flows.tables
        for slot, pool in tables.nat_pools.used():
            places = range(pool["first_address"], pool["first_address"] + pool["addresses"])
            there = ((tables.nat_addresses.get(place) or {}).get("addr") for place in places)
            if pool["meta"] == meta and address in there:
                return slot, bool(pool["flags"] & constant("POOL_FILTER_ADDRESS"))
        return None

    def _table(self, version: int) -> ConnectionTable:
        return self.flows.tables.connections4 if version == 4 else self.flows.tables.connections6


def _source(flow: Flow) -> bytes:
    return mapped(address_of(flow.version, flow.source))


def _turned(fields: Fields, value: Fields) -> Fields:
    """The key of the other direction: what packets become, turned round."""
    src, dst = ("src_be", "dst_be") if "src_be" in fields else ("src", "dst")
    return {
        "meta": value["meta"],
        src: value[dst],
        dst: value[src],
        "src_port_be": value["dst_port_be"],
        "dst_port_be": value["src_port_be"],
        "protocol": fields["protocol"],
    }


def _key(version: int) -> Codec[Fields]:
    return struct_codec(f"connection{version}_key")


def _value(version: int) -> Codec[Fields]:
    return struct_codec(f"connection{version}")
