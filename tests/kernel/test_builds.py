# SPDX-License-Identifier: Apache-2.0
"""Programs that stay: who takes over has none verified that was made from the same, and each that was not."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from mizar.kernel import libbpf
from mizar.kernel.bpffs import Pins
from mizar.kernel.builds import Build
from mizar.kernel.programs import load, object_bytes

from .conftest import CONFIG

pytestmark = pytest.mark.root

NAMES = ("deliver", "function_end", "function_end_tc")
OTHER_CONFIG = CONFIG[:-1] + bytes([CONFIG[-1] ^ 1])


def loaded(pins: Pins, config: bytes = CONFIG, *, take_over: bool = True, **objects: bytes) -> Mapping[str, int]:
    """The kernel's numbers of the programs and of their maps, after one more load."""
    sources = {name: objects.get(name) or object_bytes(name) for name in NAMES}
    with load(config, pins=pins, objects=sources, take_over=take_over) as made:
        found = {name: libbpf.info("prog", one.fd).id for name, one in made.programs.items()}
        return found | {f"map {name}": libbpf.info("map", fd).id for name, fd in made.maps.items()}


def changed(before: Mapping[str, int], after: Mapping[str, int]) -> set[str]:
    assert before.keys() == after.keys()
    return {name for name in before if before[name] != after[name]}


def test_what_was_made_from_the_same_stays(pins: Pins) -> None:
    """Programs and maps, however often; descriptors are not kept beyond the load."""
    first = loaded(pins)
    held = len(list(Path("/proc/self/fd").iterdir()))
    assert loaded(pins) == loaded(pins) == first
    assert len(list(Path("/proc/self/fd").iterdir())) == held


def test_another_object_replaces_its_program_alone(pins: Pins) -> None:
    """And stays from then on."""
    first, newer = loaded(pins), object_bytes("deliver") + bytes(8)
    second = loaded(pins, deliver=newer)
    assert changed(first, second) == {"deliver"}
    assert loaded(pins, deliver=newer) == second


def test_another_configuration_replaces_all_programs(pins: Pins) -> None:
    """The maps, which are the state, stay."""
    assert changed(loaded(pins), loaded(pins, OTHER_CONFIG)) == set(NAMES)


def test_a_program_over_a_map_that_is_not_pinned_any_more_is_replaced(pins: Pins) -> None:
    """What it would read and write is not what the daemon does."""
    first = loaded(pins)
    users = {name: build for name in NAMES if (build := Build.read(pins.progs, name))}
    lost = next(name for name in users["deliver"].maps if any(name not in one.maps for one in users.values()))
    (pins.maps / lost).unlink()
    second = loaded(pins)
    assert changed(first, second) == {f"map {lost}"} | {name for name, one in users.items() if lost in one.maps}
    assert loaded(pins) == second


def test_programs_without_a_note_are_replaced(pins: Pins) -> None:
    """A load that takes nothing over leaves no notes either: nobody may take its programs for others."""
    first = loaded(pins)
    second = loaded(pins, take_over=False)
    assert changed(first, second) == set(NAMES)
    assert sorted(one.name for one in pins.progs.iterdir()) == sorted(NAMES)
    third = loaded(pins)
    assert changed(second, third) == set(NAMES)
    (pins.progs / "deliver").unlink()
    assert changed(third, loaded(pins)) == {"deliver"}
