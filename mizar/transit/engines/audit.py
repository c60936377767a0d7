# SPDX-License-Identifier: Apache-2.0
"""The audit of what functions have made in their namespaces: one of the `others` of mizar.transit.audit.

Asks those engines that can tell. It must never write but to repair, and repairs with what the engine was told.
"""

from __future__ import annotations

from mizar.model.errors import MizarError
from mizar.transit.engines.engine import Audited
from mizar.transit.engines.host import Engines
from mizar.transit.findings import Finding, Kind, Owner, kind_of


class EngineAudit:
    """Looks at the functions that this daemon runs."""

    def __init__(self, engines: Engines) -> None:
        self._engines = engines

    async def __call__(self, repair: bool) -> list[Finding]:
        """What is not as they were told."""
        found: list[Finding] = []
        for uid, engine in self._engines.running():
            if not isinstance(engine, Audited):
                continue
            owner = Owner(uid=uid)
            try:
                for one in await engine.faults(repair=repair):
                    mended = "written again" if repair else ""
                    kind = kind_of(one.wanted, one.found)
                    found.append(Finding(kind, "engine", one.what, one.wanted, one.found, owner, mended))
            except (MizarError, OSError) as error:
                found.append(Finding(Kind.MISSING, "engine", "its namespace", "there", "", owner, error=str(error)))
        return found
