# SPDX-License-Identifier: Apache-2.0
"""What droplets tell of the functions that they run, and how that is shown. Owned by mizar.manager.fleet.

Only the droplet that an instance lives on is believed.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from mizar.manager.balancers import Balancers
from mizar.manager.instances import instances_of, owner_of
from mizar.manager.registry import Item, Registry
from mizar.model import certificates
from mizar.model.http_balancer import CertificateSpec
from mizar.model.resources import Endpoint

if TYPE_CHECKING:
    from mizar._built import transit_pb2 as pb

_STATES = {0: "unknown", 1: "starting", 2: "running", 3: "failed"}
"""enum State of EngineReport in contracts/transit.proto."""
SOON = timedelta(days=14)
"""How long before its end a certificate is warned of."""


class EngineReports:
    """The last report of each instance, by uid."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._reports: dict[str, tuple[str, pb.EngineReport]] = {}

    def take(self, droplet: str, report: pb.EngineReport) -> Item | None:
        """Keeps a report; the function's object, where it is the droplet's to say."""
        item = self._registry.by_uid(report.uid)
        if item is None or not isinstance(item.resource, Endpoint) or item.resource.spec.droplet != droplet:
            return None
        self._reports[report.uid] = droplet, report
        owner = owner_of(item.resource)
        return self._registry.find(owner) if owner else None

    def forget(self, uid: str) -> None:
        """An endpoint is gone."""
        self._reports.pop(uid, None)

    def of(self, item: Item) -> pb.EngineReport | None:
        """What was told of an instance last, by the droplet that it is on now."""
        droplet, report = self._reports.get(item.uid, ("", None))
        return report if droplet == item.resource.spec.droplet else None


def told(
    registry: Registry,
    reports: EngineReports,
    balancers: Balancers,
    owner: Item,
    members: Callable[[Item], dict[str, Any]],
) -> dict[str, Any]:
    """What the status of an HTTP load balancer says. `members`: what its scaled endpoint says of its members."""
    service = next((one for one in registry.children(owner) if one.resource.spec.type == "scaled"), None)
    standing: dict[str, Any] = members(service) if service else {"members": [], "ready": "0/0"}
    health: dict[str, dict[str, Any]] = {row["endpoint"]: row for row in standing["members"]}
    rows, down = [], dict[tuple[str, str], set[str]]()
    for item in instances_of(registry, owner):
        name, report = item.resource.name, reports.of(item)
        row: dict[str, Any] = {"endpoint": name, "droplet": item.resource.spec.droplet}
        row["process"] = _STATES[report.state if report else 0]
        row["restarts"] = report.restarts if report else 0
        seen = health.get(name, {})
        row["state"] = seen.get("state", "unknown")
        reason = (report.reason if report else "") or seen.get("reason", "")
        rows.append(row | ({"reason": reason} if reason else {}))
        for server in report.servers if report else ():
            down.setdefault((server.backend, server.server), set()).add(server.reason)
    backends = [
        {
            "name": name,
            "servers": count,
            "down": [
                {"endpoint": server, "reason": "; ".join(sorted(reasons))}
                for (backend, server), reasons in sorted(down.items())
                if backend == name
            ],
        }
        for name, count in balancers.servers(owner).items()
    ]
    shared = service.resource if service else None
    addresses = list(shared.status.addresses) if isinstance(shared, Endpoint) else []
    found = {"addresses": addresses, "ready": standing["ready"], "instances": rows, "backends": backends}
    if shown := [certificate_told(one) for one in owner.resource.spec.certificates]:
        found["certificates"] = shown
    return found


def certificate_told(one: CertificateSpec) -> dict[str, str]:
    """Until when it is good. One that has ended, or soon will, says so: clients refuse it, and nothing else tells."""
    end = certificates.expires(one.chain)
    if end is None:
        return {"name": one.name}
    left = end - datetime.now(UTC)
    found = {"name": one.name, "expires": end.isoformat().replace("+00:00", "Z")}
    if left < SOON:
        found["warning"] = "it has expired" if left < timedelta() else f"it expires in {left.days} days"
    return found
