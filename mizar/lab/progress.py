# SPDX-License-Identifier: Apache-2.0
"""Who is told of the steps of long work."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager

Progress = Callable[[str], AbstractContextManager[object]]
"""Called with the words for a step; the context lasts as long as the step does."""


def silent(_step: str) -> AbstractContextManager[object]:
    """No progress shown."""
    return contextlib.nullcontext()
