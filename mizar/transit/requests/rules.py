# SPDX-License-Identifier: Apache-2.0
"""What packets may: sets of groups, what judges endpoints and networks, and rates."""

from mizar._built import transit_pb2 as pb
from mizar.model.errors import InvalidError
from mizar.transit import marks, policy_values
from mizar.transit.limit_values import Qos, Rate
from mizar.transit.policy_values import Binding, NetworkAcl, PolicySet
from mizar.transit.requests import fields
from mizar.transit.values import MAX_GROUP_SET, PutGroupSet


def put_group_set(message: pb.GroupSet) -> PutGroupSet:
    """What the number of a set of groups means."""
    groups = tuple(message.groups)
    if not 1 <= message.number <= MAX_GROUP_SET:
        raise InvalidError(f"the number {message.number} of a set of groups is outside of 1 to {MAX_GROUP_SET}")
    if not 1 <= len(groups) <= marks.MAX_GROUPS or 0 in groups or list(groups) != sorted(set(groups)):
        raise InvalidError(f"expected 1 to {marks.MAX_GROUPS} ids of groups, ascending, none twice and none 0")
    return PutGroupSet(fields.vni(message.vni), message.number, groups)


def policy_set(message: pb.PolicySet) -> PolicySet:
    """Rules that endpoints share."""
    return policy_values.checked(
        PolicySet(fields.vni(message.vni), message.id, message.peers, message.groups, message.verdicts)
    )


def network_acl(message: pb.NetworkAcl) -> NetworkAcl:
    """What a network is judged by: at least one prefix, at most one per family."""
    prefixes = sorted((fields.bare_prefix(found) for found in message.prefixes), key=lambda found: len(found[0]))
    fields.one_per_family([address for address, _ in prefixes], "prefix")
    sets = message.ingress, message.ingress_later, message.egress, message.egress_later
    return NetworkAcl(fields.vni(message.vni), fields.network_id(message.network_id), tuple(prefixes), *sets)


def binding(message: pb.PolicyBinding) -> Binding:
    """By which sets an endpoint is judged."""
    found = Binding(
        message.ingress, message.egress, message.audit_ingress, message.audit_egress,
        message.beside_ingress, message.beside_egress,
    )  # fmt: skip
    audited = found.audit_ingress or found.beside_ingress, found.audit_egress or found.beside_egress
    if (audited[0] and not found.ingress) or (audited[1] and not found.egress):
        raise InvalidError("an endpoint is audited in a direction in which it is bound to no set of rules")
    return found


def rate(message: pb.Rate) -> Rate:
    """What may pass at a time."""
    return Rate(message.bits_per_second, message.packets_per_second, message.burst_bytes, message.burst_packets)


def qos(message: pb.Qos) -> Qos:
    """The limits of an endpoint."""
    guarantee = rate(message.guarantee)
    if guarantee.packets_per_second:
        raise InvalidError("a guarantee is of bits, not of packets")
    return Qos(
        (rate(message.egress), rate(message.network_egress), rate(message.vpc_egress)),
        (rate(message.ingress), rate(message.network_ingress), rate(message.vpc_ingress)),
        guarantee,
        message.dscp if message.HasField("dscp") else None,
    )
