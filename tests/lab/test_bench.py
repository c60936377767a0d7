# SPDX-License-Identifier: Apache-2.0
"""Every figure of the bench can be taken: one after the other, as little of it as there is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.suite import __main__ as suite
from bench.suite.registry import FIGURES


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", [figure.name for figure in FIGURES if not figure.alone])
def test_a_figure_is_taken(name: str, tmp_path: Path) -> None:
    """Nothing of it fails, but for peers that are not installed, and the page is made of it."""
    assert suite.main(["--quick", "--only", name], FIGURES, tmp_path) == 0
    found = json.loads((tmp_path / suite.LATEST).read_text())["figures"][name]
    assert found["values"]
    assert not [why for why in found["absent"].values() if why.startswith(("failed", "given up"))]
    assert f"## {name}" in (tmp_path / suite.PAGE.name).read_text()
