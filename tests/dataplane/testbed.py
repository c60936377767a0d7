# SPDX-License-Identifier: Apache-2.0
"""A droplet without interfaces: the programs loaded, their maps filled from the plan, their counters compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mizar.kernel import layout, test_run
from mizar.kernel.maps import Table
from mizar.kernel.programs import Programs, load
from mizar.kernel.tables import Tables, hop_set_places, network_key
from mizar.model import drop_reasons

from .ingress import Ingress
from .plan import (
    BACK,
    BLUE,
    BOUNCER,
    DIVIDER,
    DIVIDERS_SLOT,
    FAMILIES,
    FRONT,
    HOPS,
    HOST,
    MARK,
    ME,
    MEMBERS,
    NETWORK_BOUNCED_HERE,
    NETWORK_PEERED,
    NETWORK_ROUTED_HERE,
    PEERS_SLOT,
    PROXY_SLOT,
    RED,
    SERVICE_MAC,
    SUBSTRATES,
    TABLE_SOURCES,
    THEIRS,
    UNRESOLVED,
    UPLINK_IFINDEX,
    VPC_DIVIDED_HERE,
    A,
    B,
    C,
    DropletPlan,
    EndpointPlan,
    NetworkPlan,
    P,
    Q,
    R,
    S,
    T,
    VpcPlan,
    mac_bytes,
    mapped,
)
from .remembered import forget_near

XDP_DROP, XDP_PASS, XDP_TX = 1, 2, 3
TC_SHOT, TC_REDIRECT, TC_NEXT = 2, 7, 0xFFFFFFFF
SIZES = {
    "endpoints": 256,
    "networks": 64,
    "substrate_endpoints": 64,
    "vpcs": 16,
    "identities": 16,
    "agent_options": 16,
    "group_sets": 16,
    "hop_sets": 64,
    "droplets": 64,
    "droplet_slots": 64,
    "agents": 32,
    "endpoint_counters": 16,
    "vpc_counters": 16,
    "public_counters": 32,
    "proxies": 32,
    "proxy_flows": 64,
    "proxy_usage": 32,
    "proxy_ended": 32,
    "proxy_embryos": 256,
    "services": 8,
    "service_notes": 8,
    "members": 16,
    "member_notes": 16,
    "member_slots": 16,
    "listeners": 16,
    "flows": 1024,
    "flow_budgets": 16,
    "flow_counts": 16,
    "vpc_functions": 16,
    "endpoint_functions": 16,
    "network_functions": 64,
    "group_functions": 16,
    "endpoint_policies": 16,
    "endpoint_limits": 16,
    "limiters": 16,
    "limiter_states": 16,
    "policy_sets": 16,
    "policy_peers": 256,
    "policy_groups": 64,
    "policy_verdicts": 256,
    "network_acls": 64,
    "acl_vpcs": 16,
    "policy_flows": 1024,
    "policy_budgets": 16,
    "policy_counts": 16,
}
TUNNEL_NUMBERS = {"geneve": 1, "vxlan": 2}

Counted = dict[tuple[str, Any], dict[str, int]]
"""Counters that moved: ("vpc" | "endpoint", slot) or ("drop", name) -> field -> by how much."""


class Testbed:
    """The droplet ME. Its tables are empty until a test fills them."""

    __test__ = False

    def __init__(
        self,
        objects: Mapping[str, bytes] | None = None,
        uplink_ifindex: int = UPLINK_IFINDEX,
        substrates: Sequence[int] = (4,),
        sizes: Mapping[str, int] | None = None,
        **fields: int,
    ) -> None:
        config = layout.struct(
            "droplet_config",
            addr4=mapped(ME.address) if 4 in substrates else bytes(16),
            addr6=mapped(ME.in_ipv6.address) if 6 in substrates else bytes(16),
            mac=mac_bytes(ME.mac),
            families=sum(SUBSTRATES[family] for family in substrates),
            mark=MARK,
            ifindex=uplink_ifindex,
            **fields,
        )
        self.substrates = tuple(substrates)
        self.programs: Programs = load(config, max_entries=SIZES | dict(sizes or {}), objects=objects)
        self.tables = Tables.of(self.programs.maps)
        self.at_tc = False
        self._ingress: Ingress | None = None

    def close(self) -> None:
        """Frees programs and maps."""
        self.programs.close()

    def reset(self) -> None:
        """Empties every table and counter."""
        tables = self.tables
        hashes: tuple[Table[Any, Any], ...] = (
            tables.endpoints,
            tables.networks,
            tables.routes,
            tables.substrate_endpoints,
            tables.vpcs,
            tables.droplet_slots,
            tables.agents,
            tables.identities,
            tables.agent_options,
            tables.proxy_flows,
            tables.member_slots,
            tables.listeners,
            tables.public_addresses,
            tables.public_inside,
            tables.flows,
            tables.policy_peers,
            tables.policy_groups,
            tables.policy_verdicts,
            tables.policy_flows,
            tables.network_acls,
        )
        for table in hashes:
            table.delete_many([key for key, _ in table.items()])
        forget_near(self.programs.maps)
        tables.proxy_ended.put(PROXY_SLOT, 0)
        tables.substrate_link.put(0, 0)
        tables.shaper.put(0, 0)
        tables.public_switch.put(0, 0)
        for vpc in (RED, BLUE):
            tables.acl_vpcs.put(vpc.slot, 0)
        arrays = (
            tables.hop_sets, tables.droplets, tables.droplet_switches, tables.proxies, tables.proxy_usage,
            tables.services, tables.members, tables.flow_budgets, tables.flow_counts,
            tables.endpoint_policies, tables.policy_budgets, tables.policy_counts,
            tables.endpoint_limits, tables.limiters, tables.limiter_states,
        )  # fmt: skip
        for array in arrays:
            for slot, value in list(array.items()):
                if any(any(v) if isinstance(v, (bytes, tuple)) else v for v in value.values()):
                    array.put(slot, {})
        for counters in (tables.endpoint_counters, tables.vpc_counters, tables.public_counters, tables.drop_counters):
            counters.zero([slot for slot, _ in counters.items()])

    # ---- tables

    def droplets(self, *droplets: DropletPlan, down: bool = False) -> None:
        """Makes droplets known: senders in every family that ME speaks, and next hops in the first."""
        for droplet in droplets:
            self.next_hop(droplet.on(self.substrates[0]), down=down)
            for family in self.substrates:
                self.tables.droplet_slots.put({"addr": mapped(droplet.on(family).address)}, {"slot": droplet.slot})

    def next_hop(self, droplet: DropletPlan, *, down: bool = False, foreign: bool = False) -> None:
        """From now on ME writes to this address of the droplet."""
        value = {"addr": mapped(droplet.address), "next_hop_mac": mac_bytes(droplet.mac), "down": int(down)}
        self.tables.droplets.put(droplet.slot, value | {"foreign": int(foreign)})

    def narrow(self, mtu: int, *droplets: DropletPlan) -> None:
        """Lets the way to droplets have room for IP packets of so many bytes only."""
        for droplet in droplets:
            value = {"addr": mapped(droplet.address), "next_hop_mac": mac_bytes(droplet.mac), "mtu": mtu}
            self.tables.droplets.put(droplet.slot, value)

    def vpc(self, vpc: VpcPlan, *dividers: DropletPlan) -> None:
        """Makes a VPC known, with its dividers."""
        flags = VPC_DIVIDED_HERE if ME in dividers else 0
        self.hop_set(DIVIDERS_SLOT, dividers)
        self.tables.vpcs.put(vpc.vni, {"slot": vpc.slot, "dividers": DIVIDERS_SLOT if dividers else 0, "flags": flags})

    def network(
        self, network: NetworkPlan, *bouncers: DropletPlan, vpc: VpcPlan = RED, routed_here: bool = False
    ) -> None:
        """Makes a network known, with its bouncers."""
        flags = self.network_flags(bouncers, routed_here)
        self.hop_set(network.slot, bouncers)
        for family in FAMILIES:
            address, length = network.prefix(family)
            value = {
                "slot": network.slot,
                "vpc_slot": vpc.slot,
                "flags": flags,
                "gateway": mapped(network.gateway(family)),
            }
            self.tables.networks.put(network_key(vpc.vni, mapped(address), length), value)

    def route(self, network: NetworkPlan, to: str, length: int, action: int, mac: str = "") -> None:
        """Puts a route into a network's table; `mac`: of the appliance that it leads to."""
        self._route(network.slot, to, length, {"action": action} | ({"mac": mac_bytes(mac)} if mac else {}))

    def source(self, endpoint: EndpointPlan, to: str, length: int, action: int) -> None:
        """Says what an appliance may send from."""
        self._route(TABLE_SOURCES | endpoint.slot, to, length, {"action": action})

    def _route(self, number: int, to: str, length: int, value: dict[str, Any]) -> None:
        key = network_key(number << 1 | (":" in to), mapped(to), length)
        fields = {"prefix_bits": key["prefix_bits"], "table_be": key["vni_be"], "addr": key["addr"]}
        self.tables.routes.put(fields, value)

    def appliance(self, endpoint: EndpointPlan, *, tunnel: str = "geneve", **fields: Any) -> None:
        """Makes an appliance known by its MAC."""
        value = {
            "droplet": endpoint.droplet.slot,
            "ifindex": endpoint.ifindex,
            "slot": endpoint.slot,
            "vpc_slot": RED.slot,
            "network": endpoint.network.slot,
            "mac": mac_bytes(endpoint.mac),
            "tunnel": TUNNEL_NUMBERS[tunnel],
        } | fields
        key = {"vni": RED.vni, "addr": bytes.fromhex("ff024d5a000000000000") + mac_bytes(endpoint.mac)}
        self.tables.endpoints.put(key, value)

    def peering(self, prefix: NetworkPlan, peer: VpcPlan, vpc: VpcPlan = RED) -> None:
        """Makes a prefix of a VPC one of a peer's."""
        value = {"vpc_slot": vpc.slot, "flags": NETWORK_PEERED, "peer": peer.vni}
        for family in FAMILIES:
            address, length = prefix.prefix(family)
            self.tables.networks.put(network_key(vpc.vni, mapped(address), length), value)

    @staticmethod
    def network_flags(bouncers: Sequence[DropletPlan], routed_here: bool) -> int:
        """The role of ME for a network."""
        bounced = NETWORK_BOUNCED_HERE if ME in bouncers else 0
        return bounced | (NETWORK_ROUTED_HERE if routed_here else 0)

    def identity(self, vni: int, tenant: int, vpc: int, number: int) -> None:
        """Makes known what a VNI and an identity name."""
        self.tables.identities.put({"vni": vni, "tenant": tenant, "vpc": vpc}, number)

    def options(self, endpoint: EndpointPlan, data: bytes) -> None:
        """What the agent of an endpoint puts on; the agent's own entry has to say so too."""
        self.tables.agent_options.put(endpoint.ifindex, {"bytes": len(data), "data": data.ljust(252, b"\0")})

    def hop_set(self, slot: int, members: Sequence[DropletPlan]) -> None:
        """Writes a hop set."""
        places = hop_set_places([member.slot for member in members], HOPS)
        self.tables.hop_sets.put(slot, {"droplet": places})

    def endpoint(self, *endpoints: EndpointPlan, vpc: VpcPlan = RED, tunnel: str = "geneve", **fields: Any) -> None:
        """Makes endpoints known, by both addresses."""
        for endpoint in endpoints:
            value = {
                "droplet": endpoint.droplet.slot,
                "ifindex": endpoint.ifindex,
                "slot": endpoint.slot,
                "vpc_slot": vpc.slot,
                "network": endpoint.network.slot,
                "mac": mac_bytes(endpoint.mac),
                "tunnel": TUNNEL_NUMBERS[tunnel],
            } | fields
            for family in FAMILIES:
                self.tables.endpoints.put({"vni": vpc.vni, "addr": mapped(endpoint.address(family))}, value)

    def agent(
        self,
        endpoint: EndpointPlan,
        *,
        network_flags: int = 0,
        tunnel: str = "geneve",
        vpc: VpcPlan = RED,
        **fields: Any,
    ) -> None:
        """Configures the agent of an endpoint of this droplet."""
        value = {
            "vni": vpc.vni,
            "wire_vni": vpc.vni,
            "slot": endpoint.slot,
            "vpc_slot": vpc.slot,
            "network": endpoint.network.slot,
            "network_flags": network_flags,
            "mac": mac_bytes(endpoint.mac),
            "tunnel": TUNNEL_NUMBERS[tunnel],
            "addr4": mapped(endpoint.address(4)),
            "addr6": mapped(endpoint.address(6)),
            "gateway4": mapped(endpoint.network.gateway(4)),
            "gateway6": mapped(endpoint.network.gateway(6)),
            "prefix4": endpoint.network.prefix(4)[1],
            "prefix6": endpoint.network.prefix(6)[1],
        } | fields
        self.tables.agents.put(endpoint.ifindex, value)

    def proxy(self, budget: int = 8, **fields: Any) -> None:
        """ME carries P of RED, which stands for T of BLUE; BLUE knows its clients as Q. T lives on HOST."""
        self.tables.vpcs.put(BLUE.vni, {"slot": BLUE.slot, "dividers": 0, "flags": 0})
        self.network(FRONT, HOST, vpc=BLUE)
        for vpc, end in ((RED, P), (BLUE, Q)):
            self.endpoint(end, vpc=vpc)
            self.agent(end, vpc=vpc, mac=mac_bytes(SERVICE_MAC))
        addresses = {
            f"{name}{family}": mapped(end.address(family))
            for name, end in (("client", P), ("source", Q), ("target", T))
            for family in FAMILIES
        }
        value = {
            "instance": 7,
            "budget": budget,
            "client_vni": RED.vni,
            "source_vni": BLUE.vni,
            "client_vpc_slot": RED.slot,
            "source_vpc_slot": BLUE.slot,
        }
        self.tables.proxies.put(PROXY_SLOT, value | addresses | fields)

    # ---- whole situations

    def as_host(self) -> None:
        """ME hosts a, b and c; bouncers and the divider are elsewhere."""
        self.droplets(ME, BOUNCER, DIVIDER, HOST, UNRESOLVED, *MEMBERS)
        self.vpc(RED, DIVIDER)
        self.network(FRONT, BOUNCER)
        self.network(BACK, BOUNCER)
        self.endpoint(A, B, C)
        self.agent(A)

    def as_bouncer(self, tunnel: str = "geneve") -> None:
        """ME bounces FRONT; r lives on HOST and speaks `tunnel`. It knows nothing of BACK."""
        self.droplets(ME, BOUNCER, DIVIDER, HOST, UNRESOLVED, *MEMBERS)
        self.vpc(RED, DIVIDER)
        self.network(FRONT, ME)
        self.endpoint(R, tunnel=tunnel)

    def as_divider(self) -> None:
        """ME divides RED; both networks are bounced elsewhere."""
        self.droplets(ME, BOUNCER, DIVIDER, HOST, UNRESOLVED, *MEMBERS)
        self.vpc(RED, ME)
        self.network(FRONT, BOUNCER, routed_here=True)
        self.network(BACK, BOUNCER, routed_here=True)

    def as_crossing(self, *dividers: DropletPlan) -> None:
        """ME divides RED, which is peered with BLUE; BLUE's network is THEIRS, and its dividers are these."""
        self.as_divider()
        self.hop_set(PEERS_SLOT, dividers)
        value = {"slot": BLUE.slot, "dividers": PEERS_SLOT, "flags": VPC_DIVIDED_HERE if ME in dividers else 0}
        self.tables.vpcs.put(BLUE.vni, value)
        self.peering(THEIRS, BLUE)

    def other_tenant(self) -> None:
        """BLUE has endpoints of all the same addresses, on ME and on HOST."""
        self.tables.vpcs.put(BLUE.vni, {"slot": BLUE.slot, "dividers": 0, "flags": 0})
        self.network(FRONT, ME, vpc=BLUE)
        for number, endpoint in enumerate((A, B, C)):
            self.endpoint(endpoint, vpc=BLUE, ifindex=900 + number, slot=9)
        self.endpoint(R, S, vpc=BLUE)

    # ---- runs

    def transit(self, frame: bytes, **context: int) -> test_run.TestRun:
        """Runs Transit XDP on a frame from the substrate; or, where a test says so, Transit at tc, in a context."""
        if self.at_tc:
            if self._ingress is None:
                self._ingress = Ingress(self.programs)
            return self._ingress.run(frame, **context)
        return test_run.run_xdp(self.programs.transit.fd, frame)

    def send(self, frame: Any, **context: Any) -> test_run.TestRun:
        """Runs the agent of a on a frame that the endpoint sends."""
        return test_run.run_tc(self.programs.agent.fd, bytes(frame), **context)

    def vpc_counters_from_zero(self) -> None:
        """Forgets what was counted, refusals apart."""
        for table in (self.tables.vpc_counters, self.tables.endpoint_counters):
            table.zero([slot for slot, _ in table.items()])

    def at_proxy(self, frame: Any, ifindex: int = P.ifindex, **context: Any) -> test_run.TestRun:
        """Runs the proxy on a frame for one of its sides, as `deliver` or an agent hands it over."""
        return test_run.run_tc(self.programs.programs["proxy"].fd, bytes(frame), cb=ifindex, **context)

    def counted(self) -> Counted:
        """All counters that are not zero."""
        found: Counted = {}
        for kind, table in (("vpc", self.tables.vpc_counters), ("endpoint", self.tables.endpoint_counters)):
            for slot, fields in table.items():
                found[kind, slot] = {name: value for name, value in fields.items() if value}
        for slot, fields in self.tables.public_counters.items():
            found["public", slot] = {name: value for name, value in fields.items() if value}
        for number, fields in self.tables.drop_counters.items():
            found["drop", drop_reasons.by_number()[number].name] = fields
        return found
