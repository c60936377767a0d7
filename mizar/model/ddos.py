# SPDX-License-Identifier: Apache-2.0
"""DdosProtection: what of the traffic to some endpoints of a VPC is kept from them. Owns its shape.

Lists in a manifest are short; long ones travel packed (`blockList`, `allowList`: base64) and are shown as their digest.
A path stands there until `mizar apply` has read the file. Whoever applies a digest again keeps the list that is there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from mizar.model import fields
from mizar.model.base import Resource, Scope, Status
from mizar.model.fields import Value
from mizar.model.file_value import FileValue
from mizar.model.prefix_list import (
    MOST,
    PrefixList,
    count_packed,
    counts,
    is_empty,
    listed,
    parse,
    table_bytes,
    unpacked,
)

AMPLIFIERS = (
    17,
    19,
    53,
    69,
    111,
    123,
    137,
    161,
    389,
    427,
    520,
    1900,
    3283,
    3702,
    5353,
    5683,
    10001,
    11211,
    27015,
    37810,
)
"""Quote of the day, chargen, DNS, TFTP, portmapper, NTP, NetBIOS, SNMP, CLDAP, SLP, RIP, SSDP, Apple's remote desktop,
WS-Discovery, mDNS, CoAP, Ubiquiti, memcached, Steam, DHDiscover."""
_MOST_LISTED = 4096


class LongList(FileValue):
    """Prefixes, packed."""

    __slots__ = ()
    WORD, PATH, CONTENT = "packed:", "a file with a prefix in each line", "a packed list of prefixes"
    MOST_TEXT = 64 << 20

    @classmethod
    def check(cls, data: bytes) -> None:
        """Raises InvalidError for what is no list."""
        count_packed(data)


def _prefix(text: str) -> str:
    parse(text)
    return text


def _each_once(found: Sequence[Any]) -> Sequence[Any]:
    for place, one in enumerate(found):
        if one in found[:place]:
            raise ValueError(f"expected each once, found {one} again")
    return found


ListedPrefix = Annotated[str, AfterValidator(_prefix)]
Listed = Annotated[tuple[ListedPrefix, ...], Field(max_length=_MOST_LISTED)]
Rate = Annotated[int, Field(strict=True, ge=1, le=10**12)]
Names = Annotated[tuple[fields.Name, ...], Field(max_length=256), AfterValidator(_each_once)]
Port = Annotated[int, Field(strict=True, ge=1, le=65535)]
Mode = Literal["auto", "always", "off"]


class RateLimit(Value):
    """At most so much, of each that is counted; at least one of both."""

    packets_per_s: Annotated[int, Field(strict=True, ge=1, le=10**9)] | None = None
    bytes_per_s: Annotated[int, Field(strict=True, ge=1000, le=10**12)] | None = None

    @model_validator(mode="after")
    def _one_at_least(self) -> Self:
        if self.packets_per_s is None and self.bytes_per_s is None:
            raise ValueError("expected packetsPerS, bytesPerS or both")
        return self


class SynCookies(Value):
    """`auto`: from `synsPerS` on, over all endpoints of the protection on a droplet."""

    mode: Mode = "auto"
    syns_per_s: Annotated[int, Field(strict=True, ge=1, le=10**8)] = 1000


class Reflection(Value):
    """`auto`: from `packetsPerS` on, of datagrams from these ports that nobody asked for."""

    mode: Mode = "auto"
    packets_per_s: Annotated[int, Field(strict=True, ge=1, le=10**8)] = 1000
    ports: Annotated[tuple[Port, ...], Field(min_length=1, max_length=1024), AfterValidator(_each_once)] = AMPLIFIERS


class DdosProtectionSpec(Value):
    """For endpoints, networks and groups that it names; for all of the VPC where it names none. With `droplets`, for
    what of these is on one of them.

    What is on `allow` or `allowList` passes everything else here. `perSource`: a limit for each source address;
    `perTarget`: for each endpoint. `burstMs`: how much of a limit may come at once. `holdS`: how long a measure stays
    engaged after the rate was last above half of its threshold.
    """

    vpc: fields.Name
    endpoints: Names = ()
    networks: Names = ()
    groups: Names = ()
    droplets: Names = ()
    block: Listed = ()
    allow: Listed = ()
    block_list: LongList | None = None
    allow_list: LongList | None = None
    per_source: RateLimit | None = None
    per_target: RateLimit | None = None
    burst_ms: Annotated[int, Field(strict=True, ge=10, le=10_000)] = 200
    syn_cookies: SynCookies | None = None
    reflection: Reflection | None = None
    hold_s: Annotated[int, Field(strict=True, ge=1, le=3600)] = 30

    @model_validator(mode="after")
    def _agree(self) -> Self:
        for place, text in enumerate(self.block):
            if text in self.allow:
                message = f"expected a prefix on one of both lists, found {text} on allow as well"
                raise PydanticCustomError("fit", "{why}", {"field": f"block[{place}]", "why": message})
        measures = (self.block, self.block_list, self.per_source, self.per_target, self.syn_cookies, self.reflection)
        if not any(measures):
            raise ValueError(
                "expected at least one of block, blockList, perSource, perTarget, synCookies and reflection"
            )
        return self

    def is_on(self, droplet: str) -> bool:
        """Whether it is for what is on a droplet."""
        return not self.droplets or droplet in self.droplets

    @property
    def packed(self) -> tuple[bytes, bytes]:
        """What is blocked and what is allowed, packed; nothing for an empty list. The long ones must be here."""
        return _packed(self.block, self.block_list), _packed(self.allow, self.allow_list)

    @property
    def lists_bytes(self) -> int:
        """What its lists take on a droplet at most; the long ones must be here."""
        short = [(0, 1) if ":" in text else (1, 0) for text in (*self.block, *self.allow)]
        long = (one.data for one in (self.block_list, self.allow_list) if one is not None)
        return table_bytes([*short, *(counts(data) for data in long if data)])

    @property
    def blocked(self) -> PrefixList:
        """Both lists together; the long one must be here."""
        return _together(self.block, self.block_list)

    @property
    def allowed(self) -> PrefixList:
        """The same, of what may pass."""
        return _together(self.allow, self.allow_list)


def _packed(short: Sequence[str], long: LongList | None) -> bytes:
    if not short and long is not None and long.data:  # as it came: nothing of a million is looked at
        return long.data if not is_empty(long.data) else b""
    found = _together(short, long)
    return found.packed if len(found) else b""


def _together(short: Sequence[str], long: LongList | None) -> PrefixList:
    found = unpacked(long.data) if long is not None and long.data else PrefixList()
    if not short:
        return found
    rows = [parse(text) for text in short]
    ipv4 = [(address, length) for family, address, length in rows if family == 4]
    ipv6 = [(address, length) for family, address, length in rows if family == 6]
    return listed([*found.ipv4, *ipv4], [*found.ipv6, *ipv6])


class DdosProtectionStatus(Status):
    """`droplets`: where it is, and for each what it does there and has done. `state`: engaged on any of them.
    `events`: the last measures that were engaged and withdrawn, by whose packets, and how many were kept away."""

    state: Literal["", "quiet", "engaged"] = ""
    droplets: tuple[dict[str, Any], ...] = ()
    refused: tuple[dict[str, str], ...] = ()
    events: tuple[dict[str, Any], ...] = ()


class DdosProtection(Resource):
    """What keeps attacks from endpoints of a VPC."""

    scope = Scope.TENANT
    IMMUTABLE = ("vpc",)
    kind: Literal["DdosProtection"] = "DdosProtection"
    spec: DdosProtectionSpec
    status: DdosProtectionStatus = DdosProtectionStatus()


assert MOST >= _MOST_LISTED
