# SPDX-License-Identifier: Apache-2.0
"""Waiting for what a gateway does in its own time."""

from __future__ import annotations

import time
from collections.abc import Callable

from tests.gateway.rig import LIMIT_S


def wait_for(condition: Callable[[], bool], limit_s: float = LIMIT_S) -> None:
    """Until a call says yes."""
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.1)
