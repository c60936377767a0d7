# SPDX-License-Identifier: Apache-2.0
"""Access logs are of clients' making: what they ask for is shown, and never obeyed by a terminal."""

from __future__ import annotations

import json

import pytest

from mizar.cli import logs
from mizar.cli.output import Format


def shown(line: str, capsys: pytest.CaptureFixture[str], output: Format = Format.TABLE) -> str:
    logs._print("shop-1", line, output)
    return capsys.readouterr().out.removesuffix("\n")


@pytest.mark.parametrize("hostile", ["\x1b]0;owned\x07", "\x1b[2J", "\x9b2J", "a\nb", "\u202e"])
def test_a_path_cannot_speak_to_the_terminal(hostile: str, capsys: pytest.CaptureFixture[str]) -> None:
    """JSON's escapes are taken off when a line is read."""
    line = json.dumps({"time": 1.5, "client": "192.0.2.1", "method": "GET", "path": f"/{hostile}", "status": 200})
    for output in (Format.TABLE, Format.JSON):
        assert shown(line, capsys, output).isprintable()
    assert "192.0.2.1 GET" in shown(line, capsys)


@pytest.mark.parametrize("line", ['{"time":1.5,"path":"/aaaa', "[1]", '{"time":"x","path":"/seen"}'])
def test_a_line_that_is_cut_off_is_seen(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever makes its own line too long does not hide its request."""
    assert "/aaaa" in shown(line, capsys) if "aaaa" in line else shown(line, capsys)
    assert json.loads(shown(line, capsys, Format.JSON))["instance"] == "shop-1"
