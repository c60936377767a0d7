# SPDX-License-Identifier: Apache-2.0
"""One runner for all figures: rounds that take turns, medians, the machine they were taken on, and a page."""
