# SPDX-License-Identifier: Apache-2.0
"""Where pins live: /sys/fs/bpf/mizar/<instance>/{maps,progs,links}.

Owns the mount of the bpf file system and the folders of an instance. Called by the daemon before it loads programs,
by the lab and by tests. It must never be used through `ip netns exec`, which mounts a fresh /sys and hides all pins.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
from dataclasses import dataclass
from pathlib import Path

from mizar.kernel import libbpf
from mizar.model.errors import InvalidError

ROOT = Path("/sys/fs/bpf")
_BPF_FS_MAGIC = 0xCAFE4A11  # BPF_FS_MAGIC, linux/magic.h
_INSTANCE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,62}")  # no dot: bpffs refuses it in names


class _StatFs(ctypes.Structure):
    _fields_ = (("f_type", ctypes.c_long), ("rest", ctypes.c_byte * 248))


def is_mounted(root: Path = ROOT) -> bool:
    """Whether `root` lies in a bpf file system."""
    libc = ctypes.CDLL(None, use_errno=True)
    found = _StatFs()
    return bool(libc.statfs(os.fsencode(root), ctypes.byref(found)) == 0 and found.f_type == _BPF_FS_MAGIC)


def ensure_mounted(root: Path = ROOT) -> bool:
    """Mounts the bpf file system on `root` when none is there. Returns whether it had to."""
    if is_mounted(root):
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"bpf", os.fsencode(root), b"bpf", ctypes.c_ulong(0), b"mode=0700") != 0:
        number = ctypes.get_errno()
        if number != errno.EBUSY:  # somebody else was faster
            raise libbpf.error_of(number, f"mount the bpf file system on {root}")
    return True


@dataclass(frozen=True)
class Pins:
    """The folders of one instance."""

    folder: Path

    @classmethod
    def of(cls, instance: str, root: Path = ROOT / "mizar") -> Pins:
        """The folders of `instance`, which need not exist. Raises InvalidError on a name that cannot be a folder."""
        if not _INSTANCE.fullmatch(instance):
            raise InvalidError(f"{instance!r} cannot name an instance: letters, digits, _ and -, at most 63")
        return cls(root / instance)

    @property
    def maps(self) -> Path:
        """Folder of the maps, by their names in the programs."""
        return self.folder / "maps"

    @property
    def progs(self) -> Path:
        """Folder of the programs: agent, transit, deliver."""
        return self.folder / "progs"

    @property
    def links(self) -> Path:
        """Folder of the attachments; the daemon chooses the names."""
        return self.folder / "links"

    @property
    def chains(self) -> Path:
        """Folder of the links between network functions."""
        return self.folder / "chains"

    @property
    def functions(self) -> Path:
        """Folder of folders: the own maps of each network function."""
        return self.folder / "functions"

    def make(self) -> None:
        """Makes the folders that are missing, with the file system under them."""
        ensure_mounted()
        for folder in (self.maps, self.progs, self.links, self.chains, self.functions):
            folder.mkdir(parents=True, exist_ok=True)

    def remove(self) -> None:
        """Removes every pin and the folders. Programs stay attached only where something else still holds them."""
        own = sorted(self.functions.iterdir()) if self.functions.is_dir() else []
        # Traffic ends before what it needs is taken away.
        for folder in (self.links, self.progs, self.chains, *own, self.functions, self.maps):
            if folder.is_dir():
                for entry in folder.iterdir():
                    entry.unlink()
                folder.rmdir()
        if self.folder.is_dir():
            self.folder.rmdir()


def instances(root: Path = ROOT / "mizar") -> list[str]:
    """Names of all instances with pins on this machine, sorted."""
    return sorted(entry.name for entry in root.iterdir() if entry.is_dir()) if root.is_dir() else []
