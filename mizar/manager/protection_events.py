# SPDX-License-Identifier: Apache-2.0
"""When measures of protections were engaged and withdrawn: by whose packets, and how much was kept away meanwhile.

Asked by mizar.manager.protection_messages with each thing that a droplet tells. Kept while the manager runs, the last
of each protection. Who watches live is told by the droplet itself (mizar.manager.sightings).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import ip_address, ip_network
from typing import Any

from mizar._built import transit_pb2 as pb

MOST = 20
"""Events of a protection that are kept."""
MEASURES = {
    "synCookies": ("cookies", frozenset({"synsAnswered", "noSuchConnection", "synMalformed"})),
    "reflection": ("filter", frozenset({"reflected"})),
}
"""By name: its field in DdosStatus, and what is counted of what it keeps away."""


@dataclass(frozen=True, slots=True)
class _Event:
    unix_ms: int
    droplet: str
    measure: str
    engaged: bool
    packets: int
    source: str
    target: str


class ProtectionEvents:
    """Of all protections, by uid."""

    def __init__(self) -> None:
        self._kept: dict[str, deque[_Event]] = {}
        self._before: dict[tuple[str, str, str], int] = {}

    def take(self, droplet: str, before: pb.DdosStatus | None, found: pb.DdosStatus) -> bool:
        """What a droplet says now, and what it said before; whether a measure was engaged or withdrawn."""
        turned = False
        for measure, (field, kinds) in MEASURES.items():
            engaged = getattr(found, field)
            if engaged == (before is not None and getattr(before, field)):
                continue
            turned, key = True, (found.uid, droplet, measure)
            kept_away = sum(one.packets for one in found.counts if one.kind in kinds)
            begun = self._before.pop(key, kept_away)
            if engaged:
                self._before[key] = sum(one.packets for one in before.counts if one.kind in kinds) if before else 0
            top = next((one for one in found.top if one.kind in kinds), pb.DdosTop())
            unix_ms = getattr(found, f"{field}_{'since' if engaged else 'until'}_unix_ms")
            self._kept.setdefault(found.uid, deque(maxlen=MOST)).append(
                _Event(
                    unix_ms, droplet, measure, engaged, 0 if engaged else max(0, kept_away - begun),
                    source_of(top) if top.address else "", top.endpoint,
                )
            )  # fmt: skip
        return turned

    def of(self, uid: str, name_of: Callable[[str], str]) -> Iterator[dict[str, Any]]:
        """Oldest first, as the status has them. `name_of`: of an endpoint, by uid."""
        for one in self._kept.get(uid, ()):
            row = {"droplet": one.droplet, "measure": one.measure, "event": "engaged" if one.engaged else "withdrawn"}
            moment = {"time": time_text(one.unix_ms)} if one.unix_ms else {}
            who = {"source": one.source, "target": name_of(one.target)} if one.source else {}
            yield {**moment, **row, **who, **({} if one.engaged else {"packets": one.packets})}

    def forget(self, uid: str) -> None:
        """The protection is gone."""
        self._kept.pop(uid, None)
        self._before = {key: packets for key, packets in self._before.items() if key[0] != uid}


def source_of(top: pb.DdosTop) -> str:
    """An address, or a prefix."""
    if top.length == 8 * len(top.address):
        return str(ip_address(top.address))
    return str(ip_network((top.address, top.length), strict=False))


def time_text(unix_ms: int) -> str:
    """As statuses have it."""
    return datetime.fromtimestamp(unix_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
