# SPDX-License-Identifier: Apache-2.0
"""Network namespaces: opened, proven to be one, entered, made and removed.

Called by links (the workload's end of a veth), by the lab and by tests. It must never change the namespace of a
thread that somebody else uses: code runs in another namespace only on a thread of its own, which ends with it.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from mizar.kernel import libbpf
from mizar.model.errors import InvalidError, NotFoundError

T = TypeVar("T")

FOLDER = Path("/run/netns")
"""Where named namespaces are mounted, the convention of ip-netns(8)."""

_CLONE_NEWNET = 0x40000000
_NS_GET_NSTYPE = 0xB703  # linux/nsfs.h
_MS_BIND, _MS_REC, _MS_SHARED, _MNT_DETACH = 0x1000, 0x4000, 0x100000, 2


@dataclass(frozen=True)
class Namespace:
    """An open network namespace. It exists at least as long as this value is open, whatever happens to its name."""

    fd: int
    spec: str
    """How it was named: `name:<n>`, `pool:<n>`, `path:<p>`, `pid:<n>`; what open_spec() takes."""

    @classmethod
    def by_name(cls, name: str) -> Namespace:
        """One under /run/netns. Raises NotFoundError, or InvalidError when it is no network namespace."""
        return cls._open(_path_of(name), f"name:{name}")

    @classmethod
    def by_path(cls, path: str | Path) -> Namespace:
        """One by any file of it, such as /proc/1/ns/net. Errors as by_name()."""
        return cls._open(Path(path), f"path:{path}")

    @classmethod
    def by_pid(cls, pid: int) -> Namespace:
        """The one that a process is in. Errors as by_name()."""
        return cls._open(Path(f"/proc/{pid}/ns/net"), f"pid:{pid}")

    @classmethod
    def current(cls) -> Namespace:
        """The one of the calling thread."""
        return cls._open(Path("/proc/thread-self/ns/net"), "path:/proc/thread-self/ns/net")

    @classmethod
    def open_spec(cls, spec: str) -> Namespace:
        """One as `spec` of another value says."""
        kind, _, rest = spec.partition(":")
        if kind == "name":
            return cls.by_name(rest)
        if kind == "pool":
            return cls._open(_path_of(rest), spec)
        if kind == "path":
            return cls.by_path(rest)
        if kind == "pid" and rest.isdecimal():
            return cls.by_pid(int(rest))
        raise InvalidError(f"{spec!r} does not say which network namespace: name:<n>, pool:<n>, path:<p> or pid:<n>")

    @classmethod
    def _open(cls, path: Path, spec: str) -> Namespace:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise libbpf.error_of(error.errno or 0, f"open the network namespace {spec}") from error
        try:
            kind = fcntl.ioctl(fd, _NS_GET_NSTYPE)
        except OSError:
            kind = 0  # not a file of a namespace at all
        if kind != _CLONE_NEWNET:
            os.close(fd)
            raise InvalidError(f"{path} is not a network namespace")
        return cls(fd, spec)

    @property
    def identity(self) -> tuple[int, int]:
        """Equal exactly for equal namespaces: device and inode."""
        facts = os.fstat(self.fd)
        return facts.st_dev, facts.st_ino

    def run(self, call: Callable[[], T]) -> T:
        """Calls `call` in this namespace, on a thread of its own; returns its result or raises what it raised."""
        results: list[T] = []
        errors: list[BaseException] = []

        def work() -> None:
            try:
                enter(self.fd)
                results.append(call())
            except BaseException as error:  # noqa: BLE001 - handed over to the caller, who waits
                errors.append(error)

        thread = threading.Thread(target=work, name=f"in {self.spec}", daemon=True)
        thread.start()
        thread.join()
        if errors:
            raise errors[0]
        return results[0]

    def close(self) -> None:
        """Closes the file descriptor."""
        os.close(self.fd)

    def __enter__(self) -> Namespace:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def enter(fd: int) -> None:
    """Moves the calling thread into the namespace for good. For threads and processes made for that."""
    _call("enter a network namespace", "setns", fd, _CLONE_NEWNET)


def create(name: str) -> Namespace:
    """Makes an empty named namespace, as `ip netns add` does. Raises ConflictError when the name is taken."""
    _path_of(name)  # refuses what cannot be a name before anything is made
    with anonymous() as made:
        publish(made, name)
    return Namespace.by_name(name)


def publish(namespace: Namespace, name: str) -> None:
    """Gives a namespace a name, under which it outlives those who have it open. Raises ConflictError when the name is
    taken."""
    path = _path_of(name)
    _share_folder()
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL, 0o444))
    except OSError as error:
        raise libbpf.error_of(error.errno or 0, f"create the network namespace {name}") from error
    source = os.fsencode(f"/proc/self/fd/{namespace.fd}")
    try:
        _call(f"mount the network namespace {name}", "mount", source, os.fsencode(path), b"none", _MS_BIND, None)
    except BaseException:
        path.unlink()
        raise


def anonymous() -> Namespace:
    """Makes an empty namespace without a name: it ends when it is closed and nothing uses it any more."""

    def make() -> Namespace:
        _call("create a network namespace", "unshare", _CLONE_NEWNET)
        return Namespace.current()

    with Namespace.current() as here:
        return here.run(make)


def remove(name: str) -> None:
    """Takes a name away; the namespace ends with its last process and open file. Raises NotFoundError."""
    path = _path_of(name)
    if not path.is_file():  # never a folder: unmounting one would take other people's namespaces along
        raise NotFoundError(f"there is no network namespace {name!r}")
    with contextlib.suppress(InvalidError):  # EINVAL: nothing is mounted on the file, left by a half-done create()
        _call(f"unmount the network namespace {name}", "umount2", os.fsencode(path), _MNT_DETACH)
    path.unlink()


def exists(name: str) -> bool:
    """Whether a name is taken."""
    return _path_of(name).exists()


def names() -> list[str]:
    """Names of all named namespaces, sorted."""
    return sorted(entry.name for entry in FOLDER.iterdir()) if FOLDER.is_dir() else []


@contextlib.contextmanager
def scratch(name: str) -> Iterator[Namespace]:
    """A named namespace for the length of a block."""
    namespace = create(name)
    try:
        yield namespace
    finally:
        namespace.close()
        remove(name)


def _path_of(name: str) -> Path:
    if not name or "/" in name or name in (".", ".."):
        raise InvalidError(f"{name!r} cannot name a network namespace")
    return FOLDER / name


def _share_folder() -> None:
    # The folder is a shared mount of its own, so that names made in one mount namespace appear and vanish in all.
    FOLDER.mkdir(parents=True, exist_ok=True)
    folder = os.fsencode(FOLDER)
    try:
        _call("share /run/netns", "mount", b"", folder, b"none", _MS_SHARED | _MS_REC, None)
    except InvalidError:  # no mount of its own yet
        _call("mount /run/netns on itself", "mount", folder, folder, b"none", _MS_BIND | _MS_REC, None)
        _call("share /run/netns", "mount", b"", folder, b"none", _MS_SHARED | _MS_REC, None)


def _call(what: str, function: str, *arguments: bytes | int | None) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    values = [ctypes.c_ulong(value) if isinstance(value, int) else value for value in arguments]
    if getattr(libc, function)(*values) != 0:
        raise libbpf.error_of(ctypes.get_errno(), what)
