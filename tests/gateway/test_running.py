# SPDX-License-Identifier: Apache-2.0
"""Gateways of tests leave nothing behind: one that cannot start, and those of a run that was killed."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from mizar.gateway import options
from mizar.kernel import namespaces
from tests.gateway.rig import nat, rig
from tests.gateway.running import description, running, sweep

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]


def left(name: str) -> list[Path | str]:
    """What this machine has of a gateway."""
    places = [place for place in (options.place(name), options.pins(name).folder) if place.exists()]
    return [*places, *(one for one in namespaces.names() if one.startswith(f"{name}-"))]


def test_a_gateway_that_cannot_start_leaves_nothing(tmp_path: Path) -> None:
    """It comes as far as its slow path, and fails at an interface that is not there."""
    with rig() as made:
        before = left(made.prefix)
        with (
            pytest.raises(AssertionError, match="nowhere"),
            running(made, description("kernel", made.prefix, nat()), tmp_path, "--egress", "nowhere"),
        ):
            pass
        assert left(made.prefix) == before
    assert left(made.prefix) == []


def test_what_a_killed_run_left_is_swept() -> None:
    """By the process in its names; what belongs to one that lives stays, and so does what is nobody's test."""
    with subprocess.Popen(["true"]) as ended:
        dead = f"gwt{ended.pid}-0"
    alive, other = options.place("gwt1-0"), options.place(f"{dead}x")
    try:
        for place in (options.place(dead), alive, other):
            place.mkdir(parents=True)
        (options.place(dead) / "control.sock").touch()
        namespaces.create(f"{dead}-host").close()
        sweep()
        assert left(dead) == []
        assert alive.exists()
        assert other.exists()
    finally:
        for place in (alive, other):
            place.rmdir()
