# SPDX-License-Identifier: Apache-2.0
"""The planner's entries as messages of contracts/transit.proto, and back.

Called by mizar.manager.delivery. Pure; whatever a daemon sends is taken at its word here, the diff finds what is wrong.
"""

from __future__ import annotations

from collections.abc import Iterator

from mizar._built import transit_pb2 as pb
from mizar.manager.qos import qos_entry, qos_message
from mizar.manager.translate_engines import engine_entry, engine_message
from mizar.model.vpn import key_bytes
from mizar.planner.entries import (
    NO_QOS,
    NOT_POLICED,
    DhcpEntry,
    DropletEntry,
    EndpointEntry,
    Entry,
    GroupSetEntry,
    HealthEntry,
    IpsecEntry,
    ListenerEntry,
    LocalEntry,
    MemberEntry,
    NetworkAclEntry,
    NetworkEntry,
    NextHopEntry,
    OvsEntry,
    PeeringEntry,
    PolicyBinding,
    PolicySetEntry,
    PrefixEntry,
    ProxyEntry,
    RouteEntry,
    ServiceEntry,
    TapEntry,
    VpcEntry,
    VpnEntry,
    WorkloadEntry,
)


def put_change(entry: Entry) -> pb.Change:
    """The change that puts an entry into a table; local endpoints are attached instead."""
    match entry:
        case DropletEntry():
            droplet = pb.Droplet(address=entry.address, name=entry.name, mtu=entry.mtu, second_address=entry.second)
            droplet.foreign = entry.foreign
            return pb.Change(put_droplet=droplet)
        case VpcEntry():
            return pb.Change(put_vpc=_vpc(entry))
        case NetworkEntry():
            return pb.Change(put_network=_network(entry))
        case GroupSetEntry():
            return pb.Change(put_group_set=pb.GroupSet(vni=entry.vni, number=entry.number, groups=entry.groups))
        case PolicySetEntry():
            found = pb.PolicySet(
                vni=entry.vni, id=entry.id, peers=entry.peers, groups=entry.groups, verdicts=entry.verdicts
            )
            return pb.Change(put_policy_set=found)
        case NetworkAclEntry():
            return pb.Change(put_network_acl=_network_acl(entry))
        case EndpointEntry():
            return pb.Change(put_endpoint=_endpoint(entry))
        case ProxyEntry():
            return pb.Change(put_proxy=_proxy(entry))
        case PeeringEntry():
            prefixes = [pb.Prefix(address=address, length=length) for address, length in entry.prefixes]
            return pb.Change(put_peering=pb.Peering(vni=entry.vni, peer=entry.peer, prefixes=prefixes))
        case ServiceEntry():
            return pb.Change(put_service=_service(entry))
        case VpnEntry():
            return pb.Change(put_vpn=_vpn(entry))
        case LocalEntry():
            raise TypeError("a local endpoint is attached, not applied")


def delete_change(entry: Entry) -> pb.Change:
    """The change that takes an entry out of its table; local endpoints are detached instead."""
    match entry:
        case DropletEntry():
            return pb.Change(delete_droplet=entry.address)
        case VpcEntry():
            return pb.Change(delete_vpc=entry.vni)
        case NetworkEntry():
            return pb.Change(delete_network=pb.NetworkKey(vni=entry.vni, id=entry.id))
        case GroupSetEntry():
            return pb.Change(delete_group_set=pb.GroupSetKey(vni=entry.vni, number=entry.number))
        case PolicySetEntry():
            return pb.Change(delete_policy_set=pb.PolicySetKey(vni=entry.vni, id=entry.id))
        case NetworkAclEntry():
            return pb.Change(delete_network_acl=pb.NetworkKey(vni=entry.vni, id=entry.network_id))
        case EndpointEntry():
            return pb.Change(delete_endpoint=pb.EndpointKey(vni=entry.vni, addresses=entry.addresses))
        case ProxyEntry():
            return pb.Change(delete_proxy=pb.EndpointKey(vni=entry.vni, addresses=entry.addresses))
        case PeeringEntry():
            return pb.Change(delete_peering=pb.PeeringKey(vni=entry.vni, peer=entry.peer))
        case ServiceEntry():
            return pb.Change(delete_service=pb.EndpointKey(vni=entry.vni, addresses=entry.addresses))
        case VpnEntry():
            return pb.Change(delete_vpn=entry.uid)
        case LocalEntry():
            raise TypeError("a local endpoint is detached, not deleted")


def attachment(entry: LocalEntry) -> pb.LocalEndpoint:
    """The message that attaches a local endpoint."""
    return pb.LocalEndpoint(
        uid=entry.uid,
        endpoint=_endpoint(entry.endpoint),
        workload=_workload(entry.workload),
        mtu=entry.mtu,
        standby=entry.standby,
        options=entry.options,
        group_set=entry.group_set,
        bypass=entry.bypass,
        forwarding=entry.forwarding,
        sources=[_route(route) for route in entry.sources],
        policy=_binding(entry.policy) if entry.policy != NOT_POLICED else None,
        qos=qos_message(entry.qos) if entry.qos != NO_QOS else None,
        engine=engine_message(entry.engine) if entry.engine else None,
    )


def _network_acl(entry: NetworkAclEntry) -> pb.NetworkAcl:
    return pb.NetworkAcl(
        vni=entry.vni, network_id=entry.network_id, ingress=entry.ingress, ingress_later=entry.ingress_later,
        egress=entry.egress, egress_later=entry.egress_later,
        prefixes=[pb.Prefix(address=address, length=length) for address, length in entry.prefixes],
    )  # fmt: skip


def _binding(entry: PolicyBinding) -> pb.PolicyBinding:
    return pb.PolicyBinding(
        ingress=entry.ingress, egress=entry.egress,
        audit_ingress=entry.audit_ingress, audit_egress=entry.audit_egress,
        beside_ingress=entry.beside_ingress, beside_egress=entry.beside_egress,
    )  # fmt: skip


def _workload(entry: WorkloadEntry) -> pb.Workload:
    if entry.tap:
        return pb.Workload(tap=pb.Tap(name=entry.tap.name, owner=entry.tap.owner, queues=entry.tap.queues))
    if entry.ovs:
        return pb.Workload(ovs=pb.OvsPort(bridge=entry.ovs.bridge, port=entry.ovs.port, vlan=entry.ovs.vlan))
    found = pb.Workload(interface=entry.interface, self_configured=entry.self_configured)
    if entry.pool:
        found.pool = entry.namespace
        return found
    if entry.namespace:
        found.name = entry.namespace
    elif entry.path:
        found.path = entry.path
    else:
        found.pid = entry.pid
    return found


def _workload_entry(workload: pb.Workload) -> WorkloadEntry:
    tap = ovs = None
    if workload.HasField("tap"):
        tap = TapEntry(workload.tap.name, workload.tap.owner, workload.tap.queues or 1)
    if workload.HasField("ovs"):
        ovs = OvsEntry(workload.ovs.bridge, workload.ovs.port, workload.ovs.vlan)
    interface = workload.interface or "eth0"
    name, alone, pool = workload.name or workload.pool, workload.self_configured, bool(workload.pool)
    return WorkloadEntry(name, workload.path, workload.pid, interface, tap, ovs, alone, pool)


def entries(state: pb.State) -> Iterator[Entry]:
    """What a chunk of a droplet's state holds."""
    for droplet in state.droplets:
        yield DropletEntry(droplet.address, droplet.name, droplet.mtu, droplet.second_address, droplet.foreign)
    for vpc in state.vpcs:
        yield VpcEntry(vpc.vni, tuple(vpc.dividers), vpc.wire_vni, vpc.identity)
    for network in state.networks:
        prefixes = tuple(PrefixEntry(p.address, p.length, p.gateway) for p in network.prefixes)
        routes = tuple(map(_route_entry, network.routes))
        bouncers, told = tuple(network.bouncers), _dhcp_entry(network.dhcp)
        through = network.through_divider
        yield NetworkEntry(network.vni, network.id, prefixes, bouncers, told, routes, through)
    for peering in state.peerings:
        yield PeeringEntry(peering.vni, peering.peer, tuple((p.address, p.length) for p in peering.prefixes))
    for found in state.group_sets:
        yield GroupSetEntry(found.vni, found.number, tuple(found.groups))
    for rules in state.policy_sets:
        yield PolicySetEntry(rules.vni, rules.id, b"", b"", b"", rules.digest)
    for acl in state.network_acls:
        bound = acl.ingress, acl.ingress_later, acl.egress, acl.egress_later
        yield NetworkAclEntry(acl.vni, acl.network_id, tuple((p.address, p.length) for p in acl.prefixes), *bound)
    for endpoint in state.endpoints:
        yield _endpoint_entry(endpoint)
    for proxy in state.proxies:
        yield ProxyEntry(_endpoint_entry(proxy.client), _endpoint_entry(proxy.source), tuple(proxy.targets))
    for service in state.services:
        yield _service_entry(service)
    for local in state.local_endpoints:
        yield local_entry(local.local)
    for vpn in state.vpns:
        yield VpnEntry(vpn.uid, vpn.revision, vpn.endpoint)


def local_entry(local: pb.LocalEndpoint) -> LocalEntry:
    """A local endpoint as a droplet holds it."""
    workload = _workload_entry(local.workload)
    return LocalEntry(
        local.uid, _endpoint_entry(local.endpoint), workload, local.mtu, local.standby,
        local.options, local.group_set, local.bypass, local.forwarding, tuple(map(_route_entry, local.sources)),
        PolicyBinding(
            local.policy.ingress,
            local.policy.egress,
            local.policy.audit_ingress,
            local.policy.audit_egress,
            local.policy.beside_ingress,
            local.policy.beside_egress,
        ),
        qos_entry(local.qos),
        engine_entry(local),
    )  # fmt: skip


def _vpc(entry: VpcEntry) -> pb.Vpc:
    return pb.Vpc(vni=entry.vni, dividers=entry.dividers, wire_vni=entry.wire_vni, identity=entry.identity)


def _dhcp_entry(dhcp: pb.Dhcp) -> DhcpEntry:
    return DhcpEntry(tuple(dhcp.dns), dhcp.domain, dhcp.lease_s or DhcpEntry().lease_s)


def _network(entry: NetworkEntry) -> pb.Network:
    return pb.Network(
        vni=entry.vni,
        id=entry.id,
        prefixes=[pb.Prefix(address=p.address, length=p.length, gateway=p.gateway) for p in entry.prefixes],
        bouncers=entry.bouncers,
        dhcp=pb.Dhcp(dns=entry.dhcp.dns, domain=entry.dhcp.domain, lease_s=entry.dhcp.lease_s),
        routes=[_route(route) for route in entry.routes],
        through_divider=entry.through_divider,
    )


def _route(entry: RouteEntry) -> pb.Route:
    found = pb.Route(address=entry.address, length=entry.length, action=pb.RouteAction.ValueType(entry.action))
    if entry.via is not None:
        mac, host, tunnel = entry.via.mac, entry.via.host, pb.TunnelProtocol.ValueType(entry.via.tunnel)
        found.next_hop.CopyFrom(pb.NextHop(mac=mac, host=host, tunnel=tunnel, network_id=entry.via.network_id))
    return found


def _route_entry(route: pb.Route) -> RouteEntry:
    hop = route.next_hop if route.HasField("next_hop") else None
    via = NextHopEntry(hop.mac, hop.host, int(hop.tunnel), hop.network_id) if hop else None
    return RouteEntry(route.address, route.length, int(route.action), via)


def _proxy(entry: ProxyEntry) -> pb.Proxy:
    return pb.Proxy(client=_endpoint(entry.client), source=_endpoint(entry.source), targets=entry.targets)


def _service(entry: ServiceEntry) -> pb.Service:
    members = [
        pb.Member(
            addresses=one.addresses,
            mac=one.mac,
            host=one.host,
            tunnel=pb.TunnelProtocol.ValueType(one.tunnel),
            weight=one.weight,
            state=pb.Member.State.ValueType(one.state),
        )
        for one in entry.members
    ]
    return pb.Service(
        vni=entry.vni,
        network_id=entry.network_id,
        addresses=entry.addresses,
        members=members,
        colocated=entry.colocated,
        health=_health(entry.health) if entry.health else None,
        listeners=[pb.Listener(protocol=one.protocol, port=one.port, target=one.target) for one in entry.listeners],
        by_client=entry.by_client,
        public=entry.public,
        attracted=entry.attracted,
        inside=[pb.Prefix(address=address, length=length) for address, length in entry.inside],
        vip_option=entry.vip_option,
    )


def _vpn(entry: VpnEntry) -> pb.Vpn:
    """With its keys: this goes to the daemon that carries it, and nowhere else."""
    found = pb.Vpn(
        uid=entry.uid,
        revision=entry.revision,
        endpoint=entry.endpoint,
        name=entry.name,
        remote=[pb.Prefix(address=address, length=length) for address, length in entry.remote],
        down_after_s=entry.down_after_s,
    )
    if entry.peer:
        found.peer_address, found.peer_port = entry.peer
    if isinstance(spec := entry.how, IpsecEntry):
        found.ipsec.CopyFrom(
            pb.Ipsec(
                psk=spec.psk.reveal().encode() if spec.psk else b"",
                local_id=spec.local_id,
                remote_id=spec.remote_id,
                local=[pb.Prefix(address=address, length=length) for address, length in spec.local],
                port=spec.port,
                ike_proposals=spec.ike_proposals,
                esp_proposals=spec.esp_proposals,
                rekey_s=spec.rekey_s,
                dpd_s=spec.dpd_s,
            )
        )
        if (own := spec.certificate) is not None:
            held = pb.IpsecCertificate(chain=own.chain, key=own.key.reveal(), authority=own.authority)
            found.ipsec.certificate.CopyFrom(held)
    elif spec is not None:
        found.wireguard.CopyFrom(
            pb.Wireguard(
                private_key=key_bytes(spec.private_key.reveal()),
                peer_public_key=spec.peer_public_key,
                preshared_key=key_bytes(spec.preshared_key.reveal()) if spec.preshared_key else b"",
                port=spec.port,
                keepalive_s=spec.keepalive_s,
            )
        )
    return found


def _health(entry: HealthEntry) -> pb.HealthCheck:
    return pb.HealthCheck(
        kind=pb.HealthCheck.HTTP if entry.path else pb.HealthCheck.TCP,
        port=entry.port,
        path=entry.path,
        interval_ms=entry.interval_ms,
        timeout_ms=entry.timeout_ms,
        healthy_after=entry.healthy_after,
        unhealthy_after=entry.unhealthy_after,
    )


def _health_entry(found: pb.HealthCheck) -> HealthEntry:
    return HealthEntry(
        found.port, found.path, found.interval_ms, found.timeout_ms, found.healthy_after, found.unhealthy_after
    )


def _service_entry(service: pb.Service) -> ServiceEntry:
    members = tuple(
        MemberEntry(tuple(one.addresses), one.mac, one.host, int(one.tunnel), one.weight, int(one.state))
        for one in service.members
    )
    health = _health_entry(service.health) if service.HasField("health") else None
    listeners = tuple(ListenerEntry(one.protocol, one.port, one.target) for one in service.listeners)
    addresses, colocated = tuple(service.addresses), service.colocated
    return ServiceEntry(
        service.vni, service.network_id, addresses, members, colocated, health, listeners, service.by_client,
        tuple(service.public), service.attracted, tuple((one.address, one.length) for one in service.inside),
        service.vip_option,
    )  # fmt: skip


def _endpoint(entry: EndpointEntry) -> pb.Endpoint:
    return pb.Endpoint(
        vni=entry.vni,
        network_id=entry.network_id,
        addresses=entry.addresses,
        mac=entry.mac,
        host=entry.host,
        tunnel=pb.TunnelProtocol.ValueType(entry.tunnel),
    )


def _endpoint_entry(endpoint: pb.Endpoint) -> EndpointEntry:
    return EndpointEntry(
        endpoint.vni, endpoint.network_id, tuple(endpoint.addresses), endpoint.mac, endpoint.host, int(endpoint.tunnel)
    )
