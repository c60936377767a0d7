# SPDX-License-Identifier: Apache-2.0
"""Rows of maps, as ReadTables of contracts/transit.proto tells them, and the tables that ask for more.

Of large tables nobody has everything: `Asked` is a mapping that raises NeedError for an entry that was not asked for
yet. Whoever follows a packet catches it, asks, and begins again. It must never take an entry for absent that nobody
looked at.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from mizar.model.addresses import from_mapped
from mizar.oracle import proxy_flows
from mizar.oracle.tables import AnsweredAs, FlowKey, Flows, Member

K = TypeVar("K")
V = TypeVar("V")

Fields = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Point:
    """One entry of a map: `key` is JSON, with its fields in the order of contracts/dataplane.h."""

    table: str
    key: str


class NeedError(Exception):
    """An entry of a droplet's map has to be read first; without a point, the droplet itself."""

    def __init__(self, droplet: bytes, point: Point | None = None) -> None:
        super().__init__(droplet, point)
        self.droplet = droplet
        self.point = point


@dataclass(slots=True)
class Rows:
    """What one droplet told: table → key (JSON) → value. `asked`: the points that it was asked for."""

    tables: dict[str, dict[str, Any]] = field(default_factory=dict)
    asked: frozenset[Point] = frozenset()

    def take(self, table: str, rows: Iterable[str]) -> None:
        """One message of the stream."""
        held = self.tables.setdefault(table, {})
        for row in rows:
            key, value = json.loads(row)
            held[text_of(key)] = value

    def items(self, table: str) -> Iterator[tuple[Any, Any]]:
        """Key and value of each entry that is there."""
        for key, value in self.tables.get(table, {}).items():
            if value is not None:
                yield json.loads(key), value

    def get(self, table: str, key: object) -> Any:
        """One entry, None when it is not there or was not read."""
        return self.tables.get(table, {}).get(text_of(key))

    @property
    def itself(self) -> Fields:
        """The droplet."""
        found: Fields = self.get("self", "")
        return found


def text_of(key: object) -> str:
    """A key as it names a row."""
    return json.dumps(key, separators=(",", ":"))


def address_of(text: str) -> bytes:
    """An address of a map, 16 bytes in hex → 4 or 16 bytes."""
    return from_mapped(bytes.fromhex(text))


class Asked(Mapping[K, V], Generic[K, V]):
    """A table of which single entries were asked for. `make`: an entry as the oracle has it."""

    def __init__(self, rows: Rows, droplet: bytes, name: Callable[[K], Point], make: Callable[[K, Fields], V]) -> None:
        self._rows, self._droplet, self._name, self._make = rows, droplet, name, make
        self._made: dict[K, V] = {}

    def __getitem__(self, key: K) -> V:
        """The entry; KeyError when the map has none, NeedError when nobody looked."""
        if key not in self._made:
            point = self._name(key)
            if point not in self._rows.asked:
                raise NeedError(self._droplet, point)
            value = self._rows.tables.get(point.table, {}).get(point.key)
            if value is None:
                raise KeyError(key)
            self._made[key] = self._make(key, value)
        return self._made[key]

    def __iter__(self) -> Iterator[K]:
        """Those that were looked at."""
        return iter(self._made)

    def __len__(self) -> int:
        """How many were looked at."""
        return len(self._made)


class AskedFlows(Flows):
    """The same of flows, which change as packets pass."""

    def __init__(self, room: Mapping[int, int], before: Asked[FlowKey, Member | AnsweredAs]) -> None:
        super().__init__(room)
        self._before = before

    def get(self, key: object, default: Any = None) -> Any:
        """The flow of a key."""
        return self[key] if key in self else default  # type: ignore[index] # noqa: SIM401 - it is this very method

    def __contains__(self, key: object) -> bool:
        """Whether it is known."""
        return super().__contains__(key) or key in self._before

    def __getitem__(self, key: FlowKey) -> Member | AnsweredAs:
        """The flow of a key."""
        return super().__getitem__(key) if super().__contains__(key) else self._before[key]


class AskedProxyFlows(dict[proxy_flows.FlowKey, proxy_flows.Flow]):
    """The same of the flows of proxied endpoints; what replaces it after a change is a plain dictionary."""

    def __init__(self, before: Asked[proxy_flows.FlowKey, proxy_flows.Flow]) -> None:
        super().__init__()
        self._before = before

    def get(self, key: object, default: Any = None) -> Any:
        """The flow of a key."""
        return self[key] if key in self else default  # type: ignore[index] # noqa: SIM401 - it is this very method

    def __contains__(self, key: object) -> bool:
        """Whether it is known."""
        found = key in self._before
        if found:  # a changed copy keeps it
            self.setdefault(key, self._before[key])  # type: ignore[arg-type, index]
        return found

    def __getitem__(self, key: proxy_flows.FlowKey) -> proxy_flows.Flow:
        """The flow of a key."""
        return self._before[key]
