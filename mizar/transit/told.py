# SPDX-License-Identifier: Apache-2.0
"""The folder of each thing that a daemon keeps, a function or a tunnel: what it was told, for the next daemon, and the
way to leave none.

Called by engines.host and vpns, at the daemon's cleanup and by labs. Blocks. What is told may hold secrets: root alone
reads it.
"""

import contextlib
import os
import shutil
from pathlib import Path

from mizar.kernel import namespaces
from mizar.model.errors import MizarError
from mizar.transit.processes import end_recorded

PROCESS = "process"
"""Where the process of a function is told of, in its folder; of a tunnel, in the folder itself."""
_TOLD, _PLACE = "told", "namespace"


def keep(folder: Path, name: str, told: bytes, brought: str = "") -> Path:
    """Writes what one was told, whole or not at all; `brought` is the name of its namespace, where the daemon has
    brought it. Its own folder."""
    own = folder / name
    folder.mkdir(parents=True, exist_ok=True, mode=0o711)
    own.mkdir(exist_ok=True, mode=0o711)
    if brought:
        (own / _PLACE).write_text(brought)
    written = own / f"{_TOLD}.new"
    written.unlink(missing_ok=True)
    with os.fdopen(os.open(written, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
        file.write(told)
    written.replace(own / _TOLD)
    return own


def kept(own: Path) -> bytes:
    """What one was told; empty for none."""
    with contextlib.suppress(OSError):
        return (own / _TOLD).read_bytes()
    return b""


def folders(folder: Path) -> list[Path]:
    """Those of all that are kept in a folder."""
    return sorted(one for one in folder.iterdir() if one.is_dir()) if folder.is_dir() else []


def clear(own: Path) -> None:
    """The rest of one that has ended, or of one that nobody knows any more."""
    for folder in (own, own / PROCESS):  # nowhere else: there a process may write what it likes
        end_recorded(folder)
    shutil.rmtree(own, ignore_errors=True)


def remove_all(folder: Path) -> int:
    """Ends all that an instance of the daemon kept there, with processes, files and the names of namespaces that it
    brought; returns how many there were."""
    found = folders(folder)
    for one in found:
        with contextlib.suppress(OSError, MizarError):
            namespaces.remove((one / _PLACE).read_text())
        clear(one)
    shutil.rmtree(folder, ignore_errors=True)
    return len(found)


def own_folder(path: Path, mode: int, user: int = 0, group: int = 0) -> None:
    """A folder of a user's."""
    path.mkdir(exist_ok=True, parents=True, mode=0o700)
    os.chown(path, user, group, follow_symlinks=False)
    path.chmod(mode)


def own_file(path: Path, content: str, user: int) -> None:
    """Readable by one user alone from its first moment."""
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o400)
    with os.fdopen(descriptor, "w") as file:
        os.fchown(descriptor, user, user)
        file.write(content)
