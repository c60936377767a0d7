# SPDX-License-Identifier: Apache-2.0
"""Types of the fields that resources are made of. Owns how one value is checked and written; knows no object.

Each type keeps the text of the manifest in its canonical form, so that two equal objects compare equal. A refused
value raises ValueError with "expected ..., found ...", which pydantic reports beside the field.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Self, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints
from pydantic.alias_generators import to_camel

from mizar.model import addresses

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_HOST = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9.]{0,251}[A-Za-z0-9])?")
_T = TypeVar("_T")
_set = object.__setattr__  # the values are frozen


class Value(BaseModel):
    """Base of all parts of a resource: frozen, unknown fields refused, camelCase outside and snake_case inside."""

    model_config = ConfigDict(frozen=True, extra="forbid", alias_generator=to_camel, populate_by_name=True)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """As pydantic's, in a fifth of its time: a change of an object is half a dozen of these. What is frozen and has
        neither extra nor private fields needs no copies of their sets."""
        if deep or not update:
            return super().model_copy(update=update, deep=deep)
        copy = object.__new__(type(self))
        fields = self.__pydantic_fields_set__
        _set(copy, "__dict__", {**self.__dict__, **update})
        _set(copy, "__pydantic_fields_set__", fields if fields.issuperset(update) else fields.union(update))
        _set(copy, "__pydantic_extra__", None)
        _set(copy, "__pydantic_private__", None)
        return copy


def _name(text: str) -> str:
    if not _LABEL.fullmatch(text):
        raise ValueError(f"expected a DNS label (a-z, 0-9, inner '-', at most 63), found {text!r}")
    return text


def _prefix(text: str) -> str:
    return str(addresses.parse_tenant_prefix(text))


def _substrate_prefix(text: str) -> str:
    prefix = addresses.parse_prefix(text)
    shortest, longest = (8, 30) if prefix.version == 4 else (32, 126)
    if not shortest <= prefix.prefixlen <= longest:
        raise ValueError(f"expected an IPv4 prefix of /8 to /30 or an IPv6 one of /32 to /126, found {text!r}")
    return str(prefix)


def _address(text: str) -> str:
    return str(addresses.parse_address(text))


def droplet_address(text: str) -> str:
    """The address of a host on the substrate, in its canonical form. Raises ValueError."""
    address = addresses.parse_address(text)
    special = address.is_multicast or address.is_loopback or address.is_unspecified
    special |= address.version == 6 and address.ipv4_mapped is not None
    if special or (address.is_link_local if address.version == 6 else address.is_reserved):
        raise ValueError(f"expected a unicast address of a host, found {text!r}")
    return str(address)


def _mac(text: str) -> str:
    return addresses.mac_text(addresses.parse_mac(text))


def _daemon(text: str) -> str:
    if text == "none":
        return text
    if text.startswith("unix:///") and len(text) > len("unix:///"):
        return text
    host, _, port = text.rpartition(":")
    if _HOST.fullmatch(host) and port.isascii() and port.isdigit() and 1 <= int(port) <= 65535:
        return text
    raise ValueError(f"expected unix:///path, host:port or none, found {text!r}")


def _interface(text: str) -> str:
    # The kernel's dev_valid_name(): fewer than 16 bytes, no '/', ':' or white space, not '.' or '..'.
    if not re.fullmatch(r"[!-.0-9;-~]{1,15}", text) or text in (".", ".."):
        raise ValueError(f"expected an interface name (at most 15 characters, no '/' or ':'), found {text!r}")
    return text


def _tap(text: str) -> str:
    # Its agent's pin bears the name too, and a pin's name has no dot.
    if not re.fullmatch(r"[A-Za-z0-9][-_A-Za-z0-9]{0,14}", text):
        raise ValueError(f"expected the name of a tap (letters, digits, inner '-' and '_', at most 15), found {text!r}")
    return text


def _namespace(text: str) -> str:
    if not re.fullmatch(r"[!-.0-~]{1,255}", text) or text in (".", ".."):
        raise ValueError(f"expected the name of a namespace under /run/netns, found {text!r}")
    return text


def _path(text: str) -> str:
    if not text.startswith("/") or not text.isprintable():
        raise ValueError(f"expected an absolute path, found {text!r}")
    return text


def one_per_family(texts: Sequence[str]) -> None:
    """Refuses two addresses, or two prefixes, of one family."""
    families = [":" in text for text in texts]
    if len(set(families)) != len(families):
        raise ValueError(f"expected at most one per address family, found {', '.join(texts)}")


def _families(texts: tuple[str, ...]) -> tuple[str, ...]:
    one_per_family(texts)
    return texts


Name = Annotated[str, AfterValidator(_name)]
PrefixText = Annotated[str, AfterValidator(_prefix)]
Prefixes = Annotated[tuple[PrefixText, ...], Field(min_length=1), AfterValidator(_families)]
PrefixesOrNone = Annotated[tuple[PrefixText, ...], AfterValidator(_families)]
SubstratePrefix = Annotated[str, AfterValidator(_substrate_prefix)]
AddressText = Annotated[str, AfterValidator(_address)]
Addresses = Annotated[tuple[AddressText, ...], AfterValidator(_families)]
DropletAddress = Annotated[str, AfterValidator(droplet_address)]
MacText = Annotated[str, AfterValidator(_mac)]
DaemonTarget = Annotated[str, AfterValidator(_daemon)]
InterfaceName = Annotated[str, AfterValidator(_interface)]
TapName = Annotated[str, AfterValidator(_tap)]
NamespaceName = Annotated[str, AfterValidator(_namespace)]
PathText = Annotated[str, AfterValidator(_path)]
LabelKey = Annotated[str, StringConstraints(min_length=1, max_length=63)]
LabelValue = Annotated[str, StringConstraints(max_length=63)]
Members = Annotated[int, Field(strict=True, ge=1, le=16)]
"""How many bouncers or dividers; the limit is HOPS of contracts/dataplane.h."""
Vni = Annotated[int, Field(strict=True, ge=1, le=2**24 - 1)]
Positive = Annotated[int, Field(strict=True, ge=1)]
