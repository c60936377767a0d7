# SPDX-License-Identifier: Apache-2.0
"""`mizar version`."""

from __future__ import annotations

import platform
from importlib import metadata

from mizar.cli.output import Format, Output, columns, emit


def version(output: Output = Format.TABLE) -> None:
    """Print the versions of Mizar, Python and the kernel."""
    versions = {"mizar": metadata.version("mizar"), "python": platform.python_version(), "kernel": platform.release()}
    emit(versions, output, lambda: columns(("WHAT", "VERSION"), versions.items()))
