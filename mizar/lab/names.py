# SPDX-License-Identifier: Apache-2.0
"""What everything that belongs to a lab is called, so that all of it is found again by its name alone.

Called by every module of the lab. `mizar lab down` needs no record of what `up` had done when it was killed: names of
labs, droplets, tenants and endpoints are DNS labels, so the underscore ends each of them unambiguously.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from mizar.model.errors import InvalidError

ROOT = Path("/run/mizar-lab")
LENGTH_LIMIT = 40
"""Characters of a lab's name: names made from it must fit a folder of pins and the address of a unix socket."""

_LOCK_SUFFIX = ".lock"


@dataclass(frozen=True, slots=True)
class LabName:
    """A lab's name and the names made from it. Raises InvalidError when it is no DNS label, or too long."""

    name: str

    def __post_init__(self) -> None:
        if len(self.name) > LENGTH_LIMIT or not re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", self.name):
            raise InvalidError(
                f"{self.name!r} cannot name a lab: expected a DNS label (a-z, 0-9, inner '-') of at most {LENGTH_LIMIT}"
            )

    @property
    def folder(self) -> Path:
        """Its files: sockets, logs, database, manifest."""
        return ROOT / self.name

    @property
    def lock(self) -> Path:
        """Held while somebody changes the lab."""
        return ROOT / f"{self.name}{_LOCK_SUFFIX}"

    @property
    def manifest(self) -> Path:
        """The manifests that the lab was last brought up with, as JSON."""
        return self.folder / "manifest.json"

    @property
    def database(self) -> Path:
        """The server's store."""
        return self.folder / "server.db"

    @property
    def server_socket(self) -> Path:
        """Where the lab's server listens."""
        return self.folder / "server.sock"

    @property
    def server_url(self) -> str:
        """`server_socket` as the client takes it."""
        return f"unix://{self.server_socket}"

    def droplet_url(self, droplet: str) -> str:
        """Where the daemon of a droplet listens."""
        return f"unix://{self.folder / f'{droplet}.sock'}"

    def metrics_url(self, process: str) -> str:
        """Where metrics of the server, or of a droplet's daemon, are read."""
        return f"unix://{self.folder / f'{process}.metrics'}"

    def log(self, process: str) -> Path:
        """What a process of the lab (`server` or a droplet) writes."""
        return self.folder / f"{process}.log"

    @property
    def namespace_prefix(self) -> str:
        """Begins the name of every network namespace of the lab, and of no other lab's."""
        return f"mizar_{self.name}_"

    @property
    def substrate_namespace(self) -> str:
        """Holds the bridge between the droplets."""
        return f"{self.namespace_prefix}substrate"

    def droplet_namespace(self, droplet: str) -> str:
        """The host that a droplet is the interface of."""
        return f"{self.namespace_prefix}host_{droplet}"

    def endpoint_namespace(self, tenant: str, endpoint: str) -> str:
        """The workload of an endpoint whose manifest names none."""
        return f"{self.namespace_prefix}endpoint_{tenant}_{endpoint}"

    @property
    def instance_prefix(self) -> str:
        """Begins the name of every instance of a daemon of the lab: its folder of pins."""
        return f"lab_{self.name}_"

    def instance(self, droplet: str) -> str:
        """The instance of one droplet's daemon. Without dots: bpffs refuses them."""
        return f"{self.instance_prefix}{droplet}"


def labs() -> list[LabName]:
    """All labs that have left files on this machine, by name."""
    if not ROOT.is_dir():
        return []
    names = {entry.name if entry.is_dir() else entry.name.removesuffix(_LOCK_SUFFIX) for entry in ROOT.iterdir()}
    return [LabName(name) for name in sorted(names)]
