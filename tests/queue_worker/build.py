# SPDX-License-Identifier: Apache-2.0
"""Builds examples/queue_worker, once, into .cache/."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "examples" / "queue_worker"
CACHE = ROOT / ".cache"


class CannotBuildError(Exception):
    """Something that the build needs is not on this system; the text says what."""


def worker() -> Path:
    """The program. Raises CannotBuildError."""
    for program, package in (("make", "make"), ("clang", "clang"), ("pkg-config", "pkg-config")):
        if shutil.which(program) is None:
            raise CannotBuildError(f"{program} is missing (Debian's package {package})")
    if subprocess.run(["pkg-config", "--exists", "libdpdk", "libbpf"], check=False).returncode:
        raise CannotBuildError("headers of dpdk or libbpf are missing (Debian's packages libdpdk-dev and libbpf-dev)")
    digest = hashlib.sha256((ROOT / "contracts" / "gateway.h").read_bytes())
    for source in sorted(SOURCES.iterdir()):
        digest.update(source.read_bytes())
    made = CACHE / f"queue-worker-{digest.hexdigest()[:16]}"
    if not made.exists():
        CACHE.mkdir(exist_ok=True)
        unfinished = made.with_suffix(f".{os.getpid()}")
        command = ["make", "-s", "-C", str(SOURCES), f"OUTPUT={unfinished}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 0, done.stderr  # a mistake in the program, nothing that is missing
        unfinished.replace(made)
    return made
