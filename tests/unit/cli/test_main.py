# SPDX-License-Identifier: Apache-2.0
"""The entry point: errors never become tracebacks, and a command pays only for what it uses."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mizar.cli import connection
from mizar.cli.main import COMMANDS
from mizar.lab.names import LabName
from mizar.model.errors import InvalidError
from tests.unit.cli.conftest import Done, FakeClient

Run = Callable[..., Done]


def test_help_lists_every_command(mizar: Run) -> None:
    """Every registered command can be imported and has a line of help."""
    done = mizar("--help")
    assert done.code == 0
    for command in COMMANDS:
        assert f" {command} " in done.out


def test_a_command_imports_only_its_own_libraries() -> None:
    """`mizar version` loads neither gRPC nor FastAPI nor the kernel room."""
    script = (
        "import sys\nfrom mizar.cli import main\nsys.argv = ['mizar', 'version']\n"
        "try:\n    main.main()\nexcept SystemExit:\n    pass\n"
        "print([name for name in ('grpc', 'fastapi', 'pyroute2', 'mizar.kernel') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_defect_is_one_line_without_a_traceback() -> None:
    """What nobody foresaw ends in one line and exit code 1; MIZAR_TRACEBACK=1 shows where."""
    script = (
        "import sys\nfrom mizar.cli import main, version\n"
        "def broken(*_): raise RuntimeError('surprise')\nversion.emit = broken\n"
        "sys.argv = ['mizar', 'version']\nmain.main()\n"
    )
    plain = {name: value for name, value in os.environ.items() if name != "MIZAR_TRACEBACK"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, env=plain)
    assert done.returncode == 1
    assert done.stderr.startswith("mizar: internal error: RuntimeError: surprise")
    assert len(done.stderr.splitlines()) == 1
    asked = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=False,
        env=plain | {"MIZAR_TRACEBACK": "1"},
    )
    assert "Traceback" in asked.stderr


def test_an_interrupt_while_libraries_come_is_no_traceback(tmp_path: Path) -> None:
    """Ctrl-C is heard before there is a command, too: exit code 130, and not a word."""
    (tmp_path / "typer.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    done = subprocess.run(
        [sys.executable, "-m", "mizar.cli.main", "version"],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_the_server_is_the_hosts_or_the_only_labs(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    """Without --server: the host's socket, else the one lab's; several labs are a question to the person."""
    monkeypatch.setattr("mizar.lab.names.ROOT", tmp_path)
    monkeypatch.setattr(connection, "DEFAULT_URL", f"unix://{tmp_path}/none")
    assert connection.default_url() == f"unix://{tmp_path}/none"
    for name in ("one", "two"):
        lab = LabName(name)
        lab.folder.mkdir()
        lab.server_socket.touch()
        if name == "one":
            assert connection.default_url() == lab.server_url
    with pytest.raises(InvalidError, match="one, two"):
        connection.default_url()


def test_completion_knows_kinds_and_names(client: FakeClient) -> None:
    """Kinds come from the model, names from the server, with the tenant where it is not given."""
    client.objects = [{"kind": "Endpoint", "metadata": {"name": "web", "tenant": "blue"}}]
    assert [kind for kind, _ in connection.complete_kind("en")] == ["endpoints"]

    class Context:
        def __init__(self, **params: str | None) -> None:
            self.params = params

    assert connection.complete_name(Context(kind="ep", tenant=None), "b") == ["blue/web"]  # type: ignore[arg-type]
    assert connection.complete_name(Context(kind="ep", tenant="blue"), "w") == ["web"]  # type: ignore[arg-type]
    client.error = InvalidError("whatever")
    assert connection.complete_name(Context(kind="ep", tenant=None), "") == []  # type: ignore[arg-type]
