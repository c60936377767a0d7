# SPDX-License-Identifier: Apache-2.0
"""Which droplets are members of a hop set: the bouncers of a network, the dividers of a VPC.

Called by the manager (or the API's transaction); the answer is kept in the object's status. Pure and deterministic:
depends on names, counts and present members alone. docs/decisions/placement.md says why it is built so.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping


class Placement:
    """The members of all hop sets of one role. Make one for bouncers and one for dividers.

    A group (a hop set) is named by any string that does not change, such as the uid of its network. Every method
    returns the groups whose members changed, with their new members in order of preference.
    """

    def __init__(self, droplets: Collection[str] = ()) -> None:
        raise NotImplementedError

    def restore(self, group: str, count: int, members: Collection[str]) -> None:
        """Takes a group as it was stored, without choosing; `settle` mends what changed meanwhile."""
        raise NotImplementedError

    def put(self, group: str, count: int) -> tuple[str, ...]:
        """A group comes or wants another count. Members: min(count, eligible droplets) distinct names."""
        raise NotImplementedError

    def remove(self, group: str) -> None:
        """A group goes; unknown ones are ignored."""
        raise NotImplementedError

    def add_droplet(self, name: str) -> Mapping[str, tuple[str, ...]]:
        """A droplet becomes eligible: it takes its share, about count/n of all places, and nothing else moves."""
        raise NotImplementedError

    def remove_droplet(self, name: str) -> Mapping[str, tuple[str, ...]]:
        """A droplet is eligible no more: only the groups that it was a member of change."""
        raise NotImplementedError

    def members(self, group: str) -> tuple[str, ...]:
        """The members of a group, in order of preference. Raises NotFoundError."""
        raise NotImplementedError
