# SPDX-License-Identifier: Apache-2.0
"""Who is asking, and what they may see and change.

Called by mizar.api.serve, which learns the caller from the connection, and by mizar.api.app for every request. What is
not the caller's does not exist for it: no answer may differ between a stranger's object and none at all.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from mizar.model.errors import Problem
from mizar.model.resources import Endpoint, Ref, Resource, Tenant
from mizar.model.workloads import TapSpec
from mizar.pki.identity import Identity, Role


@dataclass(frozen=True, slots=True)
class Caller:
    """`tenant` is None for administrators, who may everything."""

    tenant: str | None = None

    def sees(self, ref: Ref) -> bool:
        """Whether an object of this name may be shown to the caller, changed by it, or named to it."""
        return self.tenant is None or ref.tenant == self.tenant or ref == Ref("Tenant", "", self.tenant)

    def objections(self, resource: Resource) -> Iterator[Problem]:
        """Why the caller may not apply a manifest; independent of what exists."""
        if self.tenant is None:
            return
        if isinstance(resource, Tenant) or not resource.tenant:
            yield Problem("only an administrator can apply this kind", field="kind")
        elif resource.tenant != self.tenant:
            yield Problem(f"expected your own tenant, {self.tenant}", field="metadata.tenant")
        elif isinstance(resource, Endpoint) and resource.spec.workload is not None:
            # A namespace is the host's: without a rule one tenant could put an interface into another's, or the host's.
            # Names and users are the host's too; a tap without them can be opened by the host's administrator alone.
            workload = resource.spec.workload
            own = workload.namespace is not None and workload.namespace.startswith(f"{self.tenant}.")
            if not own and workload.tap != TapSpec(queues=workload.tap.queues if workload.tap else 1):
                message = (
                    f"expected a namespace called {self.tenant}.…, which belongs to your tenant, "
                    "or a tap without name and owner"
                )
                yield Problem(message, field="spec.workload")


ADMINISTRATOR = Caller()


def caller_of(identity: Identity) -> Caller | None:
    """Who the holder of a certificate is to the API; None for those that have no business there."""
    match identity.role:
        case Role.ADMIN:
            return ADMINISTRATOR
        case Role.TENANT:
            return Caller(identity.name)
        case Role.DAEMON | Role.SERVER | Role.GATEWAY:
            return None
