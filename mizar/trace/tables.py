# SPDX-License-Identifier: Apache-2.0
"""From the rows of a droplet's maps to what the oracle knows of a droplet.

Called by predict.py. It takes the maps at their word: an entry that leads to a slot which is empty leads nowhere, as it
does for the data plane.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping

from mizar.model.addresses import to_mapped
from mizar.oracle import proxy_flows
from mizar.oracle.tables import (
    Agent,
    AnsweredAs,
    Droplet,
    Endpoint,
    FlowKey,
    HopSet,
    Leg,
    Member,
    Network,
    Proxy,
    PublicAddress,
    Service,
    Tunnel,
    Vpc,
)
from mizar.trace.policies import AskedPolicyFlows, network_acls_of, policies_of
from mizar.trace.rows import Asked, AskedFlows, AskedProxyFlows, Fields, Point, Rows, address_of, text_of

# The numbers of contracts/dataplane.h.
_TUNNELS = {1: Tunnel.GENEVE, 2: Tunnel.VXLAN}
_DIVIDED_HERE, _BOUNCED_HERE, _ROUTED_HERE, _PEERED = 1, 1, 2, 0x100
_BYPASS, _GONE, _LEARNED, _SCALED, _MEMBER, _DRAINING, _DOWN = 4, 4, 8, 16, 32, 64, 128
_LISTENED, _BY_OPTION, _SERVICE_LISTENED, _SERVICE_BY_CLIENT, _VIP_OPTION = 16, 8, 1, 2, 8
_FORWARDING, _SOURCES, _BY_MAC = 16, 0x40000000, "ff024d5a000000000000"
_THROUGH_DIVIDER = 0x400
_ACTIONS = {1: "vpc", 2: "blackhole", 3: "substrate"}
_ENDPOINT = 4
_UNLISTED = bytes(16)
"""For a droplet that a set of hops names, and that is not known here: nobody's address."""
_FIN, _RESET = 1, 2


def droplet_of(rows: Rows) -> Droplet:
    """The droplet that told the rows."""
    return _Droplet(rows).droplet()


def _vni_of(raw: int) -> int:
    return int.from_bytes(raw.to_bytes(4, sys.byteorder), "big")


def _ways(flags: int) -> tuple[bool, bool]:
    return bool(flags & _SERVICE_LISTENED), bool(flags & _SERVICE_BY_CLIENT)


def _port(raw: int) -> bytes:
    return raw.to_bytes(2, sys.byteorder)


def _families(fields: Fields, name: str) -> Mapping[int, bytes]:
    found = ((family, bytes.fromhex(fields[f"{name}{family}"])) for family in (4, 6))
    return {family: address_of(raw.hex()) for family, raw in found if any(raw)}


class _Droplet:
    def __init__(self, rows: Rows) -> None:
        self.rows = rows
        self.addresses: dict[int, list[bytes]] = {}
        for key, sender in rows.items("droplet_slots"):
            self.addresses.setdefault(sender["slot"], []).append(address_of(key["addr"]))

    def droplet(self) -> Droplet:
        rows, itself = self.rows, self.rows.itself
        own = bytes.fromhex(itself["address"])
        pairs = {slot: sorted(found, key=len) for slot, found in self.addresses.items()}
        entries = {slot: rows.get("droplets", slot) or {} for slot in pairs}
        names = {slot: self.address_at(slot) or found[0] for slot, found in pairs.items()}
        macs = {names[slot]: bytes.fromhex(entry.get("next_hop_mac", "00" * 6)) for slot, entry in entries.items()}
        return Droplet(
            address=own,
            mac=bytes.fromhex(itself["mac"]),
            droplets={name: mac if any(mac) else None for name, mac in macs.items()},
            vpcs={
                vni: Vpc(self.hop_set(value["dividers"]), bool(value["flags"] & _DIVIDED_HERE))
                for vni, value in rows.items("vpcs")
            },
            networks=self.networks(),
            endpoints=Asked(rows, own, endpoint_point, lambda _, value: self.endpoint(value)),
            appliances=Asked(rows, own, appliance_point, lambda _, value: self.endpoint(value)),
            agents={ifindex: self.agent(ifindex, value) for ifindex, value in rows.items("agents")},
            down=frozenset(names[slot] for slot, entry in entries.items() if entry.get("down")),
            foreign=frozenset(names[slot] for slot, entry in entries.items() if entry.get("foreign")),
            identities={(key["vni"], key["tenant"], key["vpc"]): number for key, number in rows.items("identities")},
            address6=bytes.fromhex(itself["address6"]),
            addresses6={found[0]: found[1] for found in pairs.values() if len(found) > 1},
            mtus={names[slot]: entry["mtu"] for slot, entry in entries.items() if entry.get("mtu")},
            traps=itself["traps"],
            stack_link=bool(rows.get("substrate_link", 0)),
            stack={address_of(key["addr"]): number for key, number in rows.items("substrate_endpoints")},
            icmp_errors=itself["icmp_errors"],
            flows=AskedFlows(self.room("flow"), Asked(rows, own, flow_point, lambda _, value: self.flow(value))),
            listeners={
                (key["vni"], address_of(key["addr"]), key["protocol"], _port(key["port_be"])): _port(value["target_be"])
                for key, value in rows.items("listeners")
            },
            public=self.public(),
            policies=policies_of(rows, own),
            policy_flows=AskedPolicyFlows(self.room("policy"), rows, own),
            network_acls=network_acls_of(rows, own),
            acl_vpcs=frozenset(vni for vni, value in rows.items("vpcs") if rows.get("acl_vpcs", value["slot"])),
            proxies={slot: self.proxy(value) for slot, value in rows.items("proxies")},
            proxy_flows=proxy_flows.ProxyFlows(
                AskedProxyFlows(Asked(rows, own, proxy_flow_point, lambda _, value: proxy_flow(value))),
                {
                    slot: proxy_flows.Usage(value["begun"], value["evicted"], value["refused"], value["cursor"])
                    for slot, value in rows.items("proxy_usage")
                },
            ),
        )

    def address_at(self, slot: int) -> bytes | None:
        """The name of the droplet in a slot: its first address. Where `droplets` leads elsewhere, so do packets."""
        named, entry = self.addresses.get(slot), self.rows.get("droplets", slot)
        written = address_of(entry["addr"]) if slot and entry and any(bytes.fromhex(entry["addr"])) else None
        if named and written in (None, *named):
            return min(named, key=len)
        return written

    def hop_set(self, slot: int) -> HopSet:
        found = self.rows.get("hop_sets", slot) if slot else None
        if found is None or not any(found["droplet"]):
            return ()
        cache = {place: self.address_at(place) or _UNLISTED if place else None for place in set(found["droplet"])}
        return tuple(cache[place] for place in found["droplet"])

    def network_id(self, slot: int) -> int:
        """A network is named by its id; one that is not known here by the number of its slot, negative."""
        found = self.rows.get("hop_sets", slot)
        return int(found["network_id"]) if found and found["network_id"] else -slot

    def networks(self) -> dict[tuple[int, bytes, int], Network]:
        found = {}
        for key, value in self.rows.items("networks"):
            address, flags = address_of(key["addr"]), value["flags"]
            length = key["prefix_bits"] - 32 - (96 if len(address) == 4 else 0)
            found[_vni_of(key["vni_be"]), address, length] = Network(
                self.network_id(value["slot"]),
                address_of(value["gateway"]),
                self.hop_set(value["slot"]),
                bool(flags & _BOUNCED_HERE),
                bool(flags & _ROUTED_HERE),
                value["peer"] if flags & _PEERED else 0,
            )
        return found

    def endpoint(self, value: Fields) -> Endpoint:
        flags = value["flags"]
        learned = bool(flags & _LEARNED)
        return Endpoint(
            network=self.network_id(value["network"]),
            mac=bytes.fromhex(value["mac"]),
            host=self.address_at(value["droplet"]) or b"",
            tunnel=_TUNNELS.get(value["tunnel"], Tunnel.GENEVE),
            ifindex=value["ifindex"],
            uid=str(value["slot"]),
            learned=learned,
            gone=learned and bool(flags & _GONE),
            bypass=not learned and bool(flags & _BYPASS),
            service=self.service(value["slot"]) if flags & _SCALED else None,
        )

    def member(self, slot: int) -> Member:
        value = self.rows.get("members", slot)
        flags = value["flags"]
        endpoint = self.endpoint(value | {"flags": flags & _BYPASS})
        note = self.rows.get("member_notes", slot)
        addresses = tuple(_families(note, "addr").values()) if note else ()
        draining, down, listened, by_option = (bool(flags & bit) for bit in (_DRAINING, _DOWN, _LISTENED, _BY_OPTION))
        return Member(endpoint, draining, down, listened, by_option, addresses)

    def service(self, slot: int) -> Service:
        value = self.rows.get("services", slot)
        near = self.rows.get("services", value["near"]) if value["near"] else None
        slots = sorted({place for one in (value, near) if one for place in one["place"] if place})
        numbers = {place: number for number, place in enumerate(slots)} | {0: -1}
        members = tuple(self.member(place) for place in slots)
        near_places = tuple(numbers[place] for place in near["place"]) if near else ()
        return Service(members, tuple(numbers[place] for place in value["place"]), near_places, *_ways(value["flags"]))

    def public(self) -> dict[bytes, PublicAddress]:
        inside: dict[int, list[tuple[bytes, int]]] = {}
        for key, _ in self.rows.items("public_inside"):
            address = address_of(key["addr"])
            length = key["prefix_bits"] - 32 - (96 if len(address) == 4 else 0)
            inside.setdefault(_vni_of(key["table_be"]), []).append((address, length))
        return {
            address_of(key["addr"]): PublicAddress(
                value["vni"],
                self.service(value["service"]),
                tuple(inside.get(value["service"], ())),
                value["wire_vni"] if value["wire_vni"] != value["vni"] else 0,
                bool(value["flags"] & _VIP_OPTION),
            )
            for key, value in self.rows.items("public_addresses")
        }

    def flow(self, value: Fields) -> Member | AnsweredAs:
        if any(bytes.fromhex(value["addr"])):
            port = _port(value["member"]) if value["member"] else b""
            return AnsweredAs(address_of(value["addr"]), port, bool(value["outside"]))
        entry = self.rows.get("members", value["member"])
        if entry is None or entry["mac"] != value["mac"]:  # the slot is another's now
            return AnsweredAs(b"")
        return self.member(value["member"])

    def agent(self, ifindex: int, value: Fields) -> Agent:
        table = value["network"]
        blob = self.rows.get("agent_options", ifindex) if value["option_bytes"] else None
        addresses, gateways = _families(value, "addr"), _families(value, "gateway")
        legs = {
            family: Leg(address, gateways.get(family, bytes(len(address))), value[f"prefix{family}"])
            for family, address in addresses.items()
        }
        return Agent(
            str(value["slot"]),
            value["vni"],
            self.network_id(table),
            bytes.fromhex(value["mac"]),
            _TUNNELS.get(value["tunnel"], Tunnel.GENEVE),
            self.hop_set(table),
            bool(value["network_flags"] & _BOUNCED_HERE),
            bool(value["network_flags"] & _ROUTED_HERE),
            legs.get(4),
            legs.get(6),
            value["wire_vni"],
            bytes.fromhex(blob["data"])[: blob["bytes"]] if blob else b"",
            value["group_set"],
            bool(value["option_flags"] & 1),
            self.routes(table),
            bool(value["flags"] & _FORWARDING),
            self.routes(_SOURCES | value["slot"]) if value["flags"] & _FORWARDING else {},
            through_divider=bool(value["network_flags"] & _THROUGH_DIVIDER),
            member=bool(value["flags"] & _MEMBER),
        )

    def routes(self, table: int) -> dict[tuple[bytes, int], str | bytes]:
        """A network's table, or the sources of an appliance."""
        found: dict[tuple[bytes, int], str | bytes] = {}
        for key, route in self.rows.items("routes"):
            if _vni_of(key["table_be"]) >> 1 == table:
                address, action = address_of(key["addr"]), route["action"]
                length = key["prefix_bits"] - 32 - (96 if len(address) == 4 else 0)
                by_mac = bytes.fromhex(route["mac"]) if action == _ENDPOINT else None
                found[address, length] = by_mac or _ACTIONS.get(action, "vpc")
        return found

    def proxy(self, value: Fields) -> Proxy:
        client, source, target = (_families(value, name) for name in ("client", "source", "target"))
        return Proxy(value["client_vni"], value["source_vni"], client, source, target, value["budget"])

    def room(self, kind: str) -> dict[int, int]:
        found = {}
        for vni, vpc in self.rows.items("vpcs"):
            budget = self.rows.get(f"{kind}_budgets", vpc["slot"]) or {"until": 0}
            count = self.rows.get(f"{kind}_counts", vpc["slot"]) or {"inserted": 0}
            found[vni] = budget["until"] - count["inserted"]
        return found


def endpoint_point(key: tuple[int, bytes]) -> Point:
    """An endpoint by VPC and address."""
    return Point("endpoints", text_of({"vni": key[0], "addr": to_mapped(key[1]).hex()}))


def appliance_point(key: tuple[int, bytes]) -> Point:
    """An appliance by VPC and MAC."""
    return Point("endpoints", text_of({"vni": key[0], "addr": _BY_MAC + key[1].hex()}))


def flow_point(key: FlowKey) -> Point:
    """A flow of a scaled endpoint."""
    fields = {
        "vni": key.vni,
        "client": to_mapped(key.client).hex(),
        "server": to_mapped(key.server).hex(),
        "ports_be": int.from_bytes(key.ports, sys.byteorder),
        "protocol": key.protocol,
        "kind": key.kind.value,
    }
    return Point("flows", text_of(fields))


def proxy_flow_point(key: proxy_flows.FlowKey) -> Point:
    """A flow of a proxied endpoint."""
    fields = {
        "vni": key.vni,
        "local": to_mapped(key.local).hex(),
        "remote": to_mapped(key.remote).hex(),
        "local_port_be": int.from_bytes(key.local_port.to_bytes(2, "big"), sys.byteorder),
        "remote_port_be": int.from_bytes(key.remote_port.to_bytes(2, "big"), sys.byteorder),
        "protocol": key.protocol,
    }
    return Point("proxy_flows", text_of(fields))


def proxy_flow(value: Fields) -> proxy_flows.Flow:
    """An entry of proxy_flows."""

    def port(name: str) -> int:
        return int.from_bytes(value[name].to_bytes(2, sys.byteorder), "big")

    return proxy_flows.Flow(
        value["slot"],
        address_of(value["remote"]),
        port("local_port_be"),
        port("remote_port_be"),
        bool(value["stamp"]),
        bool(value["state"] & _FIN),
        bool(value["state"] & _RESET),
    )
