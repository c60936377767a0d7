# SPDX-License-Identifier: Apache-2.0
"""Builds the emulated switch's driver, once, into .cache/: a plug-in for DPDK's programs (`-d`).

Debian's libdpdk-dev lacks the headers that drivers are made with; they are taken from Debian's source of the same
version, which apt downloads and checks. What is there already is neither fetched nor built again.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
CACHE = HERE.parents[2] / ".cache"
HEADER_FOLDERS = ("lib/ethdev/", "lib/eal/include/", "drivers/bus/vdev/")
LIBRARIES = ("-lrte_ethdev", "-lrte_bus_vdev", "-lrte_kvargs", "-lrte_eal")
LIMIT_S = 300


class CannotBuildError(Exception):
    """Something that the build needs is not on this system; the text says what."""


def driver() -> Path:
    """The plug-in. Raises CannotBuildError."""
    for program, package in (("clang", "clang"), ("pkg-config", "pkg-config"), ("apt-get", "apt")):
        if shutil.which(program) is None:
            raise CannotBuildError(f"{program} is missing (Debian's package {package})")
    version = _version()
    sources = sorted(HERE.glob("*.[ch]"))
    digest = hashlib.sha256(version.encode())
    for source in (Path(__file__), *sources):
        digest.update(source.read_bytes())
    made = CACHE / f"switch-driver-{digest.hexdigest()[:16]}.so"
    if not made.exists():
        _compile(sources, _headers(version), made)
    return made


def _version() -> str:
    """Of Debian's source package."""
    asked = ["dpkg-query", "-W", "-f", "${db:Status-Status} ${source:Version}", "libdpdk-dev"]
    said = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.split()
    if said[:1] != ["installed"]:
        raise CannotBuildError("dpdk's headers are missing (Debian's package libdpdk-dev)")
    if not said[1].startswith("22.11"):
        raise CannotBuildError(f"the driver is written for DPDK 22.11, here is {said[1]}")
    return said[1]


def _compile(sources: list[Path], headers: Path, made: Path) -> None:
    flags = subprocess.run(["pkg-config", "--cflags", "libdpdk"], capture_output=True, text=True, check=True).stdout
    includes = [f"-I{headers / folder}" for folder in HEADER_FOLDERS]
    units = [str(source) for source in sources if source.suffix == ".c"]
    unfinished = made.with_suffix(f".{os.getpid()}")
    command = ["clang", "-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", *flags.split(), *includes]
    command += ["-DALLOW_INTERNAL_API", "-DALLOW_EXPERIMENTAL_API", *units, "-o", str(unfinished), *LIBRARIES]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=LIMIT_S)
    assert done.returncode == 0, done.stderr  # a mistake in the driver, nothing that is missing
    unfinished.replace(made)


def _headers(version: str) -> Path:
    """The folder with the drivers' headers of a version."""
    folder = CACHE / f"dpdk-{version}"
    if folder.exists():
        return folder
    CACHE.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as name:
        place = Path(name)
        archive = _download(version, place)
        unpacked = place / "headers"
        with tarfile.open(archive) as source:
            for member in source.getmembers():
                inside = member.name.partition("/")[2]
                if member.isfile() and inside.endswith(".h") and inside.startswith(HEADER_FOLDERS):
                    header = unpacked / inside
                    assert header.resolve().is_relative_to(unpacked.resolve()), member.name
                    data = source.extractfile(member)
                    assert data is not None
                    header.parent.mkdir(parents=True, exist_ok=True)
                    header.write_bytes(data.read())
        try:
            unpacked.rename(folder)
        except OSError:  # somebody else was faster
            assert folder.exists()
    return folder


def _download(version: str, place: Path) -> Path:
    """The upstream archive of Debian's source package, from the system's own mirrors, with lists of our own."""
    sources = place / "sources.sources"
    sources.write_text(_as_sources())
    (place / "lists" / "partial").mkdir(parents=True)
    options = [f"Dir::Etc::sourcelist={sources}", "Dir::Etc::sourceparts=-", f"Dir::State::lists={place / 'lists'}"]
    options += ["APT::Sandbox::User=root"]
    apt = ["apt-get", "-q", *(word for option in options for word in ("-o", option))]
    for command in (["update"], ["source", "--download-only", f"dpdk={version}"]):
        done = subprocess.run([*apt, *command], cwd=place, capture_output=True, text=True, check=False, timeout=LIMIT_S)
        if done.returncode:
            raise CannotBuildError(f"Debian's source of dpdk {version} cannot be had: {done.stderr.strip()[-500:]}")
    return next(place.glob("dpdk_*.orig.tar.*"))


def _as_sources() -> str:
    """The system's package sources, asked for sources: deb822 stanzas, and lines of the old form turned into them."""
    found = []
    etc = Path("/etc/apt")
    for file in sorted(etc.glob("sources.list.d/*.sources")):
        found.append(re.sub(r"(?m)^Types:.*$", "Types: deb-src", file.read_text()))
    for file in [etc / "sources.list", *sorted(etc.glob("sources.list.d/*.list"))]:
        for line in file.read_text().splitlines() if file.exists() else ():
            old = re.match(r"deb(?:-src)?\s+(?:\[(.*?)\]\s+)?(\S+)\s+(\S+)\s+(.+)", line)
            if old is not None:
                found.append(_stanza(*old.groups()))
    return "\n\n".join(found) + "\n"


def _stanza(options: str | None, uri: str, suite: str, components: str) -> str:
    signed = re.search(r"signed-by=(\S+)", options or "")
    words = {"Types": "deb-src", "URIs": uri, "Suites": suite, "Components": components.strip()}
    if signed is not None:
        words["Signed-By"] = signed[1]
    return "\n".join(f"{name}: {value}" for name, value in words.items())
