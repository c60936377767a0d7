# SPDX-License-Identifier: Apache-2.0
"""Which of a test's parameters `./run test` runs; the others belong to `./run test-long`."""

from __future__ import annotations

from collections.abc import Iterable

import pytest


def first_of(values: Iterable[object], count: int = 1) -> list[object]:
    """The values, all but the first ones marked as long. A tuple is a set of parameters."""
    every = list(values)
    rest = (value if isinstance(value, tuple) else (value,) for value in every[count:])
    return [*every[:count], *(pytest.param(*value, marks=pytest.mark.long) for value in rest)]
