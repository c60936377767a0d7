# SPDX-License-Identifier: Apache-2.0
"""`./run` on machines that lack something: one sentence that names it, and nothing done."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
NOBODY = 65534
TOOLS = ("bash", "cat", "cut", "dirname", "env", "id", "ls", "mkdir", "rm", "sed", "sha256sum", "sleep", "tail")


class Machine:
    """A copy of the script, and a PATH that holds only what the test put there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tools = folder / "bin"
        self.tools.mkdir()
        shutil.copy(ROOT / "run", folder / "run")
        shutil.copy(ROOT / "pyproject.toml", folder / "pyproject.toml")
        for tool in TOOLS:
            found = shutil.which(tool)
            assert found is not None
            (self.tools / tool).symlink_to(found)

    def has(self, tool: str, script: str) -> None:
        """Puts a tool of the test's own on the PATH."""
        (self.tools / tool).write_text(f"#!/bin/sh\n{script}\n")
        (self.tools / tool).chmod(0o755)

    def run(self, *words: str, user: int | None = None) -> subprocess.CompletedProcess[str]:
        """`./run WORDS`."""
        return subprocess.run(
            [str(self.folder / "run"), *words],
            env={"PATH": str(self.tools), "HOME": str(self.folder)},
            capture_output=True,
            text=True,
            check=False,
            user=user,
            timeout=30,
        )


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    made = Machine(tmp_path)
    while tmp_path != Path("/tmp") and tmp_path.stat().st_uid == os.geteuid() and len(tmp_path.parts) > 2:
        tmp_path.chmod(0o755)
        tmp_path = tmp_path.parent
    return made


def test_help_lists_the_commands(machine: Machine) -> None:
    """Without a command, and with help: the usage."""
    done = machine.run()
    assert done.returncode == 0
    for command in ("demo", "test", "fuzz", "check", "build", "wheel", "setup"):
        assert f"\n  {command} " in done.stdout


def test_an_unknown_command_is_a_misuse(machine: Machine) -> None:
    """Exit code 2, and the usage on stderr."""
    done = machine.run("dance")
    assert (done.returncode, done.stdout) == (2, "")
    assert "usage:" in done.stderr


def test_an_old_python_is_one_sentence(machine: Machine) -> None:
    """Which version is needed, and which is there."""
    machine.has("python3", 'test "$1" = --version && echo Python 3.9.2 || exit 1')
    done = machine.run("build")
    assert done.returncode == 1
    assert done.stderr == "run: Python 3.11 or newer is needed; python3 here is Python 3.9.2\n"


def test_missing_packages_without_apt_are_one_sentence(machine: Machine) -> None:
    """All of their names at once."""
    machine.has("python3", f'exec {Path(sys.executable).resolve()} "$@"')
    done = machine.run("build")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "no apt-get" in done.stderr
    assert "clang" in done.stderr


@pytest.mark.parametrize("command", ["demo", "test", "fuzz"])
def test_a_missing_privilege_is_one_sentence(machine: Machine, command: str) -> None:
    """Without root and sudo: what needs it is named, before anything is done."""
    done = machine.run(command, user=NOBODY if os.geteuid() == 0 else None)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "needs root, and sudo is not installed" in done.stderr
    assert not (machine.folder / ".venv").exists()


def test_the_demo_brings_ping_where_it_can(machine: Machine) -> None:
    """The tour types it; a machine without it gets it with the rest, and one without apt-get is not held up for it."""
    machine.has("python3", f'exec {sys.executable} "$@"')
    machine.has("sudo", "exit 0" if os.geteuid() else "")
    assert "iputils-ping" not in machine.run("demo").stderr
    machine.has("apt-get", "echo apt-get $*; test $1 = update")
    done = machine.run("demo")
    assert re.search("installing .*iputils-ping failed", done.stderr)
