# SPDX-License-Identifier: Apache-2.0
"""The functions of examples/: their own tests pass, their manifests fit them, and their Python twins say the same."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mizar.cli.objects import read_manifests
from mizar.functions import cases, harness
from mizar.functions.build import build
from mizar.model.function import Function

FOLDER = Path(__file__).parents[2] / "examples" / "functions"
OWN = ("blocklist", "metadata-inject", "metadata-strip")


@pytest.mark.root
@pytest.mark.parametrize("name", OWN)
def test_its_cases_pass(name: str, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    test = FOLDER / name / f"{name}.test.yaml"
    data = build(FOLDER / name / f"{name}.c", tmp_path / f"{name}.o").read_bytes()
    result = harness.run(data, cases.parse(test.read_text(), str(test)))
    assert {one.case.name: one.problems for one in result.ran if one.problems} == {}
    assert {one.case.stage for one in result.ran} == set(result.function.stages)
    assert max(result.instructions.values()) < 1000


@pytest.mark.parametrize("name", OWN)
def test_its_manifest_fits(name: str) -> None:
    (found,) = read_manifests([str(FOLDER / name / f"{name}.yaml")]).resources
    assert isinstance(found, Function)
    assert found.spec.about.name == name
    assert set(found.spec.entries) == set(found.spec.maps)
