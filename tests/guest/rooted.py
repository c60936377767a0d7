# SPDX-License-Identifier: Apache-2.0
"""A guest with Debian's full kernel and the host's root: this checkout's own Python runs in it, on another kernel.

The host's root is mounted over 9p, read-only, under a layer in memory; modules load by themselves. A folder of the test
is shared for writing, at the same path. Boots in four to nine seconds.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from tests.guest.image import FOLDER, QEMU, Image, UnavailableError, archive, kernel_of, run
from tests.guest.machine import Console

KERNEL = "linux-image-amd64"
ROOT = Path(__file__).parents[2]
NEEDED = ("9p", "9pnet_virtio", "virtio_pci", "overlay")
"""Modules that stand between the kernel and its root, where they are not part of it."""
_BASE = (
    "-M q35,sata=off,smbus=off,usb=off,vmport=off -accel tcg,thread=multi -cpu max -m 1024 -smp 2 -nodefaults "
    "-no-reboot -display none -serial stdio -monitor none"
)
_LINE = "console=ttyS0 quiet panic=-1 nokaslr mitigations=off rdinit=/init"


def rooted_image(*, newer: bool = False) -> Image:
    """The image, made when it is not there yet. Raises UnavailableError. `newer`: see image.kernel_of()."""
    folder = "newer" if newer else "full"
    kernel, modules = kernel_of(folder, KERNEL, newer=newer)
    listed = modules.parent / "modules.dep"
    if not listed.exists():
        run("depmod", "-b", str(modules.parents[3]), modules.parent.name)
    initramfs = FOLDER / ("rooted-newer.gz" if newer else "rooted.gz")
    if not initramfs.exists():
        needed = {line.split(":")[0]: line.split(":")[1].split() for line in listed.read_text().splitlines()}
        built_in = {Path(line).stem for line in (modules.parent / "modules.builtin").read_text().splitlines()}
        names = [name for name in NEEDED if name not in built_in]
        wanted = [place for name in names for place in needed if Path(place).name.removesuffix(".xz") == f"{name}.ko"]
        if len(wanted) < len(names):
            raise UnavailableError(f"the kernel in {FOLDER / folder} lacks one of {', '.join(NEEDED)}")
        paths = dict.fromkeys(one for place in wanted for one in _in_order(place, needed))
        made = archive([("init", Path(__file__).with_name("rooted.sh"))], [modules.parent / one for one in paths])
        part = initramfs.with_suffix(".part")
        part.write_bytes(made)
        part.rename(initramfs)
    return Image(kernel, initramfs)


class Rooted(Console):
    """One virtual machine; `shared` is a folder that host and guest write to."""

    def __init__(self, image: Image, shared: Path) -> None:
        modules = image.kernel.parents[1] / "lib/modules"
        told = f"{_LINE} mizar.root={ROOT} mizar.modules={modules} mizar.shared={shared}"
        folders = [
            *("-fsdev", "local,id=r,path=/,security_model=none,readonly=on,multidevs=remap"),
            *("-device", "virtio-9p-pci,fsdev=r,mount_tag=hostroot"),
            *("-fsdev", f"local,id=s,path={shared},security_model=none,multidevs=remap"),
            *("-device", "virtio-9p-pci,fsdev=s,mount_tag=shared"),
        ]
        boot = ["-kernel", str(image.kernel), "-initrd", str(image.initramfs), "-append", told]
        super().__init__([QEMU, *_BASE.split(), *folders, *boot])

    def python(self, module: str, *arguments: str, limit_s: float = 120.0) -> str:
        """What a module of this checkout prints."""
        return self.run(f"cd {ROOT} && {sys.executable} -B -m {module} {' '.join(arguments)}", limit_s)


def _in_order(place: str, needed: dict[str, list[str]]) -> Iterator[str]:
    """A module behind everything that it needs: modules.dep names the nearest first."""
    yield from reversed(needed[place])
    yield place
