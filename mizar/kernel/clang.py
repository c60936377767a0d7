# SPDX-License-Identifier: Apache-2.0
"""Compiles the C text of a gateway's program on this host, against the headers that came with Mizar, and finds the
compiler for functions.

Called by whoever loads a pipeline, by mizar.functions.build, and by the command line. Everything else of Mizar is
compiled when it is built; a pipeline is known only here. Never runs what it compiles. Raises MizarError when clang is
missing.
"""

from __future__ import annotations

import functools
import importlib.resources
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

from mizar.model.errors import MizarError

AT_LEAST = 14
FLAGS = ("-O2", "-g", "-target", "bpf", "-mcpu=v3", "-ffreestanding", "-fno-strict-aliasing")
_WARNINGS = ("-Wall", "-Wextra", "-Werror", "-Wno-unused-variable", "-Wno-unused-parameter")
_LINES_SHOWN = 20
_PIPELINE = "a pipeline is compiled on the host that runs it"


def compile_program(text: str, name: str) -> bytes:
    """The ELF object of a program of C text. Raises MizarError: no clang, no headers, or it refuses the text."""
    clang = find_clang(_PIPELINE)
    with tempfile.TemporaryDirectory(prefix="mizar-pipeline-") as folder:
        source, output = Path(folder) / "gateway.c", Path(folder) / "gateway.o"
        source.write_text(text)
        command = [clang, *FLAGS, *_WARNINGS, *system_includes(_PIPELINE), f"-I{_headers()}"]
        done = _run([*command, "-c", str(source), "-o", str(output)])
        if done.returncode != 0:
            shown = "\n".join(done.stderr.strip().splitlines()[:_LINES_SHOWN])
            raise MizarError(f"clang refused the program of pipeline {name}; that is a mistake of Mizar:\n{shown}")
        strip = shutil.which(clang.replace("clang", "llvm-strip")) or shutil.which("llvm-strip")
        if strip is not None:
            _run([strip, "-g", str(output)])
        return output.read_bytes()


@functools.cache
def find_clang(purpose: str) -> str:
    """The newest clang at hand that is new enough. `purpose`: for what, in words. Raises MizarError."""
    found = None
    for name in ("clang", *(f"clang-{version}" for version in range(30, AT_LEAST - 1, -1))):
        path = shutil.which(name)
        if path is None:
            continue
        macros = _run([path, "-dM", "-E", "-x", "c", "/dev/null"]).stdout
        major = next((line.split()[2] for line in macros.splitlines() if " __clang_major__ " in line), "0")
        if int(major) >= AT_LEAST:
            return path
        found = f"{path} is version {major}"
    raise MizarError(
        f"{purpose}, which needs clang {AT_LEAST} or newer "
        f"({found or 'there is none'}); on Debian and Ubuntu: apt install clang libbpf-dev linux-libc-dev"
    )


def _headers() -> Path:
    """dataplane/gateway as the package carries it, in a folder of its own name."""
    folder = Path(str(importlib.resources.files("mizar"))) / "_built" / "c"
    if not (folder / "gateway" / "pipeline.h").exists():
        raise MizarError(
            "the headers of the gateway's programs are missing from this installation (mizar/_built/c); "
            "in a source tree run `python dataplane/build.py`, else reinstall the wheel"
        )
    return folder


def system_includes(purpose: str) -> list[str]:
    """Debian keeps asm/types.h in a folder per architecture, which -target bpf does not search."""
    include = Path("/usr/include")
    if not (include / "bpf" / "bpf_helpers.h").exists():
        raise MizarError(f"{purpose}, which needs libbpf's headers: on Debian and Ubuntu apt install libbpf-dev")
    if (include / "asm" / "types.h").exists():
        return []
    for header in sorted(include.glob(f"{platform.machine()}-*/asm/types.h")) or sorted(include.glob("*/asm/types.h")):
        return ["-idirafter", str(header.parent.parent)]
    raise MizarError(f"{purpose}, which needs the kernel's headers: on Debian and Ubuntu apt install linux-libc-dev")


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
