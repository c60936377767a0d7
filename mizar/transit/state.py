# SPDX-License-Identifier: Apache-2.0
"""What this daemon holds, in memory, with the indexes that make a change cheap.

The maps in the kernel are the truth; this is their image, rebuilt from them by `readback`. Only `batch` changes it,
and only through a `Journal`, so that a refused batch leaves no trace. It must never touch the kernel.
"""

import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field, replace
from typing import TypeVar

from mizar.kernel.layout import constant
from mizar.transit.limit_values import UNLIMITED, Limiter, LimiterKey, Rate
from mizar.transit.policy_values import Judged, NetworkAcl, PolicySet, PolicySetId
from mizar.transit.service_values import Service, ServiceKey
from mizar.transit.slots import Slots
from mizar.transit.values import Droplet, Endpoint, Learned, Local, Network, Peering, Proxy, ProxyKey, Vpc

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")
_GENERATIONS_BEGIN = 1_700_000_000
"""Of policies, in seconds of Unix time: one each second, and one for each change, fit into 32 bits for a century."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How many of each the maps hold."""

    droplets: int = 4096
    vpcs: int = 4096
    networks: int = 16384
    endpoints: int = 262144
    local_endpoints: int = 4096
    proxies: int = 64
    proxy_flows: int = 8192
    """Of each proxied endpoint."""
    services: int = 512
    members: int = 16384
    flows: int = 262144
    """Of scaled endpoints, shared by their VPCs."""
    group_sets: int = 16384
    policy_sets: int = 4096
    policy_rows: int = 1048576
    """Peers, or verdicts, of all sets of rules; two sets of rules are held while one takes the place of another."""
    policy_flows: int = 1048576
    """Of policed endpoints, shared by their VPCs."""
    learned: int = 65536
    paced: bool = False
    """What goes to other droplets waits in the interface's queue (fq), and not in the shaper."""
    uplink: Rate = UNLIMITED
    """What endpoints may send by the interface, all together."""

    @property
    def limiters(self) -> int:
        """Seven for each endpoint that shares none: its own, its network's, its VPC's, both ways, and a guarantee."""
        return 8 * self.local_endpoints

    @property
    def hop_sets(self) -> int:
        """One for each network and one for the dividers of each VPC."""
        return self.networks + self.vpcs


@dataclass(slots=True)
class State:
    """One droplet's tables, by the keys that requests use.

    `prefixes`, `at`, `macs` and `uids` find who has a prefix (VNI, address, length), an address (VNI, address), a MAC
    (VNI, network, MAC), and which of the addresses are of local endpoints; `proxied` which are of a proxied endpoint
    that is carried here, by its key in `proxies`. `serving` which are of a
    scaled endpoint, by its key in `services`. `uses` counts who refers to a droplet (by its address), and the
    endpoints of a network (by its key) and of a tunnel; `members` are the ids of a VPC's networks; `group_sets` are ids
    of groups by VNI and number of the set. `learned` is what
    the direct path found out: nothing refers to it, and it goes with whatever it refers to.
    """

    own: bytes
    limits: Limits
    own6: bytes = b""
    """This droplet's IPv6 address, where `own` is IPv4 and it has both."""
    own_mtu: int = 0
    """Of this droplet's interface; 0 while it is not known."""
    droplets: dict[bytes, Droplet] = field(default_factory=dict)
    vpcs: dict[int, Vpc] = field(default_factory=dict)
    networks: dict[tuple[int, int], Network] = field(default_factory=dict)
    prefixes: dict[tuple[int, bytes, int], tuple[int, int]] = field(default_factory=dict)
    peerings: dict[tuple[int, int], Peering] = field(default_factory=dict)
    at: dict[tuple[int, bytes], Endpoint] = field(default_factory=dict)
    macs: dict[tuple[int, int, bytes], Endpoint] = field(default_factory=dict)
    locals: dict[str, Local] = field(default_factory=dict)
    uids: dict[tuple[int, bytes], str] = field(default_factory=dict)
    uses: Counter[Hashable] = field(default_factory=Counter)
    members: dict[int, dict[int, None]] = field(default_factory=dict)
    proxies: dict[ProxyKey, Proxy] = field(default_factory=dict)
    proxied: dict[tuple[int, bytes], ProxyKey] = field(default_factory=dict)
    group_sets: dict[tuple[int, int], tuple[int, ...]] = field(default_factory=dict)
    policy_sets: dict[PolicySetId, PolicySet] = field(default_factory=dict)
    network_acls: dict[tuple[int, int], NetworkAcl] = field(default_factory=dict)
    judged: dict[str, Judged] = field(default_factory=dict)
    """Of the policed endpoints of this droplet, by uid."""
    limiters: dict[LimiterKey, Limiter] = field(default_factory=dict)
    learned: dict[tuple[int, bytes], Learned] = field(default_factory=dict)
    services: dict[ServiceKey, Service] = field(default_factory=dict)
    serving: dict[tuple[int, bytes], ServiceKey] = field(default_factory=dict)
    seconds: dict[bytes, bytes] = field(default_factory=dict)
    """The second addresses of droplets → the first ones, which name them."""
    ipv6_alone: dict[bytes, None] = field(default_factory=dict)
    """Droplets that have no IPv4 address."""
    droplet_slots: Slots = field(init=False, compare=False)
    vpc_slots: Slots = field(init=False, compare=False)
    hop_slots: Slots = field(init=False, compare=False)
    endpoint_slots: Slots = field(init=False, compare=False)
    proxy_slots: Slots = field(init=False, compare=False)
    service_slots: Slots = field(init=False, compare=False)
    member_slots: Slots = field(init=False, compare=False)
    policy_slots: Slots = field(init=False, compare=False)
    limiter_slots: Slots = field(init=False, compare=False)
    generation: int = field(default=0, compare=False)
    """Of policies: the last that was given."""

    def __post_init__(self) -> None:
        self.count_slots()

    def count_slots(self) -> None:
        """Find out which slots are free, from what is held."""
        hops = [vpc.hops for vpc in self.vpcs.values()] + [network.hops for network in self.networks.values()]
        droplets = [droplet.slot for droplet in self.droplets.values()]
        limits = self.limits
        self.droplet_slots = Slots("droplets", "--max-droplets", limits.droplets, droplets)
        self.vpc_slots = Slots("VPCs", "--max-vpcs", limits.vpcs, (vpc.slot for vpc in self.vpcs.values()))
        self.hop_slots = Slots("hop sets", "--max-networks", limits.hop_sets, hops)
        self.endpoint_slots = Slots(
            "local endpoints", "--max-local-endpoints", limits.local_endpoints, (x.slot for x in self.locals.values())
        )
        self.proxy_slots = Slots(
            "proxied endpoints", "--max-proxies", limits.proxies, (x.slot for x in self.proxies.values())
        )
        services = [slot for one in self.services.values() for slot in (one.slot, one.near) if slot]
        members = [member.slot for one in self.services.values() for member in one.members]
        self.service_slots = Slots("scaled endpoints", "--max-services", limits.services, services)
        self.member_slots = Slots("members", "--max-services", limits.members, members)
        rules = (one.number for one in self.policy_sets.values())
        self.policy_slots = Slots("sets of rules", "--max-policy-sets", limits.policy_sets, rules)
        limiters = (constant("LIMITER_UPLINK"), *(one.slot for one in self.limiters.values()))
        self.limiter_slots = Slots("limiters", "--max-local-endpoints", limits.limiters, limiters)
        self.generation = max((one.generation for one in self.judged.values()), default=self.generation)

    def next_generation(self) -> int:
        """One that no record has had, also under an earlier daemon: it goes on by one a second at least."""
        self.generation = max(self.generation + 1, int(time.time()) - _GENERATIONS_BEGIN)
        return self.generation

    def copy(self) -> "State":
        """A copy that later changes do not touch; the values are shared, being frozen."""
        return replace(
            self,
            droplets=self.droplets.copy(),
            vpcs=self.vpcs.copy(),
            networks=self.networks.copy(),
            peerings=self.peerings.copy(),
            at=self.at.copy(),
            uids=self.uids.copy(),
            locals=self.locals.copy(),
            proxies=self.proxies.copy(),
            proxied=self.proxied.copy(),
            services=self.services.copy(),
            serving=self.serving.copy(),
            group_sets=self.group_sets.copy(),
            policy_sets=self.policy_sets.copy(),
            network_acls=self.network_acls.copy(),
            judged=self.judged.copy(),
            limiters=self.limiters.copy(),
            learned=self.learned.copy(),
            uses=self.uses.copy(),
        )

    def network_at(self, vni: int, address: bytes) -> Network | None:
        """Of the VPC's networks that hold an address, the one with the longest prefix."""
        number, bits = int.from_bytes(address, "big"), 8 * len(address)
        for length in range(bits, -1, -1):
            shift = bits - length
            prefix = (number >> shift << shift).to_bytes(len(address), "big")
            key = self.prefixes.get((vni, prefix, length))
            if key is not None:
                return self.networks[key]
        return None

    def reached(self, droplet: Droplet) -> bytes:
        """The address at which this droplet writes to another, IPv4 before IPv6; empty when they share no family."""
        own = {len(address) for address in (self.own, self.own6)}
        return next((address for address in (droplet.address, droplet.second) if address and len(address) in own), b"")

    def meets_ipv6(self) -> bool:
        """Whether packets of endpoints here may travel over IPv6 somewhere: not while all droplets have IPv4."""
        return bool(self.ipv6_alone) or len(self.own) == 16

    def networks_of(self, vni: int) -> Iterator[Network]:
        """The networks of a VPC."""
        return (self.networks[vni, number] for number in self.members.get(vni, ()))

    def remotes(self) -> Iterator[Endpoint]:
        """The endpoints of other droplets, each once."""
        for (vni, address), endpoint in self.at.items():
            if (
                address == endpoint.addresses[0]
                and (vni, address) not in self.uids
                and (vni, address) not in self.proxied
            ):
                yield endpoint


class Journal:
    """Changes a state so that they can be taken back."""

    def __init__(self) -> None:
        self._undo: list[Callable[[], object]] = []
        self._commit: list[Callable[[], object]] = []

    def put(self, mapping: dict[K, V], key: K, value: V) -> None:
        """Set an entry."""
        if key in mapping:
            old = mapping[key]
            self._undo.append(lambda: mapping.__setitem__(key, old))
        else:
            self._undo.append(lambda: mapping.pop(key))
        mapping[key] = value

    def drop(self, mapping: dict[K, V], key: K) -> None:
        """Remove an entry that is there."""
        old = mapping.pop(key)
        self._undo.append(lambda: mapping.__setitem__(key, old))

    def count(self, uses: "Counter[Hashable]", key: Hashable, by: int) -> None:
        """Add to a count of references; a count of zero leaves no entry."""
        self._add(uses, key, by)
        self._undo.append(lambda: self._add(uses, key, -by))

    @staticmethod
    def _add(uses: "Counter[Hashable]", key: Hashable, by: int) -> None:
        uses[key] += by
        if not uses[key]:
            del uses[key]

    def take(self, slots: Slots) -> int:
        """Take a free slot."""
        slot = slots.take()
        self._undo.append(lambda: slots.give_back(slot))
        return slot

    def give_back(self, slots: Slots, slot: int) -> None:
        """Free a slot, once all is done: what is undone needs it still."""
        self._commit.append(lambda: slots.give_back(slot))

    def commit(self) -> None:
        """All is done: let go of what was given back."""
        for step in self._commit:
            step()

    def roll_back(self) -> None:
        """Take everything back, the last change first."""
        for step in reversed(self._undo):
            step()
