# SPDX-License-Identifier: Apache-2.0
"""Namespaces: found by any of their names, entered without a trace, made and removed."""

from __future__ import annotations

import os
import subprocess
import threading
from pathlib import Path

import pytest

from mizar.kernel import namespaces
from mizar.kernel.namespaces import Namespace
from mizar.model.errors import ConflictError, InvalidError, NotFoundError

pytestmark = pytest.mark.root

NAME = f"mizar-test-{os.getpid()}"


def here() -> tuple[int, int]:
    with Namespace.current() as current:
        return current.identity


def test_a_named_namespace_is_another_one() -> None:
    """It appears under /run/netns, is not the caller's, and is gone when the block ends."""
    with namespaces.scratch(NAME) as made:
        assert NAME in namespaces.names()
        assert made.spec == f"name:{NAME}"
        assert made.identity != here()
        with Namespace.by_path(namespaces.FOLDER / NAME) as by_path, Namespace.open_spec(made.spec) as again:
            assert by_path.identity == again.identity == made.identity
    assert NAME not in namespaces.names()


def test_a_taken_name_is_a_conflict() -> None:
    """And the namespace that has it stays."""
    with namespaces.scratch(NAME) as made:
        with pytest.raises(ConflictError):
            namespaces.create(NAME)
        with Namespace.by_name(NAME) as found:
            assert found.identity == made.identity


def test_names_are_those_of_iproute2() -> None:
    """`ip netns` sees ours, and we see its: one convention."""
    with namespaces.scratch(NAME):
        listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
        assert NAME in listed.split()
        command = ["ip", "netns", "exec", NAME, "readlink", "/proc/self/ns/net"]
        inode = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        with Namespace.by_name(NAME) as found:
            assert inode.strip() == f"net:[{found.identity[1]}]"


def test_a_process_names_its_namespace() -> None:
    """By its number; a number without a process is not found."""
    with Namespace.by_pid(os.getpid()) as found:
        assert found.identity == here()
    with pytest.raises(NotFoundError):
        Namespace.by_pid(2**22 + 1)


@pytest.mark.parametrize("path", ["/etc/hostname", "/proc/self/ns/mnt", "/run", "/dev/null"])
def test_other_files_are_no_namespaces(path: str) -> None:
    """Not even other kinds of namespaces."""
    with pytest.raises(InvalidError, match="not a network namespace"):
        Namespace.by_path(path)


def test_a_fifo_does_not_hang(tmp_path: Path) -> None:
    """Opening must return, whatever a user's path leads to."""
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(InvalidError):
        Namespace.by_path(tmp_path / "fifo")


def test_running_inside_leaves_the_caller_where_it_was() -> None:
    """The result and the error come back; the thread does not move."""
    before = here()
    with namespaces.anonymous() as namespace:
        assert namespace.run(here) == namespace.identity
        with pytest.raises(ZeroDivisionError):
            namespace.run(lambda: 1 // 0)
    assert here() == before
    assert all(not thread.name.startswith("in ") for thread in threading.enumerate())


def test_a_leftover_file_can_be_removed() -> None:
    """What a crash between two steps of create() leaves does not block the name for good."""
    (namespaces.FOLDER / NAME).touch()
    with pytest.raises(InvalidError):
        Namespace.by_name(NAME)
    namespaces.remove(NAME)
    with pytest.raises(NotFoundError):
        namespaces.remove(NAME)


@pytest.mark.parametrize("name", ["", "a/b", "..", "."])
def test_a_name_is_no_path(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing outside of the folder can be made or removed, nor the folder itself: it is refused before any call.
    (Removing "." once unmounted /run/netns with everybody's namespaces; hence no real call may be reachable here.)"""
    monkeypatch.setattr(namespaces, "_call", lambda *_: pytest.fail("a system call was made"))
    monkeypatch.setattr(Path, "unlink", lambda *_: pytest.fail("a file was removed"))
    for refused in (namespaces.create, namespaces.remove, Namespace.by_name):
        with pytest.raises(InvalidError):
            refused(name)


def test_a_folder_is_no_namespace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever lies in the folder: only files are unmounted."""
    monkeypatch.setattr(namespaces, "_call", lambda *_: pytest.fail("a system call was made"))
    (namespaces.FOLDER / NAME).mkdir()
    try:
        with pytest.raises(NotFoundError):
            namespaces.remove(NAME)
    finally:
        (namespaces.FOLDER / NAME).rmdir()
