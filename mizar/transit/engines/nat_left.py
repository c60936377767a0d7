# SPDX-License-Identifier: Apache-2.0
"""What an instance of a NAT gateway has outside of its own folder and namespace: what the droplet attracts for it, and
the program and connections of its gateway. And the way to leave none of it.

Called by `nat_gateway`, at the daemon's cleanup and by labs. Blocks.
"""

import contextlib
import hashlib
import json
import shutil
from ipaddress import ip_address
from pathlib import Path

from mizar.gateway.options import pins, place
from mizar.kernel import nat_guard, nat_way
from mizar.transit.told import folders

HOME, RECORD = "nat", "attracted.json"


def name_of(uid: str) -> str:
    """Of the gateway on the host: what `mizar gateway connections --name` takes."""
    return f"nat-{hashlib.sha256(uid.encode()).hexdigest()[:12]}"


def let_go(home: Path, uid: str) -> None:
    """The droplet attracts nothing for an instance any more. Called in the droplet's namespace."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        record = json.loads((home / RECORD).read_text())
        nat_guard.release_host(record["uplink"], nat_way.name_of(uid))
        nat_way.remove(uid, record["uplink"], [ip_address(text) for text in record["public"]])
        nat_guard.close_host()
        (home / RECORD).unlink()


def forget(name: str) -> None:
    """Program and connections of a gateway, whose process has ended."""
    pins(name).remove()
    shutil.rmtree(place(name), ignore_errors=True)


def let_go_of_all(folder: Path) -> None:
    """Of all instances that a folder tells of; behind it told.remove_all does the rest."""
    for own in folders(folder):
        let_go(own / HOME, own.name)


def forget_all(folder: Path) -> None:
    """Of all instances that a folder tells of: their processes are about to end."""
    for own in folders(folder):
        if (own / HOME).is_dir():
            forget(name_of(own.name))
