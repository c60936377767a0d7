# SPDX-License-Identifier: Apache-2.0
"""Functions that were loaded here and cannot be any more: what stands in for them (docs/functions.md, fail closed).

Called by the daemon's functions. A stand-in (dataplane/function_missing.c) has the number, the order, the stages and
the scopes of what it stands for, and refuses what that was to judge. It must never stand in for a function that has
never run here: that is refused, and nothing changes.
"""

from __future__ import annotations

from dataclasses import replace

from mizar._built import transit_pb2 as pb
from mizar.kernel.programs import object_bytes
from mizar.model.function_object import STAGES, read_object
from mizar.transit.function_values import Function

_OBJECT = "function_missing"


def stand_in(message: pb.Function, number: int, stages: tuple[int, ...], problem: str) -> Function:
    """For the function that was told by `message` and ran at these stages. `problem`: why it cannot any more."""
    data = object_bytes(_OBJECT)
    made_for = tuple(stage for place, stage in enumerate(STAGES) if place in (message.stages or stages))
    about = replace(read_object(data), name=message.name, stages=made_for or STAGES)
    return Function(message, about, number, problem, data)


def told_problem(found: Function) -> str:
    """Of one that is missing, in a sentence for who has to do something about it."""
    return f"it cannot be loaded any more, and what it is for is refused (FUNCTION_MISSING): {found.problem}"
