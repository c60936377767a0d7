# SPDX-License-Identifier: Apache-2.0
"""How many examples the property tests of model and planner take; a slow machine is no failure.

To look for new examples: `HYPOTHESIS_PROFILE=search pytest tests/unit/planner`.
"""

from __future__ import annotations

import os
from typing import Any

from hypothesis import HealthCheck, settings

_QUIET = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example]
_SEARCH = os.environ.get("HYPOTHESIS_PROFILE") == "search"
_WAY: dict[str, Any] = {"max_examples": 2000} if _SEARCH else {}


def examples(count: int = 100, **more: Any) -> settings:
    """`count` examples in an ordinary run, 2000 in a search."""
    return settings(**{"deadline": None, "suppress_health_check": _QUIET, "max_examples": count} | _WAY | more)
