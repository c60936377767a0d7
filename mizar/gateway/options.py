# SPDX-License-Identifier: Apache-2.0
"""What a gateway's process is told, and where it keeps what outlives it. Used by the command line and the process."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mizar.kernel.attach import XdpMode
from mizar.kernel.bpffs import Pins
from mizar.model.errors import InvalidError

RUN = Path("/run/mizar/gateway")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,30}")


_WAYS, _LINE_BYTES = 4, {4: 64, 6: 128}
"""contracts/gateway.h: lines of a group, and bytes of one."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How many entries the maps have; fixed for as long as their pins live.

    A group of lines for each connection: two of its four are used then. `lines_mib` bounds the memory that lines of
    each version of IP take from the beginning. Connections beyond are far, in a map that grows with them; so are a few
    that find their group full.
    """

    connections4: int = 1 << 20
    connections6: int = 1 << 20
    mappings: int = 1 << 16
    lines_mib: int = 64

    def by_map(self) -> Mapping[str, int]:
        """By the names of the maps: two entries a connection, two and more a mapping."""
        groups = {
            version: min(wanted, (self.lines_mib << 20) // (_WAYS * _LINE_BYTES[version]))
            for version, wanted in ((4, self.connections4), (6, self.connections6))
        }
        return {
            "lines4": max(1, _WAYS * groups[4]),
            "lines6": max(1, _WAYS * groups[6]),
            "connections4": _far(self.connections4, groups[4]),
            "connections6": _far(self.connections6, groups[6]),
            "nat_mappings": 2 * self.mappings,
        }


def _far(connections: int, groups: int) -> int:
    """Entries of the hash map. A tenth of all find no line where lines are half full, and have for long come and gone
    (Erlang's B of 4 lines and a load of 2); few of them may be more."""
    return 2 * connections if groups < connections else connections // 4 + min(2 * connections, 2048)


@dataclass(frozen=True, slots=True)
class Options:
    """One gateway. `interface` is where frames come in; `egress` where they leave, and answers come in.

    `queues`: by number, the interface behind which a program serves a queue (docs/queue-worker.md). What it gives back
    comes in there, and has to leave at `interface`: with another `egress` nobody could tell where to.
    """

    file: Path
    interface: str
    egress: str = ""
    name: str = ""
    xdp: XdpMode | None = None
    metrics: str = ""
    pki: Path | None = None
    lead: str = ""
    """Where another gateway learns of this one's connections, `host:port`."""
    follow: str = ""
    """The other gateway, `host:port`, whose connections this one keeps at hand."""
    sizes: Sizes = field(default_factory=Sizes)
    queues: Mapping[int, str] = field(default_factory=dict)
    tenant_share: int = 50
    """Percent of all connections that a tenant without a quota of its own may have; 100: all."""

    def __post_init__(self) -> None:
        place(self.gateway)
        if self.queues and self.egress not in ("", self.interface):
            raise InvalidError(
                "a queue behind an interface of its own wants a gateway with one interface: leave --egress out"
            )
        taken = [self.interface, *self.queues.values()]
        if len(set(taken)) < len(taken):
            raise InvalidError(
                "a queue's interface leads to its program alone: it is no other queue's, nor the gateway's"
            )

    @property
    def gateway(self) -> str:
        """Its name on the host."""
        return self.name or self.interface


def place(name: str) -> Path:
    """The folder of a gateway's process. Raises InvalidError for what cannot be a name."""
    if not _NAME.fullmatch(name):
        raise InvalidError(
            f"{name!r} cannot name a gateway: letters, digits, _ and -, at most 31; give one with --name"
        )
    return RUN / name


def pins(name: str) -> Pins:
    """Where its program and maps are pinned."""
    place(name)
    return Pins.of(f"gateway-{name}")
