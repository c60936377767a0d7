# SPDX-License-Identifier: Apache-2.0
"""docs/nat.md and the tests beside this one say the same."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = (Path(__file__).parents[3] / "docs" / "nat.md").read_text()
REQUIREMENTS = {"4787": range(1, 15), "5382": range(1, 11), "5508": range(1, 12), "6888": range(1, 16)}


def sections() -> dict[str, str]:
    """The table of each RFC."""
    table = PAGE.split("<!-- rfc -->")[1].split("<!-- /rfc -->")[0]
    return {part[:4]: part for part in table.split("### RFC ")[1:]}


def test_every_requirement_has_its_line() -> None:
    """None is left out, deviations included."""
    for rfc, numbers in REQUIREMENTS.items():
        there: set[str] = set()
        for line in sections()[rfc].splitlines():
            there |= set(re.findall(r"\d+", line.split("|")[1])) if line.startswith("| ") else set()
        assert there >= {str(number) for number in numbers}, rfc


def test_every_named_test_is_there_and_every_test_is_named() -> None:
    """In the file of its RFC."""
    for rfc, table in sections().items():
        named = set(re.findall(r"`(test_\w+)`", table))
        text = (Path(__file__).parent / f"test_rfc{rfc}.py").read_text()
        there = set(re.findall(r"^def (test_\w+)", text, re.MULTILINE))
        assert named <= there, named - there
        assert {one for one in there if re.match(r"test_(req|rst)", one)} <= named
