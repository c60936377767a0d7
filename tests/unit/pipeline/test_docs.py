# SPDX-License-Identifier: Apache-2.0
"""docs/pipeline.md says what the code does: its pictures, its table of costs, its examples."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from mizar.pipeline import costs
from mizar.pipeline.description import Pipeline
from mizar.pipeline.headers import HEADERS
from mizar.pipeline.pattern_text import parse_pattern
from mizar.pipeline.reader import read_pipeline
from mizar.pipeline.reader_steps import ACTIONS
from mizar.pipeline.svg import svg
from tests.unit.pipeline.frames import shipped

DOCS = Path(__file__).parents[3] / "docs"
PAGE = (DOCS / "pipeline.md").read_text()


def cost_rows() -> Iterator[str]:
    """The table of costs as the page has it."""
    named = [(f"switch: {name}", cost) for name, cost in costs.SWITCHES.items()]
    for kind, cost in costs.STEPS.items():
        name = re.sub(r"(?<!^)(?=[A-Z])", "_", kind.__name__).lower()
        named.append((f"`{name}`", cost))
    named += [("more, with a table", costs.TABLE_LOOKUP), ("more, per metadata", costs.PER_META)]
    for name, cost in named:
        yield f"| {name} | {cost.xdp} | {cost.tc} | {cost.interpreter} |"


@pytest.mark.parametrize("name", ["gateway-trap", "gateway-queue", "gateway-inline", "gateway-masquerade"])
def test_pictures_are_those_of_the_shipped_pipelines(name: str) -> None:
    """`mizar pipeline draw examples/pipelines/NAME.yaml > docs/NAME.svg` makes them."""
    assert (DOCS / f"{name}.svg").read_text() == svg(shipped(name))


def test_costs_are_those_of_the_report() -> None:
    """Every step and switch, in one table."""
    table = PAGE.split("<!-- costs -->")[1].split("<!-- /costs -->")[0].strip().splitlines()
    assert table[2:] == list(cost_rows())


def test_the_examples_of_the_page_are_valid_and_equal() -> None:
    """The YAML form and the Python form of the small pipeline; each pattern."""
    yaml_text = PAGE.split("```yaml")[1].split("```")[0]
    python = PAGE.split("```python")[1].split("```")[0]
    names: dict[str, Pipeline] = {}
    exec(python, names)
    assert read_pipeline(yaml_text, "pipeline.md") == names["small"]
    patterns = [line.strip() for line in PAGE.split("### Patterns")[1].splitlines() if line.startswith("    eth")]
    assert len(patterns) == 2
    for line in patterns:
        parse_pattern(line)


def test_every_word_is_on_the_page() -> None:
    """Steps and headers."""
    for word in ACTIONS:
        assert re.search(rf"`{word}[:`]", PAGE), word
    for header in HEADERS:
        assert f"`{header}`" in PAGE
