# SPDX-License-Identifier: Apache-2.0
"""Run in a guest, in whose kernel control groups are free: a process that wants more than it may have.

`python -m tests.guest.cgroup_guest FOLDER`. Prints what became of it as JSON.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from mizar.transit import cgroups
from mizar.transit.processes import Process, Program, end_recorded

LIMIT_S, MOST, MEMORY_BYTES = 100.0, 16, 64 << 20
GREEDY = """
import os, time
made = 0
try:
    while True:
        if not os.fork():
            held = bytearray(40 << 20) if made < 4 else b""
            time.sleep(1000)
        made += 1
except OSError:
    print("made", made, flush=True)
time.sleep(1000)
"""


async def greedy(folder: Path) -> dict[str, Any]:
    """How many processes it could make, how often one was killed for memory, and what its end leaves."""
    said: list[str] = []
    groups = cgroups.opened()
    process = Process(folder / "d1" / "u1" / "process", said.append, groups=groups)
    program = Program((sys.executable, "-c", GREEDY), "path:/proc/self/ns/net", user=1_900_000_001, pids=MOST)
    assert groups.folder is not None
    group = groups.folder / "d1-u1-process"
    await process.run(program)
    (group / "memory.max").write_text(str(MEMORY_BYTES))
    (group / "memory.swap.max").write_text("0")
    end = time.monotonic() + LIMIT_S
    while not (said and "oom_kill 0" not in (group / "memory.events").read_text()) and time.monotonic() < end:
        await asyncio.sleep(0.1)
    found = {
        "told": groups.told,
        "said": said,
        "pids": (group / "pids.max").read_text().strip(),
        "inside": str(process.standing.pid) in (group / "cgroup.procs").read_text().split(),
        "killed": "oom_kill 0" not in (group / "memory.events").read_text(),
    }
    process.close()
    await asyncio.to_thread(end_recorded, folder / "d1" / "u1" / "process")
    return found | {"left": group.exists()}


if __name__ == "__main__":
    os.umask(0o022)
    print(json.dumps(asyncio.run(greedy(Path(sys.argv[1])))))
