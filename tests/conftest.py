# SPDX-License-Identifier: Apache-2.0
"""How property tests run: the same examples every time, so that a run says something of the change under test.

`HYPOTHESIS_PROFILE=search` looks for new ones instead. Tests that name their own settings inherit from this.
"""

from __future__ import annotations

import os

from hypothesis import settings

settings.register_profile("steady", derandomize=True, database=None, deadline=None)
settings.register_profile("search", print_blob=True, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "steady"))
