# SPDX-License-Identifier: Apache-2.0
"""Endpoints: as their bouncers know them, as they are made here, and as this droplet carries proxied ones."""

from collections.abc import Sequence

from mizar._built import transit_pb2 as pb
from mizar.model.errors import InvalidError
from mizar.transit import marks
from mizar.transit.policy_values import NOT_BOUND
from mizar.transit.requests import fields
from mizar.transit.requests.networks import routes
from mizar.transit.requests.rules import binding, qos
from mizar.transit.requests.workloads import workload
from mizar.transit.values import Endpoint, Proxy, Route, RouteAction, Wanted
from mizar.transit.workloads import InNamespace

_MIN_MTU = {4: 576, 16: 1280}
_MAX_MTU = 65535
_MAX_DIGEST = 64


def endpoint(message: pb.Endpoint) -> Endpoint:
    """An endpoint as its bouncers know it."""
    return Endpoint(
        vni=fields.vni(message.vni),
        network_id=fields.network_id(message.network_id),
        addresses=fields.addresses(message.addresses),
        mac=fields.mac(message.mac),
        host=fields.substrate_address(message.host, "the host"),
        tunnel=fields.tunnel(message.tunnel),
    )


def proxy(message: pb.Proxy) -> Proxy:
    """A proxied endpoint; the source has an address of each of the target's families, and no other."""
    found = Proxy(endpoint(message.client), endpoint(message.source), fields.addresses(message.targets))
    if [len(one) for one in found.source.addresses] != [len(one) for one in found.targets]:
        raise InvalidError("the source of a proxied endpoint needs one address of each family of its target")
    both = {(side.vni, one) for side in found.sides for one in side.addresses}
    if len(both) != sum(len(side.addresses) for side in found.sides):
        raise InvalidError("the two sides of a proxied endpoint have the same address")
    return found


def wanted(message: pb.LocalEndpoint) -> Wanted:
    """An endpoint to be made on this droplet."""
    found = Wanted(
        fields.uid(message.uid), endpoint(message.endpoint), workload(message.workload), message.mtu,
        marks.checked(message.options), marks.group_set(message.group_set), message.standby,
        message.bypass,
        message.forwarding, sources(message.sources), binding(message.policy), qos(message.qos),
        engine_of(message),
    )  # fmt: skip
    if found.bypass and (found.mtu or not isinstance(found.workload, InNamespace) or found.workload.self_configured):
        raise InvalidError(
            "an endpoint that bypasses decapsulation needs a workload in a namespace that does not configure itself, "
            "and no MTU of its own: its interface has that of the droplet's"
        )
    if found.bypass and found.policy != NOT_BOUND:
        raise InvalidError(
            "an endpoint that bypasses decapsulation cannot be policed: its droplet unpacks nothing for it"
        )
    least = max(_MIN_MTU[len(one)] for one in found.endpoint.addresses)
    if found.sources and not found.forwarding:
        raise InvalidError("there are sources of an endpoint that does not forward")
    if found.mtu and not least <= found.mtu <= _MAX_MTU:
        raise InvalidError(f"the MTU {found.mtu} is outside of {least} to {_MAX_MTU}")
    return found


def sources(messages: Sequence[pb.Route]) -> tuple[Route, ...]:
    """What an appliance may send from."""
    found = routes(messages)
    if any(route.action not in (RouteAction.VPC, RouteAction.BLACKHOLE) for route in found):
        raise InvalidError("a source is VIA_VPC (1), allowed, or BLACKHOLE (2), not allowed")
    return found


def engine_of(message: pb.LocalEndpoint) -> bytes:
    """What serves behind an endpoint, as it is kept; empty for nothing."""
    engine = message.engine
    if not message.HasField("engine"):
        return b""
    if not 1 <= len(engine.digest) <= _MAX_DIGEST or engine.WhichOneof("kind") is None:
        raise InvalidError(f"a function needs a digest of 1 to {_MAX_DIGEST} bytes, and says what it is")
    if message.bypass or message.workload.WhichOneof("place") not in ("name", "path", "pool"):
        raise InvalidError("a function runs in a namespace that has a name or a path, and takes plain packets")
    return engine.SerializeToString(deterministic=True)
