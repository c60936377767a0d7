# SPDX-License-Identifier: Apache-2.0
"""Endpoints: as the bouncers of their networks know them, as they live on a droplet, and as a droplet carries proxied
ones."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from mizar.planner.engines import EngineEntry, same_engine
from mizar.planner.entries.networks import RouteEntry
from mizar.planner.entries.rules import NO_QOS, NOT_POLICED, PolicyBinding, QosEntry


@dataclass(frozen=True, slots=True)
class EndpointEntry:
    """An endpoint as the bouncers of its network know it. `tunnel`: 1 Geneve, 2 VXLAN, as in dataplane.h."""

    order: ClassVar[int] = 3
    vni: int
    network_id: int
    addresses: tuple[bytes, ...]
    mac: bytes
    host: bytes
    tunnel: int

    @property
    def key(self) -> tuple[int, int, tuple[bytes, ...]]:
        """Names this entry among all entries of a droplet."""
        return (3, self.vni, tuple(sorted(self.addresses)))

    def same(self, other: object) -> bool:
        """Whether a droplet that holds `other` needs no change to hold this."""
        return self == other or (isinstance(other, EndpointEntry) and _sorted(self) == _sorted(other))


def _sorted(entry: EndpointEntry) -> EndpointEntry:
    return replace(entry, addresses=tuple(sorted(entry.addresses)))


@dataclass(frozen=True, slots=True)
class TapEntry:
    """A tap device; without a name the daemon chooses one."""

    name: str = ""
    owner: int = 0
    queues: int = 1


@dataclass(frozen=True, slots=True)
class OvsEntry:
    """A port of an Open vSwitch bridge; without a name the daemon chooses one. `vlan` 0: none."""

    bridge: str
    port: str = ""
    vlan: int = 0


@dataclass(frozen=True, slots=True)
class WorkloadEntry:
    """Where an endpoint's interface is: exactly one of namespace, path, pid, tap and ovs is set."""

    namespace: str = ""
    path: str = ""
    pid: int = 0
    interface: str = "eth0"
    tap: TapEntry | None = None
    ovs: OvsEntry | None = None
    self_configured: bool = False
    pool: bool = False
    """The namespace is one that the daemon has prepared."""


@dataclass(frozen=True, slots=True)
class LocalEntry:
    """An endpoint that lives on the droplet. `mtu` 0: the interface's less the tunnel's overhead.

    `standby`: it lives on another droplet still and is prepared to move here, with an interface but without addresses.
    `options`: Geneve options of all that it sends, as on the wire; `group_set`: the number of its groups, 0 for none.
    """

    order: ClassVar[int] = 4
    uid: str
    endpoint: EndpointEntry
    workload: WorkloadEntry
    mtu: int = 0
    standby: bool = False
    options: bytes = b""
    group_set: int = 0
    bypass: bool = False
    """It takes tunnel packets as they are."""
    forwarding: bool = False
    """An appliance: it may also send from what `sources` says."""
    sources: tuple[RouteEntry, ...] = ()
    policy: PolicyBinding = NOT_POLICED
    qos: QosEntry = NO_QOS
    engine: EngineEntry | None = None

    @property
    def key(self) -> tuple[int, str]:
        """Names this entry among all entries of a droplet."""
        return (4, self.uid)

    def same(self, other: object) -> bool:
        """Whether a droplet that holds `other` needs no change to hold this. MTU 0 leaves the choice to the daemon."""
        return (
            isinstance(other, LocalEntry)
            and self.uid == other.uid
            and self.endpoint.same(other.endpoint)
            and self.workload == other.workload
            and self.mtu in (0, other.mtu)
            and self.standby == other.standby
            and (self.options, self.group_set, self.bypass) == (other.options, other.group_set, other.bypass)
            and (self.forwarding, set(self.sources)) == (other.forwarding, set(other.sources))
            and self.policy == other.policy
            and self.qos == other.qos
            and same_engine(self.engine, other.engine)
        )


@dataclass(frozen=True, slots=True)
class ProxyEntry:
    """A proxied endpoint that the droplet carries: `client` is itself, `source` what stands for its clients in the VPC
    of its target, whose addresses there are `targets`, one for each of the source's families."""

    order: ClassVar[int] = 5
    client: EndpointEntry
    source: EndpointEntry
    targets: tuple[bytes, ...]

    @property
    def vni(self) -> int:
        """Of its clients' VPC."""
        return self.client.vni

    @property
    def addresses(self) -> tuple[bytes, ...]:
        """Its own, in its clients' VPC."""
        return self.client.addresses

    @property
    def key(self) -> tuple[int, int, tuple[bytes, ...]]:
        """Names this entry among all entries of a droplet."""
        return (5, self.vni, tuple(sorted(self.addresses)))

    def same(self, other: object) -> bool:
        """Whether a droplet that holds `other` needs no change to hold this."""
        return (
            isinstance(other, ProxyEntry)
            and self.client.same(other.client)
            and self.source.same(other.source)
            and sorted(self.targets) == sorted(other.targets)
        )
