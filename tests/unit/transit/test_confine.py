# SPDX-License-Identifier: Apache-2.0
"""What a confined process cannot do, and what it goes on to do."""

from __future__ import annotations

import errno
import platform
import subprocess
import sys

import pytest

from mizar.transit.processes import _CONFINE

pytestmark = pytest.mark.root
_CLONE = {"x86_64": 56, "aarch64": 220}.get(platform.machine(), 0)
_ASKED = """
import ctypes, os, subprocess, sys, threading
thread = threading.Thread(target=lambda: None)
thread.start()
thread.join()
subprocess.run(["true"], check=True)
library = ctypes.CDLL(None, use_errno=True)
if library.syscall(*map(int, sys.argv[1:])) == 0:
    os._exit(0)
print(ctypes.get_errno())
"""


def refused(*call: int) -> int:
    """The error that a system call gives; threads and processes are begun before it."""
    argv = [sys.executable, "-I", "-S", str(_CONFINE), "--", sys.executable, "-c", _ASKED, *map(str, call)]
    said = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=True).stdout
    return int(said or 0)


@pytest.mark.skipif(not _CLONE, reason="there is no filter for this machine")
@pytest.mark.parametrize("flag", [0x00020000, 0x10000000, 0x40000000], ids=["mounts", "users", "network"])
def test_no_process_is_begun_in_namespaces_of_its_own(flag: int) -> None:
    """There it would have every privilege that it has lost."""
    assert refused(_CLONE, flag | 17, 0, 0, 0, 0) == errno.EPERM


@pytest.mark.skipif(not _CLONE, reason="there is no filter for this machine")
def test_nor_by_the_call_whose_flags_nobody_sees() -> None:
    """Who asks for it asks for the older one then."""
    assert refused(435, 0, 0) == errno.ENOSYS
