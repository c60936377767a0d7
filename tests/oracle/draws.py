# SPDX-License-Identifier: Apache-2.0
"""The type of Hypothesis's `draw`, and how the short runs draw: the same every time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

Draw = Callable[[st.SearchStrategy[Any]], Any]


def steady(most: int) -> settings:
    """So many cases, as slow and as large as they may be; where one fails, the smallest that does."""
    return settings(
        max_examples=most,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink),
    )
