# SPDX-License-Identifier: Apache-2.0
"""What a guest boots: a kernel of Debian's and an initramfs with busybox, its modules and our init script.

Fetched once by `apt-get download` into .cache/guest and unpacked there; nothing is installed. Called by tests; raises
UnavailableError with the reason where this machine cannot have it.
"""

from __future__ import annotations

import gzip
import lzma
import shutil
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parents[2] / ".cache" / "guest"
KERNEL = "linux-image-cloud-amd64"
"""A package that depends on the kernel itself: small, made for virtual machines."""
QEMU = "qemu-system-x86_64"
# In the order of dependence: each module after those that it needs.
MODULES = (
    "drivers/virtio/virtio_ring.ko",
    "drivers/virtio/virtio.ko",
    "drivers/virtio/virtio_pci_modern_dev.ko",
    "drivers/virtio/virtio_pci_legacy_dev.ko",
    "drivers/virtio/virtio_pci.ko",
    "net/core/failover.ko",
    "drivers/net/net_failover.ko",
    "drivers/net/virtio_net.ko",
)
_DOWNLOAD_S = 60


class UnavailableError(Exception):
    """There can be no guest on this machine; the text says why."""


@dataclass(frozen=True)
class Image:
    """Files that QEMU boots."""

    kernel: Path
    initramfs: Path


def image() -> Image:
    """The image, made when it is not there yet. Raises UnavailableError."""
    kernel, modules = kernel_of("kernel", KERNEL)
    initramfs = FOLDER / "initramfs.gz"
    here = Path(__file__).parent
    files = [("init", here / "init.sh"), ("etc/udhcpc.script", here / "udhcpc.sh")]
    initramfs.write_bytes(archive(files, [modules / name for name in MODULES]))
    return Image(kernel, initramfs)


def kernel_of(folder: str, package: str, *, newer: bool = False) -> tuple[Path, Path]:
    """A kernel and the folder of its modules, by the package that depends on it. Raises UnavailableError.

    `newer`: the one that Debian has ported back to this release of it.
    """
    if shutil.which(QEMU) is None:
        raise UnavailableError(f"{QEMU} is not installed (Debian: qemu-system-x86)")
    FOLDER.mkdir(parents=True, exist_ok=True)
    options = _ported_back() if newer and not (FOLDER / folder).is_dir() else ()
    root = _unpacked(folder, lambda: _kernel_package(package, options), options)
    kernels = sorted((root / "boot").glob("vmlinuz-*"))
    folders = sorted((root / "lib/modules").glob("*/kernel"))
    if not kernels or not folders:
        raise UnavailableError(f"the package in {root} holds no kernel; remove {FOLDER} and try again")
    return kernels[-1], folders[-1]


def _ported_back() -> tuple[str, ...]:
    """Options by which apt sees nothing but that, in a place of its own: nothing of this machine's is changed."""
    form = "--format=$(LABEL) $(CODENAME) $(REPO_URI)"
    known = [line.split() for line in run("apt-get", "indextargets", form, "Created-By: Packages").splitlines()]
    found = next((one for one in known if one[0] == "Debian" and "-" not in one[1]), None)
    if found is None:
        raise UnavailableError("apt here knows no release of Debian")
    _, release, uri = found
    place = FOLDER / "apt"
    (place / "lists/partial").mkdir(parents=True, exist_ok=True)
    (place / "sources.list").write_text(f"deb {uri} {release}-backports main\n")
    settings = ("Dir::Etc::SourceList", "sources.list"), ("Dir::State::Lists", "lists"), ("Dir::Cache", "cache")
    options = *(f"-o{name}={place / value}" for name, value in settings), "-oDir::Etc::SourceParts=-"
    run("apt-get", *options, "update")
    return options


def _kernel_package(package: str, options: tuple[str, ...]) -> str:
    shown = run("apt-cache", *options, "depends", "--important", package)
    found = [line.split()[-1] for line in shown.splitlines() if "Depends: linux-image-" in line]
    if not found:
        raise UnavailableError(f"no package {package} is known to apt here")
    return found[0]


def _unpacked(name: str, package: Callable[[], str], options: tuple[str, ...] = ()) -> Path:
    root = FOLDER / name
    if root.is_dir():
        return root
    place = FOLDER / f"{name}.part"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    run("apt-get", *options, "download", package(), folder=place)
    (archive,) = place.glob("*.deb")
    run("dpkg", "-x", str(archive), str(place))
    archive.unlink()
    place.rename(root)
    return root


def run(*command: str, folder: Path | None = None) -> str:
    """What a command prints. Raises UnavailableError when it fails."""
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=_DOWNLOAD_S, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        why = getattr(error, "stderr", "") or str(error)
        raise UnavailableError(f"{' '.join(command)}: {why.strip().splitlines()[-1:] or why}") from error
    return done.stdout


def archive(files: Iterable[tuple[str, Path]], modules: Iterable[Path]) -> bytes:
    """An initramfs with busybox, executable files by their place in it, and modules in the order of loading.

    cpio, new ASCII format: Documentation/driver-api/early-userspace/buffer-format.rst.
    """
    busybox = _unpacked("busybox", lambda: "busybox-static") / "bin/busybox"
    entries = [(folder, 0o40755, b"") for folder in ("bin", "dev", "proc", "sys", "tmp", "etc", "lib", "www")]
    entries += [("bin/busybox", 0o100755, busybox.read_bytes()), ("bin/sh", 0o120777, b"busybox")]
    entries += [(place, 0o100755, file.read_bytes()) for place, file in files]
    entries += [(f"lib/{number:03}-{_bare(one)}", 0o100644, _module(one)) for number, one in enumerate(modules)]
    data = b"".join(_entry(number, *entry) for number, entry in enumerate(entries, 1))
    return gzip.compress(data + _entry(0, "TRAILER!!!", 0, b""), 1)


def _bare(module: Path) -> str:
    return module.name.removesuffix(".xz")


def _module(path: Path) -> bytes:
    """As busybox loads it, which cannot decompress."""
    return lzma.decompress(path.read_bytes()) if path.suffix == ".xz" else path.read_bytes()


def _entry(inode: int, name: str, mode: int, data: bytes) -> bytes:
    path = name.encode() + b"\0"
    fields = (inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(path), 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + path
    return head + bytes(-len(head) % 4) + data + bytes(-len(data) % 4)
