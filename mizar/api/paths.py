# SPDX-License-Identifier: Apache-2.0
"""Where objects are found in URLs: called by mizar.api.client; mizar.api.app declares the same paths.

cluster kinds   /v1/{plural}                          /v1/{plural}/{name}
tenant kinds    /v1/{plural}[?tenant={tenant}]        /v1/tenants/{tenant}/{plural}/{name}
"""

from __future__ import annotations

from urllib.parse import quote

from mizar.model.errors import InvalidError
from mizar.model.resources import Kind, Scope


def collection_path(kind: Kind, tenant: str | None = None) -> str:
    """All objects of a kind, of one tenant where that narrows it."""
    path = f"/v1/{kind.plural}"
    return f"{path}?tenant={quote(tenant, safe='')}" if tenant and kind.scope is Scope.TENANT else path


def object_path(kind: Kind, tenant: str | None, name: str) -> str:
    """One object; InvalidError when its kind belongs to tenants and none is given."""
    if kind.scope is Scope.CLUSTER:
        return f"/v1/{kind.plural}/{quote(name, safe='')}"
    if not tenant:
        raise InvalidError(f"{kind.name} {name}: which tenant's? names of {kind.plural} are unique within a tenant")
    return f"/v1/tenants/{quote(tenant, safe='')}/{kind.plural}/{quote(name, safe='')}"
