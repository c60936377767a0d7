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


@dataclass(frozen=True, slots=True)
class Sizes:
    """How many entries the maps have; fixed for as long as their pins live."""

    connections4: int = 1 << 20
    connections6: int = 1 << 20
    mappings: int = 1 << 16

    def by_map(self) -> Mapping[str, int]:
        """By the names of the maps: two entries a connection, two and more a mapping."""
        return {
            "connections4": 2 * self.connections4,
            "connections6": 2 * self.connections6,
            "nat_mappings": 2 * self.mappings,
        }


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
