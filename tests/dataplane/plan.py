# SPDX-License-Identifier: Apache-2.0
"""Every address, number and slot that the data-plane tests use, and why.

The substrate is 192.0.2.0/24 (RFC 5737): one droplet under test, ME, and one for each role that it talks to. Two VPCs,
RED and BLUE, hold the same prefixes, so that a leak between tenants would show. Each has two dual-stack networks. In
FRONT live the endpoints a (on ME), b (on ME) and r (on the droplet HOST); in BACK c (on ME) and s (on HOST). VNIs have
three different bytes, so that a wrong byte order would show. ME may carry the proxied endpoint p of RED, whose target
is t of BLUE, and whose clients BLUE knows as q.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address

Address = str


@dataclass(frozen=True)
class DropletPlan:
    """A droplet: its slot in `droplets`, its address, and the MAC of the next hop towards it (ME: its own)."""

    slot: int
    address: Address
    mac: str

    @property
    def in_ipv6(self) -> DropletPlan:
        """The same droplet on the IPv6 substrate, 2001:db8::/64 (RFC 3849): the last byte is the same."""
        return DropletPlan(self.slot, "2001:db8::" + self.address.rpartition(".")[2], self.mac)

    def on(self, family: int) -> DropletPlan:
        """The droplet on the substrate of a family."""
        return self if family == 4 else self.in_ipv6


ME = DropletPlan(1, "192.0.2.1", "02:00:00:00:02:01")
BOUNCER = DropletPlan(2, "192.0.2.2", "02:00:00:00:02:02")
DIVIDER = DropletPlan(3, "192.0.2.3", "02:00:00:00:02:03")
HOST = DropletPlan(4, "192.0.2.4", "02:00:00:00:02:04")
UNRESOLVED = DropletPlan(5, "192.0.2.5", "00:00:00:00:00:00")
MEMBERS = tuple(DropletPlan(16 + i, f"192.0.2.{16 + i}", f"02:00:00:00:02:{16 + i:02x}") for i in range(16))
"""Sixteen more, one for each place of a hop set."""
STRANGER = DropletPlan(0, "192.0.2.99", "02:00:00:00:02:99")

UPLINK_IFINDEX = 42
MARK = 0x5EED0001
"""Signs the notes of ME."""
SUBSTRATES = {4: 1, 6: 2}
"""enum substrate_family."""
ROUTER_MAC = "02:4d:5a:00:00:01"
UNTOLD_MAC = "02:4d:5a:00:00:05"
"""The router's, in a frame of which nobody is to learn where it set out."""
TUNNELS = ("geneve", "vxlan")
FAMILIES = (4, 6)


@dataclass(frozen=True)
class VpcPlan:
    """A VPC: its VNI and its slot in `vpc_counters`."""

    vni: int
    slot: int


RED = VpcPlan(0x0A0B0C, 1)
BLUE = VpcPlan(0x0A0B0D, 2)
UNKNOWN_VNI = 0x0A0B0E


@dataclass(frozen=True)
class NetworkPlan:
    """A network: its slot in `hop_sets`, its prefixes and gateways by family."""

    slot: int
    number: int

    def prefix(self, family: int) -> tuple[Address, int]:
        """Address and length of its prefix."""
        return (f"10.0.{self.number}.0", 24) if family == 4 else (f"fd00:10:0:{self.number}::", 64)

    def gateway(self, family: int) -> Address:
        """Its virtual router."""
        return self.address(family, 1)

    def address(self, family: int, host: int) -> Address:
        """An address in it."""
        return f"10.0.{self.number}.{host}" if family == 4 else f"fd00:10:0:{self.number}::{host:x}"


FRONT = NetworkPlan(1, 1)
BACK = NetworkPlan(2, 2)
NOWHERE = NetworkPlan(0, 9)
"""A part of the VPC that no network holds."""
THEIRS = NetworkPlan(4, 8)
"""A network of BLUE, where BLUE is peered with RED."""
DIVIDERS_SLOT, PEERS_SLOT = 3, 5


@dataclass(frozen=True)
class EndpointPlan:
    """An endpoint: network, the host part of its addresses, and where it lives."""

    network: NetworkPlan
    host: int
    droplet: DropletPlan
    slot: int = 0
    ifindex: int = 0

    @property
    def mac(self) -> str:
        """Its MAC."""
        return f"02:00:00:00:{self.network.number:02x}:{self.host:02x}"

    def address(self, family: int) -> Address:
        """Its address of a family."""
        return self.network.address(family, self.host)


A = EndpointPlan(FRONT, 11, ME, slot=1, ifindex=1)
"""The sender in agent tests: a test run of a tc program comes in at the loopback, whose ifindex is 1."""
B = EndpointPlan(FRONT, 12, ME, slot=2, ifindex=72)
C = EndpointPlan(BACK, 13, ME, slot=3, ifindex=73)
R = EndpointPlan(FRONT, 21, HOST)
S = EndpointPlan(BACK, 22, HOST)
PROXY_SLOT = 1
P = EndpointPlan(FRONT, 31, ME, slot=4, ifindex=0x80000002)
"""A proxied endpoint of RED, carried by ME."""
Q = EndpointPlan(FRONT, 32, ME, slot=5, ifindex=0x80000003)
"""What BLUE knows its clients as."""
T = EndpointPlan(FRONT, 21, HOST)
"""Its target, in BLUE."""
SERVICE_MAC = "02:4d:5a:00:00:02"
V = EndpointPlan(THEIRS, 31, HOST)
"""An endpoint of BLUE in THEIRS."""
GHOST_HOST = 99
"""The host part of an address that no endpoint has."""


def mapped(address: Address) -> bytes:
    """An address as the maps hold it: 16 bytes, IPv4 mapped into IPv6."""
    value = ip_address(address)
    return bytes(10) + b"\xff\xff" + value.packed if value.version == 4 else value.packed


def mac_bytes(mac: str) -> bytes:
    """Six bytes."""
    return bytes.fromhex(mac.replace(":", ""))


HOPS = 16
VPC_DIVIDED_HERE = 1
NETWORK_BOUNCED_HERE, NETWORK_ROUTED_HERE, NETWORK_PEERED = 1, 2, 0x100
NETWORK_HAS_ROUTES, ROUTE_VPC, ROUTE_BLACKHOLE, ROUTE_SUBSTRATE, ROUTE_ENDPOINT = 0x200, 1, 2, 3, 4
NETWORK_ELSEWHERE = 0xFFFFFFFF
ENDPOINT_FORWARDING, TABLE_SOURCES = 16, 0x40000000
APPLIANCE_MAC = "02:4d:5a:00:00:03"
HANDOVER_MAGIC = 0x4D5A4F31
HANDOVER_SEND = 0x4D5A5331
"""Written out, not read from contracts/dataplane.h: a test that takes both sides from one place proves nothing."""
