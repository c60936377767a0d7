# SPDX-License-Identifier: Apache-2.0
"""What all objects have: names, labels, phase. Called by mizar.model.resources and the files of single kinds."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any, ClassVar, Literal, NamedTuple

from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError

from mizar.model import fields
from mizar.model.fields import Value

API_VERSION: Literal["mizar/v1"] = "mizar/v1"


class Phase(StrEnum):
    """Where an object is on its way: a change is done when the droplets that need it have acknowledged it."""

    INIT = "Init"
    PROVISIONED = "Provisioned"
    FAILED = "Failed"
    DELETING = "Deleting"


class Scope(StrEnum):
    """Whose names an object's name is unique among."""

    CLUSTER = "cluster"
    TENANT = "tenant"


class Ref(NamedTuple):
    """What names an object: kind, tenant ("" for kinds of the cluster) and name.

    A tuple, as it is the key of nearly every lookup of the server: it is made and hashed without Python's help.
    """

    kind: str
    tenant: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.tenant}/{self.name}" if self.tenant else f"{self.kind} {self.name}"


class Metadata(Value):
    """What every object has. uid, generation, createdAt and deletedAt are set by the server."""

    name: fields.Name
    tenant: fields.Name | None = None
    labels: dict[fields.LabelKey, fields.LabelValue] = Field(default_factory=dict)
    uid: str | None = None
    generation: int = 0
    created_at: datetime | None = None
    deleted_at: datetime | None = None


class Status(Value):
    """What the server found out; `observedGeneration` is the generation that `phase` speaks of."""

    phase: Phase = Phase.INIT
    reason: str = ""
    message: str = ""
    observed_generation: int = 0


class Resource(Value):
    """Base of all kinds: `apiVersion`, `kind`, `metadata`, `spec`, `status`."""

    scope: ClassVar[Scope]
    IMMUTABLE: ClassVar[tuple[str, ...]] = ()
    """Fields of `spec` (Python names) that cannot change while the object lives."""

    api_version: Literal["mizar/v1"] = API_VERSION
    kind: str
    metadata: Metadata
    spec: Any
    status: Status = Status()

    @field_validator("metadata")
    @classmethod
    def _tenant_matches_scope(cls, metadata: Metadata) -> Metadata:
        # PydanticCustomError's context names the field below `metadata` that is meant: see `validation`.
        if cls.scope is Scope.TENANT and metadata.tenant is None:
            raise PydanticCustomError("scope", "expected the tenant that it belongs to", {"field": "tenant"})
        if cls.scope is Scope.CLUSTER and metadata.tenant is not None:
            raise PydanticCustomError("scope", "unexpected: it belongs to no tenant", {"field": "tenant"})
        return metadata

    @property
    def name(self) -> str:
        """`metadata.name`."""
        return self.metadata.name

    @property
    def tenant(self) -> str:
        """`metadata.tenant`, or "" for kinds of the cluster."""
        return self.metadata.tenant or ""

    @property
    def ref(self) -> Ref:
        """What names this object."""
        return Ref(self.kind, self.tenant, self.name)
