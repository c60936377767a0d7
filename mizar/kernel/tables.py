# SPDX-License-Identifier: Apache-2.0
"""The maps of a droplet, each with its types.

Owns the schema: which struct is key and value of which map, as the comments of contracts/dataplane.h tell. Called by
the daemon and by data-plane tests. Reading and writing is done by maps.py.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mizar.kernel.layout import U32, Fields, struct_codec
from mizar.kernel.maps import CounterTable, PerCpuTable, Table
from mizar.kernel.versioned import VersionedTable, agent_place, endpoint_place, only_place
from mizar.model.errors import InvalidError


@dataclass(frozen=True)
class Tables:
    """All maps of a droplet. What each holds is written in contracts/dataplane.h."""

    endpoints: Table[Fields, Fields]
    networks: Table[Fields, Fields]
    routes: Table[Fields, Fields]
    substrate_link: Table[int, int]
    substrate_endpoints: Table[Fields, int]
    vpcs: Table[int, Fields]
    identities: Table[Fields, int]
    hop_sets: Table[int, Fields]
    droplets: Table[int, Fields]
    droplet_slots: Table[Fields, Fields]
    agents: Table[int, Fields]
    agent_options: Table[int, Fields]
    proxies: Table[int, Fields]
    proxy_flows: Table[Fields, Fields]
    proxy_usage: Table[int, Fields]
    proxy_ended: Table[int, int]
    group_sets: Table[Fields, Fields]
    droplet_switches: Table[int, Fields]
    trace_marks: Table[int, int]
    services: Table[int, Fields]
    members: Table[int, Fields]
    member_slots: Table[Fields, int]
    listeners: Table[Fields, Fields]
    public_addresses: Table[Fields, Fields]
    public_inside: Table[Fields, int]
    public_switch: Table[int, int]
    service_notes: Table[int, Fields]
    member_notes: Table[int, Fields]
    flows: Table[Fields, Fields]
    flow_budgets: Table[int, Fields]
    flow_counts: Table[int, Fields]
    endpoint_policies: Table[int, Fields]
    endpoint_limits: Table[int, Fields]
    shaper: Table[int, int]
    limiters: Table[int, Fields]
    limiter_states: Table[int, Fields]
    policy_sets: Table[int, Fields]
    policy_peers: Table[Fields, int]
    policy_groups: Table[Fields, int]
    policy_verdicts: Table[Fields, Fields]
    policy_flows: Table[Fields, Fields]
    policy_budgets: Table[int, Fields]
    policy_counts: Table[int, Fields]
    network_acls: Table[Fields, Fields]
    acl_vpcs: Table[int, int]
    endpoint_counters: CounterTable
    vpc_counters: CounterTable
    public_counters: CounterTable
    drop_counters: CounterTable
    event_limits: PerCpuTable

    @classmethod
    def of(cls, maps: Mapping[str, int]) -> Tables:
        """Tables over open maps by name (Programs.maps). Raises InvalidError when one is missing or has other sizes."""
        missing = cls.__dataclass_fields__.keys() - maps.keys()
        if missing:
            raise InvalidError(f"the programs have no map {', '.join(sorted(missing))}")

        def numbered(name: str, value: str) -> Table[int, Fields]:
            return Table(name, maps[name], U32, struct_codec(value))

        def keyed(name: str, key: str, value: str) -> Table[Fields, Fields]:
            return Table(name, maps[name], struct_codec(key), struct_codec(value))

        def counting(name: str, value: str) -> CounterTable:
            return CounterTable(name, maps[name], struct_codec(value))

        return cls(
            endpoints=VersionedTable(
                "endpoints", maps["endpoints"], struct_codec("endpoint_key"), struct_codec("endpoint")
            ).versioned_by(Table("endpoint_versions", maps["endpoint_versions"], U32, U32), endpoint_place),
            networks=keyed("networks", "network_key", "network"),
            routes=keyed("routes", "route_key", "network_route"),
            substrate_link=Table("substrate_link", maps["substrate_link"], U32, U32),
            substrate_endpoints=Table(
                "substrate_endpoints", maps["substrate_endpoints"], struct_codec("droplet_key"), U32
            ),
            vpcs=numbered("vpcs", "vpc"),
            identities=Table("identities", maps["identities"], struct_codec("identity_key"), U32),
            hop_sets=numbered("hop_sets", "hop_set"),
            droplets=numbered("droplets", "droplet"),
            droplet_slots=keyed("droplet_slots", "droplet_key", "known_sender"),
            agents=VersionedTable("agents", maps["agents"], U32, struct_codec("agent")).versioned_by(
                Table("agent_versions", maps["agent_versions"], U32, U32), agent_place
            ),
            agent_options=numbered("agent_options", "agent_options"),
            proxies=numbered("proxies", "proxy"),
            proxy_flows=keyed("proxy_flows", "proxy_flow_key", "proxy_flow"),
            proxy_usage=numbered("proxy_usage", "proxy_usage"),
            proxy_ended=Table("proxy_ended", maps["proxy_ended"], U32, U32),
            group_sets=keyed("group_sets", "group_set_key", "group_set"),
            trace_marks=Table("trace_marks", maps["trace_marks"], U32, U32),
            droplet_switches=numbered("droplet_switches", "droplet_switches"),
            services=numbered("services", "service"),
            members=numbered("members", "endpoint"),
            public_addresses=VersionedTable(
                "public_addresses",
                maps["public_addresses"],
                struct_codec("droplet_key"),
                struct_codec("public_address"),
            ).versioned_by(Table("public_version", maps["public_version"], U32, U32), only_place),
            public_inside=Table("public_inside", maps["public_inside"], struct_codec("route_key"), U32),
            public_switch=Table("public_switch", maps["public_switch"], U32, U32),
            listeners=keyed("listeners", "listener_key", "listener"),
            member_slots=Table("member_slots", maps["member_slots"], struct_codec("member_key"), U32),
            service_notes=numbered("service_notes", "service_note"),
            member_notes=numbered("member_notes", "member_note"),
            flows=keyed("flows", "flow_key", "flow"),
            flow_budgets=numbered("flow_budgets", "flow_budget"),
            flow_counts=numbered("flow_counts", "flow_count"),
            endpoint_policies=numbered("endpoint_policies", "endpoint_policy"),
            endpoint_limits=numbered("endpoint_limits", "endpoint_limits"),
            shaper=Table("shaper", maps["shaper"], U32, U32),
            limiters=numbered("limiters", "limiter"),
            limiter_states=numbered("limiter_states", "limiter_state"),
            policy_sets=numbered("policy_sets", "policy_set"),
            policy_peers=Table("policy_peers", maps["policy_peers"], struct_codec("policy_peer_key"), U32),
            policy_groups=Table("policy_groups", maps["policy_groups"], struct_codec("policy_group_key"), U32),
            policy_verdicts=keyed("policy_verdicts", "policy_verdict_key", "policy_verdict"),
            policy_flows=keyed("policy_flows", "policy_flow_key", "policy_flow"),
            policy_budgets=numbered("policy_budgets", "flow_budget"),
            policy_counts=numbered("policy_counts", "flow_count"),
            network_acls=keyed("network_acls", "network_key", "network_acl"),
            acl_vpcs=Table("acl_vpcs", maps["acl_vpcs"], U32, U32),
            endpoint_counters=counting("endpoint_counters", "endpoint_counters"),
            vpc_counters=counting("vpc_counters", "vpc_counters"),
            public_counters=counting("public_counters", "public_counters"),
            drop_counters=counting("drop_counters", "drop_counter"),
            event_limits=PerCpuTable("event_limits", maps["event_limits"], struct_codec("event_limit")),
        )


def network_key(vni: int, address: bytes, prefix_length: int) -> Fields:
    """Key of `networks` for a prefix given as mapped address (16 bytes) and its own length (0..32 for IPv4)."""
    mapped = address[:12] == bytes(10) + b"\xff\xff"
    vni_be = int.from_bytes(vni.to_bytes(4, "big"), sys.byteorder)
    return {"prefix_bits": 32 + prefix_length + (96 if mapped else 0), "vni_be": vni_be, "addr": address}


def hop_set_places(droplets: Sequence[int], places: int) -> tuple[int, ...]:
    """Fills the places of a hop set evenly with its members' slots; all 0 when there is none."""
    return tuple(droplets[i % len(droplets)] for i in range(places)) if droplets else (0,) * places
