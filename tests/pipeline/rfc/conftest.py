# SPDX-License-Identifier: Apache-2.0
"""The engines that every line of the RFC table is tested on: the interpreter, and connections in the kernel."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest

from mizar.kernel.gateway_keeper import Keeper
from mizar.pipeline.nat import NatRules
from tests.dataplane.gateway_nat import Gateway, has_clang, loaded
from tests.pipeline.rfc.kernel import Kernel
from tests.pipeline.rfc.world import Interpreter, Make, World, nat_pipeline

ERAS = count(1)


@pytest.fixture(scope="session")
def gateway() -> Iterator[tuple[Gateway, Keeper]]:
    """The program and who removes connections, loaded once."""
    if not has_clang():
        pytest.skip("needs clang, as the build does")
    with loaded({"lines4": 16, "lines6": 16}) as found, Keeper(found.tables.maps) as keeper:
        yield found, keeper


@pytest.fixture(params=["interpreter", pytest.param("xdp", marks=pytest.mark.root)])
def make(request: pytest.FixtureRequest) -> Make:
    """Makes a gateway of rules; of those in the kernel there is one at a time."""

    def made(*rules: Any) -> World:
        pipeline = nat_pipeline(*rules)
        if request.param == "interpreter":
            return World(Interpreter(pipeline))
        found, keeper = request.getfixturevalue("gateway")
        return World(Kernel(found, keeper, pipeline.nat or NatRules(), next(ERAS)))

    return made
