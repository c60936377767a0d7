# SPDX-License-Identifier: Apache-2.0
"""What the pages lead to is there: links, headings, files, and the functions that the two ways are told by."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
FOLDERS = ("bench", "contracts", "contrib", "dataplane", "docs", "examples", "mizar", "tests")
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "contracts").glob("*.md")])
WAYS = [ROOT / "docs/way-of-a-packet.md", ROOT / "docs/way-of-a-change.md"]
SOURCES = (".py", ".c", ".h", ".proto", ".toml")

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


@cache
def files() -> frozenset[str]:
    """Everything in the repository's folders, as paths from its root."""
    found = (path for folder in FOLDERS for path in (ROOT / folder).rglob("*"))
    return frozenset(path.relative_to(ROOT).as_posix() for path in found if "__pycache__" not in path.parts)


@cache
def words() -> frozenset[str]:
    """Every word of the sources."""
    texts = (ROOT / name for name in files() if name.endswith(SOURCES) and "_built" not in name)
    return frozenset(word for path in texts for word in re.findall(r"\w+", path.read_text()))


def anchors(page: Path) -> set[str]:
    """Its headings as links name them."""
    headings = (line.lstrip("#").strip().lower() for line in page.read_text().splitlines() if line.startswith("#"))
    return {re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in headings}


def quoted(page: Path) -> list[str]:
    """What stands between backticks, fenced blocks left out."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"(?ms)^```.*?^```", "", page.read_text()))


def is_there(name: str) -> bool:
    """Whether a page may name it: a path from the root, or the end of one."""
    return name in files() or any(path.endswith("/" + name) for path in files())


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    """The file is there, and the heading in it."""
    dead = []
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        if "://" not in link and (not target.exists() or (anchor and anchor not in anchors(target))):
            dead.append(link)
    assert dead == []


@each_page
def test_files_that_are_named_exist(page: Path) -> None:
    """By their path from the root, or by the end of it."""
    named = (
        name for text in quoted(page) for name in re.findall(r"(?<![\w./*-])[\w./-]*\w\.(?:py|c|h|md|proto)\b", text)
    )
    assert [name for name in named if not name.startswith("/") and not is_there(name)] == []


@each_page
def test_every_page_is_led_to(page: Path) -> None:
    """From another page, so that a reader who begins with README.md finds it."""
    leads = {
        (other.parent / link.partition("#")[0]).resolve()
        for other in PAGES
        if other != page
        for link in re.findall(r"\]\(([^)\s]+)\)", other.read_text())
    }
    assert page.name == "README.md" or page in leads


@pytest.mark.parametrize("page", WAYS, ids=lambda page: page.stem)
def test_functions_that_a_way_names_exist(page: Path) -> None:
    """Each `name()` is a word of the sources."""
    named = {name for text in quoted(page) for name in re.findall(r"(\w+)\(\)", text)}
    assert sorted(named - words()) == []
