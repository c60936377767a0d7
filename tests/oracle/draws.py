# SPDX-License-Identifier: Apache-2.0
"""The type of Hypothesis's `draw`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

Draw = Callable[[st.SearchStrategy[Any]], Any]
