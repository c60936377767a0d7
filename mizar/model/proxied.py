# SPDX-License-Identifier: Apache-2.0
"""Parts of an endpoint's manifest that proxied endpoints need: target, grants, and whose clients a source stands for.

Used by mizar.model.resources; the rules between objects are in mizar.manager.proxied.
"""

from __future__ import annotations

from mizar.model import fields
from mizar.model.fields import Value


class TargetSpec(Value):
    """The endpoint behind a proxied one: of its own tenant, or of `tenant`, whose grant it needs then."""

    tenant: fields.Name | None = None
    endpoint: fields.Name


class GrantSpec(Value):
    """Who may have proxied endpoints that lead to this one: a tenant, in all of its VPCs or in `vpc` alone."""

    tenant: fields.Name
    vpc: fields.Name | None = None


class ClientsSpec(Value):
    """Whose clients a source stands for. `proxied`: uid of the proxied endpoint."""

    tenant: fields.Name
    vpc: fields.Name
    proxied: str
