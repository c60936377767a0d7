# SPDX-License-Identifier: Apache-2.0
"""The offload report: each rule of a pipeline against each target. Called by the command line. Pure.

A rule is a case (or a group that begins with steps) with the steps that it does itself. `taken`: the target does all of
it; `split`: it does, by other means or by more rules; `fallback`: it cannot, and something else has to. Of XDP, tc and
rte_flow it tells what their compilers do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from mizar.model.errors import InvalidError
from mizar.pipeline import costs
from mizar.pipeline.capabilities import Reasons, rte_flow_reasons, tc_reasons, xdp_reasons, xdp_refusal
from mizar.pipeline.description import Block, Case, Pipeline, Spot, Switch, blocks
from mizar.pipeline.labels import case_text, step_text
from mizar.pipeline.rte_flow.compile import compile_rules
from mizar.pipeline.steps import Goto, Step
from mizar.pipeline.tc.judge import TcFindings, tc_findings


class Verdict(StrEnum):
    """What a target does with a rule."""

    TAKEN = "taken"
    SPLIT = "split"
    FALLBACK = "fallback"


@dataclass(frozen=True, slots=True)
class Judgement:
    """A target's answer to a rule: why it is not simply taken, rules (None: not counted), nanoseconds of one core."""

    target: str
    verdict: Verdict
    reasons: tuple[str, ...]
    rules: int | None
    estimated_ns: int | None


@dataclass(frozen=True, slots=True)
class Row:
    """A rule, and every target's answer."""

    spot: str
    line: int
    when: str
    steps: tuple[str, ...]
    judgements: tuple[Judgement, ...]


def report(pipeline: Pipeline, tenants: tuple[int, ...] = ()) -> list[Row]:
    """All rules in the order of writing; `tenants` are the metadata values with counters of their own in hardware."""
    counts, kernel = _hardware_rules(pipeline, tenants), tc_findings(pipeline, tenants)
    program = xdp_refusal(pipeline)
    cases = {spot: (switch, case) for spot, switch, case in _cases(pipeline)}
    lines = {Spot(group.name): group.where.line for group in pipeline.groups}
    rows = []
    for spot, block in blocks(pipeline):
        switch, case = cases.get(spot, (None, None))
        if case is None and not block.steps:
            continue
        when = "any packet" if case is None else case_text(case)
        line = lines[spot] if case is None else case.where.line
        rule = _Rule(pipeline, spot, block, switch, case, tenants)
        steps = tuple(_text(pipeline, step) for step in block.steps)
        rows.append(Row(str(spot), line, when, steps, tuple(_judgements(rule, counts, kernel, program))))
    return rows


@dataclass(frozen=True, slots=True)
class _Rule:
    pipeline: Pipeline
    spot: Spot
    block: Block
    switch: Switch | None
    case: Case | None
    tenants: tuple[int, ...]


def _judgements(rule: _Rule, counts: Counter[str] | None, kernel: TcFindings, program: str) -> Iterator[Judgement]:
    yield _judged("xdp", xdp_reasons(rule.block.steps, program), None, _cost(rule, lambda cost: cost.xdp))
    reasons = tc_reasons(rule.block, rule.case, kernel.refused.get(str(rule.spot), ()))
    filters = kernel.filters[str(rule.spot)]
    if filters > 1 and not reasons.fallback:
        reasons.split.append(f"{filters} filters for {kernel.tenants} tenants")
    yield _judged("tc", reasons, None if reasons.fallback else filters, _cost(rule, lambda cost: cost.tc))
    reasons = rte_flow_reasons(rule.block.steps, rule.case, rule.tenants)
    found = None if counts is None else counts[str(rule.spot)]
    if found is not None and found > 1:
        reasons.split.append(f"{found} rules")
    yield _judged("rte_flow", reasons, found, 0)
    yield _judged("interpreter", Reasons(), None, _cost(rule, lambda cost: cost.interpreter))


def _judged(target: str, reasons: Reasons, rules: int | None, estimate: int) -> Judgement:
    verdict = Verdict.FALLBACK if reasons.fallback else Verdict.SPLIT if reasons.split else Verdict.TAKEN
    every = (*reasons.fallback, *reasons.split)
    return Judgement(target, verdict, every, rules, None if reasons.fallback else estimate)


def _cost(rule: _Rule, column: Callable[[costs.Cost], int]) -> int:
    """The switch that leads to the rule and its own steps."""
    total = sum(column(costs.step_cost(step)) for step in rule.block.steps)
    return total if rule.switch is None else total + column(costs.SWITCHES[rule.switch.on])


def _hardware_rules(pipeline: Pipeline, tenants: tuple[int, ...]) -> Counter[str] | None:
    """Rules by spot; None when the pipeline cannot be compiled, which the reasons then say."""
    try:
        plan = compile_rules(pipeline, tenants=tenants)
    except InvalidError:
        return None
    return Counter(rule.spot for rule in plan.rules)


def _cases(pipeline: Pipeline) -> Iterator[tuple[Spot, Switch, Case]]:
    for spot, block in blocks(pipeline):
        if block.switch is not None:
            for number, case in enumerate(block.switch.cases, 1):
                yield Spot(spot.group, (*spot.cases, number)), block.switch, case


def _text(pipeline: Pipeline, step: Step) -> str:
    return step_text(step, pipeline.number(step.group) if isinstance(step, Goto) else None).replace("**", "")
