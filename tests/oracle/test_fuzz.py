# SPDX-License-Identifier: Apache-2.0
"""The long run, kept short: it ends when its rounds do, and a difference names the command that repeats it."""

from __future__ import annotations

import pytest
from hypothesis import Phase, settings

from tests.oracle import fuzz
from tests.oracle.differential import Case
from tests.oracle.real import RealDroplet

pytestmark = pytest.mark.root


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """The processes are forks: they take this with them."""
    monkeypatch.setattr(fuzz, "WAY", settings(fuzz.WAY, max_examples=2, phases=[Phase.generate]))


def test_a_round_without_a_difference(capsys: pytest.CaptureFixture[str]) -> None:
    """Twice: the same seed is the same round."""
    assert fuzz.main(["--rounds", "1", "--seed", "3"]) == 0
    said = capsys.readouterr().out
    assert "in 1 rounds" in said
    assert fuzz.main(["--rounds", "1", "--seed", "3"]) == 0
    assert capsys.readouterr().out == said


def test_a_difference_says_how_to_repeat_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 1, the case, and the command."""

    def differs(real: RealDroplet, case: Case, count: int = 0) -> list[object]:
        raise AssertionError("oracle and kernel differ")

    monkeypatch.setattr(fuzz, "check_case", differs)
    assert fuzz.main(["--rounds", "1", "--seed", "5"]) == 1
    said = capsys.readouterr().out
    assert "oracle and kernel differ" in said
    assert said.endswith("./run fuzz --rounds 1 --seed 5\n")


def test_a_process_that_breaks_is_no_success(monkeypatch: pytest.MonkeyPatch) -> None:
    """For example because programs cannot be loaded."""

    def broken(_: str) -> RealDroplet:
        raise OSError("no programs")

    monkeypatch.setattr(fuzz, "loaded", broken)
    assert fuzz.main(["--rounds", "1", "--seed", "5"]) == 1
