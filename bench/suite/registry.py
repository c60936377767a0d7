# SPDX-License-Identifier: Apache-2.0
"""All figures, in the order in which they are run and told."""

from __future__ import annotations

from bench.suite.figures import end_to_end, programs

FIGURES = (*programs.FIGURES, *end_to_end.FIGURES)
