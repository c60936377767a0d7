# SPDX-License-Identifier: Apache-2.0
"""Slots: indexes into one array map, chosen by the daemon.

Called by the state alone. A freed slot goes to the end of the queue, so that a packet in flight that still holds it
meets zeros, not somebody else's data; slot 0 is never given out.
"""

from collections import deque
from collections.abc import Iterable

from mizar.model.errors import ExhaustedError


class Slots:
    """The free places of one array of `capacity` entries; `what` names them in messages, `option` enlarges them."""

    def __init__(self, what: str, option: str, capacity: int, used: Iterable[int] = ()) -> None:
        self._what = what
        self._option = option
        self._capacity = capacity
        taken = set(used)
        self._next = max(taken, default=0) + 1
        self._freed = deque(slot for slot in range(1, self._next) if slot not in taken)

    def take(self) -> int:
        """Return a free slot. Raises ExhaustedError when there is none."""
        if self._next < self._capacity:
            self._next += 1
            return self._next - 1
        if self._freed:
            return self._freed.popleft()
        raise ExhaustedError(
            f"all {self._capacity - 1} {self._what} are in use; "
            f"delete some, or start the daemon with a larger {self._option}"
        )

    def give_back(self, slot: int) -> None:
        """Make a slot free again."""
        self._freed.append(slot)
