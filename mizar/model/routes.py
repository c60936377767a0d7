# SPDX-License-Identifier: Apache-2.0
"""Routes of a network: what becomes of packets that its endpoints send, by destination. Owns their shape."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated

from pydantic import AfterValidator, Field

from mizar.model import fields
from mizar.model.addresses import parse_prefix
from mizar.model.fields import Value


class Via(StrEnum):
    """Where packets go: to the VPC's networks and peers, as without a table; nowhere; or to the droplet's own stack."""

    VPC = "vpc"
    BLACKHOLE = "blackhole"
    SUBSTRATE = "substrate"


def _any_prefix(text: str) -> str:
    return str(parse_prefix(text))


class ViaEndpoint(Value):
    """To an appliance: an endpoint of the VPC that forwards (`spec.forwarding`), by name."""

    endpoint: fields.Name


class Route(Value):
    """The longest prefix that holds a destination decides."""

    to: Annotated[str, AfterValidator(_any_prefix)]
    via: Via | ViaEndpoint

    @property
    def appliance(self) -> str:
        """The name of the endpoint that it leads to; empty where it leads to none."""
        return self.via.endpoint if isinstance(self.via, ViaEndpoint) else ""


def _each_once(routes: Sequence[Route]) -> Sequence[Route]:
    seen: set[str] = set()
    for route in routes:
        if route.to in seen:
            raise ValueError(f"expected each prefix once, found {route.to} again")
        seen.add(route.to)
    return routes


Routes = Annotated[tuple[Route, ...], Field(max_length=256), AfterValidator(_each_once)]
