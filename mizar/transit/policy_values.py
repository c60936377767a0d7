# SPDX-License-Identifier: Apache-2.0
"""What this daemon knows of policies, as frozen values: sets of rules, who is bound to them, and their rows as maps
hold them. Pure: no kernel, no state.

Rows come packed and stay so, because there may be a million of them: see PolicySet in contracts/transit.proto.
"""

import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from mizar.model.errors import InvalidError
from mizar.model.policy_rows import GROUP, PEER, VERDICT

MAX_ACTION = 15
GRACE_TICKS = 60
"""For how long, in ticks of a flow's stamp, an endpoint's first policy takes up connections by what answers in them."""
_NATIVE = struct.Struct("=I")
_VALUE = struct.Struct("=III")  # struct policy_verdict
_SET, _CLASS_PORT = struct.Struct(">I"), struct.Struct(">IIBHx")

PolicySetId = tuple[int, int]
"""VPC and the caller's id."""


class Binding(NamedTuple):
    """By which sets (their ids) an endpoint is judged, 0 for none; whether what no rule allows is only told."""

    ingress: int = 0
    egress: int = 0
    audit_ingress: bool = False
    audit_egress: bool = False
    beside_ingress: int = 0
    """What `ingress` allows and this set would not is told."""
    beside_egress: int = 0

    @property
    def sets(self) -> frozenset[int]:
        """All that are named."""
        return frozenset({self.ingress, self.egress, self.beside_ingress, self.beside_egress} - {0})


NOT_BOUND = Binding()
SETS_OF_A_RECORD = ("ingress", "egress", "beside_ingress", "beside_egress")
"""Fields of `Binding`, and of struct endpoint_policy, that name a set."""


class Judged(NamedTuple):
    """The record of a policed endpoint that its droplet has, but for its sets: see struct endpoint_policy."""

    since: int
    generation: int
    grace_until: int = 0
    """0 where it was policed before anybody could send to it."""


@dataclass(frozen=True, slots=True)
class PolicySet:
    """Rules of one direction, compiled. `number`: by which this droplet knows the set; 0 in a request."""

    vni: int
    id: int
    peers: bytes
    groups: bytes
    verdicts: bytes
    number: int = 0

    @property
    def key(self) -> PolicySetId:
        """What names it."""
        return (self.vni, self.id)

    def __str__(self) -> str:
        return f"set of rules {self.id:016x} of VPC {self.vni}"


@dataclass(frozen=True, slots=True)
class NetworkAcl:
    """By which sets (their ids) a network is judged, 0 for none; `later`: fragments behind the first."""

    vni: int
    network_id: int
    prefixes: tuple[tuple[bytes, int], ...]
    ingress: int = 0
    ingress_later: int = 0
    egress: int = 0
    egress_later: int = 0

    @property
    def key(self) -> tuple[int, int]:
        """What names it."""
        return (self.vni, self.network_id)

    @property
    def sets(self) -> frozenset[int]:
        """All that are named."""
        return frozenset({self.ingress, self.ingress_later, self.egress, self.egress_later} - {0})

    def __str__(self) -> str:
        return f"ACL of network {self.network_id} of VPC {self.vni}"


@dataclass(frozen=True, slots=True)
class PutNetworkAcl:
    """Change: a network is judged, by other sets than before."""

    acl: NetworkAcl


@dataclass(frozen=True, slots=True)
class DeleteNetworkAcl:
    """Change: a network is judged no more."""

    vni: int
    network_id: int


@dataclass(frozen=True, slots=True)
class PutPolicySet:
    """Change: a set of rules, new or other than before."""

    rules: PolicySet


@dataclass(frozen=True, slots=True)
class DeletePolicySet:
    """Change: a set of rules is gone."""

    vni: int
    id: int


Raw = dict[bytes, bytes]
"""Entries of a map as it holds them."""
TABLES = ("policy_verdicts", "policy_peers", "policy_groups")
"""In the order in which they are written: what is referred to first."""


def raw_rows(rules: PolicySet) -> dict[str, Raw]:
    """All entries of a set, by table."""
    return {
        "policy_verdicts": dict(_verdicts(rules)),
        "policy_peers": dict(_peers(rules)),
        "policy_groups": dict(_groups(rules)),
    }


def _peers(rules: PolicySet) -> Iterator[tuple[bytes, bytes]]:
    number = _SET.pack(rules.number)
    bits = [_NATIVE.pack(32 + length) for length in range(129)]
    for address, length, found in PEER.iter_unpack(rules.peers):
        yield bits[length] + number + address, _NATIVE.pack(found)


def _groups(rules: PolicySet) -> Iterator[tuple[bytes, bytes]]:
    number = _NATIVE.pack(rules.number)
    for group_set, found in GROUP.iter_unpack(rules.groups):
        yield number + _NATIVE.pack(group_set), _NATIVE.pack(found)


def _verdicts(rules: PolicySet) -> Iterator[tuple[bytes, bytes]]:
    bits = [_NATIVE.pack(64 + length) for length in range(25)]
    for found, protocol, port, length, rank, action, rule in VERDICT.iter_unpack(rules.verdicts):
        key = bits[length] + _CLASS_PORT.pack(rules.number, found, protocol, port)
        yield key, _VALUE.pack(rank, action, rule)


def set_of(table: str, key: bytes) -> int:
    """The number of the set that an entry is of."""
    return int.from_bytes(key[:4], sys.byteorder) if table == "policy_groups" else int.from_bytes(key[4:8], "big")


def rows_from(table: str, entries: Raw) -> bytes:
    """Rows as messages bear them, ascending, from entries of one set. What no message can bear is left out."""
    return b"".join(sorted(_row(table, key, value) for key, value in entries.items()))


def _row(table: str, key: bytes, value: bytes) -> bytes:
    (bits,) = _NATIVE.unpack_from(key)
    if table == "policy_groups":
        return GROUP.pack(_group_set(key), *_NATIVE.unpack(value))
    if table == "policy_peers":
        return PEER.pack(key[8:24], bits - 32, *_NATIVE.unpack(value)) if 32 <= bits <= 160 else b""
    _, found, protocol, port = _CLASS_PORT.unpack(key[4:])
    rank, action, rule = _VALUE.unpack(value)
    whole = 64 <= bits <= 88 and action <= MAX_ACTION
    return VERDICT.pack(found, protocol, port, bits - 64, rank, action, rule) if whole else b""


def key_fields(table: str, key: bytes) -> tuple[bytes, int, int, int, int]:
    """Of a key: address, bits, class or set of groups, protocol and port; what it does not have is empty or 0."""
    (bits,) = _NATIVE.unpack_from(key)
    if table == "policy_groups":
        return b"", 0, _group_set(key), 0, 0
    if table == "policy_peers":
        return key[8:24], bits - 32, 0, 0, 0
    _, found, protocol, port = _CLASS_PORT.unpack(key[4:])
    return b"", bits - 64, found, protocol, port


def value_fields(value: bytes) -> tuple[int, ...]:
    """Class, or rank, action and rule."""
    return _VALUE.unpack(value) if len(value) == _VALUE.size else _NATIVE.unpack(value)


def _group_set(key: bytes) -> int:
    return int.from_bytes(key[4:8], sys.byteorder)


def ranked(rules: PolicySet) -> dict[int, tuple[int, int]]:
    """What stands at each rank: action and rule."""
    return {rank: (action, rule) for _, _, _, _, rank, action, rule in VERDICT.iter_unpack(rules.verdicts)}


def checked(rules: PolicySet) -> PolicySet:
    """The set, if its rows are whole, ascending and within their limits. Raises InvalidError."""
    if rules.id == 0:
        raise InvalidError("the id of a set of rules is 0; expected another number")
    for name, form in (("peers", PEER), ("groups", GROUP), ("verdicts", VERDICT)):
        rows: bytes = getattr(rules, name)
        if len(rows) % form.size:
            raise InvalidError(f"{len(rows)} bytes of {name} are no whole rows of {form.size}")
        parts = [rows[at : at + form.size] for at in range(0, len(rows), form.size)]
        if any(one >= other for one, other in pairwise(parts)):
            raise InvalidError(f"the rows of {name} are not ascending")
    for address, length, _ in PEER.iter_unpack(rules.peers):
        if length > 128 or int.from_bytes(address, "big") & ((1 << (128 - length)) - 1):
            raise InvalidError(f"the peer {address.hex()}/{length} is no prefix with zero host bits")
    if any(not 1 <= group_set <= 0xFFFF for group_set, _ in GROUP.iter_unpack(rules.groups)):
        raise InvalidError("the number of a set of groups among the peers is outside of 1 to 65535")
    for _, protocol, port, length, _, action, _ in VERDICT.iter_unpack(rules.verdicts):
        if length > 24 or 0 < length < 8 or action > MAX_ACTION or (protocol << 16 | port) & ((1 << (24 - length)) - 1):
            raise InvalidError(f"a verdict about {length} bits of protocol {protocol}, port {port} is not one")
    return rules
