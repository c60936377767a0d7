# SPDX-License-Identifier: Apache-2.0
"""The sixteen places of a hop set: which droplet a packet's hash leads to.

Owns the rule by which the members of a network or VPC share the places. Called by the planning of a batch. Pure; it
must never depend on the order in which members are named.
"""

from collections import Counter
from collections.abc import Iterable, Sequence

PLACES = 16


def fill(members: Iterable[int], previous: Sequence[int] = ()) -> tuple[int, ...]:
    """Give each member its share of the places.

    Each member gets 16/n places, rounded down or up; a place keeps its member of `previous` where the shares allow
    it, so that a member that comes or goes moves only its own share of the flows. The same arguments always give the
    same places; no members give sixteen zeros (slot 0 is no droplet).
    """
    wanted = sorted(set(members))
    if not wanted:
        return (0,) * PLACES
    if len(wanted) > PLACES:
        raise ValueError(f"a hop set has {PLACES} places, not {len(wanted)}")
    places = [0] * PLACES
    held = Counter(previous)
    share, rest = divmod(PLACES, len(wanted))
    by_holding = sorted(wanted, key=lambda member: (-held[member], member))
    quota = {member: share + (rank < rest) for rank, member in enumerate(by_holding)}
    for place, member in enumerate(previous):
        if quota.get(member, 0) > 0:
            places[place] = member
            quota[member] -= 1
    waiting = [member for round_ in range(share + 1) for member in wanted if quota[member] > round_]
    free = (place for place in range(PLACES) if places[place] == 0)
    for place, member in zip(free, waiting, strict=True):
        places[place] = member
    return tuple(places)
