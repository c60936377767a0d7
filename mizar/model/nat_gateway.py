# SPDX-License-Identifier: Apache-2.0
"""NatGateway: the way of a VPC's endpoints into the world, through public addresses. Owns the shape of its manifest.

Part of mizar.model.resources. What depends on other objects is in mizar.manager.nat_gateways.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from mizar.model import fields
from mizar.model.address_pool import Wanted
from mizar.model.base import Resource, Scope, Status
from mizar.model.fields import Value
from mizar.model.secret import SecretText

FIRST_OWN_PORT = 32768
"""Public ports from here on are for connections from inside; those below for portForwards. So neither disturbs the
other, whatever changes."""
MOST_CONNECTIONS = 1 << 18


class PortForwardSpec(Value):
    """Connections to `port` of a public address go to an endpoint. Without `address`: of each family that both have."""

    protocol: Literal["tcp", "udp"] = "tcp"
    port: Annotated[int, Field(strict=True, ge=1, lt=FIRST_OWN_PORT)]
    endpoint: fields.Name
    target_port: Annotated[int, Field(strict=True, ge=1, le=65535)] | None = None
    address: fields.AddressText | None = None


def _each_once(names: Sequence[str]) -> Sequence[str]:
    if len(set(names)) < len(names):
        raise ValueError("expected each name once")
    return names


def _apart(forwards: Sequence[PortForwardSpec]) -> Sequence[PortForwardSpec]:
    for place, one in enumerate(forwards):
        for other in forwards[:place]:
            same = (one.protocol, one.port) == (other.protocol, other.port)
            if same and (one.address == other.address or None in (one.address, other.address)):
                raise ValueError(f"expected one for {one.protocol} port {one.port}, found two")
    return forwards


class NatGatewaySpec(Value):
    """`network`: where it stands in the VPC; `networks`: whose packets to the world go through it, all of the VPC's if
    empty. `droplets`: of the pool's, where it may be. `connections`: at once, of each family. `standby`: another
    droplet of the pool is told of the connections, and goes on with them when the first one dies.
    """

    network: fields.Name
    pool: fields.Name
    addresses: Wanted = ()
    networks: Annotated[tuple[fields.Name, ...], Field(max_length=64), AfterValidator(_each_once)] = ()
    port_forwards: Annotated[tuple[PortForwardSpec, ...], Field(max_length=128), AfterValidator(_apart)] = ()
    droplets: Annotated[tuple[fields.Name, ...], Field(max_length=64), AfterValidator(_each_once)] = ()
    connections: Annotated[int, Field(strict=True, ge=16, le=MOST_CONNECTIONS)] = 32768
    standby: bool = True


class NatGatewayStatus(Status):
    """`addresses`: its public ones. The rest is what its droplet tells, as of now.

    `state`: of the gateway's process, `running` while it is well; `detail` says why it is not. `connections`: that
    live; `begun`, `refused` (beyond the quota), `exhausted` (no port was left): since it is on this droplet.
    `standby`: the droplet that would go on with the connections, and `standbyState`: `ready` once it knows them all.
    `pairKey`: from which both have the certificates by which they know one another.
    """

    addresses: tuple[str, ...] = ()
    droplet: str = ""
    state: str = ""
    detail: str = ""
    quota: int | None = None
    connections: int | None = None
    begun: int | None = None
    refused: int | None = None
    exhausted: int | None = None
    standby: str = ""
    standby_state: str = ""
    pair_key: SecretText | None = None


class NatGateway(Resource):
    """A gateway's translation for a VPC, which droplets of an AddressPool carry."""

    scope = Scope.TENANT
    IMMUTABLE = ("network", "pool", "addresses", "connections")
    kind: Literal["NatGateway"] = "NatGateway"
    spec: NatGatewaySpec
    status: NatGatewayStatus = NatGatewayStatus()
