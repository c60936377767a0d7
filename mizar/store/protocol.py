# SPDX-License-Identifier: Apache-2.0
"""What a store is: the values that it keeps and the four things that it does.

Called by mizar.manager, which decides what may be written; implemented by mizar.store.sqlite (etcd can follow). A store
must never interpret a manifest, and never keep half of a Commit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol


class Allocation(NamedTuple):
    """One value that one object holds; (scope, value) is unique in the whole store, e.g. ("vni", "4711")."""

    scope: str
    value: str


@dataclass(frozen=True, slots=True)
class Record:
    """An object as it is kept. `tenant` is "" for kinds of the cluster; times are RFC 3339 in UTC; manifest and status
    are JSON texts of an object each."""

    uid: str
    kind: str
    tenant: str
    name: str
    generation: int  # grows by one with each change of the manifest or of the placement
    manifest: str
    created_at: str
    deleted_at: str | None = None  # set: being deleted
    forced: bool = False  # deleted without waiting for droplets that do not answer
    status: str = "{}"  # what was allocated, placed and last told of it
    allocations: tuple[Allocation, ...] = ()
    placement: tuple[str, ...] = ()  # names of the droplets that are its bouncers or dividers, in order
    former: tuple[str, ...] = ()  # names of those that were, and have not yet acknowledged that they are no more
    new: bool = field(default=False, compare=False)  # to be kept for the first time: it replaces nothing


@dataclass(frozen=True, slots=True)
class Commit:
    """One transaction: all of it is kept or, on any error, nothing."""

    put: tuple[Record, ...] = ()  # new or changed; allocations and placements replace those that were there
    remove: tuple[str, ...] = ()  # uids; their allocations and placements become free

    def __bool__(self) -> bool:
        return bool(self.put or self.remove)


class Store(Protocol):
    """A durable place for desired state with one writer."""

    def load(self) -> Iterator[Record]:
        """Every object, each kind in the order of its creation."""
        ...

    def commit(self, commit: Commit) -> None:
        """Keeps it, whatever becomes of this process, or raises and keeps nothing: ConflictError when an allocation or
        a name is taken."""
        ...

    def sync(self) -> None:
        """Returns when every commit that returned before it outlives a power cut; raises TemporaryError when nobody can
        know that any more. From any thread, beside other calls."""
        ...

    def write_status(self, rows: Iterable[tuple[str, str]]) -> None:
        """Keeps what was last told of objects, (uid, JSON text); unknown uids are skipped. A crash may lose it."""
        ...

    def close(self) -> None:
        """Ends the use of the store."""
        ...
