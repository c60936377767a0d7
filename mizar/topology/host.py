# SPDX-License-Identifier: Apache-2.0
"""Apply, show and delete a HostTopology on this host: look, plan, execute.

Called by `mizar topology`. "This host" is the network namespace of the calling thread, with the names under /run/netns.
One process changes topologies at a time: what one looked at must not change under it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from mizar.kernel.libbpf import error_of
from mizar.kernel.topology_links import TopologyLinks
from mizar.model.errors import ConflictError, MizarError, TemporaryError
from mizar.topology.compare import Row, compare
from mizar.topology.description import HostTopology
from mizar.topology.execute import Done, Execution
from mizar.topology.look import look
from mizar.topology.plan import plan, plan_removal
from mizar.topology.present import Plan, Present
from mizar.topology.wishes import Wishes, wishes

LOCK = Path("/run/lock/mizar-topology.lock")
LOCK_S = 30.0
"""How long one waits for another; a change takes a fraction of a second."""


def apply(topology: HostTopology, *, dry_run: bool = False, done: Done = lambda _: None) -> Plan:
    """Makes the host as described and returns what was done; with `dry_run` what would be, conflicts included.

    Raises ConflictError when something of others has a wanted name, MizarError when the host lacks something that is
    needed: both before anything is changed; else what a step raises, after those before it were undone.
    """
    return _change(topology, plan, dry_run, done)


def delete(topology: HostTopology, *, dry_run: bool = False, done: Done = lambda _: None) -> Plan:
    """Takes away what the topology made, and nothing else. Raises ConflictError before anything is changed when a
    namespace that it made holds what others made."""
    return _change(topology, plan_removal, dry_run, done)


def show(topology: HostTopology) -> list[Row]:
    """Each object as wanted and as it is."""
    wanted = wishes(topology)
    with TopologyLinks() as links:
        return compare(wanted, look(links, wanted))


def refuse(found: Plan) -> None:
    """Raises ConflictError or MizarError when a plan must not be done."""
    if found.conflicts:
        raise ConflictError("\n".join([*found.conflicts, *found.refusals, "nothing was changed"]))
    if found.refusals:
        raise MizarError("\n".join([*found.refusals, "nothing was changed"]))


def _change(topology: HostTopology, planned: Callable[[Wishes, Present], Plan], dry_run: bool, done: Done) -> Plan:
    wanted = wishes(topology)
    with TopologyLinks() as links:
        if dry_run:
            return planned(wanted, look(links, wanted))
        with _locked():
            found = planned(wanted, look(links, wanted))
            refuse(found)
            Execution(links, topology.name).run(found.steps, done)
            return found


@contextlib.contextmanager
def _locked() -> Iterator[None]:
    """Holds the lock, which the kernel gives back when we are killed. TemporaryError: it stays somebody's."""
    try:
        LOCK.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise error_of(error.errno or 0, f"take the lock {LOCK}") from error
    try:
        _take(fd, time.monotonic() + LOCK_S)
        yield
    finally:
        os.close(fd)


def _take(fd: int, deadline: float) -> None:
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() >= deadline:
                raise TemporaryError("another topology is being applied or deleted on this host") from error
            time.sleep(0.05)
        else:
            return
