# SPDX-License-Identifier: Apache-2.0
"""Planning of peerings: which addresses of other VPCs the packets of a VPC may cross to.

A base of `batch.Plan`. It must never do I/O. Both VPCs must be known here, and stay so as long as the peering does.
"""

from mizar.model.addresses import text_of
from mizar.model.errors import ConflictError, InvalidError, NotFoundError
from mizar.transit import entries
from mizar.transit.endpoints import EndpointPlan
from mizar.transit.errors import InUseError
from mizar.transit.values import Peering, Vpc


class PeeringPlan(EndpointPlan):
    """A plan in the making."""

    def put_peering(self, new: Peering) -> bool:
        """Plan a peering, or its other prefixes; False when it is there already."""
        state, journal = self.state, self.journal
        if new.vni == new.peer:
            raise InvalidError(f"VPC {new.vni} cannot be peered with itself")
        for vni in new.key:
            if vni not in state.vpcs:
                raise NotFoundError(f"VPC {vni} is not known; put it first")
        old = state.peerings.get(new.key)
        if old == new:
            return False
        for address, length in new.prefixes:
            owner = state.prefixes.get((new.vni, address, length))
            if owner is not None or self._crossing_elsewhere(new, (address, length)):
                raise ConflictError(f"{text_of(address)}/{length} has a meaning in VPC {new.vni} already")
        journal.put(state.peerings, new.key, new)
        self.ops += entries.peering_put(new, state.vpcs[new.vni])
        gone = [prefix for prefix in old.prefixes if prefix not in new.prefixes] if old else []
        self.ops += [entries.peering_delete(new.vni, prefix) for prefix in gone]
        return True

    def delete_peering(self, vni: int, peer: int) -> bool:
        """Plan the end of a peering; False when it is not there."""
        old = self.state.peerings.get((vni, peer))
        if old is None:
            return False
        self.journal.drop(self.state.peerings, old.key)
        self.ops += [entries.peering_delete(vni, prefix) for prefix in old.prefixes]
        return True

    def refuse_peered(self, vpc: Vpc) -> None:
        """Raise when a peering refers to the VPC."""
        found = next((one for one in self.state.peerings.values() if vpc.vni in one.key), None)
        if found:
            raise InUseError(f"{vpc} is still in use by {found}; delete that first")

    def refuse_crossing(self, vni: int, address: bytes, length: int) -> None:
        """Raise when a prefix of the VPC is a peer's."""
        peers = (one for one in self.state.peerings.values() if one.vni == vni)
        found = next((one for one in peers if (address, length) in one.prefixes), None)
        if found:
            raise ConflictError(f"{text_of(address)}/{length} belongs to {found}; choose another prefix")

    def _crossing_elsewhere(self, new: Peering, prefix: tuple[bytes, int]) -> bool:
        others = (one for one in self.state.peerings.values() if one.vni == new.vni and one.peer != new.peer)
        return any(prefix in one.prefixes for one in others)
