# SPDX-License-Identifier: Apache-2.0
"""What tc does with each rule: how many filters, and what it refuses. Called by the report."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass

from mizar.model.errors import InvalidError
from mizar.pipeline.description import Pipeline
from mizar.pipeline.steps import SetMeta
from mizar.pipeline.structure import all_steps
from mizar.pipeline.tc.compile import Compiler, known_metas
from mizar.pipeline.tc.lowering import Ports


@dataclass(frozen=True)
class TcFindings:
    """By rule, as the report names it: filters, and sentences that say why there can be none."""

    filters: Counter[str]
    refused: dict[str, tuple[str, ...]]
    tenants: int


def tc_findings(pipeline: Pipeline, tenants: tuple[int, ...]) -> TcFindings:
    """Compiles for a gateway whose kernel has an interface, and no user-space program.

    Without tenants, for one of each kind: what no tenant has a filter for would not be looked at.
    """
    try:
        metas = known_metas(pipeline, tenants or _examples(pipeline))
    except InvalidError as error:
        return TcFindings(Counter(), {pipeline.groups[0].name: tuple(found.message for found in error.problems)}, 0)
    work = Compiler(pipeline, Ports(kernel="kernel"), 0, metas)
    work.everything()
    every = (*work.filters, *work.resources.egress)
    refused: defaultdict[str, dict[str, None]] = defaultdict(dict)
    for found in work.refused:
        refused[found.field.partition(", step ")[0]][found.message] = None
    rules = Counter(one.spot.partition(", step ")[0].partition(":")[0] for one in every)
    return TcFindings(rules, {rule: tuple(words) for rule, words in refused.items()}, len(metas))


def _examples(pipeline: Pipeline) -> tuple[int, ...]:
    """Metadata of the third VNI and the third VLAN id of each step that makes it by adding."""
    setters = [step for _, step in all_steps(pipeline) if isinstance(step, SetMeta) and step.table is None]
    return tuple(dict.fromkeys(step.add + 3 for step in setters))
