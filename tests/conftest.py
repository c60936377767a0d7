# SPDX-License-Identifier: Apache-2.0
"""How property tests run, and in which order files do where several run side by side.

Property tests take the same examples every time, so that a run says something of the change under test.
`HYPOTHESIS_PROFILE=search` looks for new ones instead. Tests that name their own settings inherit from this.
"""

from __future__ import annotations

import asyncio
import gc
import inspect
import os
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

settings.register_profile("steady", derandomize=True, database=None, deadline=None)
settings.register_profile("search", print_blob=True, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "steady"))

WAITING = ("lab", "transit", "gateway", "peers", "topology", "queue_worker")
"""Folders whose tests wait for processes, timers and packets most of their time; the others compute."""

_TAIL = 0.85


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Beside others, files that wait alternate with files that compute, so that there is always work for all cores.

    The last to begin are those that compute: they are short, and no core is without one.
    """
    if not hasattr(config, "workerinput"):
        return
    kinds: dict[bool, dict[Path, list[pytest.Item]]] = {True: {}, False: {}}
    for item in items:
        waiting = item.path.relative_to(Path(__file__).parent).parts[0] in WAITING
        kinds[waiting].setdefault(item.path, []).append(item)
    placed = [
        ((number + 0.5) / len(files) * (_TAIL if waiting else 1.0), found)
        for waiting, files in kinds.items()
        for number, found in enumerate(files.values())
    ]
    items[:] = [item for _, found in sorted(placed, key=lambda one: one[0]) for item in found]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    """A test of coroutines that failed, also by its limit of time, tells which task waited where."""
    report = yield
    if report.failed and call.when == "call" and inspect.iscoroutinefunction(getattr(item, "obj", None)):
        tasks = [one for one in gc.get_objects() if issubclass(type(one), asyncio.Task) and not one.done()]
        report.sections.append(("tasks that wait", "\n".join(map(_waits, tasks))))
    return report


def _waits(task: asyncio.Task[Any]) -> str:
    """The name of a task, and the lines of its coroutines from the outermost on."""
    lines: list[str] = [f"{task.get_name()}:"]
    coroutine: Any = task.get_coro()
    while (frame := getattr(coroutine, "cr_frame", None)) is not None:
        lines.append(f"  {frame.f_code.co_filename}:{frame.f_lineno} {frame.f_code.co_name}")
        coroutine = getattr(coroutine, "cr_await", None)
    return "\n".join(lines)
