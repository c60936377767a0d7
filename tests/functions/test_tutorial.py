# SPDX-License-Identifier: Apache-2.0
"""Every command of docs/function-tutorial.md, in its order: a page whose commands fail helps nobody."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mizar.lab import lab as labs
from mizar.lab.names import LabName

pytestmark = pytest.mark.root
PAGE = (Path(__file__).parents[2] / "docs" / "function-tutorial.md").read_text()
BLOCKS = re.compile(r"```sh\n(.*?)```", re.DOTALL)


@pytest.fixture(autouse=True)
def _as_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")


def run(folder: Path, text: str, **environment: str) -> str:
    """The commands of a text, in one shell that ends with the first that fails."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    commands = "set -euo pipefail\n" + "\n".join(BLOCKS.findall(text))
    done = subprocess.run(
        ["bash", "-c", commands],
        cwd=folder,
        env={**os.environ, **environment, "PATH": path},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def test_what_needs_no_droplet(tmp_path: Path) -> None:
    said = run(tmp_path, PAGE.split("## On droplets")[0])
    assert "8 of 8 as expected" in said
    assert "FAILED  ENDPOINT_INGRESS xdp: a new connection to a port that is shut: continue" in said
    assert "8 of 8 as expected" in said.split("FAILED")[-1]


@pytest.mark.long
def test_all_of_it(tmp_path: Path) -> None:
    lab = LabName(f"t{os.getpid()}-tutorial")
    try:
        text = PAGE.replace("{name: tutorial}", f"{{name: {lab.name}}}").replace("down tutorial", f"down {lab.name}")
        said = run(tmp_path, text, MIZAR_SERVER=lab.server_url)
    finally:
        labs.down(lab)
    assert "endpoint blue/web" in said
    assert '"refused": []' in said
    assert '"name": "PORT_SHUT"' in said
