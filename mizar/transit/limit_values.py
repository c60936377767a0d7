# SPDX-License-Identifier: Apache-2.0
"""Values of rates, as requests bring them and as the maps hold them. Called by `limits`, `readback` and the edges."""

from dataclasses import dataclass
from typing import Any

from mizar.kernel.layout import constant
from mizar.model.errors import InvalidError

LEAST_BITS, MOST_BITS = 8_000, 10**13
MOST_PACKETS = 10**10
LEAST_BURST_BYTES, MOST_BURST_BYTES = 1_600, 2**40
_NS = 10**9


@dataclass(frozen=True, slots=True)
class Rate:
    """What may pass at a time: bits and packets a second, 0 for any number; how many bytes and packets at once."""

    bits_per_second: int = 0
    packets_per_second: int = 0
    burst_bytes: int = 0
    burst_packets: int = 0

    def __post_init__(self) -> None:
        bits, packets = self.bits_per_second, self.packets_per_second
        if bits and not (LEAST_BITS <= bits <= MOST_BITS and LEAST_BURST_BYTES <= self.burst_bytes <= MOST_BURST_BYTES):
            raise InvalidError(
                f"{bits} bits a second with a burst of {self.burst_bytes} bytes are no limit; expected {LEAST_BITS} to "
                f"{MOST_BITS}, with {LEAST_BURST_BYTES} to {MOST_BURST_BYTES}"
            )
        if packets and not (packets <= MOST_PACKETS and 1 <= self.burst_packets <= MOST_PACKETS):
            raise InvalidError(
                f"{packets} packets a second with a burst of {self.burst_packets} are no limit; expected 1 to "
                f"{MOST_PACKETS} of both"
            )
        if (self.burst_bytes and not bits) or (self.burst_packets and not packets):
            raise InvalidError("there is a burst of what has no limit")


UNLIMITED = Rate()


@dataclass(frozen=True, slots=True)
class Qos:
    """The limits of an endpoint: its own, its network's and its VPC's here, by enum limit_place.

    `guarantee`: what the uplink carries of it in any case; `dscp`: what all it sends is marked with, None for nothing.
    """

    egress: tuple[Rate, Rate, Rate] = (UNLIMITED, UNLIMITED, UNLIMITED)
    ingress: tuple[Rate, Rate, Rate] = (UNLIMITED, UNLIMITED, UNLIMITED)
    guarantee: Rate = UNLIMITED
    dscp: int | None = None

    def __post_init__(self) -> None:
        if self.dscp is not None and not 0 <= self.dscp <= constant("DSCP_BITS"):
            raise InvalidError(f"{self.dscp} is no DSCP; expected 0 to {constant('DSCP_BITS')}")


NO_QOS = Qos()

LimiterKey = tuple[int, int, int, int]
"""enum limit_place, enum limit_direction, the VPC, and the network's id or the endpoint's slot."""


@dataclass(frozen=True, slots=True)
class Limiter:
    """A rate that is kept here, by its slot in `limiters`."""

    key: LimiterKey
    slot: int
    rate: Rate


def limiter_value(key: LimiterKey, rate: Rate) -> dict[str, Any]:
    """The entry in `limiters`."""
    place, direction, vni, owner = key
    byte_cost = (8 * _NS << constant("LIMITER_SHIFT")) // rate.bits_per_second if rate.bits_per_second else 0
    packet_cost = (_NS << constant("LIMITER_SHIFT")) // rate.packets_per_second if rate.packets_per_second else 0
    return {
        "byte_cost": byte_cost,
        "packet_cost": packet_cost,
        "byte_burst_ns": rate.burst_bytes * byte_cost >> constant("LIMITER_SHIFT"),
        "packet_burst_ns": rate.burst_packets * packet_cost >> constant("LIMITER_SHIFT"),
        "bits_per_second": rate.bits_per_second,
        "packets_per_second": rate.packets_per_second,
        "burst_bytes": rate.burst_bytes,
        "burst_packets": rate.burst_packets,
        "vni": vni,
        "owner": owner,
        "place": place,
        "direction": direction,
    }


def uplink_value(rate: Rate) -> dict[str, Any]:
    """The entry of the droplet's own limiter; empty where it has none."""
    key = constant("LIMIT_UPLINK"), constant("LIMIT_EGRESS"), 0, 0
    return {} if rate == UNLIMITED else limiter_value(key, rate)


def rate_of(value: dict[str, Any]) -> Rate:
    """What an entry in `limiters` was made of."""
    return Rate(value["bits_per_second"], value["packets_per_second"], value["burst_bytes"], value["burst_packets"])


def key_of(value: dict[str, Any]) -> LimiterKey:
    """Whose it is."""
    return value["place"], value["direction"], value["vni"], value["owner"]
