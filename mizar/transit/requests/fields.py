# SPDX-License-Identifier: Apache-2.0
"""What more than one message has: addresses and prefixes, numbers, members of hop sets, MACs, tunnels, uids."""

from collections.abc import Iterable, Sequence
from ipaddress import ip_address

from mizar._built import transit_pb2 as pb
from mizar.model.addresses import APPLIANCE_MAC, MAPPED, ROUTER_MAC, SERVICE_MAC, UNTOLD_MAC, mac_text, text_of
from mizar.model.errors import InvalidError
from mizar.transit.values import MAX_MEMBERS, MAX_NUMBER, BarePrefix, Prefix, Tunnel

_MAX_UID = 64
_MAPPED_NETWORK = int.from_bytes(MAPPED, "big")


def address(packed: bytes, what: str) -> bytes:
    """A unicast address of 4 or 16 bytes. IPv4 in 16 bytes is refused: each address has one form."""
    if len(packed) not in (4, 16):
        raise InvalidError(f"{what} has {len(packed)} bytes; an address has 4 or 16")
    if packed.startswith(MAPPED) and len(packed) == 16:
        raise InvalidError(f"{what} is an IPv4-mapped address; send the 4 bytes of {text_of(packed[12:])}")
    if not any(packed) or packed[0] == 255 or (len(packed) == 4 and packed[0] >= 224):
        raise InvalidError(f"{what} is {text_of(packed)}; expected a unicast address")
    return packed


def substrate_address(packed: bytes, what: str) -> bytes:
    """An address that a droplet can have: its host's, on more than its own link."""
    found = ip_address(address(packed, what))
    if found.is_loopback or (found.version == 6 and found.is_link_local):
        raise InvalidError(f"{what} is {found}; expected one that other hosts can reach")
    return packed


def vni(number: int) -> int:
    """The number of a VPC: 32 bits, not 0."""
    if not 1 <= number <= MAX_NUMBER:
        raise InvalidError(f"VPC {number} is outside of 1 to {MAX_NUMBER}")
    return number


def network_id(number: int) -> int:
    """The id of a network: 32 bits, not 0."""
    if number == 0:
        raise InvalidError("network id 0 is outside of 1 to 4294967295")
    return number


def members(found: Iterable[bytes], what: str) -> tuple[bytes, ...]:
    """The droplets of a hop set, ascending: at most sixteen, none twice."""
    packed = [substrate_address(member, f"{what} {place}") for place, member in enumerate(found)]
    if len(packed) > MAX_MEMBERS:
        raise InvalidError(f"there are {len(packed)} {what}s; at most {MAX_MEMBERS} are possible")
    if len(set(packed)) != len(packed):
        raise InvalidError(f"the same {what} is named twice")
    return tuple(sorted(packed))


def prefix(message: pb.Prefix) -> Prefix:
    """A prefix with zero host bits, and its gateway inside."""
    address_, length = bare_prefix(message)
    found = Prefix(address_, length, address(message.gateway, "the gateway"))
    if not found.holds(found.gateway):
        raise InvalidError(f"the gateway {text_of(found.gateway)} lies outside of the prefix {found}")
    return found


def bare_prefix(message: pb.Prefix) -> BarePrefix:
    """A prefix with zero host bits, that holds no mapped addresses."""
    address_, length = host_bits_zero(message.address, message.length)
    # In a trie of mapped addresses such a prefix would hold the whole of IPv4.
    shift, number = 128 - length, int.from_bytes(address_, "big")
    if len(address_) == 16 and length <= 96 and _MAPPED_NETWORK << 32 >> shift == number >> shift:
        found = f"{text_of(address_)}/{length}"
        raise InvalidError(f"the prefix {found} holds the IPv4-mapped addresses; use a longer one")
    return address_, length


def host_bits_zero(packed: bytes, length: int) -> BarePrefix:
    """A prefix with zero host bits."""
    size = len(packed)
    if size not in (4, 16):
        raise InvalidError(f"the prefix's address has {size} bytes; an address has 4 or 16")
    bits = 8 * size
    if length > bits:
        raise InvalidError(f"the prefix's length is {length}; {text_of(packed)} allows 0 to {bits}")
    if int.from_bytes(packed, "big") & ((1 << (bits - length)) - 1):
        raise InvalidError(f"the prefix {text_of(packed)}/{length} has host bits that are not zero")
    return packed, length


def addresses(found: Iterable[bytes]) -> tuple[bytes, ...]:
    """The addresses of an endpoint, IPv4 first."""
    packed = sorted((address(one, "the endpoint's address") for one in found), key=len)
    one_per_family(packed, "address")
    return tuple(packed)


def one_per_family(packed: Sequence[bytes], what: str) -> None:
    """Of an endpoint or a network: at least one, at most one of each."""
    if not packed:
        raise InvalidError(f"there is no {what}; expected one, or one of each family")
    sizes = [len(one) for one in packed]
    if len(set(sizes)) != len(sizes):
        raise InvalidError(f"there is more than one {what} of the same family; expected at most one of each")


def mac(found: bytes) -> bytes:
    """The MAC of an endpoint."""
    if len(found) != 6:
        raise InvalidError(f"the MAC has {len(found)} bytes; expected 6")
    if found[0] & 1 or not any(found) or found in (ROUTER_MAC, SERVICE_MAC, APPLIANCE_MAC, UNTOLD_MAC):
        raise InvalidError(f"the MAC is {mac_text(found)}; expected a unicast one, not the virtual router's")
    return found


def tunnel(found: int) -> Tunnel:
    """The tunnel in which packets reach an endpoint's host."""
    if found not in (pb.GENEVE, pb.VXLAN):
        raise InvalidError(f"the tunnel protocol is {found}; expected GENEVE (1) or VXLAN (2)")
    return Tunnel(found)


def uid(text: str) -> str:
    """The uid of an endpoint: printable ASCII without spaces, because the alias of its interface holds it."""
    if not 1 <= len(text) <= _MAX_UID or not all("!" <= character <= "~" for character in text):
        raise InvalidError(f"the uid {text[:_MAX_UID]!r} is not 1 to {_MAX_UID} printable ASCII letters")
    return text
