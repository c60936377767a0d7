# SPDX-License-Identifier: Apache-2.0
"""Where an endpoint's own side is: the `workload` of its manifest. Owns the shape of each kind of workload.

Part of mizar.model.resources, which has the Endpoint. What a tenant may ask for is in mizar.api.caller.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from mizar.model import fields
from mizar.model.fields import Value

PLACES = ("namespace", "path", "pid", "tap", "ovs")
"""Fields of which a workload has exactly one."""


class TapSpec(Value):
    """A tap device on the droplet, for a virtual machine. `owner`: the user id that may open it."""

    name: fields.TapName | None = None
    owner: Annotated[int, Field(strict=True, ge=0, le=2**32 - 2)] = 0
    queues: Annotated[int, Field(strict=True, ge=1, le=16)] = 1


class OvsSpec(Value):
    """A port of an Open vSwitch bridge of the droplet's host. `vlan`: its access VLAN."""

    bridge: fields.InterfaceName
    port: fields.InterfaceName | None = None
    vlan: Annotated[int, Field(strict=True, ge=1, le=4094)] | None = None


class WorkloadSpec(Value):
    """Where the endpoint's interface appears: exactly one of namespace (under /run/netns), path, pid, tap and ovs.

    `configure`: `static`, the daemon sets addresses and routes of an interface in a namespace; `dhcp`, the workload
    asks for them (a virtual machine always does, or is told by other means).
    `pool`: the daemon brings the namespace, one of those that it has prepared, and it is the daemon's from then on.
    """

    namespace: fields.NamespaceName | None = None
    path: fields.PathText | None = None
    pid: fields.Positive | None = None
    tap: TapSpec | None = None
    ovs: OvsSpec | None = None
    interface: fields.InterfaceName = "eth0"
    configure: Literal["static", "dhcp"] = "static"
    pool: bool = False

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if sum(getattr(self, name) is not None for name in PLACES) != 1:
            raise ValueError(f"expected exactly one of {', '.join(PLACES[:-1])} and {PLACES[-1]}")
        if (self.tap or self.ovs) and self.interface != "eth0":
            raise ValueError("expected no interface beside tap or ovs: it is a name inside of a namespace")
        if self.pool and self.namespace is None:
            raise ValueError("expected the name of a namespace beside pool")
        return self
