# SPDX-License-Identifier: Apache-2.0
"""The way that the live tables give a packet, as the oracle sees it.

Called by the manager. The oracle is run; when it needs a droplet or an entry that nobody has read yet, that is read and
the oracle begins again, so that a trace reads of each droplet on the way what the packet meets there, and no more.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from mizar.model.errors import ExhaustedError, MizarError
from mizar.oracle.fleet import Fleet, Way
from mizar.oracle.tables import Droplet
from mizar.trace.rows import NeedError, Point, Rows
from mizar.trace.tables import droplet_of

MOST_ROUNDS = 400


class Source(Protocol):
    """Who can ask the droplets."""

    def has_daemon(self, droplet: bytes) -> bool:
        """Whether the address is that of a droplet with a daemon."""
        ...

    async def read(self, droplet: bytes, vnis: frozenset[int], points: frozenset[Point]) -> Rows:
        """What a droplet's maps hold. Raises MizarError when it does not answer."""
        ...


@dataclass(frozen=True, slots=True)
class Prediction:
    """The way, and the droplets as they were when it was worked out. `silent`: those that did not answer, and why."""

    way: Way
    droplets: Mapping[bytes, Droplet]
    rows: Mapping[bytes, Rows]
    silent: Mapping[bytes, MizarError]


@dataclass
class Live:
    """What is known so far of the droplets on the way. `vnis` grows: where one droplet tells of a way into another VPC,
    those behind it are asked about that one too."""

    source: Source
    vnis: frozenset[int]
    rows: dict[bytes, Rows] = field(default_factory=dict)
    silent: dict[bytes, MizarError] = field(default_factory=dict)
    told: dict[bytes, frozenset[int]] = field(default_factory=dict)
    """Of which VPCs a droplet was asked."""

    async def read(self, droplet: bytes, point: Point | None = None) -> None:
        """Reads a droplet, again with everything that it was asked for before."""
        held = self.rows.get(droplet)
        points = (held.asked if held else frozenset()) | ({point} if point else frozenset())
        try:
            rows = await self.source.read(droplet, self.vnis, points)
        except MizarError as error:
            self.silent[droplet] = error
            self.rows.pop(droplet, None)
            return
        rows.asked = points
        self.told[droplet] = self.vnis
        self.vnis |= {vni for vni, _ in rows.items("vpcs")}
        self.vnis |= {one[side] for _, one in rows.items("proxies") for side in ("client_vni", "source_vni")}
        self.rows[droplet] = rows

    async def predict(self, droplet: bytes, ifindex: int, frame: bytes) -> Prediction:
        """The way of a frame that an endpoint of a droplet sends; for interface 0: somebody on the substrate, to it.

        The droplet must have been read.
        """
        for _ in range(MOST_ROUNDS):
            known = {address: droplet_of(rows) for address, rows in self.rows.items()}
            fleet = Fleet(())
            fleet.droplets = _Droplets(self, known)
            try:
                way = fleet.send(droplet, ifindex, frame) if ifindex else fleet.inject(droplet, frame)
            except NeedError as need:
                await self.read(need.droplet, need.point)
                continue
            if stale := [hop.droplet for hop in way.hops if self.told[hop.droplet] != self.vnis]:
                await self.read(stale[0])
                continue
            return Prediction(way, known, dict(self.rows), dict(self.silent))
        raise ExhaustedError(f"the packet's way needs more than {MOST_ROUNDS} questions to droplets")


class _Droplets(dict[bytes, Droplet]):
    """Droplets of a fleet by address; one that was not read yet is asked for."""

    def __init__(self, live: Live, known: Mapping[bytes, Droplet]) -> None:
        super().__init__(known)
        self._live = live

    def __contains__(self, address: object) -> bool:
        if super().__contains__(address):
            return True
        assert isinstance(address, bytes)
        if address not in self._live.silent and self._live.source.has_daemon(address):
            raise NeedError(address)
        return False


def hops_of(prediction: Prediction) -> Iterator[tuple[Droplet, Any]]:
    """Each hop with the droplet that it is on."""
    for hop in prediction.way.hops:
        yield prediction.droplets[hop.droplet], hop
