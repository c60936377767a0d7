# SPDX-License-Identifier: Apache-2.0
"""The audit of what is no map: interfaces of local endpoints, their agents, the droplet's own programs, pins.

Called by `audit`. Endpoints are looked at one by one, each while none is made or ended, so that what is half-made for a
moment is no fault. Mending is attaching again: what is whole already stays as it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import replace

from mizar.kernel.endpoint_look import Fault
from mizar.kernel.interfaces import Interface
from mizar.model.errors import MizarError
from mizar.transit import programs
from mizar.transit.attachments import Attachments
from mizar.transit.findings import NOBODY, Finding, Kind, Owner, kind_of, owner_of_local
from mizar.transit.installer import Installer
from mizar.transit.ledger import Ledger
from mizar.transit.options import Options
from mizar.transit.programs import Loaded
from mizar.transit.values import Local, Network


class LinkAudit:
    """Of the endpoints that live here."""

    def __init__(self, ledger: Ledger, attachments: Attachments) -> None:
        self._ledger = ledger
        self._attachments = attachments

    async def __call__(self, repair: bool) -> list[Finding]:
        """All of them."""
        found: list[Finding] = []
        for uid in list(self._ledger.state.locals):
            found += await self._one(uid, repair)
        return found

    async def _one(self, uid: str, repair: bool) -> list[Finding]:
        found = await self._attachments.look_at(uid, _look)
        if not found or not repair:
            return found or []
        local = self._ledger.state.locals.get(uid)
        if local is None:
            return found
        try:
            (outcome,) = await self._attachments.attach([local.wanted])
            if outcome.error is None:
                await self._attachments.look_at(uid, _settle)
            error = outcome.error
        except MizarError as raised:
            error = raised
        if error is not None:
            return [replace(finding, error=str(error)) for finding in found]
        return [replace(finding, repair="attached again") for finding in found]


def _look(installer: Installer, local: Local, network: Network) -> list[Finding]:
    owner = owner_of_local(local)
    try:
        return findings(installer.faults(local, network), owner)
    except MizarError as error:  # its namespace
        return [Finding(Kind.MISSING, "workload", str(local.wanted.workload), "there", "", owner, error=str(error))]


def _settle(installer: Installer, local: Local, _network: Network) -> None:
    installer.settle(local.host_interface, local.ifindex)


class ProgramAudit:
    """Of the droplet's own programs and pins."""

    def __init__(self, loaded: Loaded, uplink: Interface, options: Options) -> None:
        self._loaded, self._uplink, self._options = loaded, uplink, options

    async def __call__(self, repair: bool) -> list[Finding]:
        """All of them."""
        return await asyncio.to_thread(self._look, repair)

    def _look(self, repair: bool) -> list[Finding]:
        found = findings(programs.faults(self._loaded, self._uplink), NOBODY)
        if not found or not repair:
            return found
        try:
            programs.mend(self._loaded, self._uplink, self._options)
        except MizarError as error:
            return [replace(finding, error=str(error)) for finding in found]
        return [replace(finding, repair="attached or pinned again") for finding in found]


def findings(faults: Iterable[Fault], owner: Owner) -> list[Finding]:
    """Faults with their table."""
    return [
        Finding(kind_of(fault.wanted, fault.found), _table_of(fault.what), fault.what, fault.wanted, fault.found, owner)
        for fault in faults
    ]


def _table_of(what: str) -> str:
    if what.startswith("pin of"):
        return "pin"
    return "program" if " at " in what else "interface"
