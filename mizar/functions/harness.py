# SPDX-License-Identifier: Apache-2.0
"""Runs the cases of a function's test on its object, in the kernel but without a droplet (BPF_PROG_TEST_RUN).

Called by `mizar function test`, and by tests of functions. What the data plane would tell of a frame is read from the
frame (mizar.functions.context); the case's `context` comes on top. Each pair of stage and hook is loaded once.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any

from mizar.functions.cases import VERDICTS, Case, Cases
from mizar.functions.context import context_of
from mizar.kernel import libbpf
from mizar.kernel.function_trial import Hook, Outcome, Trial
from mizar.kernel.layout import offsets
from mizar.kernel.libbpf import ffi, lib
from mizar.model.addresses import to_mapped
from mizar.model.btf import MapShape
from mizar.model.errors import InvalidError, MizarError, Problem
from mizar.model.function import PARAMETERS, parameters_of
from mizar.model.function_object import STAGES, FunctionObject, read_object

_DECIDED = {"ON_XDP_TX": 3, "ON_XDP_PASS": 2, "ON_XDP_REDIRECT": 4, "ON_XDP_DROP": 1, "ENDPOINT_EGRESS": 0}
"""What the pipeline has decided where a stage is reached, in XDP's codes, or tc's at an egress."""
_XDP_PASS, _TC_REDIRECT = 2, 7


@dataclass(frozen=True, slots=True)
class Ran:
    """What became of a case; no problems: as expected."""

    case: Case
    verdict: str
    reason: str
    frame: bytes
    problems: tuple[str, ...] = ()


@dataclass(slots=True)
class Result:
    """Of a whole test. `instructions`: that the verifier looked at, by "STAGE hook"."""

    function: FunctionObject
    ran: list[Ran] = field(default_factory=list)
    instructions: dict[str, int] = field(default_factory=dict)

    @property
    def failed(self) -> int:
        """How many cases are not as expected."""
        return sum(bool(one.problems) for one in self.ran)


def run(data: bytes, cases: Cases) -> Result:
    """Raises InvalidError for a case that cannot be tried, and when the verifier refuses the function."""
    function = read_object(data)
    if function.name != cases.function.replace("_", "-"):
        raise InvalidError(f"the test is of function {cases.function}, and the object is {function.name}")
    result = Result(function)
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})  # what a CPU has of its own is looked at where the function has run
    try:
        _run_all(data, function, cases, result)
    finally:
        os.sched_setaffinity(0, before)
    return result


def _run_all(data: bytes, function: FunctionObject, cases: Cases, result: Result) -> None:
    config = {PARAMETERS: parameters_of(function, cases.parameters)} if cases.parameters else {}
    for stage, hook in dict.fromkeys((case.stage, case.hook) for case in cases.cases):
        if stage not in function.stages:
            raise InvalidError(
                f"function {function.name} is not made for {stage}, but for {', '.join(function.stages)}"
            )
        with Trial(data, function.name, STAGES.index(stage), _hook(hook), config) as trial:
            result.instructions[f"{stage} {hook}"] = trial.instructions
            for case in cases.cases:
                if (case.stage, case.hook) == (stage, hook):
                    result.ran.append(_run(trial, function, cases, case))
    order = {id(case): place for place, case in enumerate(cases.cases)}
    result.ran.sort(key=lambda one: order[id(one.case)])


def _run(trial: Trial, function: FunctionObject, cases: Cases, case: Case) -> Ran:
    for name in function.maps:
        _clear(trial.maps[name], function.maps[name])
    for name, entries in [*cases.maps.items(), *case.maps.items()]:
        _fill(trial, function, name, entries)
    outcome = trial.run(case.frame, _fields(case))
    reasons = {reason.number: reason.name for reason in function.reasons}
    reason = reasons.get(outcome.reason, str(outcome.reason or ""))
    ran = Ran(case, VERDICTS[outcome.verdict], reason, outcome.frame)
    return Ran(case, ran.verdict, reason, outcome.frame, tuple(_objections(trial, function, case, ran, outcome)))


def _fields(case: Case) -> dict[str, Any]:
    decided = _DECIDED.get(case.stage, _XDP_PASS if case.hook == "xdp" else _TC_REDIRECT)
    fields = {"verdict": decided, "vni": 7, **context_of(case.frame)}
    known = {name for name, _, _ in offsets("function_frame") if not name.startswith("pad")}
    for name, value in case.context.items():
        if name not in known:
            message = f"struct function_frame has no field {name}; it has {', '.join(sorted(known))}"
            raise InvalidError(Problem(message, "context", line=case.line))
        fields[name] = value
    for name in ("src", "dst"):
        if isinstance(fields.get(name), str):
            fields[name] = to_mapped(ip_address(fields[name]).packed)
    return fields


def _objections(trial: Trial, function: FunctionObject, case: Case, ran: Ran, outcome: Outcome) -> list[str]:
    expected, found = case.expected, []
    if ran.verdict != expected.verdict:
        because = f" ({ran.reason})" if ran.reason else ""
        found.append(f"verdict: expected {expected.verdict}, it was {ran.verdict}{because}")
    if expected.reason is not None and str(expected.reason) not in (ran.reason, str(outcome.reason)):
        found.append(f"reason: expected {expected.reason}, it was {ran.reason or 'none'}")
    if expected.frame is not None and expected.frame != ran.frame:
        found += ["frame: " + line for line in difference(expected.frame, ran.frame)]
    for name, entries in expected.maps.items():
        shape = _shape(function, name)
        for place, entry in enumerate(entries):
            where = f"expect.maps.{name}[{place}]"
            key = function.types.pack(shape.key, entry["key"], f"{where}.key") if shape.key else b""
            value = _lookup(trial.maps[name], key, shape)
            wanted = (
                function.types.pack(shape.value, entry["value"], f"{where}.value")
                if entry.get("value") is not None
                else None
            )
            if value != wanted:
                have = "nothing" if value is None else value.hex()
                found.append(
                    f"maps: {name}[{entry['key']}] is {have}, expected {'nothing' if wanted is None else wanted.hex()}"
                )
    return found


def difference(expected: bytes, found: bytes) -> list[str]:
    """Where two frames differ, for people."""
    lines = [] if len(expected) == len(found) else [f"expected {len(expected)} bytes, it has {len(found)}"]
    places = [at for at in range(min(len(expected), len(found))) if expected[at] != found[at]]
    if places:
        first, last = places[0], min(places[-1] + 1, places[0] + 16)
        lines.append(f"byte {first}: expected {expected[first:last].hex(' ')}, found {found[first:last].hex(' ')}")
    return lines or ["expected other bytes"]


def _hook(text: str) -> Hook:
    return "xdp" if text == "xdp" else "tc"


def _shape(function: FunctionObject, name: str) -> MapShape:
    known = function.types.maps()
    if name not in known or name.startswith(("next_", "function_")):
        names = ", ".join([*function.maps, *function.shared]) or "none"
        raise InvalidError(f"function {function.name} has no map {name}; it has {names}")
    return known[name]


def _fill(trial: Trial, function: FunctionObject, name: str, entries: Sequence[Mapping[str, Any]]) -> None:
    shape = _shape(function, name)
    for place, entry in enumerate(entries):
        where = f"maps.{name}[{place}]"
        key = function.types.pack(shape.key, entry.get("key", 0), f"{where}.key")
        value = function.types.pack(shape.value, entry.get("value", 0), f"{where}.value")
        libbpf.check(lib().bpf_map_update_elem(trial.maps[name], key, _everywhere(shape, value), 0), f"write {where}")


_PER_CPU = (5, 6, 10, 21)  # PERCPU_HASH, PERCPU_ARRAY, LRU_PERCPU_HASH, PERCPU_CGROUP_STORAGE
_ARRAYS = (2, 6)
_PLAIN = (1, 2, 5, 6, 9, 10, 11)
"""Types of maps whose entries can be written and forgotten."""


def _everywhere(shape: MapShape, value: bytes) -> bytes:
    if shape.kind not in _PER_CPU:
        return value
    return value.ljust((len(value) + 7) // 8 * 8, b"\0") * libbpf.possible_cpus()


def _clear(fd: int, shape: MapShape) -> None:
    if shape.kind not in _PLAIN:
        return
    if shape.kind in _ARRAYS:
        for place in range(shape.entries):
            lib().bpf_map_update_elem(fd, place.to_bytes(4, "little"), _everywhere(shape, bytes(shape.value_size)), 0)
        return
    key = ffi.new("char[]", shape.key_size)
    while lib().bpf_map_get_next_key(fd, ffi.NULL, key) == 0:
        if lib().bpf_map_delete_elem(fd, key) < 0:
            raise MizarError(f"map {shape.name} cannot be emptied")


def _lookup(fd: int, key: bytes, shape: MapShape) -> bytes | None:
    """A value; of those that each CPU has of its own, the one of the CPU that cases run on."""
    stride = len(_everywhere(shape, bytes(shape.value_size)))
    out = ffi.new("char[]", stride)
    if lib().bpf_map_lookup_elem(fd, key, out) != 0:
        return None
    at = min(os.sched_getaffinity(0)) * stride // libbpf.possible_cpus() if shape.kind in _PER_CPU else 0
    value: bytes = ffi.buffer(out)[at : at + shape.value_size]
    return value
