# SPDX-License-Identifier: Apache-2.0
"""Functions that daemons run, as messages. Called by mizar.manager.translate. Pure."""

from __future__ import annotations

from mizar._built import transit_pb2 as pb
from mizar.planner.engines import (
    EngineEntry,
    HttpBackendEntry,
    HttpBalancerEntry,
    NatGatewayEntry,
    PublicBalancerEntry,
    Subnet,
)


def engine_message(entry: EngineEntry) -> pb.Engine:
    """With all that is needed to run it."""
    if entry.content is None:
        return pb.Engine(digest=entry.digest)
    if isinstance(entry.content, NatGatewayEntry):
        return pb.Engine(digest=entry.digest, nat=_nat(entry.content))
    if isinstance(entry.content, PublicBalancerEntry):
        return pb.Engine(digest=entry.digest, public=_public(entry.content))
    return pb.Engine(digest=entry.digest, http=_http(entry.content))


def engine_entry(local: pb.LocalEndpoint) -> EngineEntry | None:
    """As a droplet tells it: by its digest."""
    return EngineEntry(local.engine.digest) if local.HasField("engine") else None


def _http(entry: HttpBalancerEntry) -> pb.HttpBalancer:
    return pb.HttpBalancer(
        tenant=entry.tenant,
        name=entry.name,
        instance=entry.instance,
        listeners=[pb.HttpListener(port=one.port, tls=one.tls, redirect=one.redirect) for one in entry.listeners],
        certificates=[pb.HttpCertificate(name=one.name, chain=one.chain, key=one.key) for one in entry.certificates],
        routes=[
            pb.HttpRoute(host=one.host, path=one.path, exact=one.exact, backend=one.backend) for one in entry.routes
        ],
        backends=[_backend(one) for one in entry.backends],
        retries=entry.retries,
        connect_ms=entry.connect_ms,
        client_ms=entry.client_ms,
        server_ms=entry.server_ms,
        connections=entry.connections,
        threads=entry.threads,
    )


def _backend(entry: HttpBackendEntry) -> pb.HttpBackend:
    check = entry.check
    return pb.HttpBackend(
        name=entry.name,
        port=entry.port,
        balance=pb.HttpBackend.Balance.ValueType(entry.balance),
        servers=[pb.HttpServer(name=one.name, address=one.address, weight=one.weight) for one in entry.servers],
        check=pb.HttpCheck(
            path=check.path,
            interval_ms=check.interval_ms,
            timeout_ms=check.timeout_ms,
            rise=check.rise,
            fall=check.fall,
        ),
        server_connections=entry.server_connections,
    )


def _nat(entry: NatGatewayEntry) -> pb.NatGateway:
    return pb.NatGateway(
        tenant=entry.tenant,
        name=entry.name,
        instance=entry.instance,
        public=entry.public,
        inside=_subnets(entry.inside),
        forwards=[
            pb.NatForward(
                protocol=one.protocol, public=one.public, port=one.port, address=one.address,
                target_port=one.target_port,
            )
            for one in entry.forwards
        ],
        connections=entry.connections,
        never=_subnets(entry.never),
        reach=_subnets(entry.reach),
        standby=entry.standby,
        pair=pb.NatPair(own=entry.pair.own, other=entry.pair.other, key=entry.pair.key) if entry.pair else None,
    )  # fmt: skip


def _public(entry: PublicBalancerEntry) -> pb.PublicBalancer:
    return pb.PublicBalancer(
        tenant=entry.tenant,
        name=entry.name,
        instance=entry.instance,
        public=entry.public,
        inside=_subnets(entry.inside),
        listeners=[
            pb.PublicListener(protocol=protocol, port=port, target_port=target)
            for protocol, port, target in entry.listeners
        ],
        members=[pb.PublicMember(addresses=one.addresses, weight=one.weight, state=one.state) for one in entry.members],
        by_client=entry.by_client,
        connections=entry.connections,
        refused=_subnets(entry.refused),
    )


def _subnets(found: tuple[Subnet, ...]) -> list[pb.Subnet]:
    return [pb.Subnet(address=address, length=length) for address, length in found]
