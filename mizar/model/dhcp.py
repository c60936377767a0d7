# SPDX-License-Identifier: Apache-2.0
"""What a network tells endpoints that ask for their configuration: the `dhcp` of its manifest.

Part of mizar.model.resources, which has the Network. MTU, addresses and router follow from the endpoint itself.
"""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import Field, field_validator

from mizar.model.addresses import parse_address
from mizar.model.fields import Value

MOST_SERVERS = 4
_LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")


class DhcpSpec(Value):
    """DNS servers of either family, the domain in which names are looked up, and how long a lease lasts, in seconds."""

    dns_servers: Annotated[tuple[str, ...], Field(max_length=MOST_SERVERS)] = ()
    domain: Annotated[str, Field(max_length=63)] = ""
    lease_time: Annotated[int, Field(strict=True, ge=60, le=2**31 - 1)] = 3600

    @field_validator("dns_servers")
    @classmethod
    def _addresses(cls, servers: tuple[str, ...]) -> tuple[str, ...]:
        found = [parse_address(text) for text in servers]
        if any(one.is_multicast or one.is_unspecified or one.is_loopback for one in found):
            raise ValueError("expected addresses of hosts")
        if len(set(found)) != len(found):
            raise ValueError("expected no address twice")
        return tuple(map(str, found))

    @field_validator("domain")
    @classmethod
    def _name(cls, domain: str) -> str:
        name = domain.removesuffix(".")
        if name and not all(_LABEL.fullmatch(label) for label in name.split(".")):
            raise ValueError("expected a domain name such as example.com")
        return name
