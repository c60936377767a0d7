# SPDX-License-Identifier: Apache-2.0
"""The runner of the bench: contenders take turns, one's fault is not another's, and the page is what was measured."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from xml.etree import ElementTree

import pytest

from bench.suite import __main__ as suite
from bench.suite import page, plot, results
from bench.suite.figure import Figure, Goal, Plan, Turn
from bench.suite.registry import FIGURES

turns: list[str] = []


@contextmanager
def opened(plan: Plan) -> Iterator[Mapping[str, Turn | str]]:
    """Ours gets slower by one each round, the others fails, and one is not installed."""

    def ours() -> dict[str, float]:
        turns.append("ours")
        return {"a frame": float(turns.count("ours"))}

    def theirs() -> dict[str, float]:
        turns.append("theirs")
        return {"a frame": 4.0}

    def broken() -> dict[str, float]:
        raise RuntimeError("no carrier")

    yield {"mizar": ours, "theirs": theirs, "broken": broken, "absent": "not installed"}


GOALS = (
    Goal("a frame", "4 ns", "a frame", 3),
    Goal("twice as good", "the same", "a frame", 0.4, over="theirs", limits={"them": "theirs", "none": "absent"}),
)
FAKE = Figure("fake", "A fake", "ns", opened, "anything.", goals=GOALS, rounds=3)


@pytest.fixture
def measured(tmp_path: Path) -> Path:
    """A folder that a run wrote into."""
    turns.clear()
    assert suite.main([], [FAKE], tmp_path) == 0
    return tmp_path


def test_contenders_take_turns_and_medians_are_kept(measured: Path) -> None:
    """A B A B; the middle, the least and the most; why others are missing; the machine."""
    assert turns == ["ours", "theirs"] * 3
    found = json.loads((measured / "latest.json").read_text())["figures"]["fake"]
    assert found["values"]["a frame"]["mizar"] == {"median": 2.0, "low": 1.0, "high": 3.0, "n": 3}
    assert found["absent"] == {"broken": "failed: RuntimeError: no carrier", "absent": "not installed"}
    assert {"processor", "cpus", "kernel", "governor", "load", "peers"} <= found["machine"].keys()


def test_what_failed_is_taken_again_and_nothing_else_is_lost(tmp_path: Path) -> None:
    """A figure that cannot be set up fails alone; `--missing` takes it, and those of which a contender failed."""
    mended: list[str] = []

    def figure(name: str, fails: str = "") -> Figure:
        @contextmanager
        def open_(_plan: Plan) -> Iterator[Mapping[str, Turn | str]]:
            turns.append(name)
            if fails == "set-up" and not mended:
                raise OSError("no such device")

            def turn() -> dict[str, float]:
                if fails == "contender" and not mended:
                    raise OSError("no carrier")
                return {"a frame": 1.0}

            yield {"mizar": turn, "theirs": lambda: {"a frame": 2.0}, "absent": "not installed"}

        return Figure(name, name, "ns", open_, "anything.", rounds=1)

    every = [figure("one"), figure("two", "set-up"), figure("three", "contender"), figure("four")]
    turns.clear()
    assert suite.main([], every, tmp_path) == 1
    found = json.loads((tmp_path / "latest.json").read_text())["figures"]
    assert (turns, list(found)) == (["one", "two", "three", "four"], ["one", "three", "four"])
    mended.append("now")
    turns.clear()
    assert suite.main(["--missing"], every, tmp_path) == 0
    assert turns == ["two", "three"]
    assert suite.main(["--missing"], every, tmp_path) == 0
    assert turns == ["two", "three"]


def test_page_tells_goals_reached_and_missed(measured: Path) -> None:
    """A limit of its own, one over another contender, what is possible there, who is missing, and what is not shown."""
    text = (measured / "performance.md").read_text()
    assert "| a frame | 4 ns | ≤ 3 ns | [2 ns](#fake) | yes |  |" in text
    assert "| twice as good | the same | ≤ 0.40x | [0.50x](#fake) | no | them 1.00x |" in text
    assert "**absent** is missing: not installed" in text
    assert "2 (1 to 3)" in text
    assert "*Not shown:* anything." in text


def test_worst_round_or_best_may_count(measured: Path) -> None:
    """Of a goal that says so: a packet lost in one round is lost; a program costs what it did when nothing else was."""
    document = results.read(measured / "latest.json")
    assert results.judged(document, "fake", Goal("", "", "a frame", 2)) == (2.0, True)
    assert results.judged(document, "fake", Goal("", "", "a frame", 2, worst=True)) == (3.0, False)
    assert results.judged(document, "fake", Goal("", "", "a frame", 1, most=False, worst=True)) == (1.0, True)
    assert results.judged(document, "fake", Goal("", "", "a frame", 1, best=True)) == (1.0, True)
    assert results.judged(document, "fake", Goal("", "", "a frame", 3, most=False, best=True)) == (3.0, True)


def test_plot_is_a_picture(measured: Path) -> None:
    """Well-formed, with a bar for each contender."""
    tree = ElementTree.fromstring((measured / "fake.svg").read_text())
    assert len([one for one in tree.iter() if one.tag.endswith("rect")]) == 3


def test_a_bar_that_hides_the_others_is_cut() -> None:
    """One that is many times the next is as long as that, with a notch; its number is told. A goal is a line."""
    by = {name: results.summary([value]) for name, value in (("mizar", 24.0), ("routing", 25.0), ("slow", 281.0))}
    goal = Goal("", "", "p50", 0.5, contender="mizar", over="routing")
    found = {"title": "t", "unit": "us", "units": {}, "values": {"p50": by}}
    drawn = plot.svg(found, [goal])
    tree = ElementTree.fromstring(drawn)
    widths = [float(one.attrib["width"]) for one in tree.iter() if one.tag.endswith("rect")][1:]
    assert widths == pytest.approx([plot.ROOM * 24 / 25, plot.ROOM, plot.ROOM], abs=0.1)
    assert "281" in drawn
    assert len([one for one in tree.iter() if one.tag.endswith("path")]) == 1
    assert f'x1="{plot.LABEL + plot.ROOM / 2:.1f}"' in drawn


def test_json_has_the_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And nothing else on stdout."""
    assert suite.main(["-o", "json", "--only", "fa"], [FAKE], tmp_path) == 0
    assert json.loads(capsys.readouterr().out)["figures"]["fake"]["unit"] == "ns"


def test_unknown_figure_is_misuse(capsys: pytest.CaptureFixture[str]) -> None:
    """The names that there are, and exit code 2."""
    assert suite.main(["--only", "nothing"], [FAKE]) == 2
    assert "fake" in capsys.readouterr().err


def test_names_are_unique() -> None:
    """Of figures: they are files and headings."""
    assert len({one.name for one in FIGURES}) == len(FIGURES)


def test_performance_page_is_of_the_latest_results() -> None:
    """`./run bench --page` would change nothing, and no result is of a figure that is gone."""
    document = results.read(suite.RESULTS / suite.LATEST)
    assert suite.PAGE.read_text() == page.page(document, FIGURES)
    assert document["figures"].keys() <= {one.name for one in FIGURES}
    goals = {one.name: one.goals for one in FIGURES}
    for name, found in document["figures"].items():
        assert (suite.RESULTS / f"{name}.svg").read_text() == plot.svg(found, goals[name])
