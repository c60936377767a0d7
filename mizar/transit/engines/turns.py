# SPDX-License-Identifier: Apache-2.0
"""Who works on what an instance has outside of this process: files, addresses that the droplet attracts.

Called by kinds of functions, each for its own instance. A thread goes on when who waits for it is cancelled, and what
it made then would stay behind the end of the instance.
"""

import threading
from collections.abc import Callable
from typing import TypeVar

from mizar.model.errors import MizarError

_T = TypeVar("_T")


class Turns:
    """One at a time, and nobody once it is over. Blocks."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._over = False

    def take(self, work: Callable[[], _T]) -> _T:
        """Raises MizarError once it is over."""
        with self._lock:
            if self._over:
                raise MizarError("the instance has ended")
            return work()

    def end(self, last: Callable[[], None]) -> None:
        """Does what is to be done last, behind what is at work now."""
        with self._lock:
            self._over = True
            last()
