# SPDX-License-Identifier: Apache-2.0
"""The shipped gateway that translates in line holds every conversation."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mizar.gateway import rules
from mizar.kernel.gateway_tables import GatewayTables
from mizar.pipeline.interpreter.machine import Machine
from tests.dataplane.gateway_nat import has_clang
from tests.pipeline.conversations import CONVERSATIONS, Ended, Run
from tests.pipeline.rfc.world import SECOND_NS
from tests.pipeline.xdp_target import Both, target
from tests.unit.pipeline import frames as f


@pytest.mark.parametrize("converse", CONVERSATIONS, ids=lambda one: str(one.__name__))
def test_in_the_interpreter(converse: Callable[[Run], None]) -> None:
    """Whole frames, checksums included."""
    converse(Machine(f.shipped("gateway-inline")).run)


@pytest.mark.root
@pytest.mark.skipif(not has_clang(), reason="needs clang, as the build does")
def test_in_xdp() -> None:
    """The generated program says of every frame what the interpreter says, counters included."""
    pipeline = f.shipped("gateway-inline")
    assert pipeline.nat is not None
    with target(pipeline) as loaded:
        rules.write(GatewayTables.of(loaded.loaded.programs.maps), pipeline.nat)
        both = Both(loaded, Machine(pipeline))

        def on(day: int) -> Run:
            """Each on a day of its own, so that it finds no connection of the one before."""

            def run(frame: bytes, now_ns: int) -> Ended:
                found = both.run("frame", frame, now_ns + day * 86400 * SECOND_NS)
                assert found is not None
                return found

            return run

        for day, converse in enumerate(CONVERSATIONS):
            converse(on(day))
        both.agree_on_counters()
