# SPDX-License-Identifier: Apache-2.0
"""The audit of the rows of sets of rules: one of the `others` of mizar.transit.audit.

They are compared as bytes, because there may be a million. It must never write but to repair.
"""

import asyncio
from dataclasses import replace

from mizar.model.addresses import from_mapped, text_of
from mizar.model.errors import MizarError
from mizar.transit.entries import Rows
from mizar.transit.execute import execute
from mizar.transit.findings import NOBODY, Finding, Kind, Owner
from mizar.transit.ledger import Ledger
from mizar.transit.policy_rows import differences
from mizar.transit.policy_values import TABLES, key_fields, set_of, value_fields
from mizar.transit.state import State


class RowsAudit:
    """Looks at the rows of all sets; one of the `others` of the audit."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    async def __call__(self, repair: bool) -> list[Finding]:
        """What differs at two looks, the second while nothing changes."""
        state = await self._told()
        suspects = await asyncio.to_thread(lambda: list(differences(self._ledger.maps, state)))
        if not suspects:
            return []
        async with self._ledger.lock:
            state = self._ledger.state.copy()
            found = await asyncio.to_thread(lambda: list(differences(self._ledger.maps, state)))
            findings = [_finding(state, *one) for one in found]
            return await asyncio.to_thread(self._mend, found, findings) if repair else findings

    async def _told(self) -> State:
        async with self._ledger.lock:
            return self._ledger.state.copy()

    def _mend(
        self, found: list[tuple[str, bytes, bytes | None, bytes | None]], findings: list[Finding]
    ) -> list[Finding]:
        try:
            for table in TABLES:
                execute(self._ledger.maps, [Rows(table, tuple(one[1:] for one in found if one[0] == table))])
        except MizarError as error:
            return [replace(finding, error=str(error)) for finding in findings]
        done = {Kind.FOREIGN: "removed", Kind.MISSING: "written again", Kind.ALTERED: "written again"}
        return [replace(finding, repair=done[finding.kind]) for finding in findings]


def _finding(state: State, table: str, key: bytes, value: bytes | None, should: bytes | None) -> Finding:
    kind = Kind.MISSING if value is None else Kind.FOREIGN if should is None else Kind.ALTERED
    number = set_of(table, key)
    rules = next((one for one in state.policy_sets.values() if one.number == number), None)
    wanted, held = (_text(table, one) if one is not None else "" for one in (should, value))
    return Finding(kind, table, _key_text(table, key), wanted, held, Owner(rules.vni) if rules else NOBODY)


def _key_text(table: str, key: bytes) -> str:
    number, (address, bits, found, protocol, port) = set_of(table, key), key_fields(table, key)
    if table == "policy_groups":
        return f"set of groups {found} in set {number}"
    if table == "policy_peers":
        packed = from_mapped(address)
        length = bits - 96 if len(packed) == 4 and bits >= 96 else bits
        return f"{text_of(packed if length < bits or len(packed) == 16 else address)}/{length} in set {number}"
    return f"class {found:08x}, protocol {protocol}, port {port} ({bits} bits) in set {number}"


def _text(table: str, value: bytes) -> str:
    parts = value_fields(value)
    if table == "policy_verdicts":
        return f"rank {parts[0]}, action {parts[1]}, rule {parts[2]}"
    return f"class {parts[0]:08x}"
