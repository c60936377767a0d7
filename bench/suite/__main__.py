# SPDX-License-Identifier: Apache-2.0
"""`./run bench`: runs the figures, keeps what they tell, and writes the page.

A whole run goes to bench/results/latest.json, its pictures beside it, and docs/performance.md; of figures that were
not asked for, the last results stay. A quick one goes to .cache/bench and leaves the page alone. A figure is written as
soon as it is there: what was measured before a crash is kept.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from bench.suite import page, plot, results, runner
from bench.suite.figure import Figure, Plan
from bench.suite.leftovers import clear
from bench.suite.registry import FIGURES

ROOT = Path(__file__).resolve().parents[2]
RESULTS, QUICK = ROOT / "bench" / "results", ROOT / ".cache" / "bench"
PAGE = ROOT / "docs" / "performance.md"
LATEST = "latest.json"


def main(argv: Sequence[str] | None = None, figures: Sequence[Figure] = FIGURES, into: Path | None = None) -> int:
    """Exit code 0: all measured; 1: a figure failed; 2: misused. A goal that is missed is told, and is no failure."""
    asked = arguments().parse_args(argv)
    names = [figure.name for figure in figures]
    unknown = [name for name in asked.only if not any(known.startswith(name) for known in names)]
    if unknown:
        print(f"bench: no figure {', '.join(unknown)}; there are: {', '.join(names)}", file=sys.stderr)
        return 2
    wanted = chosen(figures, asked)
    if asked.list:
        listed = [{"name": each.name, "title": each.title, "unit": each.unit} for each in wanted]
        lines = (f"{each['name']:<24}{each['title']} ({each['unit']})" for each in listed)
        print(json.dumps(listed) if asked.output == "json" else "\n".join(lines))
        return 0
    folder = into or (QUICK if asked.quick else RESULTS)

    def keep() -> None:
        if folder == RESULTS or into:
            write_page(folder, figures, PAGE if folder == RESULTS else folder / PAGE.name)

    if asked.missing:
        known = results.read(folder / LATEST)["figures"]
        wanted = [each for each in wanted if each.name not in known or lacks(known[each.name])]
    code = 0 if asked.page else run(wanted, folder, asked, keep)
    keep()
    return code


def lacks(found: dict[str, Any]) -> bool:
    """Whether something of a figure failed, or was given up: what is not installed is not to be had by asking again."""
    return any(why.startswith(("failed", "given up")) for why in found["absent"].values())


def chosen(figures: Sequence[Figure], asked: argparse.Namespace) -> list[Figure]:
    """Those that were asked for; without --only all but those that take longer than the others together."""
    if not asked.only:
        return [each for each in figures if asked.list or asked.page or not each.alone]
    return [
        each
        for each in figures
        if each.name in asked.only or (not each.alone and any(each.name.startswith(one) for one in asked.only))
    ]


def run(wanted: Sequence[Figure], folder: Path, asked: argparse.Namespace, keep: Callable[[], None]) -> int:
    """Measures, and shows; what is found goes into the folder, and `keep` is called after each figure."""
    if missing := runner.missing_packages(wanted):
        print(f"bench: without {', '.join(missing)}; `./run setup --bench` installs all peers", file=sys.stderr)
    clear()
    console, failed = _console(asked.output == "json"), []
    plan = Plan(asked.quick, tuple(sorted(os.sched_getaffinity(0))))
    document = results.read(folder / LATEST)
    with console.status("") if console.is_terminal else _Plain() as status:
        for figure in wanted:
            try:
                found = runner.measure(figure, plan, status.update)
            except (Exception, runner.OutOfTimeError) as error:
                failed.append(figure.name)
                console.print(f"{figure.name} failed: {type(error).__name__}: {error}", style="red", markup=False)
                if asked.debug:
                    raise
                continue
            document["figures"][figure.name] = found
            results.write(document, folder / LATEST)
            keep()
            console.print(page.table(figure, found))
            for why in dict.fromkeys(found["absent"].values()):
                names = [name for name, reason in found["absent"].items() if reason == why]
                console.print(f"missing: {'; '.join(names)}: {why}", markup=False)
    measured = [figure for figure in wanted if figure.name not in failed]
    if asked.output == "json":
        print(json.dumps({"figures": {each.name: document["figures"][each.name] for each in measured}}))
    elif measured:
        if (goals := page.goals(document, measured)).row_count:
            console.print(goals)
        console.print(f"written to {folder}", highlight=False)
    return 1 if failed else 0


def write_page(folder: Path, figures: Sequence[Figure], target: Path) -> None:
    """The page and its pictures, of what the folder has."""
    document = results.read(folder / LATEST)
    goals = {figure.name: figure.goals for figure in figures}
    for name, found in document["figures"].items():
        (folder / f"{name}.svg").write_text(plot.svg(found, goals.get(name, ())))
    target.write_text(page.page(document, figures))


def _console(errors: bool) -> Console:
    """Wide enough for all contenders where nobody told how wide it is."""
    console = Console(stderr=errors)
    return console if console.is_terminal else Console(stderr=errors, width=220)


class _Plain:
    """Progress without a terminal: lines on stderr."""

    def __enter__(self) -> _Plain:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def update(self, text: str) -> None:
        """One step."""
        print(text, file=sys.stderr, flush=True)


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="./run bench", description=(__doc__ or "").split("\n\n", 1)[0])
    add: Any = parser.add_argument
    add("--only", action="append", default=[], metavar="NAME", help="this figure, or those that begin so; repeatable")
    add(
        "--missing",
        action="store_true",
        help="only figures that have no result yet, or of which something failed: goes on with a run that was ended",
    )
    add("--quick", action="store_true", help="less of everything: whether it works, not what it costs")
    add("--list", action="store_true", help="the figures")
    add("--page", action="store_true", help="measure nothing: write page and pictures of what was measured last")
    add("-o", "--output", choices=("table", "json"), default="table")
    add("--debug", action="store_true", help="stop at the first failure, and show where")
    return parser


if __name__ == "__main__":
    sys.exit(main())
