# SPDX-License-Identifier: Apache-2.0
"""Fixtures: a rig per test, with one or two droplets whose daemons run."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.transit.rig import Rig, rig


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here needs root."""
    for item in items:
        if "tests/transit/" in str(item.path):
            item.add_marker(pytest.mark.root)
            if os.geteuid() != 0:
                item.add_marker(pytest.mark.skip(reason="needs root (CAP_NET_ADMIN and CAP_BPF)"))


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Rig]:
    """A substrate without droplets."""
    with rig(tmp_path) as found:
        yield found
