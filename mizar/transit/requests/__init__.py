# SPDX-License-Identifier: Apache-2.0
"""From messages to values: the edge where hostile input stops.

Called by the servicer. Checks every length, count, range and enum of a request; what it returns is valid in itself.
It knows neither the state nor the kernel. Raises InvalidError, with what was found and what is expected. Here are the
changes of a batch; the objects that they tell of have a module for each kind, and `fields` what several of them have.
"""

from mizar._built import transit_pb2 as pb
from mizar.model.errors import InvalidError
from mizar.transit import marks
from mizar.transit.policy_values import DeleteNetworkAcl, DeletePolicySet, PutNetworkAcl, PutPolicySet
from mizar.transit.requests import endpoints, fields, networks, rules, services
from mizar.transit.requests.endpoints import wanted as wanted
from mizar.transit.requests.fields import uid as uid
from mizar.transit.service_values import DeleteService, PutService
from mizar.transit.values import (
    Change,
    DeleteDroplet,
    DeleteEndpoint,
    DeleteGroupSet,
    DeleteNetwork,
    DeletePeering,
    DeleteProxy,
    DeleteVpc,
    PutDroplet,
    PutEndpoint,
    PutNetwork,
    PutPeering,
    PutProxy,
    PutVpc,
)

MAX_CHANGES = 65536
MAX_ATTACH = 4096


def change(message: pb.Change) -> Change:
    """One change of a batch."""
    match message.WhichOneof("change"):
        case "put_droplet":
            return PutDroplet(networks.droplet(message.put_droplet))
        case "delete_droplet":
            return DeleteDroplet(fields.substrate_address(message.delete_droplet, "delete_droplet"))
        case "put_vpc":
            return PutVpc(networks.vpc(message.put_vpc))
        case "delete_vpc":
            return DeleteVpc(fields.vni(message.delete_vpc))
        case "put_network":
            return PutNetwork(networks.network(message.put_network))
        case "delete_network":
            return DeleteNetwork(fields.vni(message.delete_network.vni), fields.network_id(message.delete_network.id))
        case "put_group_set":
            return rules.put_group_set(message.put_group_set)
        case "delete_group_set":
            group_set = message.delete_group_set
            return DeleteGroupSet(fields.vni(group_set.vni), marks.group_set(group_set.number))
        case "put_policy_set":
            return PutPolicySet(rules.policy_set(message.put_policy_set))
        case "delete_policy_set":
            return DeletePolicySet(fields.vni(message.delete_policy_set.vni), message.delete_policy_set.id)
        case "put_network_acl":
            return PutNetworkAcl(rules.network_acl(message.put_network_acl))
        case "delete_network_acl":
            acl = message.delete_network_acl
            return DeleteNetworkAcl(fields.vni(acl.vni), fields.network_id(acl.id))
        case "put_endpoint":
            return PutEndpoint(endpoints.endpoint(message.put_endpoint))
        case "delete_endpoint":
            key = message.delete_endpoint
            return DeleteEndpoint(fields.vni(key.vni), fields.addresses(key.addresses))
        case "put_service":
            return PutService(services.service(message.put_service))
        case "delete_service":
            key = message.delete_service
            return DeleteService(fields.vni(key.vni), fields.addresses(key.addresses)[0])
        case "put_proxy":
            return PutProxy(endpoints.proxy(message.put_proxy))
        case "delete_proxy":
            key = message.delete_proxy
            return DeleteProxy(fields.vni(key.vni), fields.addresses(key.addresses)[0])
        case "put_peering":
            return PutPeering(networks.peering(message.put_peering))
        case "delete_peering":
            peering = message.delete_peering
            return DeletePeering(fields.vni(peering.vni), fields.vni(peering.peer))
    raise InvalidError("it is empty or of a kind that this version does not know; set one of the fields of Change")
