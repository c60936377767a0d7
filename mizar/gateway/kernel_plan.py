# SPDX-License-Identifier: Apache-2.0
"""What the kernel's slow path consists of: links, routes, rules, and who is outside of whom. Pure.

Called by kernel_path, which does it, and by `mizar gateway show`. A mark is a tenant's metadata, on packets and on
connections alike; a zone is a number of 16 bits that stands for it in conntrack, and 1000 + zone is its routing table.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from mizar.kernel.policy_routes import FIRST_PRIORITY, FIRST_TABLE, Route, Rule
from mizar.model.errors import InvalidError
from mizar.pipeline.description import TunnelEnd
from mizar.pipeline.kernel_path import KernelPath, KernelPort
from mizar.pipeline.nat import Forward, Masquerade, NatRules, Static, inside_metas
from mizar.pipeline.nat import Mapping as NatMapping

MAX_ZONE = 65535
_INWARD, _OUTWARD = FIRST_PRIORITY + 200, FIRST_PRIORITY + 100


@dataclass(frozen=True, slots=True)
class Names:
    """Of what the slow path makes in the host's namespace: different for each gateway on a host."""

    gateway: str

    @property
    def _short(self) -> str:
        return f"{zlib.crc32(self.gateway.encode()) & 0xFFFF:04x}"

    @property
    def topology(self) -> str:
        """The HostTopology that marks what is made."""
        return f"gateway-{self.gateway}"

    @property
    def vtep(self) -> str:
        """The external VXLAN device."""
        return f"vtep{self._short}"

    def near(self, port: KernelPort) -> str:
        """The host's end of a port's veth."""
        return f"k{self._short}.{port.meta:08x}"


def inner(port: KernelPort) -> str:
    """A port's interface in the slow path's namespace."""
    return f"k{port.meta:08x}"


@dataclass(frozen=True)
class KernelPlan:
    """A validated slow path. `outside`: for a tenant and a version of IP, the metadata where it is translated to."""

    path: KernelPath
    nat: NatRules
    tunnels: Mapping[str, TunnelEnd]
    zones: Mapping[int, int]
    outside: Mapping[tuple[int, int], int]

    def port(self, meta: int) -> KernelPort:
        """The port of a tenant that has one."""
        return next(port for port in self.path.ports if port.meta == meta)

    def addresses(self, port: KernelPort) -> list[str]:
        """What a port has, with prefix lengths: its own, and outer ends that neighbours ask for."""
        own = {address.ip for address in port.addresses}
        outer: dict[str, None] = {}
        for _, rule in self.nat.rules():
            if rule.outside == port.meta and self.insides(rule):
                pool = rule.addresses if isinstance(rule, Masquerade) else (rule.outside_address,)
                outer.update({f"{one}/{one.max_prefixlen}": None for one in pool if one not in own})
        return [*map(str, port.addresses), *outer]

    def insides(self, rule: Masquerade | Static | Forward) -> list[KernelPort]:
        """The ports that a rule is for."""
        return [port for port in self.path.ports if port.meta in inside_metas(rule)]

    def rules(self) -> Iterator[Rule]:
        """How packets find the table that they are routed by: from inside the one outside, to inside its own."""
        for (meta, version), outside in self.outside.items():
            yield Rule(version, _OUTWARD, meta, FIRST_TABLE + self.zones[outside], inner(self.port(meta)))
        for port in self.path.ports:
            for version in (4, 6):
                yield Rule(version, _INWARD, port.meta, FIRST_TABLE + self.zones[port.meta])

    def routes(self) -> Iterator[Route]:
        """Of every port, in its own table."""
        for port in self.path.ports:
            table = FIRST_TABLE + self.zones[port.meta]
            for address in port.addresses:
                yield Route(table, address.network, inner(port))
            for route in port.routes:
                yield Route(table, route.to, inner(port), route.via)


def planned(path: KernelPath, nat: NatRules, tunnels: Mapping[str, TunnelEnd], known: Mapping[int, int]) -> KernelPlan:
    """The plan. `known`: zones that tenants have already, which they keep.

    Raises InvalidError for what does not go together, and by name for what nftables cannot do.
    """
    metas = {port.meta for port in path.ports}
    for port in path.ports:
        if port.to not in tunnels:
            raise InvalidError(f"kernel: port {port.meta:#x}: there is no tunnel end {port.to!r}")
    outside = _outsides(nat, metas)
    _pools(nat, metas)
    zones = {meta: zone for meta, zone in known.items() if meta in metas}
    free = (number for number in range(1, MAX_ZONE + 1) if number not in set(zones.values()))
    for meta in sorted(metas - zones.keys()):
        zones[meta] = next(free)
    return KernelPlan(path, nat, tunnels, zones, outside)


def known_zones(rules: set[Rule]) -> dict[int, int]:
    """The zones that a running slow path has given, from its routing rules: they live as long as its connections."""
    return {rule.mark: rule.table - FIRST_TABLE for rule in rules if rule.priority == _INWARD and not rule.interface}


def _outsides(nat: NatRules, metas: set[int]) -> dict[tuple[int, int], int]:
    found: dict[tuple[int, int], int] = {}
    for name, rule in nat.rules():
        if rule.outside not in metas and any(meta in inside_metas(rule) for meta in metas):
            raise InvalidError(f"kernel: nat {name} leads to {rule.outside:#x}, which has no port")
        version = rule.version if isinstance(rule, Masquerade) else rule.inside_address.version
        for meta in metas:
            if meta in inside_metas(rule) and found.setdefault((meta, version), rule.outside) != rule.outside:
                raise InvalidError(
                    f"kernel: nat {name}: {meta:#x} has several sides outside over IPv{version}; nftables routes to one"
                )
        if isinstance(rule, Masquerade) and rule.mapping is NatMapping.ENDPOINT_INDEPENDENT:
            raise InvalidError(f"kernel: nat {name}: nftables has no endpoint-independent mapping; allocate in line")
    return found


def _pools(nat: NatRules, metas: set[int]) -> None:
    """Answers from all sides outside are in one zone, so an address may belong to one of them only."""
    owner: dict[object, int] = {}
    for name, rule in nat.rules():
        pool = rule.addresses if isinstance(rule, Masquerade) else (rule.outside_address,)
        for address in pool:
            if rule.outside in metas and owner.setdefault(address, rule.outside) != rule.outside:
                raise InvalidError(
                    f"kernel: nat {name}: {address} is on two sides outside; nftables cannot tell them apart"
                )
