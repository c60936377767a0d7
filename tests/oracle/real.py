# SPDX-License-Identifier: Apache-2.0
"""One droplet in the kernel, filled from the oracle's tables and answering in the oracle's words.

Owns the translation between plain values and maps with slots; only what a run changed is cleared before the next.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

from mizar.kernel import layout, test_run
from mizar.kernel.configuration import configuration, mark_of
from mizar.kernel.events import EventReader
from mizar.kernel.programs import load
from mizar.kernel.tables import Tables, network_key
from mizar.model import drop_reasons
from mizar.model.addresses import to_mapped
from mizar.oracle.icmp import TOLD
from mizar.oracle.limits import Limiter
from mizar.oracle.outcome import Counted, Handover, Outcome, Verdict
from mizar.oracle.routes import Table
from mizar.oracle.substrate import address_to
from mizar.oracle.tables import Droplet, Endpoint, HopSet, Tunnel
from tests.dataplane.ingress import Ingress
from tests.dataplane.remembered import forget_near
from tests.oracle.real_policies import POLICED, RealPolicies
from tests.oracle.real_proxies import RealProxies
from tests.oracle.real_services import RealServices

SIZES = {
    "endpoints": 256,
    "networks": 64,
    "substrate_endpoints": 64,
    "routes": 64,
    "vpcs": 16,
    "identities": 16,
    "agent_options": 16,
    "group_sets": 16,
    "hop_sets": 64,
    "droplets": 64,
    "droplet_slots": 64,
    "agents": 32,
    "trap_budgets": 64,
    "endpoint_counters": 64,
    "vpc_counters": 16,
    "public_counters": 32,
    "proxies": 8,
    "proxy_flows": 1024,
    "proxy_usage": 8,
    "proxy_ended": 8,
    "proxy_embryos": 512,
    "services": 16,
    "service_notes": 16,
    "members": 32,
    "member_notes": 32,
    "member_slots": 32,
    "listeners": 64,
    "flows": 4096,
    "flow_budgets": 16,
    "flow_counts": 16,
    "endpoint_policies": 64,
    "endpoint_limits": 64,
    "limiters": 64,
    "limiter_states": 64,
    "policy_sets": 16,
    "policy_peers": 256,
    "policy_groups": 64,
    "policy_verdicts": 256,
    "policy_flows": 1024,
    "network_acls": 64,
    "acl_vpcs": 16,
    "policy_budgets": 16,
    "policy_counts": 16,
}
UPLINK = 42
TUNNELS = {Tunnel.GENEVE: 1, Tunnel.VXLAN: 2}
DIVIDED_HERE, BOUNCED_HERE, ROUTED_HERE, PEERED, HAS_ROUTES, THROUGH_DIVIDER = 1, 1, 2, 0x100, 0x200, 0x400
ROUTE_ENDPOINT = 4
ACTIONS = {"vpc": 1, "blackhole": 2, "substrate": 3}
NEEDS_IDENTITY = 1
LEARNED, ENDPOINT_GONE, BYPASS = 8, 4, 4
SCALED, MEMBER, LIMITED = 16, 32, 128
GROUPS = 16
FORWARDING, TABLE_SOURCES = 16, 0x40000000
MAGIC, SEND_MAGIC = 0x4D5A4F31, 0x4D5A5331
XDP = {1: Verdict.DROP, 2: Verdict.PASS, 3: Verdict.SEND, 4: Verdict.SEND}  # the last: a function redirects
TC_SHOT, TC_REDIRECT = 2, 7
COUNTERS = ("endpoint_counters", "vpc_counters", "public_counters", "drop_counters")


class Slots:
    """Numbers for names, from 1 on, in the order in which they are asked for."""

    def __init__(self) -> None:
        self.numbers: dict[Any, int] = {}

    def of(self, name: Any) -> int:
        return self.numbers.setdefault(name, len(self.numbers) + 1)

    def name(self, number: int) -> Any:
        return next((name for name, each in self.numbers.items() if each == number), f"slot {number}")


def wire_of(here: Droplet, vni: int) -> int:
    """What the packets of a VPC bear as VNI."""
    return next((wire for (wire, _, _), number in here.identities.items() if number == vni), vni)


class RealDroplet:
    """The compiled programs of one droplet, without interfaces."""

    def __init__(
        self,
        address: bytes,
        mac: bytes,
        *,
        address6: bytes = b"",
        send_by_tc: bool = False,
        at_tc: bool = False,
        objects: Mapping[str, bytes] | None = None,
    ) -> None:
        self.address, self.address6, self.mac, self.send_by_tc = address, address6, mac, send_by_tc
        addresses = [one for one in (address, address6) if one]
        config = configuration(addresses, mac, UPLINK, send_by_tc=send_by_tc, icmp_errors=0xFFFFFFFF, traps=0xFFFFFFFF)
        self.programs = load(config, max_entries=SIZES, objects=objects)
        self.ingress = Ingress(self.programs) if at_tc else None
        self.tables = Tables.of(self.programs.maps)
        self.traps = EventReader(self.programs.maps["traps"], "trap")
        tables = self.tables
        self.arrays = (
            tables.hop_sets, tables.droplets, tables.services, tables.members, tables.flow_budgets, tables.flow_counts,
            tables.endpoint_policies, tables.policy_budgets, tables.policy_counts,
            tables.endpoint_limits, tables.limiters, tables.limiter_states, tables.member_notes,
        )  # fmt: skip
        self.written: list[tuple[Any, Any]] = []
        self.limited: frozenset[str] = frozenset()
        self.proxies, self.policies = RealProxies(self), RealPolicies(self)
        self.forget()

    def close(self) -> None:
        """Frees programs and maps."""
        self.traps.close()
        self.programs.close()

    def forget(self) -> None:
        """Empties all tables."""
        for table, key in self.written:
            if table is self.tables.acl_vpcs:
                table.put(key, 0)
            elif table in self.arrays:
                table.put(key, {})
            else:
                table.delete(key)
        self.written = []
        forget_near(self.programs.maps)
        self.tables.flows.delete_many([key for key, _ in self.tables.flows.items()])
        self.proxies.forget()
        self.policies.forget()
        self.services = RealServices(self)
        self.droplet_slots, self.vpc_slots, self.uid_slots, self.sets = Slots(), Slots(), Slots(), Slots()

    def write(self, table: Any, key: Any, value: Any) -> None:
        """One entry, to be cleared later."""
        table.put(key, value)
        self.written.append((table, key))

    def fill(self, here: Droplet) -> None:
        """Makes the droplet's tables those of the oracle."""
        assert (here.address, here.address6, here.mac) == (self.address, self.address6, self.mac)
        self.forget()
        tables = self.tables
        self.policies.policed = frozenset(here.policies)
        self.limited = frozenset(here.limits)
        self.fill_limits(here)
        for address, mac in here.droplets.items():
            slot = self.droplet_slots.of(address)
            to, down = address_to(here, address) or address, int(address in here.down)
            value = {"addr": to_mapped(to), "next_hop_mac": mac or bytes(6), "down": down}
            value["mtu"] = here.mtus.get(address, 0)
            value["foreign"] = int(address in here.foreign)
            self.write(tables.droplets, slot, value)
            for one in (address, here.addresses6.get(address)):
                if one:
                    self.write(tables.droplet_slots, {"addr": to_mapped(one)}, {"slot": slot})
        for vni, vpc in here.vpcs.items():
            slot = self.hop_set((vni, 0), vpc.dividers) if vpc.dividers else 0
            flags = DIVIDED_HERE if vpc.divided_here else 0
            value = {"slot": self.vpc_slots.of(vni), "dividers": slot, "flags": flags}
            self.write(tables.vpcs, vni, value | {"wire_vni": wire_of(here, vni)})
        for (vni, tenant, number), vpc_number in here.identities.items():
            self.write(tables.identities, {"vni": vni, "tenant": tenant, "vpc": number}, vpc_number)
        for (vni, prefix, length), network in here.networks.items():
            value = {
                "slot": self.hop_set((vni, network.id), network.bouncers),
                "vpc_slot": self.vpc_slots.of(vni),
                "flags": network.bounced_here * BOUNCED_HERE
                + network.routed_here * ROUTED_HERE
                + bool(network.peer) * PEERED,
                "peer": network.peer,
                "gateway": to_mapped(network.gateway),
            }
            self.write(tables.networks, network_key(vni, to_mapped(prefix), length), value)
        for (vni, number), groups in here.group_sets.items():
            value = {"count": len(groups), "groups": groups + (0,) * (GROUPS - len(groups))}
            self.write(tables.group_sets, {"vni": vni, "number": number}, value)
        tables.substrate_link.put(0, UPLINK if here.stack_link else 0)
        for address, vni in here.stack.items():
            self.write(tables.substrate_endpoints, {"addr": to_mapped(address)}, vni)
        self.fill_endpoints(here)
        self.fill_agents(here)
        self.services.write_flows(here.flows)
        self.services.write_listeners(here.listeners)
        self.services.write_public(here.public)
        self.proxies.fill(here)
        self.policies.fill(here)

    def fill_limits(self, here: Droplet) -> None:
        """Limiters, each with its clocks, and the records that refer to them."""
        numbers = itertools.count(2)

        def put(limiter: Limiter) -> int:
            slot = next(numbers)
            costs = {"byte_cost": limiter.byte_ns << 20, "packet_cost": limiter.packet_ns << 20}
            bursts = {"byte_burst_ns": limiter.burst_ns, "packet_burst_ns": limiter.burst_ns}
            self.write(self.tables.limiters, slot, costs | bursts)
            clocks = {"bytes_due": limiter.bytes_due, "packets_due": limiter.packets_due}
            self.write(self.tables.limiter_states, slot, clocks)
            return slot

        for uid, limits in here.limits.items():
            value = {
                "egress": (*map(put, limits.egress), 0, 0, 0)[:3],
                "ingress": (*map(put, limits.ingress), 0, 0, 0)[:3],
                "dscp": 0 if limits.dscp is None else 0x80 | limits.dscp,
            }
            self.write(self.tables.endpoint_limits, self.uid_slots.of(uid), value)

    def fill_endpoints(self, here: Droplet) -> None:
        """The endpoints that it knows. (A returned frame changes one.)"""
        for (vni, address), endpoint in here.endpoints.items():
            value = self.endpoint_value(vni, endpoint)
            if endpoint.service is not None:
                value |= {"droplet": 0, "slot": self.services.write(vni, endpoint.service), "flags": SCALED}
            self.write(self.tables.endpoints, {"vni": vni, "addr": to_mapped(address)}, value)

        for (vni, mac), endpoint in here.appliances.items():
            key = {"vni": vni, "addr": bytes.fromhex("ff024d5a000000000000") + mac}
            self.write(self.tables.endpoints, key, self.endpoint_value(vni, endpoint))

    def endpoint_value(self, vni: int, endpoint: Endpoint) -> dict[str, Any]:
        """An endpoint as `endpoints` and `members` hold it."""
        return {
            "droplet": self.droplet_slots.of(endpoint.host) if endpoint.host else 0,
            "ifindex": endpoint.ifindex,
            "slot": self.uid_slots.of(endpoint.uid) if endpoint.ifindex else 0,
            "vpc_slot": self.vpc_slots.of(vni),
            "network": self.sets.of((vni, endpoint.network)),
            "mac": endpoint.mac,
            "tunnel": TUNNELS[endpoint.tunnel],
            "flags": endpoint.learned * LEARNED
            + endpoint.gone * ENDPOINT_GONE
            + endpoint.bypass * BYPASS
            + (endpoint.uid in self.policies.policed) * POLICED
            + (endpoint.uid in self.limited) * LIMITED,
        }

    def fill_agents(self, here: Droplet) -> None:
        """The agents of the droplet's endpoints."""
        for ifindex, agent in here.agents.items():
            value = {
                "vni": agent.vni,
                "slot": self.uid_slots.of(agent.uid),
                "vpc_slot": self.vpc_slots.of(agent.vni),
                "network": self.hop_set((agent.vni, agent.network), agent.bouncers),
                "network_flags": agent.bounced_here * BOUNCED_HERE
                + agent.routed_here * ROUTED_HERE
                + bool(agent.routes) * HAS_ROUTES
                + agent.through_divider * THROUGH_DIVIDER,
                "mac": agent.mac,
                "tunnel": TUNNELS[agent.tunnel],
                "wire_vni": agent.wire_vni or agent.vni,
                "group_set": agent.group_set,
                "option_bytes": len(agent.options),
                "option_flags": NEEDS_IDENTITY if agent.needs_identity else 0,
                "flags": agent.member * MEMBER
                + agent.forwarding * FORWARDING
                + (agent.uid in self.policies.policed) * POLICED
                + (agent.uid in here.limits) * LIMITED,
            }
            self.fill_routes(self.sets.of((agent.vni, agent.network)), agent.routes)
            self.fill_routes(TABLE_SOURCES | self.uid_slots.of(agent.uid), agent.sources)
            if agent.options:
                blob = {"bytes": len(agent.options), "data": agent.options.ljust(252, b"\0")}
                self.write(self.tables.agent_options, ifindex, blob)
            for family in (4, 6):
                leg = agent.leg(family)
                if leg:
                    value[f"addr{family}"] = to_mapped(leg.address)
                    value[f"gateway{family}"] = to_mapped(leg.gateway)
                    value[f"prefix{family}"] = leg.prefix
            self.write(self.tables.agents, ifindex, value)

    def fill_routes(self, number: int, table: Table) -> None:
        """A table of a network, or the sources of an appliance."""
        for (to, length), action in table.items():
            key = network_key(number << 1 | (len(to) == 16), to_mapped(to), length)
            key = {"prefix_bits": key["prefix_bits"], "table_be": key["vni_be"], "addr": key["addr"]}
            by_mac = {"action": ROUTE_ENDPOINT, "mac": action} if isinstance(action, bytes) else None
            self.write(self.tables.routes, key, by_mac or {"action": ACTIONS[str(action)]})

    def hop_set(self, owner: tuple[int, int], members: HopSet) -> int:
        """The slot of an owner's hop set, after writing it. A member that is no known droplet has an empty slot."""
        slot = self.sets.of(owner)
        places = tuple(self.droplet_slots.of(member) if member else 0 for member in members) or (0,) * 16
        self.write(self.tables.hop_sets, slot, {"droplet": places})
        return slot

    # ---- runs

    def transit(self, frame: bytes, *, counting: bool = True) -> Outcome:
        """Runs Transit on a frame from the substrate. `next_hop` and `step` cannot be seen from outside."""
        result = self.ingress.run(frame) if self.ingress else test_run.run_xdp(self.programs.transit.fd, frame)
        verdict, handover = XDP[result.retval], None
        assert bool(result.metadata) == (verdict is Verdict.PASS) or not self.send_by_tc
        if result.metadata and verdict is Verdict.PASS:  # else a function behind it decided, and the note is void
            verdict, handover = self.note(layout.parse("handover", result.metadata))
        return self.outcome(verdict, result.frame, handover, counting)

    def note(self, note: Mapping[str, int]) -> tuple[Verdict, Handover | None]:
        """What a note tells `deliver` to do: nothing, where it is blank."""
        if not any(note.values()):
            return Verdict.PASS, None
        assert note["mark"] == mark_of(self.address)
        if note["magic"] == SEND_MAGIC:
            assert (note["ifindex"], note["vni"], note["slot"]) == (UPLINK, 0, 0)
            return Verdict.SEND, None
        assert note["magic"] == MAGIC
        assert note["flags"] & ~0xFF00 in (0, 1, 3, 7)  # above: the mark of a traced packet
        uid = self.uid_slots.name(note["slot"])
        return Verdict.DELIVER, Handover(
            note["ifindex"], note["vni"], uid, *(bool(note["flags"] & bit) for bit in (1, 2, 4))
        )

    def agent(self, ifindex: int, frame: bytes, segments: int = 1, *, counting: bool = True) -> Outcome:
        """Runs the agent on a frame from an endpoint. A redirect's target cannot be seen: SEND stands for all."""
        result = test_run.run_tc(self.programs.agent.fd, frame, ifindex=ifindex, gso_segs=segments)
        assert result.retval in (TC_SHOT, TC_REDIRECT)
        asked = self.traps.read() if result.retval == TC_SHOT else []
        if asked:
            assert [(one["ifindex"], one["frame"][: one["length"]]) for one in asked] == [(ifindex, frame)]
            return self.outcome(Verdict.TRAP, frame, None, counting)
        return self.outcome(Verdict.DROP if result.retval == TC_SHOT else Verdict.SEND, result.frame, None, counting)

    def proxy(self, ifindex: int, frame: bytes) -> Outcome:
        """Runs the program at a side of a proxied endpoint that the droplet carries."""
        result = test_run.run_tc(self.programs.programs["proxy"].fd, frame, cb=ifindex)
        verdict = Verdict.DROP if result.retval == TC_SHOT else Verdict.SEND
        return self.outcome(verdict, result.frame, None, counting=True)

    def stack(self, frame: bytes, segments: int = 1, *, counting: bool = True) -> Outcome:
        """Runs the program that sees what the host's stack sends to endpoints."""
        result = test_run.run_tc(self.programs.substrate.fd, frame, gso_segs=segments)
        assert result.retval in (TC_SHOT, TC_REDIRECT)
        verdict = Verdict.DROP if result.retval == TC_SHOT else Verdict.SEND
        return self.outcome(verdict, result.frame, None, counting)

    def outcome(self, verdict: Verdict, frame: bytes, handover: Handover | None, counting: bool) -> Outcome:
        """What was seen of a run; `counting`: its counters included, which start from zero again."""
        if not counting:
            return Outcome(verdict, frame, handover=handover)
        counted = self.counted()
        reasons = [str(key) for kind, key in counted if kind == "drop"]
        if "FUNCTION_REFUSED" in reasons:  # at ON_XDP_DROP it comes behind the pipeline's own
            return Outcome(verdict, frame, "FUNCTION_REFUSED", counted, handover=handover)
        told = [reason for reason in reasons if reason in TOLD]  # and the message may have been refused for another
        assert len(reasons) <= 1 + len(told) == 1 + bool(told), f"counted twice: {reasons}"
        return Outcome(verdict, frame, (told or reasons or [""])[0], counted, handover=handover)

    def counted(self) -> Counted:
        """All counters that moved."""
        found: Counted = {}
        for name in COUNTERS:
            table = getattr(self.tables, name)
            for slot, fields in list(table.items()):
                moved = {field: value for field, value in fields.items() if value}
                if name == "vpc_counters":
                    found["vpc", self.vpc_slots.name(slot)] = moved
                elif name == "endpoint_counters":
                    found["endpoint", self.uid_slots.name(slot)] = moved
                elif name == "public_counters":
                    found["public", self.services.public[slot]] = moved
                else:
                    found["drop", drop_reasons.by_number()[slot].name] = moved
                table.zero([slot])
        return found
