# SPDX-License-Identifier: Apache-2.0
"""What a function has to be able to do so that a daemon can run it behind an endpoint.

Implemented by each kind of function; called by `host` alone.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from mizar._built import transit_pb2 as pb
from mizar.transit.cgroups import NONE, Cgroups


@dataclass(frozen=True, slots=True)
class Place:
    """Where an instance lives. `folder`: its own, for processes and their files; it goes with the instance.

    `logs`: where logs of functions are kept. `namespace`: as `Namespace.open_spec` takes it. `changed`: to be called
    when its report is another. `uplink`: the name of the droplet's interface. `groups`: for its processes.
    """

    uid: str
    folder: Path
    logs: Path
    namespace: str
    changed: Callable[[], None]
    uplink: Callable[[], str] = str
    groups: Cgroups = NONE


@dataclass(frozen=True, slots=True)
class Sample:
    """One number of a function's for the daemon's metrics. `counter`: it only grows. `labels` beside the usual ones."""

    name: str
    value: float
    labels: tuple[tuple[str, str], ...] = ()
    counter: bool = False


@dataclass(frozen=True, slots=True)
class Fault:
    """What an engine has made and somebody else has altered; `wanted` or `found` is empty where there is nothing."""

    what: str
    wanted: str
    found: str


@runtime_checkable
class Audited(Protocol):
    """An engine that can compare what it has made with what it was told."""

    async def faults(self, *, repair: bool) -> list[Fault]:
        """All differences; `repair`: that are none afterwards."""


@runtime_checkable
class Foretelling(Protocol):
    """An engine that can say what it would make of a frame."""

    async def foretell(self, frame: bytes, *, outside: bool) -> pb.TraceEngineReply:
        """Of one that an endpoint has sent there, or that comes from outside of the VPC. Raises MizarError."""


class Engine(Protocol):
    """One instance."""

    async def put(self, function: pb.Engine) -> None:
        """Be as `function` says, from now on: started, changed without a break, or found again.

        Raises a MizarError; it is called again after a while then.
        """

    async def end(self) -> None:
        """End, and leave nothing but logs."""

    def close(self) -> None:
        """The daemon ends: let go of what goes on without it."""

    def report(self) -> pb.EngineReport:
        """How it fares, without its uid."""

    def log(self) -> Path | None:
        """Where it logs what it does for its clients; None: nowhere."""

    def samples(self) -> Iterator[Sample]:
        """What it has counted; may block for a moment."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of function. `make` makes an instance; `check` raises InvalidError for what can never be run."""

    make: Callable[[Place], Engine]
    check: Callable[[pb.Engine], None]
