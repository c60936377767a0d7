# SPDX-License-Identifier: Apache-2.0
"""What each droplet must hold: the in-memory model of all objects, fed with facts, answering with steps.

Called by the manager, which owns one and feeds it in the order of the store's changes. Pure: no I/O, no clock, no
choice of members (that is `placement`). Incremental: putting or removing an endpoint costs O(bouncers of its
network), whatever the size of the VPC; a change of a network's bouncers touches that network's endpoints alone.

Who holds what, on droplets that have a daemon:
    droplets    everybody, all of them
    VPC         its dividers, the bouncers of its networks, the hosts of its endpoints
    network     its bouncers, the dividers of its VPC, the hosts of its endpoints
    endpoint    the bouncers of its network, except its own host
    local       its host
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from mizar.planner.entries import Entry
from mizar.planner.facts import DropletFact, EndpointFact, NetworkFact, VpcFact
from mizar.planner.plan import Step


class Topology:
    """All facts, and from them every droplet's tables.

    Every put is idempotent: putting the same fact again gives no steps. A method that raises changes nothing:
    NotFoundError when a fact refers to one that is not there, ConflictError when one that goes is still referred to
    or something that cannot change would.
    """

    def put_droplet(self, fact: DropletFact) -> list[Step]:
        """A droplet comes, or gets or loses its daemon. All others learn it; itself gets all that it must hold."""
        raise NotImplementedError

    def remove_droplet(self, name: str) -> list[Step]:
        """A droplet goes, that is no member of anything and hosts nothing. All others forget it."""
        raise NotImplementedError

    def put_vpc(self, fact: VpcFact) -> list[Step]:
        """A VPC comes, or its dividers change."""
        raise NotImplementedError

    def remove_vpc(self, vni: int) -> list[Step]:
        """A VPC without networks goes."""
        raise NotImplementedError

    def put_network(self, fact: NetworkFact) -> list[Step]:
        """A network comes, or its bouncers change."""
        raise NotImplementedError

    def remove_network(self, vni: int, network_id: int) -> list[Step]:
        """A network without endpoints goes."""
        raise NotImplementedError

    def put_endpoint(self, fact: EndpointFact) -> list[Step]:
        """An endpoint comes, or its tunnel protocol, MAC or workload changes."""
        raise NotImplementedError

    def remove_endpoint(self, uid: str) -> list[Step]:
        """An endpoint goes."""
        raise NotImplementedError

    def desired_for(self, droplet: str) -> Iterator[Entry]:
        """All that a droplet must hold, in the order of dependence. Raises NotFoundError."""
        raise NotImplementedError

    def load(self, facts: Iterable[DropletFact | VpcFact | NetworkFact | EndpointFact]) -> None:
        """Takes facts in the order of dependence without making steps: for the start of a manager."""
        raise NotImplementedError
