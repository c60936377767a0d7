# SPDX-License-Identifier: Apache-2.0
"""Rules of `nat:` → entries of the data plane's maps (contracts/gateway.h), and back to what pools have in use.

Called by the gateway's process at its start and for a changed file. `entries` is pure. What is written is in such an
order that every packet meets the rules before or those after, and a pool's slot never means another pool while it may
be asked for.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from mizar.kernel.gateway_keeper import Keeper
from mizar.kernel.gateway_tables import GatewayTables, ticks
from mizar.kernel.layout import Fields, constant
from mizar.model.errors import ExhaustedError
from mizar.pipeline.nat import Address, Filtering, Forward, Mapping, Masquerade, NatRules, Static
from mizar.pipeline.ranges import Ranges
from mizar.pipeline.steps import META_BITS

_PROTOCOLS = {"tcp": 6, "udp": 17}
_MAX_RULES = 0xFFFF


@dataclass(frozen=True)
class Entries:
    """What the maps of one set of rules hold, but for `nat_settings`. Pools are by slot."""

    sources: dict[bytes, tuple[Fields, Fields]]
    ends: dict[bytes, tuple[Fields, Fields]]
    pools: dict[int, Fields]
    addresses: dict[int, Fields]
    quotas: dict[int, int]


def write(
    tables: GatewayTables, nat: NatRules, *, reports: bool = False, keeper: Keeper | None = None, quota: int = 0
) -> int:
    """From now on new connections begin by these rules. Returns their number. `quota`: of tenants for whom the rules
    have none; 0: no quota.

    `keeper` is needed where a data plane is at work: it counts in the entries that have the quotas.
    Raises ExhaustedError when they do not fit; then those before are still in force.
    """
    old_pools = {slot: pool for slot, pool in tables.nat_pools.items() if slot and pool["addresses"]}
    before = tables.nat_settings.get(0) or {}
    new = entries(nat, old_pools, {place: one["addr"] for place, one in tables.nat_addresses.used()})
    for numbered, wanted in ((tables.nat_pools, new.pools), (tables.nat_addresses, new.addresses)):
        need, have = max(wanted, default=0) + 1, numbered.max_entries
        if need > have:
            raise ExhaustedError(f"the rules need {need} entries of {numbered.name}, it has {have}")
    number: int = before.get("rules", 0) % _MAX_RULES + 1
    tables.nat_addresses.put_many(new.addresses.items())
    tables.nat_pools.put_many(new.pools.items())
    tables.nat_settings.put(0, {**_settings(nat, number, reports), "quota": quota})
    for meta in {*new.quotas, *(meta for meta, _ in tables.nat_tenants.items())}:
        tenant = tables.nat_tenants.get(meta) or {}
        own = new.quotas.get(meta, quota or constant("QUOTA_NONE"))
        if tenant.get("quota", constant("QUOTA_NONE")) == own:
            continue
        if keeper is not None:
            keeper.set_quota(meta, own)
        else:
            tables.nat_tenants.put(meta, {**tenant, "quota": own})
    for table, wanted_keys in ((tables.nat_sources, new.sources), (tables.nat_ends, new.ends)):
        old = {_packed(key): key for key, _ in table.items()}
        table.put_many(wanted_keys.values())
        for packed, key in old.items():
            if packed not in wanted_keys:
                table.delete(key)
    tables.nat_pools.put_many((slot, {}) for slot in old_pools if slot not in new.pools)
    return number


def entries(nat: NatRules, old_pools: dict[int, Fields], old_addresses: dict[int, bytes]) -> Entries:
    """The maps' content. A pool that is there already keeps its slot and its addresses' places; a new one gets what no
    pool before had."""
    sources: dict[bytes, tuple[Fields, Fields]] = {}
    pools: dict[int, Fields] = {}
    addresses: dict[int, Fields] = {}
    places = _Places(old_pools, old_addresses)
    taken = {4: Ranges(META_BITS, ()), 6: Ranges(META_BITS, ())}
    for masquerade in nat.masquerade:
        slot, pool = places.pool(masquerade)
        pools[slot] = pool
        first = pool["first_address"]
        addresses |= {first + number: {"addr": mapped(one)} for number, one in enumerate(masquerade.addresses)}
        for value, mask in (masquerade.inside - taken[masquerade.version]).prefixes():
            key = _source_key(masquerade.version, value, mask.bit_count())
            sources[_packed(key)] = key, {"pool": slot, "meta": masquerade.outside, "addr": bytes(16)}
        taken[masquerade.version] |= masquerade.inside
    for static in nat.static:
        inside = static.inside_address
        key = _source_key(inside.version, static.inside, 32, inside)
        sources[_packed(key)] = key, {"meta": static.outside, "addr": mapped(static.outside_address)}
    ends = {_packed(key): (key, value) for key, value in _ends(nat)}
    quotas = dict(_quotas(nat))
    return Entries(sources, ends, pools, addresses, quotas)


def mapped(address: Address) -> bytes:
    """16 bytes, IPv4 IPv4-mapped."""
    return bytes(10) + b"\xff\xff" + address.packed if address.version == 4 else address.packed


class _Places:
    """Slots and places that no pool has, and those that a pool has already."""

    def __init__(self, pools: dict[int, Fields], addresses: dict[int, bytes]) -> None:
        self._pools, self._addresses = pools, addresses
        self._next_slot = max(pools, default=0) + 1
        self._next_place = max((pool["first_address"] + pool["addresses"] for pool in pools.values()), default=0)
        if self._next_slot > 512:  # begin again in front, where there is room
            self._next_slot, self._next_place = 1, 0
        self._used: set[int] = set()

    def pool(self, rule: Masquerade) -> tuple[int, Fields]:
        wanted = [mapped(address) for address in rule.addresses]
        shape = _shape(rule)
        for slot, pool in self._pools.items():
            there = [self._addresses.get(pool["first_address"] + number) for number in range(pool["addresses"])]
            if slot not in self._used and there == wanted and shape.items() <= pool.items():
                self._used.add(slot)
                return slot, pool
        while self._next_slot in self._pools or self._next_slot in self._used:
            self._next_slot += 1
        slot = self._next_slot
        self._used.add(slot)
        place = self._room(len(wanted))
        return slot, {**shape, "first_address": place, "addresses": len(wanted)}

    def _room(self, count: int) -> int:
        place = self._next_place
        spans = sorted(
            (pool["first_address"], pool["first_address"] + pool["addresses"]) for pool in self._pools.values()
        )
        for first, end in spans:
            if first < place + count and place < end:
                place = end
        self._next_place = place + count
        return place


def _shape(rule: Masquerade) -> Fields:
    flags = 0
    if rule.mapping is Mapping.ENDPOINT_INDEPENDENT:
        flags |= constant("POOL_MAPPING")
    if rule.filtering is Filtering.ADDRESS:
        flags |= constant("POOL_FILTER_ADDRESS")
    if rule.filtering is Filtering.ENDPOINT_INDEPENDENT:
        flags |= constant("POOL_FILTER_NONE")
    return {"meta": rule.outside, "first_port": rule.ports[0], "last_port": rule.ports[1], "flags": flags}


def _settings(nat: NatRules, number: int, reports: bool) -> Fields:
    times = nat.timeouts
    return {
        "udp": ticks(times.udp_s),
        "icmp": ticks(times.icmp_s),
        "tcp": ticks(times.tcp_s),
        "tcp_transitory": ticks(times.tcp_transitory_s),
        "fragment": ticks(times.fragment_s),
        "rules": number,
        "reports": int(reports),
        "mappings": int(any(one.mapping is Mapping.ENDPOINT_INDEPENDENT for one in nat.masquerade)),
    }


def _source_key(version: int, meta: int, bits: int, address: Address | None = None) -> Fields:
    addr = b"" if address is None else address.packed
    return {
        "prefix_bits": 32 + bits + 8 * len(addr),
        "version_be": _be32(version),
        "meta_be": _be32(meta),
        "addr": addr.ljust(16, b"\0"),
    }


def _ends(nat: NatRules) -> Iterator[tuple[Fields, Fields]]:
    for static in nat.static:
        yield _end(static, 160, 0, 0, 0)
    for forward in nat.forward:
        first, last = forward.outside_ports
        add = (forward.inside_ports[0] - first) & 0xFFFF
        for protocol in forward.protocols:
            for value, mask in Ranges(16, ((first, last),)).prefixes():
                yield _end(forward, 168 + mask.bit_count(), _PROTOCOLS[protocol], value, add)


def _end(rule: Static | Forward, bits: int, protocol: int, port: int, add: int) -> tuple[Fields, Fields]:
    key = {
        "prefix_bits": bits,
        "meta_be": _be32(rule.outside),
        "addr": mapped(rule.outside_address),
        "protocol": protocol,
        "port_be": port.to_bytes(2, "big"),
    }
    return key, {"meta": rule.inside, "addr": mapped(rule.inside_address), "add_port": add}


def _quotas(nat: NatRules) -> Iterator[tuple[int, int]]:
    seen: set[int] = set()
    for quota in nat.quotas:
        for low, high in quota.inside.spans:
            for meta in range(low, high + 1):
                if meta not in seen:
                    seen.add(meta)
                    yield meta, quota.connections


def _packed(key: Fields) -> bytes:
    return repr(sorted(key.items())).encode()


def _be32(number: int) -> Any:
    return int.from_bytes(number.to_bytes(4, "big"), sys.byteorder)
