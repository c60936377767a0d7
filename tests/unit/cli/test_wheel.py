# SPDX-License-Identifier: Apache-2.0
"""The wheel installs without a compiler and brings everything that runs."""

from __future__ import annotations

import json
import site
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of this tree."""
    folder = tmp_path_factory.mktemp("wheel")
    options = ["--no-deps", "--no-build-isolation", "--disable-pip-version-check", "-q", "-w", str(folder)]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, str(ROOT)], check=True, timeout=100)
    (made,) = folder.glob("mizar-*.whl")
    return made


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of programs of a fresh environment with the wheel in it; its dependencies are those of ours."""
    folder = tmp_path_factory.mktemp("fresh") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    options = ["--python", str(folder / "bin" / "python"), "install", "--no-deps", "--disable-pip-version-check", "-q"]
    subprocess.run([sys.executable, "-m", "pip", *options, str(wheel)], check=True, timeout=100)
    (packages,) = folder.glob("lib/python3*/site-packages")
    # A line of a .pth file adds a folder behind ours, without the .pth files in it: our editable mizar stays out.
    (packages / "dependencies.pth").write_text("\n".join(site.getsitepackages()))
    return folder / "bin"


def run(programs: Path, *words: str) -> str:
    """What a program of the fresh environment prints, somewhere else and without a compiler on its PATH."""
    environment = {"PATH": str(programs), "HOME": str(programs), "LANG": "C.UTF-8"}
    command = [str(programs / words[0]), *words[1:]]
    return subprocess.run(command, env=environment, cwd="/", capture_output=True, text=True, check=True).stdout


def test_the_wheel_carries_what_is_built(wheel: Path) -> None:
    """Objects for the kernel, stubs, contracts, the demo's manifest, the licence."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    for name in (
        "mizar/_built/objects/agent.o",
        "mizar/_built/objects/transit.o",
        "mizar/_built/objects/deliver.o",
        "mizar/_built/transit_pb2.py",
        "mizar/_built/contracts/dataplane.h",
        "mizar/_built/examples/two-tenants.yaml",
    ):
        assert name in names
    assert any(name.endswith("dist-info/licenses/LICENSE") for name in names)


def test_the_installed_command_works(installed: Path) -> None:
    """Help, version and the doctor, from the wheel and not from this tree."""
    where = run(installed, "python", "-c", "import mizar; print(mizar.__file__)")
    assert str(installed.parent) in where
    assert "apply" in run(installed, "mizar", "--help")
    assert "mizar" in run(installed, "mizar", "version")
    features = {row["name"]: row["present"] for row in json.loads(run(installed, "mizar", "doctor", "-o", "json"))}
    assert features["libbpf"]
