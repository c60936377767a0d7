# SPDX-License-Identifier: Apache-2.0
"""Policy: who may talk to endpoints of a VPC, and to whom they may talk. Owns its shape; knows no other object.

Several policies may select one endpoint. Their rules stand in one order: by priority, within a priority what denies
before what allows, then by the policy's name and the rule's place. The first that matches decides; where none does, an
endpoint that a policy with such a section selects gets (sends) nothing. An endpoint that none selects is not policed.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from mizar.model import fields
from mizar.model.addresses import MAPPED, parse_prefix, within
from mizar.model.base import Resource, Scope, Status
from mizar.model.fields import Value
from mizar.model.groups import Selector

MOST_RULES = 32768
"""Of one direction of a policy: a rule's number has 15 bits for its place (mizar.planner.policy)."""
_WITH_PORTS = ("tcp", "udp", "sctp")
_ICMP = ("icmp", "icmp6")
NUMBERS = {"icmp": 1, "tcp": 6, "udp": 17, "icmp6": 58, "sctp": 132}


class Action(StrEnum):
    """What becomes of what a rule matches."""

    ALLOW = "allow"
    DENY = "deny"


class Mode(StrEnum):
    """Whether what is not allowed is dropped, or only told."""

    ENFORCE = "enforce"
    AUDIT = "audit"


class OnChange(StrEnum):
    """What becomes of established flows that a change of policy no longer allows."""

    END = "end"
    KEEP = "keep"


def _any_prefix(text: str) -> str:
    prefix = parse_prefix(text)
    if prefix.version == 6 and prefix.prefixlen >= 96 and prefix.network_address.packed.startswith(MAPPED):
        raise ValueError(f"expected an IPv4 prefix for IPv4 addresses, found {text!r}")
    return str(prefix)


Cidr = Annotated[str, AfterValidator(_any_prefix)]
Port = Annotated[int, Field(strict=True, ge=0, le=65535)]
Byte = Annotated[int, Field(strict=True, ge=0, le=255)]


class Peer(Value):
    """The other side: a group, endpoints by their labels, a network, or a prefix less others in it. One of the four."""

    group: fields.Name | None = None
    endpoints: Selector | None = None
    network: fields.Name | None = None
    cidr: Cidr | None = None
    except_: tuple[Cidr, ...] = Field(default=(), alias="except", max_length=4096)

    @model_validator(mode="after")
    def _one_of_four(self) -> Self:
        given = [name for name in ("group", "endpoints", "network", "cidr") if getattr(self, name) is not None]
        if len(given) != 1:
            found = " and ".join(given) or "none of them"
            raise ValueError(f"expected one of group, endpoints, network and cidr, found {found}")
        if self.except_ and self.cidr is None:
            raise PydanticCustomError("fit", "unexpected: only a cidr has exceptions", {"field": "except"})
        for text in self.except_:
            if self.cidr is not None and not within(parse_prefix(text), parse_prefix(self.cidr)):
                message = f"expected a prefix within {self.cidr}, found {text}"
                raise PydanticCustomError("fit", message, {"field": "except"})
        return self


class Ports(Value):
    """A protocol, and which of its ports, or ICMP types. Without ports all of them."""

    protocol: Literal["tcp", "udp", "sctp", "icmp", "icmp6"] | Byte
    port: Port | None = None
    end_port: Port | None = None
    type: Byte | None = None
    code: Byte | None = None

    @model_validator(mode="after")
    def _fits_its_protocol(self) -> Self:
        ports, icmp = self.number in map(NUMBERS.get, _WITH_PORTS), self.number in map(NUMBERS.get, _ICMP)
        for name in ("port", "end_port"):
            if getattr(self, name) is not None and not ports:
                message = f"unexpected: protocol {self.protocol} has no ports"
                raise PydanticCustomError("fit", message, {"field": "endPort" if name == "end_port" else name})
        for name in ("type", "code"):
            if getattr(self, name) is not None and not icmp:
                raise PydanticCustomError("fit", f"unexpected: protocol {self.protocol} has no {name}", {"field": name})
        if self.end_port is not None and (self.port is None or self.end_port < self.port):
            message = "expected a port that is not above it" if self.port is not None else "expected a port beside it"
            raise PydanticCustomError("fit", f"{message}, found endPort {self.end_port}", {"field": "endPort"})
        if self.code is not None and self.type is None:
            raise PydanticCustomError("fit", "expected a type beside it", {"field": "code"})
        return self

    @property
    def number(self) -> int:
        """The protocol's number."""
        return NUMBERS[self.protocol] if isinstance(self.protocol, str) else self.protocol

    @property
    def range(self) -> tuple[int, int]:
        """First and last port; of ICMP, of type times 256 plus code. All of them: 0 to 65535."""
        if self.type is not None:
            first = self.type << 8 | (self.code or 0)
            return first, first if self.code is not None else first | 0xFF
        if self.port is None:
            return 0, 65535
        return self.port, self.port if self.end_port is None else self.end_port


class Rule(Value):
    """Matches when one of its peers and one of its ports do. Without peers: anybody; without ports: everything."""

    peers: tuple[Peer, ...] = Field(default=(), max_length=4096)
    ports: tuple[Ports, ...] = Field(default=(), max_length=256)
    action: Action = Action.ALLOW
    log: bool = False


class Subjects(Value):
    """The endpoints that are policed: those of all these lists together. None given: all of the VPC."""

    groups: tuple[fields.Name, ...] = ()
    endpoints: Selector | None = None
    names: tuple[fields.Name, ...] = ()
    networks: tuple[fields.Name, ...] = ()

    @property
    def everybody(self) -> bool:
        """Whether all endpoints of the VPC are meant."""
        return not (self.groups or self.names or self.networks or self.endpoints is not None)


Rules = Annotated[tuple[Rule, ...], Field(max_length=MOST_RULES)]


class PolicySpec(Value):
    """`ingress` or `egress` absent: the policy says nothing about that direction; empty: it allows nothing there.

    `priority`: lower is looked at first. `onChange`: whether established flows that a change no longer allows end.
    """

    vpc: fields.Name
    priority: Port = 1000
    subjects: Subjects = Subjects()
    ingress: Rules | None = None
    egress: Rules | None = None
    mode: Mode = Mode.ENFORCE
    on_change: OnChange = OnChange.END

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.ingress is None and self.egress is None:
            raise ValueError("expected ingress, egress or both: an empty list allows nothing")
        return self


class PolicyStatus(Status):
    """`id`: unique within the VPC. `endpoints`: how many it selects. `warnings`: rules that never decide, or that
    others contradict, and what it names that is not there."""

    id: int | None = None
    endpoints: int | None = None
    warnings: tuple[str, ...] = ()


class Policy(Resource):
    """Rules about what endpoints of a VPC may send and get."""

    scope = Scope.TENANT
    IMMUTABLE = ("vpc",)
    kind: Literal["Policy"] = "Policy"
    spec: PolicySpec
    status: PolicyStatus = PolicyStatus()
