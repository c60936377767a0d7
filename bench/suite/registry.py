# SPDX-License-Identifier: Apache-2.0
"""All figures, in the order in which they are run and told."""

from __future__ import annotations

from bench.suite.figures import programs

FIGURES = (*programs.FIGURES,)
