# SPDX-License-Identifier: Apache-2.0
"""The audit of network functions: one of the `others` of mizar.transit.audit.

Looks at the switches, at the bits that say for whom functions are, and at what chains begin with. It must never write
but to repair, and repairs with what the daemon was told.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace

from mizar.kernel import libbpf
from mizar.kernel.function_chains import PLACES
from mizar.kernel.function_maps import ENDPOINT_VALUES
from mizar.kernel.function_tables import held_program, parked
from mizar.kernel.layout import U32
from mizar.kernel.maps import Table
from mizar.model.errors import MizarError
from mizar.model.function_object import STAGES
from mizar.transit.ddos import Ddos
from mizar.transit.findings import Finding, Kind, kind_of
from mizar.transit.function_values import masks_of, values_of
from mizar.transit.functions import Functions
from mizar.transit.ledger import Ledger


class FunctionAudit:
    """Looks at the functions of one droplet; one of the `others` of the audit."""

    def __init__(self, ledger: Ledger, functions: Functions, ddos: Ddos | None = None) -> None:
        self._ledger, self._ddos = ledger, ddos
        self._functions = functions

    async def __call__(self, repair: bool) -> list[Finding]:
        """What is not as the daemon was told."""
        async with self._functions.lock, self._ledger.lock:
            return await asyncio.to_thread(self._look, repair)

    def _look(self, repair: bool) -> list[Finding]:
        found = [*self._bits(), *self._switches(), *self._heads(), *self._values(), *self._protections()]
        if not found or not repair:
            return found
        try:
            self._functions.mend(self._ledger.state)
            if self._ddos is not None:
                self._ddos.rewrite()
        except MizarError as error:
            return [replace(one, error=str(error)) for one in found]
        return [replace(one, repair="written again") for one in found]

    def _values(self) -> Iterator[Finding]:
        """What scopes say of endpoints."""
        for one in self._functions.held.values():
            fd = self._functions.own.of(one.name).get(ENDPOINT_VALUES)
            if fd is None:
                continue
            wanted = values_of(one, self._ledger.state)
            there = {slot: value for slot, value in Table(ENDPOINT_VALUES, fd, U32, U32).items() if value}
            for slot in sorted(wanted.keys() | there.keys()):
                yield from _compared(
                    f"{one.name}/{ENDPOINT_VALUES}", str(slot), wanted.get(slot, 0), there.get(slot, 0)
                )

    def _protections(self) -> Iterator[Finding]:
        for name in self._ddos.altered() if self._ddos is not None else ():
            yield Finding(Kind.ALTERED, "ddos-protection/protections", name, "as it was told", "something else")

    def _bits(self) -> Iterator[Finding]:
        masks, tables = masks_of(self._functions.held.values(), self._ledger.state), self._functions.tables
        for name, wanted, table in (
            ("endpoint_functions", masks.endpoints, tables.endpoint_functions),
            ("vpc_functions", masks.vpcs, tables.vpc_functions),
            ("network_functions", masks.networks, tables.network_functions),
        ):
            there = {slot: bits for slot, bits in table.items() if bits}
            for slot in sorted(wanted.keys() | there.keys()):
                yield from _compared(name, str(slot), wanted.get(slot, 0), there.get(slot, 0))
        groups = {(key["vni"], key["number"]): bits for key, bits in tables.group_functions.items()}
        for key in sorted(masks.groups.keys() | groups.keys()):
            text = f"set of groups {key[1]} of VPC {key[0]}"
            yield from _compared("group_functions", text, masks.groups.get(key, 0), groups.get(key, 0))

    def _switches(self) -> Iterator[Finding]:
        there = self._functions.tables.switches.get(0) or {}
        masks = masks_of(self._functions.held.values(), self._ledger.state)
        wanted = self._functions.chains.switches(masks.droplet, masks.finer)
        for field, value in wanted.items():
            if there.get(field) != value:
                yield Finding(Kind.ALTERED, "function_switches", field, str(value), str(there.get(field)))

    def _heads(self) -> Iterator[Finding]:
        for place in PLACES:
            chain = self._functions.chains.held[place]
            wanted = libbpf.info("prog", chain[0].instance.fd).id if chain else 0
            table = self._functions.tables.heads[place.hook]
            found = held_program(table, STAGES.index(place.stage))
            if found == parked(table):
                found = 0
            if wanted != found:
                yield Finding(
                    kind_of(wanted, found),
                    f"function_{place.hook}",
                    place.stage,
                    f"program {wanted}" if wanted else "",
                    f"program {found}" if found else "",
                )


def _compared(table: str, key: str, wanted: int, found: int) -> Iterator[Finding]:
    if wanted != found:
        yield Finding(
            kind_of(wanted, found), table, key, f"{wanted:#x}" if wanted else "", f"{found:#x}" if found else ""
        )
