# SPDX-License-Identifier: Apache-2.0
"""The objects that people write and read: Tenant, VPC, Network, Endpoint, Droplet, Lab. Owns their shape, and the list
of all kinds; others have a file of their own beside this one.

Called by every room above the kernel. Frozen and validated when built: what exists is valid in itself. What depends
on other objects is in `checks`; the text of manifests in `manifest`. Outside (JSON, YAML) fields are camelCase.
`metadata.uid` and what follows it, and `status`, are the server's: they are read back with the object, and ignored
when an object is applied.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError

from mizar.model import fields
from mizar.model.address_pool import AddressPool as AddressPool
from mizar.model.base import API_VERSION as API_VERSION
from mizar.model.base import Metadata as Metadata
from mizar.model.base import Phase as Phase
from mizar.model.base import Ref as Ref
from mizar.model.base import Resource as Resource
from mizar.model.base import Scope as Scope
from mizar.model.base import Status as Status
from mizar.model.ddos import DdosProtection as DdosProtection
from mizar.model.dhcp import DhcpSpec
from mizar.model.errors import NotFoundError
from mizar.model.fields import Value
from mizar.model.function import Function as Function
from mizar.model.groups import GeneveOptions, Selector
from mizar.model.http_balancer import HttpLoadBalancer as HttpLoadBalancer
from mizar.model.instances import InstanceSpec
from mizar.model.load_balancer import LoadBalancer as LoadBalancer
from mizar.model.nat_gateway import NatGateway as NatGateway
from mizar.model.network_acl import NetworkAcl as NetworkAcl
from mizar.model.peering import VPCPeering as VPCPeering
from mizar.model.policy import Policy as Policy
from mizar.model.proxied import ClientsSpec, GrantSpec, TargetSpec
from mizar.model.qos import EndpointQos, QosSpec
from mizar.model.routes import Routes
from mizar.model.scaled import MOST_LISTENERS, MOST_MEMBERS, Affinity, HealthSpec, ListenerSpec, MemberSpec, Selection
from mizar.model.secret import REVEAL
from mizar.model.substrate import SubstrateRoute as SubstrateRoute
from mizar.model.vpn import VpnConnection as VpnConnection
from mizar.model.workloads import WorkloadSpec


class TunnelProtocol(StrEnum):
    """How packets reach the host of an endpoint, and how its own leave it."""

    GENEVE = "geneve"
    VXLAN = "vxlan"


class TenantSpec(Value):
    """Nothing yet: a tenant is its name."""


class Tenant(Resource):
    """An administrative domain."""

    scope = Scope.CLUSTER
    kind: Literal["Tenant"] = "Tenant"
    spec: TenantSpec = TenantSpec()


class Identity(StrEnum):
    """Whether the packets of a VPC bear its identity beside the VNI."""

    AUTO = "auto"
    """Only where no VNI is left for it alone."""
    REQUIRED = "required"
    """Always: it may share its VNI."""


class VPCSpec(Value):
    """The address space of a VPC, and how many dividers serve it. Without `vni` a free one is allocated."""

    cidrs: fields.Prefixes
    dividers: fields.Members = 1
    vni: fields.Vni | None = None
    identity: Identity = Identity.AUTO
    qos: QosSpec = QosSpec()


class VPCStatus(Status):
    """`identity`: tenant and VPC as two 64-bit numbers in hex, `tenant:vpc`. `dividers`: names of droplets.

    `number`: by which droplets know it, its VNI or, from 2^24 on, one that stands for a shared VNI and the identity.
    """

    vni: int | None = None
    number: int | None = None
    identity: str = ""
    dividers: tuple[str, ...] = ()


class VPC(Resource):
    """A virtual private cloud: an address space of its own, known by a VNI on the wire."""

    scope = Scope.TENANT
    IMMUTABLE = ("cidrs", "vni", "identity")
    kind: Literal["VPC"] = "VPC"
    spec: VPCSpec
    status: VPCStatus = VPCStatus()

    @property
    def number(self) -> int | None:
        """By which droplets know it; None until it is allocated."""
        return self.status.vni if self.status.number is None else self.status.number

    @property
    def shares_vni(self) -> bool:
        """Whether its packets have to bear its identity."""
        return self.number != self.status.vni


class NetworkSpec(Value):
    """A part of a VPC: a subnet, by its prefixes, or a group, by a label, of endpoints wherever they are.

    Of a subnet, `tunnelProtocol` is the default of its endpoints. The members of a group are the VPC's endpoints whose
    labels `selector` selects, and those that `members` names; `label` is its own name unless it says otherwise.
    `throughDivider`: there is no direct path between a subnet and others, so that a divider sees that traffic.
    """

    vpc: fields.Name
    type: Literal["subnet", "group"] = "subnet"
    cidrs: fields.PrefixesOrNone = ()
    bouncers: fields.Members = 1
    tunnel_protocol: TunnelProtocol = TunnelProtocol.GENEVE
    dhcp: DhcpSpec = DhcpSpec()
    routes: Routes = ()
    through_divider: bool = False
    label: fields.LabelValue | None = None
    selector: Selector | None = None
    members: tuple[fields.Name, ...] = ()
    qos: QosSpec = QosSpec()

    @model_validator(mode="after")
    def _fields_of_its_type(self) -> Self:
        of_subnets = ("cidrs", "bouncers", "tunnel_protocol", "dhcp", "routes", "through_divider", "qos")
        others = ("label", "selector", "members") if self.type == "subnet" else of_subnets
        for name in others:
            if name in self.model_fields_set and getattr(self, name) != type(self).model_fields[name].default:
                message = f"unexpected: a network of type {self.type} has none"
                raise PydanticCustomError("type", message, {"field": to_camel(name)})
        if self.type == "subnet" and not self.cidrs:
            raise PydanticCustomError("missing", "missing; expected at least one prefix", {"field": "cidrs"})
        return self


class NetworkStatus(Status):
    """`id`: unique within the VPC. `gateways`: one for each of `spec.cidrs`. `bouncers`: names of droplets.

    `members`: of a group, how many endpoints are in it.
    `routesRefused`: routes that lead nowhere: into the substrate, where the operator does not allow it, or no more; to
    an endpoint that is not there or does not forward.
    """

    id: int | None = None
    gateways: tuple[str, ...] = ()
    bouncers: tuple[str, ...] = ()
    members: int | None = None
    routes_refused: tuple[str, ...] = ()


class Network(Resource):
    """A subnet of a VPC, or a group of its endpoints."""

    scope = Scope.TENANT
    IMMUTABLE = ("vpc", "type", "cidrs", "through_divider")
    kind: Literal["Network"] = "Network"
    spec: NetworkSpec
    status: NetworkStatus = NetworkStatus()

    @property
    def is_group(self) -> bool:
        """Whether it is a group of endpoints and not a subnet."""
        return self.spec.type == "group"

    @property
    def label(self) -> str:
        """By which a group is known in its VPC."""
        return self.spec.label or self.name


class EndpointSpec(Value):
    """An interface in a network. Without `addresses` one is allocated for each family of the network.

    `workload` is absent for an endpoint behind a droplet without a daemon: somebody else makes its interface.
    A `proxied` endpoint has neither droplet nor workload but a target; `grants` say who may have one that leads here.
    A `scaled` endpoint has neither: its traffic is shared by `members`, and by the endpoints of its VPC whose labels
    `selector` matches.
    A `source` is the server's: the address that stands for the clients of a proxied endpoint in its target's VPC.
    `geneveOptions`: what its packets bear in addition. `bypassDecapsulation`: it gets tunnel packets as they are.
    `forwarding`: it is an appliance. Routes of its VPC may lead to it, and it may send from the addresses of others.
    `instanceOf` is the server's: the function that has made it; `listeners` and `affinity`
    are a LoadBalancer's.
    """

    network: fields.Name
    type: Literal["simple", "scaled", "proxied", "source"] = "simple"
    droplet: fields.Name | None = None
    addresses: fields.Addresses = ()
    mac: fields.MacText | None = None
    tunnel_protocol: TunnelProtocol | None = None
    workload: WorkloadSpec | None = None
    geneve_options: GeneveOptions = ()
    bypass_decapsulation: bool = False
    forwarding: bool = False
    target: TargetSpec | None = None
    grants: tuple[GrantSpec, ...] = ()
    clients: ClientsSpec | None = None
    members: tuple[MemberSpec, ...] = Field(default=(), max_length=MOST_MEMBERS)
    selector: dict[fields.LabelKey, fields.LabelValue] = Field(default_factory=dict)
    selection: Selection = Selection.HASH
    listeners: tuple[ListenerSpec, ...] = Field(default=(), max_length=MOST_LISTENERS)
    affinity: Affinity = Affinity.FLOW
    health: HealthSpec = HealthSpec()
    qos: EndpointQos = EndpointQos()
    instance_of: InstanceSpec | None = None

    @model_validator(mode="after")
    def _fits_its_type(self) -> Self:
        needed = {"simple": "droplet", "proxied": "target", "source": "clients", "scaled": ""}
        for name in ("droplet", "target", "clients"):
            given = getattr(self, name) is not None
            if given and needed[self.type] != name:
                raise PydanticCustomError("fit", f"unexpected for an endpoint of type {self.type}", {"field": name})
            if not given and needed[self.type] == name:
                raise PydanticCustomError("fit", "missing", {"field": name})
        for name in ("listeners", "affinity"):
            if self.instance_of is None and getattr(self, name) not in ((), Affinity.FLOW):
                raise PydanticCustomError("fit", "unexpected: write a LoadBalancer instead", {"field": name})
        for name in ("members", "selector"):
            if self.type != "scaled" and getattr(self, name):
                raise PydanticCustomError("fit", f"unexpected for an endpoint of type {self.type}", {"field": name})
        if self.type != "scaled" and self.selection is not Selection.HASH:
            raise PydanticCustomError("fit", f"unexpected for an endpoint of type {self.type}", {"field": "selection"})
        if self.type != "scaled" and self.health != HealthSpec():
            raise PydanticCustomError("fit", f"unexpected for an endpoint of type {self.type}", {"field": "health"})
        if self.type != "simple" and self.workload is not None:
            message = f"unexpected: an endpoint of type {self.type} has no workload of its own"
            raise PydanticCustomError("fit", message, {"field": "workload"})
        if self.type != "simple" and self.qos != EndpointQos():
            raise PydanticCustomError("fit", f"unexpected for an endpoint of type {self.type}", {"field": "qos"})
        if self.bypass_decapsulation:
            self._check_bypass()
        if self.type != "simple" and self.forwarding:
            raise PydanticCustomError("fit", f"unexpected for an endpoint of type {self.type}", {"field": "forwarding"})
        return self

    def _check_bypass(self) -> None:
        message, workload = "", self.workload
        if self.type != "simple":
            message = f"unexpected for an endpoint of type {self.type}"
        elif workload is not None and (workload.tap or workload.ovs or workload.configure == "dhcp"):
            message = (
                "needs a workload in a namespace, with addresses from its droplet: not a tap, ovs or configure: dhcp"
            )
        if message:
            raise PydanticCustomError("fit", message, {"field": "bypassDecapsulation"})


class MoveStage(StrEnum):
    """How far a move to another droplet has come."""

    PREPARING = "Preparing"
    SWITCHING = "Switching"
    DONE = "Done"
    FAILED = "Failed"


class Move(Value):
    """The last move of an endpoint, from droplet `source` to droplet `target`. Times in milliseconds.

    `blackout_ms`: the longest time in which the workload got no answer from its virtual router; absent where the
    workload is not in a namespace of the droplet. `reason`: why it failed, in a sentence.
    """

    source: str
    target: str
    stage: MoveStage = MoveStage.PREPARING
    started_at: datetime | None = None
    elapsed_ms: float | None = None
    blackout_ms: float | None = None
    reason: str = ""

    @property
    def under_way(self) -> bool:
        """Whether it has neither ended nor failed."""
        return self.stage in (MoveStage.PREPARING, MoveStage.SWITCHING)


class EndpointStatus(Status):
    """What was allocated and made. `host`: name of its droplet; `hostInterface`: the droplet's side of its veth.

    `groups`: names of the networks of type group that it is in, `groupIds` their ids, `groupSet` the number of the set.

    Of a proxied endpoint, `host` is the droplet that carries it; `target` is its target, `tenant/name`, while that
    grants it, and `sourceAddresses` are those that stand for its clients there; empty while it is out of service.
    """

    target: str = ""
    source_addresses: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()
    mac: str = ""
    host: str = ""
    host_interface: str = ""
    move: Move | None = None
    groups: tuple[str, ...] = ()
    group_ids: tuple[int, ...] = ()
    group_set: int = 0


class Endpoint(Resource):
    """An interface of a workload, with at most one address of each family."""

    scope = Scope.TENANT
    IMMUTABLE = ("network", "type", "droplet", "addresses", "mac", "workload", "clients", "instance_of")
    kind: Literal["Endpoint"] = "Endpoint"
    spec: EndpointSpec
    status: EndpointStatus = EndpointStatus()


_LEAST_MTU_OVER_IPV6 = 1350
"""Endpoints with IPv6 need 1280 (RFC 8200 5); the tunnel puts 70 in front."""


class DropletSpec(Value):
    """An interface of a host: its address on the substrate, and where its daemon listens.

    `address` is IPv4 or IPv6; one that speaks both families has the other in `secondAddress`. `daemon`:
    `unix:///path`, `host:port` (mutual TLS), or `none` for a foreign tunnel end without a daemon, which is
    known as a sender and may host endpoints but is never chosen as bouncer or divider.
    """

    address: fields.DropletAddress
    second_address: fields.DropletAddress | None = None
    daemon: fields.DaemonTarget

    @model_validator(mode="after")
    def _one_of_each_family(self) -> Self:
        if self.second_address is not None:
            fields.one_per_family(self.addresses)
        return self

    @property
    def addresses(self) -> tuple[str, ...]:
        """All that it has, IPv4 before IPv6: the first one names it on the wire."""
        found = (self.address, self.second_address) if self.second_address else (self.address,)
        return tuple(sorted(found, key=lambda text: ":" in text))

    @property
    def families(self) -> frozenset[int]:
        """4, 6 or both."""
        return frozenset(6 if ":" in text else 4 for text in self.addresses)

    @property
    def has_daemon(self) -> bool:
        """Whether somebody there can be told of tables."""
        return self.daemon != "none"


class DropletStatus(Status):
    """What the daemon says of itself; `connected`: whether the manager has a stream to it now.

    `health`: "up", "unreachable" (the manager does not reach its daemon), "down" (droplets named in `downBy` get no
    answer to their probes) or "dead" (both); empty for one without a daemon. Others take the roles of a dead one, and
    of one that has been unreachable for some seconds.
    """

    address: str = ""
    connected: bool = False
    health: str = ""
    down_by: tuple[str, ...] = ()
    version: str = ""
    xdp_mode: str = ""
    limits_mode: str = ""
    limits_reason: str = ""
    vpn_ports: str = ""
    process_limits: str = ""
    uplink_offloads: str = ""


class Droplet(Resource):
    """A physical interface of a host with an address on the substrate."""

    scope = Scope.CLUSTER
    IMMUTABLE = ("address", "second_address")
    kind: Literal["Droplet"] = "Droplet"
    spec: DropletSpec
    status: DropletStatus = DropletStatus()


class SubstrateSpec(Value):
    """The network that the lab's droplets share; droplet N has its N-th address after the first.

    With `secondCidr`, of the other family, droplets have an address of each, but for those that `only` names.
    """

    cidr: fields.SubstratePrefix = "172.31.0.0/24"
    second_cidr: fields.SubstratePrefix | None = None
    only: Mapping[fields.Name, Literal["ipv4", "ipv6"]] = {}
    mtu: Annotated[int, Field(strict=True, ge=1330, le=9216)] = 1500

    @model_validator(mode="after")
    def _agree(self) -> Self:
        fields.one_per_family(self.cidrs)
        if self.only and self.second_cidr is None:
            raise ValueError("expected a secondCidr beside only: it tells which droplets have one of two families")
        if self.mtu < _LEAST_MTU_OVER_IPV6 and any(":" in cidr for cidr in self.cidrs):
            raise ValueError(f"expected an mtu of {_LEAST_MTU_OVER_IPV6} or more over IPv6, found {self.mtu}")
        return self

    @property
    def cidrs(self) -> tuple[str, ...]:
        """One, or one of each family."""
        return (self.cidr, self.second_cidr) if self.second_cidr else (self.cidr,)


class LabSpec(Value):
    """How many droplets (d1, d2, ...) to make on this machine, and what else their daemons are told."""

    droplets: Annotated[int, Field(strict=True, ge=1, le=64)]
    substrate: SubstrateSpec = SubstrateSpec()
    daemon_arguments: tuple[str, ...] = ()


class Lab(Resource):
    """Droplets as namespaces of one machine. For `mizar lab` alone; a server does not take it."""

    scope = Scope.CLUSTER
    kind: Literal["Lab"] = "Lab"
    spec: LabSpec


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind's names: `name` as in manifests, `plural` as in URLs, `singular` and `short` as typed by people."""

    name: str
    plural: str
    singular: str
    short: tuple[str, ...]
    model: type[Resource]
    served: bool = True
    """Whether a server stores it."""

    @property
    def scope(self) -> Scope:
        """Whose names its objects' names are unique among."""
        return self.model.scope


# In the order of dependence: an object refers only to objects of kinds before its own.
KINDS: Mapping[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("Lab", "labs", "lab", (), Lab, served=False),
        Kind("Droplet", "droplets", "droplet", ("d",), Droplet),
        Kind("Tenant", "tenants", "tenant", ("t",), Tenant),
        Kind("VPC", "vpcs", "vpc", (), VPC),
        Kind("VPCPeering", "vpcpeerings", "vpcpeering", ("peering",), VPCPeering),
        Kind("SubstrateRoute", "substrateroutes", "substrateroute", ("sr",), SubstrateRoute),
        Kind("AddressPool", "addresspools", "addresspool", ("pool",), AddressPool),
        Kind("Network", "networks", "network", ("net",), Network),
        Kind("HttpLoadBalancer", "httploadbalancers", "httploadbalancer", ("hlb",), HttpLoadBalancer),
        Kind("LoadBalancer", "loadbalancers", "loadbalancer", ("lb",), LoadBalancer),
        Kind("NatGateway", "natgateways", "natgateway", ("nat",), NatGateway),
        Kind("Endpoint", "endpoints", "endpoint", ("ep",), Endpoint),
        Kind("Policy", "policies", "policy", ("pol",), Policy),
        Kind("Function", "functions", "function", ("fn",), Function),
        Kind("VpnConnection", "vpnconnections", "vpnconnection", ("vpn",), VpnConnection),
        Kind("DdosProtection", "ddosprotections", "ddosprotection", ("ddos",), DdosProtection),
        Kind("NetworkAcl", "networkacls", "networkacl", ("acl",), NetworkAcl),
    )
}


def kind_named(text: str) -> Kind:
    """The kind that people mean by its name, plural, singular or short name, in any case. Raises NotFoundError."""
    wanted = text.lower()
    for kind in KINDS.values():
        if wanted in (kind.name.lower(), kind.plural, kind.singular, *kind.short):
            return kind
    known = ", ".join(kind.plural for kind in KINDS.values() if kind.served)
    raise NotFoundError(f"no kind is called {text!r}; known are {known}")


def dump(resource: Resource, *, secrets: bool = False) -> dict[str, Any]:
    """The object as JSON values in camelCase, without fields that are not set.

    `secrets`: with their text, for the store and for the way to the server alone; everybody else gets them masked.
    """
    context = REVEAL if secrets else None
    return resource.model_dump(mode="json", by_alias=True, exclude_none=True, context=context)
