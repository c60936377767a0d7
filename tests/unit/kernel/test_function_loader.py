# SPDX-License-Identifier: Apache-2.0
"""The process that loads functions, with a kernel that is played: it ends the process, or never answers."""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mizar.kernel.function_loader import FunctionLoader
from mizar.kernel.functions import Instance, Place, Room, Wanted
from mizar.model.errors import ExhaustedError, InvalidError, TemporaryError

PLAYED = """
import os, pathlib, signal
from mizar.kernel import function_loader_process as process
from mizar.kernel.functions import Instance
from mizar.model.errors import ExhaustedError

def written(text):
    memory = os.memfd_create("played")
    os.write(memory, text)
    return memory

def load(room, wanted, own):
    match wanted.name:
        case "kills":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "hangs":
            pathlib.Path(wanted.data.decode()).touch()
            while True:
                signal.pause()
        case "fails":
            raise RuntimeError("a fault of the process's own")
        case "large":
            raise ExhaustedError("the verifier is tired")
    told = b" ".join(os.pread(fd, 99, 0) for fd in [room.maps["shared"], *own.values()])
    own["made"] = written(b"made")
    return Instance(wanted.place, written(told), written(b"next"), 7)

process.load = load
process.main()
"""
LIMIT_S = 60.0
PLACE = Place("ON_XDP_TX", "xdp")


def wanted(name: str, data: bytes = b"", digest: str = "") -> Wanted:
    return Wanted(name, digest or name, data, PLACE, {}, ("kept", "made"), ("shared",))


def text_of(fd: int) -> str:
    return os.pread(fd, 99, 0).decode()


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


class Playing:
    """A loader with the played kernel, and maps to give it."""

    def __init__(self, *program: str, limit_s: float = LIMIT_S) -> None:
        self.before = open_files()
        self.loader = FunctionLoader(program or (sys.executable, "-c", PLAYED), limit_s)
        self.shared, self.kept = os.memfd_create("shared"), os.memfd_create("kept")
        os.write(self.shared, b"shared")
        os.write(self.kept, b"kept")
        self.own = {"kept": self.kept}

    def load(self, what: Wanted) -> Instance:
        return self.loader.load(Room({"shared": self.shared}, several_buffers=True), what, self.own)

    def close(self) -> None:
        self.loader.close()
        for fd in (self.shared, *self.own.values()):
            os.close(fd)


@pytest.fixture
def playing() -> Iterator[Playing]:
    found = Playing()
    yield found
    found.close()


def test_what_is_loaded_comes_back_with_the_maps_that_were_made(playing: Playing) -> None:
    """The maps that it may use went along; nothing stays open, and one process does all."""
    instance = playing.load(wanted("good"))
    assert (instance.place, instance.instructions) == (PLACE, 7)
    assert text_of(instance.fd) == "shared kept"
    assert text_of(instance.next_fd) == "next"
    assert {name: text_of(fd) for name, fd in playing.own.items()} == {"kept": "kept", "made": "made"}
    instance.close()
    pid = playing.loader.pid
    again = playing.load(wanted("good"))
    assert text_of(again.fd) == "shared kept made"
    again.close()
    assert playing.loader.pid == pid != 0


def test_a_refusal_is_the_same_error_as_if_it_had_been_loaded_here(playing: Playing) -> None:
    with pytest.raises(ExhaustedError, match=r"^the verifier is tired$"):
        playing.load(wanted("large"))
    playing.load(wanted("good")).close()


def test_what_ends_its_loader_is_refused_until_it_is_another(playing: Playing) -> None:
    """By the name of the signal; it is not tried again, whatever else is; a changed one is tried."""
    with pytest.raises(InvalidError, match=r"function kills at ON_XDP_TX \(xdp\): .*ended the process .*SIGSEGV"):
        playing.load(wanted("kills"))
    pid = playing.loader.pid
    with pytest.raises(InvalidError, match=r"function kills: the kernel's verifier ended the process .*SIGSEGV"):
        playing.load(wanted("kills"))
    playing.load(wanted("good")).close()
    assert playing.loader.pid == pid, "nothing has ended that one"
    playing.load(wanted("kept", digest="changed")).close()
    with pytest.raises(InvalidError, match="ended the process"):
        playing.load(wanted("kills", digest="changed again"))
    assert playing.loader.pid != pid


def test_what_never_comes_to_an_end_is_refused_in_time(tmp_path: Path) -> None:
    playing = Playing(limit_s=2.0)
    try:
        with pytest.raises(InvalidError, match=r"function hangs at .*did not come to an end within 2 s"):
            playing.load(wanted("hangs", bytes(tmp_path / "begun")))
        pid = playing.loader.pid
        with pytest.raises(InvalidError, match=r"function hangs: .*did not come to an end"):
            playing.load(wanted("hangs", bytes(tmp_path / "again")))
        assert not (tmp_path / "again").exists()
        playing.load(wanted("good")).close()
        assert playing.loader.pid == pid
    finally:
        playing.close()


def test_somebody_ends_it_while_it_loads(playing: Playing, tmp_path: Path) -> None:
    """The kernel, for all that anybody knows: the one that waits is told at once."""
    begun = tmp_path / "begun"

    def end() -> None:
        while not begun.exists():
            time.sleep(0.01)
        os.kill(playing.loader.pid, signal.SIGKILL)

    thread = threading.Thread(target=end)
    thread.start()
    with pytest.raises(InvalidError, match="ended the process that loaded it: signal SIGKILL"):
        playing.load(wanted("hangs", bytes(begun)))
    thread.join()


def test_no_function_is_blamed_for_a_process_that_had_not_begun(playing: Playing) -> None:
    """One that is gone is replaced; where none comes up, the function may be tried again."""
    playing.load(wanted("good")).close()
    pid = playing.loader.pid
    os.kill(pid, signal.SIGKILL)
    playing.load(wanted("good")).close()
    assert playing.loader.pid not in (0, pid)
    for program, words in ((("false",), "exit code 1"), (("/nowhere/to/be/found",), "cannot be started: No such file")):
        broken = Playing(*program)
        try:
            for _ in range(2):
                with pytest.raises(TemporaryError, match=words):
                    broken.load(wanted("good"))
        finally:
            broken.close()


def test_without_a_descriptor_for_its_socket_it_is_tried_again(
    playing: Playing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is no end of the daemon's: whoever starts the process knows this one error alone."""

    def full(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as short:
        short.setattr("mizar.kernel.function_loader.socket.socketpair", full)
        with pytest.raises(TemporaryError, match="cannot be reached: Too many open files"):
            playing.loader.start()
    playing.load(wanted("good")).close()


def test_a_fault_of_the_process_is_not_the_kernels(playing: Playing) -> None:
    """It is said as such, and the function is tried again."""
    for _ in range(2):
        with pytest.raises(InvalidError, match="the process that loaded it ended: exit code 1"):
            playing.load(wanted("fails"))


def test_closed_while_it_loads_it_ends_at_once(tmp_path: Path) -> None:
    """And nothing of it is left: no process, and no file open."""
    playing, begun, said = Playing(), tmp_path / "begun", []

    def load() -> None:
        with pytest.raises(InvalidError) as refused:
            playing.load(wanted("hangs", bytes(begun)))
        said.append(str(refused.value))

    thread = threading.Thread(target=load)
    thread.start()
    while not begun.exists():
        time.sleep(0.01)
    pid = playing.loader.pid
    playing.close()
    thread.join()
    assert "SIGKILL" in said[0]
    assert not Path(f"/proc/{pid}").exists()
    assert open_files() == playing.before
    with pytest.raises(TemporaryError, match="the daemon ends"):
        playing.load(wanted("good"))
