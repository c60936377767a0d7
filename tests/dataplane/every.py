# SPDX-License-Identifier: Apache-2.0
"""What most tests are asked of: each family of addresses, in each tunnel."""

from __future__ import annotations

import itertools

import pytest

from .plan import FAMILIES, TUNNELS

every_family = pytest.mark.parametrize("family", FAMILIES)
every_tunnel_and_family = pytest.mark.parametrize(("kind", "family"), list(itertools.product(TUNNELS, FAMILIES)))
