# SPDX-License-Identifier: Apache-2.0
"""Maglev: which member of a scaled endpoint each place of its table belongs to.

Called by the planning of services. Pure, and the same on every droplet: it depends on what the members are, never on
the order in which they are named. After Eisenbud et al., "Maglev", NSDI 2016, 3.4: each member walks the places in an
order of its own and takes the next free one when it is its turn. Here turns come in proportion to weights.
"""

import hashlib
from collections.abc import Iterable
from functools import lru_cache

PLACES = 4093
"""A prime. With it 16 equal members differ by less than 1 %, 128 by about 3 %, and a table takes 8 KiB."""


@lru_cache(maxsize=256)
def table(members: frozenset[tuple[bytes, int]]) -> tuple[bytes | None, ...]:
    """The name of the member at each place; `members` are (name, weight), weights above 0. No members: all None."""
    ordered = sorted(members)
    if not ordered:
        return (None,) * PLACES
    names = [name for name, _ in ordered]
    weights = [weight for _, weight in ordered]
    heaviest = max(weights)
    walks = [_walk(name) for name in names]
    credit = [0] * len(names)
    places: list[bytes | None] = [None] * PLACES
    left = PLACES
    while True:
        for number, name in enumerate(names):
            credit[number] += weights[number]
            if credit[number] < heaviest:
                continue
            credit[number] -= heaviest
            at, skip = walks[number]
            while places[at] is not None:
                at = (at + skip) % PLACES
            places[at] = name
            walks[number] = ((at + skip) % PLACES, skip)
            left -= 1
            if not left:
                return tuple(places)


def _walk(name: bytes) -> tuple[int, int]:
    """Where a member begins and how far it steps. PLACES is prime, so that any step visits all places."""
    digest = hashlib.sha256(name).digest()
    offset = int.from_bytes(digest[:8], "big") % PLACES
    return offset, int.from_bytes(digest[8:16], "big") % (PLACES - 1) + 1


def equal(names: Iterable[bytes]) -> frozenset[tuple[bytes, int]]:
    """Members of one weight."""
    return frozenset((name, 1) for name in names)
