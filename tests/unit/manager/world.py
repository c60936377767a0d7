# SPDX-License-Identifier: Apache-2.0
"""A small world for tests of the manager: fake daemons behind real gRPC, a store on disk, and a manager between them.

Addresses: droplet N is 172.31.0.(10 + N); tenants' VPC is 10.0.0.0/16 and fd00:10::/48 as in examples/.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mizar.manager.droplet_link import Timing
from mizar.manager.intake import Result, Submission
from mizar.manager.manager import Manager
from mizar.model.manifest import parse_resource
from mizar.model.resources import KINDS, Ref
from mizar.store.sqlite import SqliteStore
from tests.fake_daemon import FakeDaemon

LIMIT_S = 20.0
QUICK = Timing(
    first_retry_s=0.01, longest_retry_s=0.1, first_repair_s=0.02, longest_repair_s=0.1, probe_s=0.2, away_s=0.3
)


def manifest(kind: str, name: str, tenant: str | None = None, **spec: Any) -> dict[str, Any]:
    """A manifest as people write it."""
    metadata = {"name": name, "tenant": tenant} if tenant else {"name": name}
    return {"apiVersion": "mizar/v1", "kind": kind, "metadata": metadata, "spec": spec}


def tenant(name: str) -> dict[str, Any]:
    return manifest("Tenant", name)


def vpc(owner: str, name: str = "main", **spec: Any) -> dict[str, Any]:
    return manifest("VPC", name, owner, **{"cidrs": ["10.0.0.0/16", "fd00:10::/48"], **spec})


def network(owner: str, name: str = "front", number: int = 1, **spec: Any) -> dict[str, Any]:
    cidrs = [f"10.0.{number}.0/24", f"fd00:10:0:{number}::/64"]
    return manifest("Network", name, owner, **{"vpc": "main", "cidrs": cidrs, **spec})


def endpoint(owner: str, name: str, droplet: str, inside: str = "front", **spec: Any) -> dict[str, Any]:
    workload = {"workload": {"namespace": f"{owner}.{name}"}}
    return manifest("Endpoint", name, owner, **{"network": inside, "droplet": droplet, **workload, **spec})


async def until(condition: Callable[[], object], limit_s: float = LIMIT_S) -> None:
    """Waits until a condition holds."""
    async with asyncio.timeout(limit_s):
        while not condition():
            await asyncio.sleep(0.002)


class World:
    """The daemons `d1` .. `dN` and the manager; `restart` replaces the manager by one that knows the store alone."""

    def __init__(self, directory: Path, count: int) -> None:
        self.directory = directory
        self.daemons = {
            f"d{n}": FakeDaemon(directory / f"d{n}.sock", f"172.31.0.{10 + n}") for n in range(1, count + 1)
        }
        self.manager = self._manager()

    def _manager(self) -> Manager:
        self.store = SqliteStore(self.directory / "server.db")
        return Manager(self.store, timing=QUICK)

    async def start(self) -> None:
        for daemon in self.daemons.values():
            await daemon.start()
        await self.manager.start()

    async def stop(self) -> None:
        await self.manager.stop()
        self.store.close()
        for daemon in self.daemons.values():
            daemon.paused.set()
            await daemon.stop()

    async def crash(self) -> None:
        """The manager dies: what it had not written is lost."""
        await self.manager._functions.stop()
        await self.manager._fleet.stop()
        progress = self.manager._progress
        for handle in (progress._pass, progress._write):
            if handle is not None:
                handle.cancel()
        self.store.close()

    async def restart(self) -> None:
        await self.crash()
        self.manager = self._manager()
        await self.manager.start()

    def droplet(self, name: str, **spec: Any) -> dict[str, Any]:
        daemon = self.daemons[name]
        return manifest("Droplet", name, **{"address": daemon.address, "daemon": daemon.target, **spec})

    def base(self, *tenants: str) -> list[dict[str, Any]]:
        """All droplets, and per tenant a VPC `main` with a network `front`."""
        found = [self.droplet(name) for name in self.daemons]
        for name in tenants:
            found += [tenant(name), vpc(name), network(name)]
        return found

    def apply(self, *manifests: dict[str, Any], **options: Any) -> list[Result]:
        submissions = [Submission(index, parse_resource(found, index)) for index, found in enumerate(manifests)]
        return self.manager.apply(submissions, **options)

    def status(self, kind: str, name: str, owner: str = "") -> dict[str, Any]:
        found: dict[str, Any] = self.manager.get(Ref(kind, owner, name))["status"]
        return found

    def phase(self, kind: str, name: str, owner: str = "") -> str:
        return str(self.status(kind, name, owner)["phase"])

    def exists(self, kind: str, name: str, owner: str = "") -> bool:
        return self.manager._registry.find(Ref(kind, owner, name)) is not None

    def phases(self) -> dict[str, str]:
        registry = self.manager._registry
        kinds = [kind.name for kind in KINDS.values() if kind.served]
        return {
            str(item.ref): self.manager.show(item)["status"]["phase"] for k in kinds for item in registry.of_kind(k)
        }

    async def settled(self) -> None:
        """Waits until everything is provisioned and all MTUs are told, which nobody waits for."""
        told = list(self.daemons.values())
        try:
            await until(
                lambda: (
                    set(self.phases().values()) <= {"Provisioned"}
                    and all(
                        one.mtu for each in told for one in each.tables.droplets.values() if one.name in self.daemons
                    )
                )
            )
        except TimeoutError:
            registry, kinds = self.manager._registry, [kind.name for kind in KINDS.values() if kind.served]
            shown = {str(i.ref): self.manager.show(i)["status"] for kind in kinds for i in registry.of_kind(kind)}
            stuck = {name: f"{s['phase']}: {s['message']}" for name, s in shown.items() if s["phase"] != "Provisioned"}
            raise AssertionError(stuck) from None
