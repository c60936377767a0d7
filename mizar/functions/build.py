# SPDX-License-Identifier: Apache-2.0
"""A function's C text → its ELF object, by clang, against the headers that came with Mizar.

Called by `mizar function build` and `test`, and by `mizar apply` for a Function that names its source. Never runs what
it compiles. Raises MizarError when clang or a header is missing, InvalidError with clang's own words when it refuses.
"""

from __future__ import annotations

import importlib.resources
import shutil
import subprocess
from pathlib import Path

from mizar.kernel.clang import FLAGS, find_clang, system_includes
from mizar.model.errors import InvalidError, MizarError

HEADER = "mizar_function.h"
_WARNINGS = ("-Wall", "-Wextra", "-Werror", "-Wno-unused-function", "-Wno-unused-parameter")
_PURPOSE = "a function is compiled where it is written"
_LINES_SHOWN = 20


def headers() -> Path:
    """The folder to include from: mizar_function.h and what it includes."""
    folder = Path(str(importlib.resources.files("mizar"))) / "_built" / "c" / "function"
    if not (folder / HEADER).exists():
        raise MizarError(
            f"{HEADER} is missing from this installation (mizar/_built/c/function); "
            "in a source tree run `python dataplane/build.py`, else reinstall the wheel"
        )
    return folder


def build(source: Path, output: Path | None = None) -> Path:
    """Compiles a source; the object lies beside it (NAME.o) unless told otherwise. Its path."""
    output = output or source.with_suffix(".o")
    if not source.is_file():
        raise InvalidError(f"{source}: there is no such file; `mizar function new NAME` makes one to begin with")
    clang, folder = find_clang(_PURPOSE), headers()
    command = [clang, *FLAGS, *_WARNINGS, *system_includes(_PURPOSE), f"-I{folder}", f"-I{source.parent}"]
    unfinished = output.with_suffix(".o.unfinished")
    try:
        done = _run([*command, "-c", str(source), "-o", str(unfinished)])
        if done.returncode != 0:
            shown = "\n".join(done.stderr.strip().splitlines()[:_LINES_SHOWN])
            raise InvalidError(f"clang refused {source.name}:\n{shown}")
        strip = shutil.which(clang.replace("clang", "llvm-strip")) or shutil.which("llvm-strip")
        if strip is not None:  # DWARF, which nobody reads; BTF stays
            _run([strip, "-g", str(unfinished)])
        unfinished.replace(output)
    except OSError as error:
        raise MizarError(f"{output} cannot be written: {error.strerror or error}") from error
    finally:
        unfinished.unlink(missing_ok=True)
    return output


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
