# SPDX-License-Identifier: Apache-2.0
"""The programs of one droplet on each substrate, loaded once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.oracle.real import RealDroplet
from tests.oracle.substrates import loaded


@pytest.fixture(scope="package")
def real() -> Iterator[RealDroplet]:
    droplet = loaded("ipv4")
    yield droplet
    droplet.close()


@pytest.fixture(scope="package")
def real6() -> Iterator[RealDroplet]:
    droplet = loaded("ipv6")
    yield droplet
    droplet.close()


@pytest.fixture(scope="package")
def real46() -> Iterator[RealDroplet]:
    droplet = loaded("both")
    yield droplet
    droplet.close()
