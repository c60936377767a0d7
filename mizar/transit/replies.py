# SPDX-License-Identifier: Apache-2.0
"""From values to messages: what the daemon answers.

Called by the servicer. The same messages that ask for a thing say that it is there, so that a caller can compare.
"""

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import TypeVar

from mizar._built import transit_pb2 as pb
from mizar.model.policy_rows import digest as rows_digest
from mizar.transit.audit import Report
from mizar.transit.findings import Finding
from mizar.transit.limit_values import NO_QOS, UNLIMITED, Qos, Rate
from mizar.transit.policy_values import NOT_BOUND, Binding, NetworkAcl, PolicySet
from mizar.transit.service_values import HealthCheck, Service
from mizar.transit.state import State
from mizar.transit.values import Droplet, Endpoint, Learned, Local, Network, Peering, Proxy, Route, Tunnel, Vpc
from mizar.transit.workloads import NamespaceBy, OvsPort, Tap, Workload

T = TypeVar("T")

CHUNK = 1000
"""Objects in one message of the stream of GetState: well under gRPC's 4 MiB."""


def droplet(value: Droplet) -> pb.Droplet:
    """A droplet."""
    return pb.Droplet(
        address=value.address,
        name=value.name,
        down=value.down,
        mtu=value.mtu,
        second_address=value.second,
        foreign=value.foreign,
    )


def vpc(value: Vpc) -> pb.Vpc:
    """A VPC."""
    return pb.Vpc(vni=value.vni, dividers=value.dividers, wire_vni=value.wire_vni, identity=value.identity)


def network(value: Network) -> pb.Network:
    """A network."""
    told = pb.Dhcp(dns=value.dhcp.dns, domain=value.dhcp.domain, lease_s=value.dhcp.lease_s)
    prefixes = [pb.Prefix(address=one.address, length=one.length, gateway=one.gateway) for one in value.prefixes]
    return pb.Network(
        vni=value.vni, id=value.id, prefixes=prefixes, bouncers=value.bouncers, dhcp=told,
        routes=[route(one) for one in value.routes],
        through_divider=value.through_divider,
    )  # fmt: skip


def route(value: Route) -> pb.Route:
    """A route of a network, or a source of an appliance."""
    found = pb.Route(address=value.address, length=value.length, action=pb.RouteAction.ValueType(int(value.action)))
    if value.via is not None:
        mac, host, tunnel, network_id = value.via
        hop = pb.NextHop(mac=mac, host=host, tunnel=pb.TunnelProtocol.ValueType(int(tunnel)), network_id=network_id)
        found.next_hop.CopyFrom(hop)
    return found


def peering(value: Peering) -> pb.Peering:
    """A peering."""
    prefixes = [pb.Prefix(address=address, length=length) for address, length in value.prefixes]
    return pb.Peering(vni=value.vni, peer=value.peer, prefixes=prefixes)


def endpoint(value: Endpoint) -> pb.Endpoint:
    """An endpoint."""
    return pb.Endpoint(
        vni=value.vni,
        network_id=value.network_id,
        addresses=value.addresses,
        mac=value.mac,
        host=value.host,
        tunnel=pb.GENEVE if value.tunnel is Tunnel.GENEVE else pb.VXLAN,
    )


def workload(value: Workload) -> pb.Workload:
    """What is behind an endpoint."""
    if isinstance(value, Tap):
        return pb.Workload(tap=pb.Tap(name=value.name, owner=value.owner, queues=value.queues))
    if isinstance(value, OvsPort):
        return pb.Workload(ovs=pb.OvsPort(bridge=value.bridge, port=value.port, vlan=value.vlan))
    found = pb.Workload(interface=value.interface, self_configured=value.self_configured)
    match value.by:
        case NamespaceBy.NAME:
            found.name = value.namespace
        case NamespaceBy.POOL:
            found.pool = value.namespace
        case NamespaceBy.PATH:
            found.path = value.namespace
        case NamespaceBy.PID:
            found.pid = int(value.namespace)
    return found


def proxy(value: Proxy) -> pb.Proxy:
    """A proxied endpoint that this droplet carries."""
    return pb.Proxy(client=endpoint(value.client), source=endpoint(value.source), targets=value.targets)


def learned(value: Learned) -> pb.Learned:
    """What the direct path found out."""
    tunnel = pb.GENEVE if value.tunnel is Tunnel.GENEVE else pb.VXLAN
    return pb.Learned(vni=value.vni, address=value.address, host=value.host, tunnel=tunnel)


def service(value: Service) -> pb.Service:
    """A scaled endpoint."""
    members = [
        pb.Member(
            addresses=one.addresses,
            mac=one.mac,
            host=one.host,
            tunnel=pb.GENEVE if one.tunnel is Tunnel.GENEVE else pb.VXLAN,
            weight=one.weight,
            state=pb.Member.State.ValueType(one.state),
        )
        for one in value.members
    ]
    return pb.Service(
        vni=value.vni,
        network_id=value.network_id,
        addresses=value.addresses,
        members=members,
        colocated=value.colocated,
        health=health_check(value.health) if value.health else None,
        listeners=[pb.Listener(protocol=one.protocol, port=one.port, target=one.target) for one in value.listeners],
        by_client=value.by_client,
        public=value.public,
        attracted=value.attracted,
        inside=[pb.Prefix(address=address, length=length) for address, length in value.inside],
        vip_option=value.vip_option,
    )


def health_check(value: HealthCheck) -> pb.HealthCheck:
    """How members are checked."""
    return pb.HealthCheck(
        kind=pb.HealthCheck.HTTP if value.http else pb.HealthCheck.TCP,
        port=value.port,
        path=value.path,
        interval_ms=round(value.interval_s * 1000),
        timeout_ms=round(value.timeout_s * 1000),
        healthy_after=value.healthy_after,
        unhealthy_after=value.unhealthy_after,
    )


def local(value: Local, problem: str) -> pb.LocalEndpointState:
    """An endpoint of this droplet, and what is wrong with it."""
    wanted = pb.LocalEndpoint(
        uid=value.wanted.uid,
        endpoint=endpoint(value.endpoint),
        workload=workload(value.wanted.workload),
        mtu=value.wanted.mtu,
        options=value.wanted.options,
        group_set=value.wanted.group_set,
        standby=value.wanted.standby,
        bypass=value.wanted.bypass,
        forwarding=value.wanted.forwarding,
        sources=[route(one) for one in value.wanted.sources],
        policy=binding(value.wanted.policy) if value.wanted.policy != NOT_BOUND else None,
        qos=qos(value.wanted.qos) if value.wanted.qos != NO_QOS else None,
        engine=pb.Engine(digest=digest_of(value.wanted.engine)) if value.wanted.engine else None,
    )
    return pb.LocalEndpointState(local=wanted, host_interface=value.host_interface, problem=problem)


def digest_of(engine: bytes) -> bytes:
    """All that is told of a function, which may hold secrets."""
    return pb.Engine.FromString(engine).digest


def state(held: State, problems: Mapping[str, str]) -> Iterator[pb.State]:
    """The chunks of a state, in the order of dependence, and within a kind in that of the keys; at least one chunk.

    `problems`: of local endpoints, by uid.
    """
    whole = False
    for droplets in _chunks(held.droplets):
        yield pb.State(droplets=[droplet(held.droplets[key]) for key in droplets])
        whole = True
    if not whole:
        yield pb.State()
    for vpcs in _chunks(held.vpcs):
        yield pb.State(vpcs=[vpc(held.vpcs[key]) for key in vpcs])
    for networks in _chunks(held.networks):
        yield pb.State(networks=[network(held.networks[key]) for key in networks])
    for peerings in _chunks(held.peerings):
        yield pb.State(peerings=[peering(held.peerings[key]) for key in peerings])
    for keys in _chunks(held.group_sets):
        yield pb.State(group_sets=[pb.GroupSet(vni=key[0], number=key[1], groups=held.group_sets[key]) for key in keys])
    for ids in _chunks(held.policy_sets):
        yield pb.State(policy_sets=[policy_set(held.policy_sets[key]) for key in ids])
    for ruled in _chunks(held.network_acls):
        yield pb.State(network_acls=[network_acl(held.network_acls[key]) for key in ruled])
    for endpoints in _chunks((one.vni, one.addresses) for one in held.remotes()):
        yield pb.State(endpoints=[endpoint(held.at[vni, addresses[0]]) for vni, addresses in endpoints])
    for services in _chunks(held.services):
        yield pb.State(services=[service(held.services[key]) for key in services])
    for proxies in _chunks(held.proxies):
        yield pb.State(proxies=[proxy(held.proxies[key]) for key in proxies])
    for places in _chunks(held.learned):
        yield pb.State(learned=[learned(held.learned[place]) for place in places])
    for uids in _chunks(held.locals):
        yield pb.State(local_endpoints=[local(held.locals[uid], problems.get(uid, "")) for uid in uids])


def qos(value: Qos) -> pb.Qos:
    """The limits of an endpoint."""
    out, into = [list(map(rate, chain)) for chain in (value.egress, value.ingress)]
    return pb.Qos(
        egress=out[0], network_egress=out[1], vpc_egress=out[2],
        ingress=into[0], network_ingress=into[1], vpc_ingress=into[2],
        guarantee=rate(value.guarantee), dscp=value.dscp,
    )  # fmt: skip


def rate(value: Rate) -> pb.Rate | None:
    """A rate; None where there is no limit."""
    if value == UNLIMITED:
        return None
    return pb.Rate(
        bits_per_second=value.bits_per_second,
        packets_per_second=value.packets_per_second,
        burst_bytes=value.burst_bytes,
        burst_packets=value.burst_packets,
    )


def binding(value: Binding) -> pb.PolicyBinding:
    """By which sets an endpoint is judged."""
    return pb.PolicyBinding(
        ingress=value.ingress, egress=value.egress, audit_ingress=value.audit_ingress, audit_egress=value.audit_egress,
        beside_ingress=value.beside_ingress, beside_egress=value.beside_egress,
    )  # fmt: skip


def policy_set(value: PolicySet) -> pb.PolicySet:
    """A set of rules, by the digest of its rows."""
    digest = rows_digest(value.peers, value.groups, value.verdicts)
    return pb.PolicySet(vni=value.vni, id=value.id, digest=digest)


def network_acl(value: NetworkAcl) -> pb.NetworkAcl:
    """What a network is judged by."""
    prefixes = [pb.Prefix(address=address, length=length) for address, length in value.prefixes]
    return pb.NetworkAcl(
        vni=value.vni, network_id=value.network_id, prefixes=prefixes, ingress=value.ingress,
        ingress_later=value.ingress_later, egress=value.egress, egress_later=value.egress_later,
    )  # fmt: skip


def finding(value: Finding) -> pb.Finding:
    """What an audit found."""
    owner = value.owner
    return pb.Finding(
        kind=pb.Finding.Kind.ValueType(int(value.kind)),
        table=value.table,
        key=value.key,
        wanted=value.wanted,
        found=value.found,
        vni=owner.vni,
        network_id=owner.network_id,
        address=owner.address,
        uid=owner.uid,
        repair=value.repair,
        error=value.error,
    )


def audit(report: Report) -> Iterator[pb.AuditReply]:
    """The chunks of what an audit found; at least one."""
    found = iter(report.findings)
    while chunk := list(islice(found, CHUNK)):
        yield pb.AuditReply(findings=map(finding, chunk))
    yield pb.AuditReply(looked_at=report.looked_at, more=report.more)


def _chunks(keys: Iterable[T]) -> Iterator[list[T]]:
    rest = iter(sorted(keys))  # type: ignore[type-var]
    while chunk := list(islice(rest, CHUNK)):
        yield chunk
