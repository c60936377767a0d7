# SPDX-License-Identifier: Apache-2.0
"""Fleets that exist as values alone: what the planner wants, walked by the oracle."""
