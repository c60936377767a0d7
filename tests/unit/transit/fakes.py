# SPDX-License-Identifier: Apache-2.0
"""Maps in memory, with the kernel's bytes as keys and values, that can fail at the n-th write."""

from collections.abc import Iterable, Iterator
from typing import Any

from mizar.kernel.layout import U32, Codec, struct_codec
from mizar.model.errors import TemporaryError

SCHEMA = {
    "endpoints": ("endpoint_key", "endpoint"),
    "networks": ("network_key", "network"),
    "routes": ("route_key", "network_route"),
    "vpcs": (None, "vpc"),
    "identities": ("identity_key", None),
    "hop_sets": (None, "hop_set"),
    "droplets": (None, "droplet"),
    "droplet_slots": ("droplet_key", "known_sender"),
    "agents": (None, "agent"),
    "proxies": (None, "proxy"),
    "proxy_usage": (None, "proxy_usage"),
    "proxy_ended": (None, None),
    "proxy_flows": ("proxy_flow_key", "proxy_flow"),
    "agent_options": (None, "agent_options"),
    "services": (None, "service"),
    "service_notes": (None, "service_note"),
    "members": (None, "endpoint"),
    "member_notes": (None, "member_note"),
    "member_slots": ("member_key", None),
    "public_addresses": ("droplet_key", "public_address"),
    "public_inside": ("route_key", None),
    "public_switch": (None, None),
    "listeners": ("listener_key", "listener"),
    "flows": ("flow_key", "flow"),
    "flow_budgets": (None, "flow_budget"),
    "flow_counts": (None, "flow_count"),
    "group_sets": ("group_set_key", "group_set"),
    "substrate_endpoints": ("droplet_key", None),
    "endpoint_policies": (None, "endpoint_policy"),
    "endpoint_limits": (None, "endpoint_limits"),
    "limiters": (None, "limiter"),
    "shaper": (None, None),
    "limiter_states": (None, "limiter_state"),
    "policy_sets": (None, "policy_set"),
    "policy_peers": ("policy_peer_key", None),
    "policy_groups": ("policy_group_key", None),
    "policy_verdicts": ("policy_verdict_key", "policy_verdict"),
    "policy_flows": ("policy_flow_key", "policy_flow"),
    "network_acls": ("network_key", "network_acl"),
    "acl_vpcs": (None, None),
    "policy_budgets": (None, "flow_budget"),
    "policy_counts": (None, "flow_count"),
}
ARRAYS = {"services", "service_notes", "members", "member_notes", "flow_budgets", "flow_counts"} | {
    "hop_sets",
    "droplets",
    "proxies",
    "proxy_usage",
    "proxy_ended",
    "endpoint_policies",
    "endpoint_limits",
    "limiters",
    "limiter_states",
    "policy_budgets",
    "policy_counts",
    "acl_vpcs",
    "public_switch",
}


class FakeMaps:
    """All tables; `fail_at` counts writes down, and the write at 0 fails."""

    def __init__(self) -> None:
        self.fail_at = -1
        self.tables = {name: FakeTable(self, name, *_codecs(*kinds)) for name, kinds in SCHEMA.items()}
        self.zeroed: list[tuple[str, int]] = []

    def __getattr__(self, name: str) -> Any:
        return FakeCounters(self, name) if name.endswith("_counters") else self.tables[name]

    def written(self) -> None:
        """A write is about to happen."""
        self.fail_at -= 1
        if self.fail_at == -1:
            raise TemporaryError("the kernel has no memory at the moment")

    def contents(self) -> dict[str, dict[bytes, bytes]]:
        """All bytes; zeros in an array are nothing."""
        return {
            name: {k: v for k, v in table.entries.items() if name not in ARRAYS or any(v)}
            for name, table in self.tables.items()
        }


def _codecs(key: str | None, value: str | None) -> tuple[Codec[Any], Codec[Any]]:
    return (struct_codec(key) if key else U32), (struct_codec(value) if value else U32)


class FakeTable:
    """One hash or array."""

    def __init__(self, maps: FakeMaps, name: str, key: Codec[Any], value: Codec[Any]) -> None:
        self.maps, self.name, self.key, self.value = maps, name, key, value
        self.entries: dict[bytes, bytes] = {}

    def get(self, key: Any) -> Any:
        found = self.entries.get(self.key.pack(key))
        if found is None and self.name in ARRAYS:
            found = bytes(self.value.size)
        return None if found is None else self.value.unpack(found)

    def put(self, key: Any, value: Any) -> None:
        self.maps.written()
        self.entries[self.key.pack(key)] = self.value.pack(value)

    def put_many(self, entries: Iterable[tuple[Any, Any]]) -> None:
        for key, value in entries:
            self.put(key, value)

    def delete(self, key: Any) -> bool:
        assert self.name not in ARRAYS, "an array has nothing to delete"
        self.maps.written()
        return self.entries.pop(self.key.pack(key), None) is not None

    def raw_items(self) -> Iterator[tuple[bytes, bytes]]:
        yield from list(self.entries.items())

    def put_raw(self, entries: Iterable[tuple[bytes, bytes]]) -> None:
        for key, value in entries:
            self.maps.written()
            assert len(key) == self.key.size
            assert len(value) == self.value.size
            self.entries[key] = value

    def delete_raw(self, keys: Iterable[bytes]) -> int:
        return sum(self.entries.pop(key, None) is not None for key in keys)

    def used(self) -> Iterator[tuple[Any, Any]]:
        return ((self.key.unpack(key), self.value.unpack(value)) for key, value in self.raw_items() if any(value))

    def items(self) -> Iterator[tuple[Any, Any]]:
        for key, value in list(self.entries.items()):
            yield self.key.unpack(key), self.value.unpack(value)


class FakeCounters:
    """Counters that are only ever started from zero here."""

    def __init__(self, maps: FakeMaps, name: str) -> None:
        self.maps, self.name = maps, name

    def zero(self, slots: Iterable[int]) -> None:
        self.maps.zeroed += [(self.name, slot) for slot in slots]
