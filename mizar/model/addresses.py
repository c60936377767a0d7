# SPDX-License-Identifier: Apache-2.0
"""Addresses and prefixes: parsing, the limits of what a tenant may use, and the 16-byte form that maps hold.

Called by every room. Pure; never resolves names. In maps an IPv4 address is written as IPv4-mapped IPv6
(::ffff:a.b.c.d, RFC 4291 2.5.5.2); in messages and entries it is 4 bytes; in resources it is text.
Every parser raises ValueError with a sentence that says what was expected: pydantic puts it beside the field.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Address = IPv4Address | IPv6Address
Prefix = IPv4Network | IPv6Network

MAPPED = bytes(10) + b"\xff\xff"
ROUTER_MAC = bytes.fromhex("024d5a000001")
"""MAC of the virtual router of every network (contracts/wire.md)."""
APPLIANCE_MAC = bytes.fromhex("024d5a000003")
"""Source of frames that are for the appliance with the destination MAC."""
SERVICE_MAC = bytes.fromhex("024d5a000002")
"""Source MAC of packets whose source address is a service's (contracts/wire.md)."""
UNTOLD_MAC = bytes.fromhex("024d5a000005")
"""Destination MAC of frames of which nobody is to learn where they set out, or whose sender does not know the MAC."""

# A network or VPC shorter than /8 (IPv4) or /32 (IPv6) is more than any registry gives to one party; one longer than
# /30 or /126 has no room for a gateway and an endpoint beside the addresses that are reserved.
_LENGTHS = {4: (8, 30), 6: (32, 126)}
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
# Addresses that no endpoint can have because hosts treat them in a special way (RFC 6890).
_UNUSABLE = tuple(
    ip_network(text)
    for text in (
        "0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3",
        "::/32", "fe80::/10", "ff00::/8",
    )
)  # fmt: skip
NOT_PUBLIC = tuple(
    ip_network(text)
    for text in (
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12",
        "192.0.0.0/24", "192.168.0.0/16", "224.0.0.0/3",
        "::/127", "::ffff:0:0/96", "64:ff9b:1::/48", "fc00::/7", "fe80::/10", "fec0::/10", "ff00::/8",
    )
)  # fmt: skip
"""What is nobody's on the Internet (RFC 6890), so may be the operator's own."""


def to_mapped(packed: bytes) -> bytes:
    """4 or 16 bytes, network order → the 16 bytes that maps hold."""
    if len(packed) == 4:
        return MAPPED + packed
    if len(packed) == 16:
        return packed
    raise ValueError(f"expected an address of 4 or 16 bytes, found {len(packed)}")


def from_mapped(mapped: bytes) -> bytes:
    """The 16 bytes that maps hold → 4 bytes (IPv4) or 16 bytes (IPv6)."""
    if len(mapped) != 16:
        raise ValueError(f"expected a mapped address of 16 bytes, found {len(mapped)}")
    return mapped[12:] if mapped.startswith(MAPPED) else mapped


def mapped_length(packed: bytes, length: int) -> int:
    """Length of a prefix in bits, counted within the mapped address: IPv4 + 96."""
    return length + 96 if len(packed) == 4 else length


def text_of(packed: bytes) -> str:
    """4 or 16 bytes, network order → text."""
    return str(ip_address(packed))


@lru_cache(maxsize=4096)
def gateway_of(prefix: Prefix) -> Address:
    """The address of the virtual router: the first host address."""
    return prefix[1]


def is_reserved(prefix: Prefix, address: Address) -> bool:
    """Whether an address of the prefix can never be an endpoint's: network, gateway, and IPv4's broadcast.

    The first address of an IPv6 prefix is the subnet-router anycast address (RFC 4291 2.6.1).
    """
    if address in (prefix.network_address, gateway_of(prefix)):
        return True
    return prefix.version == 4 and address == prefix.broadcast_address


@lru_cache(maxsize=4096)
def parse_address(text: str) -> Address:
    """Text → address; an IPv6 scope is refused. Kept: a change asks for the same ones several times."""
    try:
        address = ip_address(text)
    except ValueError:
        raise ValueError(f"expected an IPv4 or IPv6 address, found {text!r}") from None
    if isinstance(address, IPv6Address) and address.scope_id is not None:
        raise ValueError(f"expected an IPv6 address without a scope, found {text!r}")
    return address


@lru_cache(maxsize=4096)
def parse_prefix(text: str) -> Prefix:
    """Text `address/length` → prefix; host bits must be zero. Kept: each endpoint asks for those of its network."""
    if "/" not in text:
        raise ValueError(f"expected a prefix as address/length, found {text!r}")
    address, _, length = text.partition("/")
    if not (length.isascii() and length.isdigit()):
        raise ValueError(f"expected the prefix's length as a number of bits, found {text!r}")
    parse_address(address)
    try:
        prefix = ip_network(text, strict=False)
    except ValueError:
        limit = 32 if parse_address(address).version == 4 else 128
        raise ValueError(f"expected a prefix length of 0 to {limit}, found {text!r}") from None
    if prefix.network_address != parse_address(address):
        raise ValueError(f"expected zero host bits ({prefix}), found {text!r}")
    return prefix


def parse_tenant_prefix(text: str) -> Prefix:
    """A prefix that a VPC or network may have: /8 to /30 or /32 to /126, of unicast addresses that hosts route."""
    prefix = parse_prefix(text)
    shortest, longest = _LENGTHS[prefix.version]
    if not shortest <= prefix.prefixlen <= longest:
        raise ValueError(f"expected an IPv{prefix.version} prefix of /{shortest} to /{longest}, found {text!r}")
    for special in _UNUSABLE:
        if overlap(prefix, special):
            raise ValueError(f"expected routable unicast addresses, but {text!r} overlaps {special}")
    return prefix


def parse_mac(text: str) -> bytes:
    """Text `02:00:00:00:00:01` → 6 bytes; must be unicast, not zero and not the virtual router's."""
    lower = text.lower()
    if not _MAC.fullmatch(lower):
        raise ValueError(f"expected a MAC as six pairs of hex digits with colons, found {text!r}")
    mac = bytes.fromhex(lower.replace(":", ""))
    if mac[0] & 1 or mac == bytes(6):
        raise ValueError(f"expected a unicast MAC, found {text!r}")
    if mac in (ROUTER_MAC, SERVICE_MAC, APPLIANCE_MAC, UNTOLD_MAC):
        raise ValueError(f"expected a MAC other than the virtual router's, found {text!r}")
    return mac


def mac_text(mac: bytes) -> str:
    """6 bytes → `02:00:00:00:00:01`."""
    return mac.hex(":")


def overlap(one: Prefix, other: Prefix) -> bool:
    """Whether two prefixes share an address; those of different families never do."""
    return one.version == other.version and one.overlaps(other)


def within(inner: Prefix, outer: Prefix) -> bool:
    """Whether all of `inner` lies in `outer`; prefixes of different families never do."""
    return inner.version == outer.version and inner.subnet_of(outer)  # type: ignore[arg-type]


def containing(prefixes: Sequence[Prefix], address: Address) -> Prefix | None:
    """The prefix that the address belongs to."""
    return next((prefix for prefix in prefixes if address in prefix), None)
