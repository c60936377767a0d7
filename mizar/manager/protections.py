# SPDX-License-Identifier: Apache-2.0
"""DdosProtections: what must hold between them and other objects, and whether the server has their lists.

Called by mizar.manager.intake. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from mizar.manager.draft import Draft
from mizar.model.ddos import DdosProtection, LongList
from mizar.model.errors import ExhaustedError, InvalidError, Problem
from mizar.model.function import Function
from mizar.model.prefix_list import BYTES
from mizar.model.resources import Endpoint, Network, Ref, Resource

FUNCTION = "ddos-protection"
"""The name of the function behind all of them."""
MOST_OF_TENANT = 16
MOST_LISTS_BYTES = 128 << 20
"""Of all lists of a tenant together, on a droplet that has all of its protections, also while one is replaced."""


def with_lists(old: Resource | None, new: Resource) -> Resource:
    """The protection with its long lists: those that came along, or those that it has and that are named by digest.

    Raises InvalidError where there is neither.
    """
    if isinstance(new, Function) and new.name == FUNCTION:
        raise InvalidError(Problem("the name is taken: by the function behind DdosProtections", "metadata.name"))
    if not isinstance(new, DdosProtection):
        return new
    before = (old.spec.block_list, old.spec.allow_list) if isinstance(old, DdosProtection) else ()
    update: dict[str, LongList] = {}
    for name, field in (("block_list", "spec.blockList"), ("allow_list", "spec.allowList")):
        given: LongList | None = getattr(new.spec, name)
        if given is None or given.data is not None:
            continue
        if given.path:
            raise InvalidError(Problem("the server reads no file of its client: `mizar apply` does", field))
        found = next((one for one in before if one == given), None)
        if found is None:
            raise InvalidError(Problem("this server has no list with that digest: give its file", field))
        update[name] = found
    return new.model_copy(update={"spec": new.spec.model_copy(update=update)}) if update else new


def problems(new: Resource, draft: Draft) -> list[Problem]:
    """What speaks against a protection as it would be."""
    if not isinstance(new, DdosProtection):
        return []
    found: list[Problem] = []
    for kind, field, names in (
        ("Endpoint", "endpoints", new.spec.endpoints),
        ("Network", "networks", new.spec.networks),
        ("Network", "groups", new.spec.groups),
    ):
        for place, name in enumerate(names):
            there = draft.find(Ref(kind, new.tenant, name))
            if why := _unfit(there, new, field, draft):
                found.append(Problem(why, f"spec.{field}[{place}]", str(new.ref)))
    others = [one for one in draft.of_kind(DdosProtection) if one.tenant == new.tenant and one.ref != new.ref]
    if len(others) >= MOST_OF_TENANT:
        raise ExhaustedError(f"tenant {new.tenant} has {len(others)} protections, of {MOST_OF_TENANT} at most")
    old = draft.find(new.ref)
    if not isinstance(old, DdosProtection) or new.spec.lists_bytes > old.spec.lists_bytes:
        _check_room(new, others)
    return found


def unknown(find: Callable[[Ref], object | None], one: DdosProtection) -> Iterator[str]:
    """What its author should know: names that are nobody's, yet. `find`: what there is."""
    spec = one.spec
    endpoints = [Ref("Endpoint", one.tenant, name) for name in spec.endpoints]
    networks = [Ref("Network", one.tenant, name) for name in (*spec.networks, *spec.groups)]
    for ref in (*endpoints, *networks):
        if find(ref) is None:
            yield f"there is no {ref} (yet); the protection is for nobody there"
    for ref in (Ref("Droplet", "", name) for name in spec.droplets):
        if find(ref) is None:
            yield f"there is no {ref} (yet); the protection is for nothing there"


def _check_room(new: DdosProtection, others: Iterable[DdosProtection]) -> None:
    """Raises ExhaustedError where the tenant's lists would take too much."""
    own = new.spec.lists_bytes
    taken = [one.spec.lists_bytes for one in others] if own else []
    replaced = max(own, *taken, 0)  # where old and new lie while one takes the other's place
    if own + sum(taken) + replaced > MOST_LISTS_BYTES:
        raise ExhaustedError(
            f"the lists of {new.ref} may take {_mib(own)} on a droplet ({BYTES[4]} bytes for a prefix of IPv4, "
            f"{BYTES[6]} for one of IPv6, and an index), those of the other protections of tenant {new.tenant} "
            f"{_mib(sum(taken))}, and while the longest of them is replaced it is there twice, {_mib(replaced)} more: "
            f"more than {_mib(MOST_LISTS_BYTES)} for all of a tenant's; make them shorter, or delete others"
        )


def _mib(count: int) -> str:
    return f"{count / (1 << 20):.1f} MiB"


def _unfit(there: Resource | None, new: DdosProtection, field: str, draft: Draft) -> str | None:
    vpc, why = "", None
    if isinstance(there, Network):
        vpc = there.spec.vpc
        if there.is_group != (field == "groups"):
            why = f"{there.ref} is {'a group' if there.is_group else 'no group'}"
    elif isinstance(there, Endpoint):
        network, _ = draft.parent(there)
        vpc = network.spec.vpc if network is not None else ""
        if there.spec.type != "simple":
            why = f"{there.ref} is of type {there.spec.type}: protect the endpoints behind it"
    return f"{there.ref} is in VPC {vpc}" if there is not None and vpc and vpc != new.spec.vpc else why
