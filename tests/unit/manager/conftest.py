# SPDX-License-Identifier: Apache-2.0
"""A world of four droplets."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from tests.unit.manager.world import World


@pytest_asyncio.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    found = World(tmp_path, 4)
    await found.start()
    yield found
    await found.stop()
