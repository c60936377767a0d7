# SPDX-License-Identifier: Apache-2.0
"""What a pinned program was made from, so that who would make the same takes it over instead.

Owns the notes beside the pins of programs: symbolic links that lead nowhere, because bpffs has no files and a note has
to go when its program does. Called by programs.load(). The verifier takes most of a second for all of a droplet's
programs; one made from the same object, configuration and sizes of maps, on the very maps that are pinned now, is what
it would let through once more. A note must never stand beside another program: it goes before that does, and comes
after.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mizar.kernel import libbpf
from mizar.kernel.bpffs import Pins

_END = "_made_from"


@dataclass(frozen=True, slots=True)
class Build:
    """Of one program: `digest` of all that it was made from, and the kernel's numbers of its maps, by name."""

    digest: str
    maps: Mapping[str, int]

    def write(self, folder: Path, program: str) -> None:
        """Beside the pin of a program that has none."""
        maps = (f"{name}={number}" for name, number in self.maps.items())
        (folder / f"{program}{_END}").symlink_to(" ".join([self.digest, *maps]))

    @classmethod
    def read(cls, folder: Path, program: str) -> Build | None:
        """None where nothing is noted of the program."""
        try:
            digest, *maps = str((folder / f"{program}{_END}").readlink()).split(" ")
        except OSError:
            return None
        return cls(digest, {name: int(number) for name, _, number in (one.partition("=") for one in maps)})


def reopened(pins: Pins, program: str, made_from: str, held: Mapping[str, int]) -> tuple[int, dict[str, int]] | None:
    """File descriptors of the pinned program, and by name of those of its maps that `held` lacks; None where it was
    made from something else, or from other maps than are pinned now. The caller closes them."""
    build = Build.read(pins.progs, program)
    if build is None or build.digest != made_from:
        return None
    opened: dict[str, int] = {}
    with contextlib.ExitStack() as in_vain:
        for name, number in build.maps.items():
            fd = held[name] if name in held else libbpf.open_pin(pins.maps / name)
            if fd is None:
                return None
            if name not in held:
                opened[name] = fd
                in_vain.callback(os.close, fd)
            if libbpf.info("map", fd).id != number:
                return None
        found = libbpf.open_pin(pins.progs / program)
        if found is None:
            return None
        in_vain.pop_all()
    return found, opened


def digest(data: bytes, *others: object) -> str:
    """Of an object and of all else that tells how it is loaded."""
    found = hashlib.blake2b(data, digest_size=16)
    found.update(repr(others).encode())
    return found.hexdigest()


def forget(folder: Path, program: str) -> None:
    """Nothing is known of the program from now on."""
    (folder / f"{program}{_END}").unlink(missing_ok=True)


def program_of(pin: Path) -> str:
    """The program that is pinned there, or that the note is about."""
    return pin.name.removesuffix(_END)
