# SPDX-License-Identifier: Apache-2.0
"""The shapes of requests and replies, for validation and for the OpenAPI document. Pure data, used by mizar.api.app."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel


class Shape(BaseModel):
    """What all have in common: camelCase outside, and no field that nobody knows."""

    model_config = ConfigDict(extra="forbid", alias_generator=to_camel, populate_by_name=True)


class ApplyRequest(Shape):
    """Manifests that are applied together: all or none."""

    resources: list[dict[str, Any]] = Field(description="Manifests, in any order.", max_length=20_000)
    dry_run: bool = Field(default=False, description="Check everything, keep nothing.")


class PreviewRequest(Shape):
    """Manifests, as for an apply."""

    resources: list[dict[str, Any]] = Field(description="Manifests, in any order.", max_length=20_000)


class PreviewReply(Shape):
    """What would become of them."""

    changes: bool = Field(description="Whether anything would change at all.")
    objects: list[dict[str, Any]] = Field(
        description="kind, tenant, name, change (created, changed, deleted, unchanged), asked (false: it follows from "
        "others), fields (field, before, after; of lists, what comes and what goes)."
    )
    droplets: list[dict[str, Any]] | None = Field(
        description="name; how many entries to add, change, delete; steps in order (wave, action, entry). Null for "
        "callers that may not see droplets."
    )
    reach: dict[str, Any] = Field(
        description="pairs of endpoints that the change may matter to, lookedAt of them; gained and lost: from, to, "
        "ways (icmp4, udp4, tcp4, icmp6, udp6, tcp6), of lost ones a reason."
    )
    flows: list[dict[str, Any]] = Field(
        description="Established flows that end: endpoint, what, certain (false: an estimate), flows (null: not known)."
    )
    notes: list[str] = Field(description="What was taken for granted.")


class MoveRequest(Shape):
    """Where an endpoint shall live."""

    droplet: str = Field(description="Name of the droplet.", min_length=1, max_length=63)


class AuditRequest(Shape):
    """An audit of one droplet."""

    repair: bool = Field(default=False, description="Mend what is found.")


class AuditFinding(Shape):
    """One thing that is not as it should be."""

    kind: Literal["missing", "foreign", "altered"]
    at: Literal["kernel", "daemon"] = Field(
        description="kernel: the droplet holds something else than its daemon was told. daemon: that was told "
        "something else than is desired."
    )
    table: str
    key: str
    object: str = Field(description="`Kind tenant/name` or `Kind name`; empty when it is nobody's.")
    vpc: str = Field(description="tenant/name")
    wanted: str
    found: str
    repair: str = Field(description="What was done about it; empty: nothing.")
    error: str = Field(description="Why nothing could be done.")


class AuditReply(Shape):
    """What an audit of a droplet found."""

    droplet: str
    time: str
    reached: bool
    reason: str = Field(description="Why it could not be audited.")
    looked_at: int = Field(description="Entries of maps.")
    more: int = Field(description="Findings that are not among `findings`, being too many.")
    findings: list[AuditFinding]


class ApplyResult(Shape):
    """What became, or would become, of one manifest."""

    kind: str
    tenant: str | None = None
    name: str
    change: Literal["created", "changed", "unchanged"]
    warnings: list[str] | None = Field(None, description="Of policies: rules that never decide, and the like.")


class ApplyReply(Shape):
    """One result per manifest, in the order of the request."""

    results: list[ApplyResult]


class Object(BaseModel):
    """A manifest with what the server knows of it."""

    api_version: str = Field(alias="apiVersion")
    kind: str
    metadata: dict[str, Any] = Field(description="name, tenant, labels, uid, generation, createdAt, deletedAt.")
    spec: dict[str, Any]
    status: dict[str, Any] = Field(
        description="phase (Init, Provisioned, Failed, Deleting), reason, message, observedGeneration, and what was "
        "allocated: a VPC's vni, identity and dividers; a network's id, gateways and bouncers; an endpoint's "
        "addresses, mac, host, hostInterface and (last) move; a droplet's address, connected, health, downBy, version, "
        "xdpMode and (last) audit."
    )


class ObjectList(Shape):
    """Objects by tenant and name."""

    items: list[Object]


class ErrorEntry(Shape):
    """One thing that is wrong."""

    resource: str = Field(description="`Kind tenant/name` or `Kind name`; empty when no object is meant.")
    field: str = Field(description="Path in the manifest, for example spec.cidrs[0]; empty for the whole object.")
    message: str
    index: int | None = Field(description="Place of the manifest in the request, from 0.")


class Errors(Shape):
    """Everything that is wrong."""

    errors: list[ErrorEntry]


class Health(Shape):
    """The server answers."""

    status: Literal["ok"] = "ok"
    version: str
