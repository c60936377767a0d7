# SPDX-License-Identifier: Apache-2.0
"""What the packets of an endpoint bear beside the VNI: the Geneve options that its agent puts on, and sets of groups.

Called by `requests` (to check), `entries` (to write), `readback` (to find again) and `batch`. Pure.
"""

from mizar.model.errors import InvalidError
from mizar.transit.entries import Op
from mizar.transit.state import State
from mizar.transit.values import MAX_GROUP_SET, Local, Vpc, Wanted

OPTION_BYTES = 252
"""As many as one packet can bear (RFC 8926 3.4)."""
MAX_GROUPS = 16
_OWN_CLASS = b"\xff\x01"
_GROUPS = _OWN_CLASS + b"\x02"
_IDENTITY = _OWN_CLASS + b"\x83\x04"


def checked(raw: bytes) -> bytes:
    """Options of an endpoint: whole ones, of others' classes or GROUPS, that leave room for an IDENTITY."""
    if len(raw) > OPTION_BYTES - len(_IDENTITY) - 16:
        raise InvalidError(f"there are {len(raw)} bytes of Geneve options; there is room for {OPTION_BYTES - 20}")
    at = 0
    while at < len(raw):
        size = 4 + 4 * (raw[at + 3] & 0x1F) if at + 4 <= len(raw) else OPTION_BYTES
        if at + size > len(raw):
            raise InvalidError(f"the Geneve option at byte {at} reaches beyond the end of the options")
        if raw[at : at + 2] == _OWN_CLASS and raw[at : at + 3] != _GROUPS:
            raise InvalidError(f"the Geneve option at byte {at} is of the droplets' own class, and not GROUPS")
        at += size
    return raw


def group_set(number: int) -> int:
    """The number of a set of groups."""
    if not 0 <= number <= MAX_GROUP_SET:
        raise InvalidError(f"the number {number} of a set of groups is outside of 0 to {MAX_GROUP_SET}")
    return number


def option_bytes(wanted: Wanted, vpc: Vpc) -> bytes:
    """All options that the agent of an endpoint puts on."""
    return (_IDENTITY + vpc.identity if vpc.identity else b"") + wanted.options


def without_identity(raw: bytes) -> bytes:
    """What was wanted, of what an agent puts on."""
    return raw[20:] if raw.startswith(_IDENTITY) else raw


def options_put(state: State, local: Local) -> list[Op]:
    """The options of a local endpoint, if it has any: to be there before its agent says so."""
    raw = option_bytes(local.wanted, state.vpcs[local.endpoint.vni])
    return (
        [Op("agent_options", local.ifindex, {"bytes": len(raw), "data": raw.ljust(OPTION_BYTES, b"\0")})] if raw else []
    )


def options_delete(ifindex: int) -> Op:
    """Options that no agent speaks of any more."""
    return Op("agent_options", ifindex, None)


def identity_put(vpc: Vpc) -> list[Op]:
    """What VNI and identity name, of a VPC that is known by both."""
    return [Op("identities", _identity_key(vpc), vpc.vni)] if vpc.identity else []


def identity_delete(vpc: Vpc) -> list[Op]:
    """VNI and identity name nothing any more."""
    return [Op("identities", _identity_key(vpc), None)] if vpc.identity else []


def identity_of(key: dict[str, int]) -> tuple[int, bytes]:
    """VNI and identity of a key of `identities`."""
    return key["vni"], key["tenant"].to_bytes(8, "big") + key["vpc"].to_bytes(8, "big")


def _identity_key(vpc: Vpc) -> dict[str, int]:
    tenant, number = (int.from_bytes(half, "big") for half in (vpc.identity[:8], vpc.identity[8:]))
    return {"vni": vpc.wire_vni, "tenant": tenant, "vpc": number}


def group_set_put(vni: int, number: int, groups: tuple[int, ...]) -> Op:
    """What the number of a set means."""
    places = groups + (0,) * (MAX_GROUPS - len(groups))
    return Op("group_sets", {"vni": vni, "number": number}, {"count": len(groups), "groups": places})


def group_set_delete(vni: int, number: int) -> Op:
    """The number means nothing any more."""
    return Op("group_sets", {"vni": vni, "number": number}, None)
