# SPDX-License-Identifier: Apache-2.0
"""Rates and classes, as endpoints, networks and VPCs have them in `spec.qos`. See docs/qos.md.

A number may be written with a suffix: k, M, G or T, for thousands.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from mizar.model.fields import Value

BURST_MS = 50
"""How long a burst lasts that nobody has said the length of."""
LEAST_BURST_BYTES = 128 * 1024
"""Two superpackets of TCP."""
LEAST_BURST_PACKETS = 64
_SUFFIXES = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_CODE_POINTS = (
    {"default": 0, "ef": 46} | {f"cs{n}": 8 * n for n in range(8)}
    | {f"af{x}{y}": 8 * x + 2 * y for x in range(1, 5) for y in range(1, 4)}
)  # fmt: skip
"""RFC 2474, 2597 and 3246."""


def _number(given: Any) -> Any:
    if isinstance(given, bool) or not isinstance(given, str):
        return given
    match = re.fullmatch(r"([0-9]{1,16})([kMGT]?)", given)
    if match is None:
        raise PydanticCustomError("number", "expected a number such as 1500, 10k, 100M or 1G")
    return int(match[1]) * _SUFFIXES[match[2]]


def _code_point(given: Any) -> Any:
    if not isinstance(given, str):
        return given
    found = _CODE_POINTS.get(given.lower())
    if found is None:
        raise PydanticCustomError("dscp", "expected 0 to 63, or one of default, ef, cs0 to cs7, af11 to af43")
    return found


Bits = Annotated[int, BeforeValidator(_number), Field(strict=True, ge=8_000, le=10**13)]
Packets = Annotated[int, BeforeValidator(_number), Field(strict=True, ge=1, le=10**10)]
BurstBytes = Annotated[int, BeforeValidator(_number), Field(strict=True, ge=1_600, le=2**40)]
Dscp = Annotated[int, BeforeValidator(_code_point), Field(strict=True, ge=0, le=63)]


class RateSpec(Value):
    """What may pass at a time, in bits and in packets: one of them or both. Bits are those of inner frames, with their
    Ethernet headers. The bursts are what may pass at once after a pause."""

    bits_per_second: Bits | None = None
    packets_per_second: Packets | None = None
    burst_bytes: BurstBytes | None = None
    burst_packets: Packets | None = None

    @model_validator(mode="after")
    def _of_something(self) -> Self:
        if not self.bits_per_second and not self.packets_per_second:
            raise ValueError("expected bitsPerSecond, packetsPerSecond or both")
        if self.burst_bytes is not None and not self.bits_per_second:
            message = "unexpected without bitsPerSecond"
            raise PydanticCustomError("fit", message, {"field": "burstBytes"})
        if self.burst_packets is not None and not self.packets_per_second:
            message = "unexpected without packetsPerSecond"
            raise PydanticCustomError("fit", message, {"field": "burstPackets"})
        return self

    @property
    def most_bytes(self) -> int:
        """At once; 0 where bits are not limited."""
        if not self.bits_per_second:
            return 0
        return self.burst_bytes or max(LEAST_BURST_BYTES, self.bits_per_second * BURST_MS // 8000)

    @property
    def most_packets(self) -> int:
        """At once; 0 where packets are not limited."""
        if not self.packets_per_second:
            return 0
        return self.burst_packets or max(LEAST_BURST_PACKETS, self.packets_per_second * BURST_MS // 1000)


class QosSpec(Value):
    """Of a network or a VPC: what all of its endpoints on one droplet may send (`egress`) and be sent (`ingress`)
    together, and how what they send is marked."""

    egress: RateSpec | None = None
    ingress: RateSpec | None = None
    dscp: Dscp | None = None


class EndpointQos(QosSpec):
    """Of an endpoint. `guarantee`: what its droplet's interface carries of it however much others send; without one it
    is best effort."""

    guarantee: RateSpec | None = None

    @model_validator(mode="after")
    def _can_be_kept(self) -> Self:
        if self.guarantee is None:
            return self
        if self.guarantee.packets_per_second or not self.guarantee.bits_per_second:
            message = "a guarantee is of bitsPerSecond alone"
            raise PydanticCustomError("fit", message, {"field": "guarantee"})
        most = self.egress.bits_per_second if self.egress else None
        if most is not None and most < self.guarantee.bits_per_second:
            message = "more than the endpoint may send: spec.qos.egress.bitsPerSecond is {most}"
            raise PydanticCustomError("fit", message, {"field": "guarantee", "most": most})
        return self


NO_QOS = QosSpec()
