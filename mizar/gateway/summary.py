# SPDX-License-Identifier: Apache-2.0
"""What a gateway tells of itself: for `mizar gateway show`, and by tenant for Prometheus. It only reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mizar.kernel.layout import constant

if TYPE_CHECKING:
    from mizar.gateway.process import Gateway


def summary(gateway: Gateway) -> dict[str, Any]:
    """For `mizar gateway show`."""
    table = gateway.table
    settings = {} if table is None else table.limits()
    return {
        "gateway": gateway.options.gateway,
        "pipeline": gateway.pipeline.name,
        "interface": gateway.options.interface,
        "egress": gateway.options.egress or gateway.options.interface,
        "rules": settings.get("rules", 0),
        "connections": sum(one["connections"] for one in tenants_of(gateway)),
        "kernelNamespace": None if gateway.slow is None else gateway.slow.plan.path.namespace,
        "queues": [worker.queue for worker in gateway.workers],
        "tenants": tenants_of(gateway),
        "events": dict(gateway.events),
        "ended": dict(gateway.ended),
        "pair": gateway.pair.summary(),
        "forecast": [
            {"what": one.name, "inUse": one.in_use, "limit": one.limit, "secondsLeft": one.seconds_left}
            for one in gateway.forecasts.read()
        ],
    }


def tenants_of(gateway: Gateway) -> list[dict[str, Any]]:
    """Of each tenant what it has and what it was refused."""
    if gateway.table is None:
        return []
    none = constant("QUOTA_NONE")
    return [
        {
            "tenant": f"{meta:#x}",
            "connections": tenant["in_use"],
            "quota": None if tenant["quota"] == none else tenant["quota"],
            "begun": tenant["begun"],
            "refused": tenant["refused"],
            "exhausted": tenant["exhausted"],
        }
        for meta, tenant in sorted(gateway.table.tables.nat_tenants.items())
    ]
