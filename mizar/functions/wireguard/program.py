# SPDX-License-Identifier: Apache-2.0
"""wireguard-go as a process without any privilege: its device and its socket are opened for it.

Called by mizar.transit.vpn_engines. It takes both as descriptors (WG_TUN_FD, WG_UAPI_FD; main.go of wireguard-go).
"""

from __future__ import annotations

import functools
import os
import re
import socket
import subprocess
from collections.abc import Mapping

from mizar.functions.wireguard import uapi
from mizar.kernel import tun

NAME = PACKAGE = "wireguard-go"
_BARE_SINCE = 20230223
"""Versions from this day on want packets without the four bytes of their kind before them."""


def handed(device: str, user: int, path: str) -> Mapping[str, int]:
    """A new device in the namespace of this thread, and the socket by which only root and `user` tell and ask."""
    made = tun.opened(device, _version(path) >= _BARE_SINCE)
    try:
        return {"WG_TUN_FD": made, "WG_UAPI_FD": _listening(device, user)}
    except OSError:
        os.close(made)
        raise


def _listening(device: str, user: int) -> int:
    path = uapi.path_of(device)
    path.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
    path.parent.chmod(path.parent.stat().st_mode | 0o111)  # so that each finds its own
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as made:
        os.fchmod(made.fileno(), 0o600)  # the file is made with the mode of the socket
        made.bind(str(path))
        os.chown(path, user, user, follow_symlinks=False)
        made.listen(8)
        return made.detach()


@functools.cache
def _version(path: str) -> int:
    """The day of it; 0 where it does not say."""
    argv = [path, "--version"]
    said = subprocess.run(argv, capture_output=True, text=True, timeout=5, check=False).stdout  # noqa: S603
    found = re.search(r"v\d+\.\d+\.(\d{8})", said)
    return int(found[1]) if found else 0
