# SPDX-License-Identifier: Apache-2.0
"""The programs of one droplet, loaded once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.oracle.droplets import ME, MY_MAC
from tests.oracle.real import RealDroplet


@pytest.fixture(scope="session")
def real() -> Iterator[RealDroplet]:
    droplet = RealDroplet(ME, MY_MAC)
    yield droplet
    droplet.close()
