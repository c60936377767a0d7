# SPDX-License-Identifier: Apache-2.0
"""The engines that every line of the RFC table is tested on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.pipeline.rfc.world import Engine, Interpreter, Make, World, nat_pipeline


@pytest.fixture(params=["interpreter"])
def make(request: pytest.FixtureRequest) -> Iterator[Make]:
    """Makes a gateway of rules."""
    with ExitStack() as stack:

        def made(*rules: Any) -> World:
            engine: Engine = Interpreter(nat_pipeline(*rules))
            return World(engine)

        del stack
        yield made
