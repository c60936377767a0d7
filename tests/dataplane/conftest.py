# SPDX-License-Identifier: Apache-2.0
"""The testbed: loaded once, emptied before each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .chained import Chained, chained
from .testbed import Testbed


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "tests/dataplane" in str(item.path):
            item.add_marker(pytest.mark.root)


@pytest.fixture(scope="package")
def loaded_testbed() -> Iterator[Testbed]:
    testbed = Testbed()
    yield testbed
    testbed.close()


@pytest.fixture
def droplet(loaded_testbed: Testbed) -> Testbed:
    loaded_testbed.reset()
    return loaded_testbed


@pytest.fixture
def functions(droplet: Testbed) -> Iterator[Chained]:
    """The droplet's chains of functions, empty."""
    with chained(droplet) as found:
        yield found
