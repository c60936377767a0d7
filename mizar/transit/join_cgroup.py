# SPDX-License-Identifier: Apache-2.0
"""Joins a control group, and becomes the program that is named behind it.

Run by mizar.transit.processes as a program of its own, before anything else: `join_cgroup.py GROUP PROGRAM...`, so that
nothing of it is ever outside. It must import nothing but the standard library.
"""

import os
import sys
from pathlib import Path

if __name__ == "__main__":
    (Path(sys.argv[1]) / "cgroup.procs").write_text("0")
    os.execvp(sys.argv[2], sys.argv[2:])  # noqa: S606
