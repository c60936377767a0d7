# SPDX-License-Identifier: Apache-2.0
"""A gateway as its metrics see it: each tenant has one connection and one packet counted."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

from mizar.gateway.dataplane import Tally
from mizar.gateway.forecast import Forecasts
from mizar.gateway.replication.follower import Following


def gateway(tenants: int, *, slow: bool = False, pair: bool = False) -> SimpleNamespace:
    """With so many tenants."""
    tables = SimpleNamespace(nat_tenants={})
    made = SimpleNamespace(
        table=SimpleNamespace(tables=tables),
        plane=SimpleNamespace(counters=lambda: [Tally("new", meta, 1, 60) for meta in tables.nat_tenants]),
        slow=SimpleNamespace(sync=SimpleNamespace(installed=0, refused=0)) if slow else None,
        pair=SimpleNamespace(followers=1 if pair else None, following=Following() if pair else None),
        events=Counter(),
        ended=Counter(),
        forecasts=Forecasts(),
    )
    leave_tenants(made, tenants)
    made.forecasts.observe(0, {"connections": (0, 10)})
    made.forecasts.observe(10, {"connections": (1, 10)})
    return made


def leave_tenants(made: SimpleNamespace, tenants: int) -> None:
    """From now on there are so many."""
    tenant = {"quota": 5, "in_use": 1, "told": 0, "begun": 1, "refused": 0, "exhausted": 0}
    made.table.tables.nat_tenants = dict.fromkeys(range(tenants), tenant)
