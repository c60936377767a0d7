# SPDX-License-Identifier: Apache-2.0
"""How property tests run: the same examples every time, and a slow machine is no failure.

To look for new examples: `HYPOTHESIS_PROFILE=search pytest tests/unit/planner`.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

_QUIET = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example]
settings.register_profile("fixed", deadline=None, derandomize=True, database=None, suppress_health_check=_QUIET)
settings.register_profile("search", deadline=None, max_examples=2000, suppress_health_check=_QUIET)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))
