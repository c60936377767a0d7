# SPDX-License-Identifier: Apache-2.0
"""The reachability matrix: every endpoint of a VPC sends to every other by every way, and each answer is compared.

Called by mizar.lab.demo and by tests.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from mizar.lab.findings import DATAGRAMS, STREAMS, Cell, Outcome, pairs
from mizar.lab.probe import family_of
from mizar.lab.probes import Probe, Probes

TRANSFER_BYTES = 3_000_000


def matrix(probes: Probes, on_cell: Callable[[Cell], None], limit_s: float) -> list[Cell]:
    """Fills the matrix; sources work side by side, each through its destinations. `on_cell` is called as cells fill.
    `limit_s`: how long one answer may take.

    Datagrams come first, in all cells: none of them may be lost, which nobody promises beside a dozen bulk transfers.
    """
    members = [probe.member for probe in probes]
    cells = {pair: Cell(*pair, ()) for pair in pairs(members)}
    lock = threading.Lock()

    def row(probe: Probe, protocols: Sequence[str]) -> None:
        start = members.index(probe.member)
        for other in members[start + 1 :] + members[:start]:  # not all begin with the same destination
            if probe.member.may_hear(other):
                outcomes = _check(probe, probes.of(other), protocols, limit_s)
                with lock:
                    cell = cells[probe.member, other]
                    cells[probe.member, other] = cell = cell.with_outcomes(outcomes)
                    on_cell(cell)

    with ThreadPoolExecutor(max_workers=max(1, len(members))) as pool:
        for protocols in (DATAGRAMS, STREAMS):
            list(pool.map(lambda probe: row(probe, protocols), probes))  # noqa: B023 - all done before the next
    return list(cells.values())


def _check(source: Probe, destination: Probe, protocols: Sequence[str], limit_s: float) -> list[Outcome]:
    outcomes = []
    for address in destination.member.addresses:
        suffix = "6" if family_of(address) == family_of("::") else "4"
        for protocol in protocols:
            answer = source.ask("check", way=protocol, address=address, limit_s=limit_s, bytes=TRANSFER_BYTES)
            detail = answer["detail"]
            if answer["ok"] and answer["answered_by"] not in ("", destination.token.hex()):
                detail = f"{address} was answered by another endpoint than {destination.member}"
            outcomes.append(Outcome(protocol + suffix, answer["ms"], detail))
    return outcomes
