# SPDX-License-Identifier: Apache-2.0
"""How many examples a property test tries: a number of its own, or as many as the search profile says."""

from __future__ import annotations

import os
from typing import Any

from hypothesis import settings


def examples(count: int, **more: Any) -> settings:
    """`count` examples in an ordinary run."""
    if "HYPOTHESIS_PROFILE" in os.environ:
        return settings(**more)
    return settings(max_examples=count, **more)
