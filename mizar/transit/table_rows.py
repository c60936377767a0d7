# SPDX-License-Identifier: Apache-2.0
"""The maps as they are: entries that concern some VPCs' packets, as rows of JSON.

Called by the servicer for who explains a packet's way. What is told is what the kernel holds, whatever the daemon
remembers: it only reads, holds no lock, and mends nothing. Small tables are read for the VPCs in question and for those
that their packets may cross into; of tables that grow with traffic or with the VPC, single entries.
"""

import json
import struct
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mizar.kernel.layout import constant
from mizar.kernel.tables import Tables
from mizar.model.errors import ExhaustedError, InvalidError
from mizar.transit.appliances import table_of

MOST_VPCS, MOST_KEYS, MOST_ROWS = 64, 256, 200_000
CHUNK = 1000
SINGLE = (
    "endpoints", "flows", "proxy_flows", "policy_peers", "policy_groups", "policy_verdicts", "policy_flows",
)  # fmt: skip
"""Tables of which single entries are read."""

Row = tuple[str, Any, Any]


@dataclass(frozen=True, slots=True)
class Key:
    """One entry that is asked for."""

    table: str
    key: Mapping[str, Any]


def parse_key(table: str, text: str) -> Key:
    """A key of a request. Raises InvalidError."""
    if table not in SINGLE:
        raise InvalidError(f"single entries are read of {', '.join(SINGLE)}, not of {table!r}")
    try:
        found = json.loads(text)
        return Key(table, {name: bytes.fromhex(x) if isinstance(x, str) else int(x) for name, x in found.items()})
    except (ValueError, TypeError, AttributeError) as error:
        raise InvalidError(f"{text!r} is no key of {table}: {error}") from error


@dataclass(slots=True)
class _Reader:
    """One reading. `vnis`, `sets` and `sources` grow with what the entries refer to."""

    tables: Tables
    vnis: set[int]
    sets: set[int] = field(default_factory=set)
    sources: set[int] = field(default_factory=set)
    count: int = 0

    def rows(self, keys: Sequence[Key]) -> Iterator[Row]:
        for table, key, value in self._all(keys):
            self.count += 1
            if self.count > MOST_ROWS:
                raise ExhaustedError(f"what these VPCs have on this droplet is more than {MOST_ROWS} entries")
            yield table, key, value

    def _all(self, keys: Sequence[Key]) -> Iterator[Row]:
        yield from self.proxies()
        networks = list(self.networks())
        yield from networks
        yield from self.vpcs()
        yield from self.agents()
        yield from self.network_acls()
        yield from self.routes()
        yield from self.substrate()
        yield from self.listeners()
        services: set[int] = set()
        for row in self.public():
            services |= {row[2]["service"]} if row[0] == "public_addresses" else set()
            yield row
        for key in keys:
            value = getattr(self.tables, key.table).get(key.key)
            yield key.table, key.key, value
            flags = value["flags"] if key.table == "endpoints" and value is not None else 0
            if flags & constant("ENDPOINT_SCALED"):
                services.add(value["slot"])
            elif flags & constant("ENDPOINT_POLICED"):
                yield "endpoint_policies", value["slot"], self.tables.endpoint_policies.get(value["slot"])
        yield from self.services(services)
        for slot in sorted(self.sets):
            yield "hop_sets", slot, self.tables.hop_sets.get(slot)
        yield from self.droplets()

    def proxies(self) -> Iterator[Row]:
        found = [(slot, proxy) for slot, proxy in self.tables.proxies.items() if proxy["instance"]]
        for slot, proxy in found:
            sides = {proxy["client_vni"], proxy["source_vni"]}
            if sides & self.vnis:
                self.vnis |= sides
                yield "proxies", slot, proxy
                yield "proxy_usage", slot, self.tables.proxy_usage.get(slot)

    def networks(self) -> Iterator[Row]:
        held: dict[int, list[Row]] = {}
        for key, value in self.tables.networks.items():
            vni = int.from_bytes(key["vni_be"].to_bytes(4, sys.byteorder), "big")
            held.setdefault(vni, []).append(("networks", key, value))
        peered = constant("NETWORK_PEERED")
        self.vnis |= {
            value["peer"] for vni in self.vnis for _, _, value in held.get(vni, ()) if value["flags"] & peered
        }
        for vni in sorted(self.vnis):
            for row in held.get(vni, ()):
                self.sets.add(row[2]["slot"])
                yield row

    def vpcs(self) -> Iterator[Row]:
        for vni in sorted(self.vnis):
            value = self.tables.vpcs.get(vni)
            if value is not None:
                self.sets.add(value["dividers"])
                yield "vpcs", vni, value
                yield "flow_budgets", value["slot"], self.tables.flow_budgets.get(value["slot"])
                yield "flow_counts", value["slot"], self.tables.flow_counts.get(value["slot"])
                yield "policy_budgets", value["slot"], self.tables.policy_budgets.get(value["slot"])
                yield "policy_counts", value["slot"], self.tables.policy_counts.get(value["slot"])
                yield "acl_vpcs", value["slot"], self.tables.acl_vpcs.get(value["slot"])
        for key, number in self.tables.identities.items():
            if number in self.vnis:
                yield "identities", key, number

    def agents(self) -> Iterator[Row]:
        wanted = {struct.pack("=I", vni) for vni in self.vnis}
        for raw, value in self.tables.agents.raw_items():
            if value[:4] not in wanted:
                continue
            (ifindex,) = struct.unpack("=I", raw)
            agent = self.tables.agents.get(ifindex)
            if agent is not None:
                self.sets.add(agent["network"])
                self.sources |= {table_of(agent["slot"])} if agent["flags"] & constant("ENDPOINT_FORWARDING") else set()
                yield "agents", ifindex, agent
                if agent["flags"] & constant("ENDPOINT_POLICED"):
                    yield "endpoint_policies", agent["slot"], self.tables.endpoint_policies.get(agent["slot"])
                if agent["flags"] & constant("ENDPOINT_LIMITED"):
                    yield from self.limits(agent["slot"])
                if agent["option_bytes"]:
                    yield "agent_options", ifindex, self.tables.agent_options.get(ifindex)

    def limits(self, slot: int) -> Iterator[Row]:
        record = self.tables.endpoint_limits.get(slot)
        if record is None:
            return
        yield "endpoint_limits", slot, record
        for number in {*record["egress"], *record["ingress"], record["guarantee"]} - {0}:
            yield "limiters", number, self.tables.limiters.get(number)

    def network_acls(self) -> Iterator[Row]:
        for key, value in self.tables.network_acls.items():
            if int.from_bytes(key["vni_be"].to_bytes(4, sys.byteorder), "big") in self.vnis:
                yield "network_acls", key, value

    def routes(self) -> Iterator[Row]:
        for key, value in self.tables.routes.items():
            if int.from_bytes(key["table_be"].to_bytes(4, sys.byteorder), "big") >> 1 in self.sets | self.sources:
                yield "routes", key, value

    def substrate(self) -> Iterator[Row]:
        yield "substrate_link", 0, self.tables.substrate_link.get(0)
        for key, number in self.tables.substrate_endpoints.items():
            if number in self.vnis:
                yield "substrate_endpoints", key, number

    def listeners(self) -> Iterator[Row]:
        for key, value in self.tables.listeners.items():
            if key["vni"] in self.vnis:
                yield "listeners", key, value

    def public(self) -> Iterator[Row]:
        """What this droplet attracts for load balancers of the VPCs, and prefixes that nobody outside has."""
        if not self.tables.public_switch.get(0):
            return
        found = [(key, value) for key, value in self.tables.public_addresses.items() if value["vni"] in self.vnis]
        services = {value["service"] for _, value in found}
        for key, value in found:
            yield "public_addresses", key, value
        for prefix, one in self.tables.public_inside.items() if found else ():
            if int.from_bytes(prefix["table_be"].to_bytes(4, sys.byteorder), "big") in services:
                yield "public_inside", prefix, one

    def services(self, slots: set[int]) -> Iterator[Row]:
        members: set[int] = set()
        for slot in sorted(slots):
            service = self.tables.services.get(slot)
            yield "services", slot, service
            near = self.tables.services.get(service["near"]) if service and service["near"] else None
            if service and near:
                yield "services", service["near"], near
            members |= {place for one in (service, near) if one for place in one["place"] if place}
        for slot in sorted(members):
            yield "members", slot, self.tables.members.get(slot)
            yield "member_notes", slot, self.tables.member_notes.get(slot)

    def droplets(self) -> Iterator[Row]:
        for key, value in self.tables.droplet_slots.items():
            yield "droplet_slots", key, value
            entry = self.tables.droplets.get(value["slot"])
            if entry is not None:
                yield "droplets", value["slot"], entry


def read(tables: Tables, vnis: Sequence[int], keys: Sequence[Key]) -> Iterator[Row]:
    """Entries by table, key and value. Raises InvalidError or ExhaustedError."""
    if len(vnis) > MOST_VPCS or len(keys) > MOST_KEYS:
        raise InvalidError(f"ask for at most {MOST_VPCS} VPCs and {MOST_KEYS} entries at once")
    yield from _Reader(tables, set(vnis)).rows(keys)


def chunks(rows: Iterable[Row]) -> Iterator[tuple[str, list[str]]]:
    """Rows of one table, some at a time, as JSON."""
    at, held = "", list[str]()
    for table, key, value in rows:
        if held and (table != at or len(held) >= CHUNK):
            yield at, held
            held = []
        at = table
        held.append(json.dumps([_plain(key), _plain(value)], separators=(",", ":")))
    if held:
        yield at, held


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, bytes):
        return value.hex()
    return list(value) if isinstance(value, tuple) else value
