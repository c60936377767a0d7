# SPDX-License-Identifier: Apache-2.0
"""Whether a pipeline makes sense: every problem at once, each with file, line and rule.

Called by the reader and the builder. What can be seen without following packets is here and in `structure`; what
depends on the ways that lead to a step is in `ways`.
"""

from __future__ import annotations

from mizar.model.errors import InvalidError, Problem
from mizar.pipeline.description import Pipeline
from mizar.pipeline.nat_validation import nat_problems, nat_way_problems
from mizar.pipeline.structure import structure_problems
from mizar.pipeline.ways import follow


def problems_of(pipeline: Pipeline, ways: bool = True) -> list[Problem]:
    """Everything that is wrong, in the order of the lines; with `ways` the packets' ways are followed as well."""
    problems = structure_problems(pipeline) + nat_problems(pipeline)
    if ways:
        followed = follow(pipeline)
        problems += followed.problems + ([] if followed.problems else nat_way_problems(pipeline, followed))
    return sorted(problems, key=lambda problem: problem.line)


def check(pipeline: Pipeline) -> None:
    """Raises InvalidError with every problem; returns when there is none."""
    problems = problems_of(pipeline)
    if problems:
        raise InvalidError(problems)
