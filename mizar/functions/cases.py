# SPDX-License-Identifier: Apache-2.0
"""The text of a function's test: frames in, frames out. Owns its format; runs nothing.

    function: blocklist
    maps: {blocked: [{key: 10.0.1.2, value: 1}]}          # what its maps hold before each case
    cases:
      - name: a listed source
        stage: ENDPOINT_INGRESS                           # one or several; at each, every hook that it runs at
        frame: {ipv4: {src: 10.0.1.2}, udp: {}}           # mizar.functions.frame says more
        context: {vni: 7}                                 # fields of struct function_frame that no frame tells
        expect: {verdict: drop, reason: SOURCE_BLOCKED}   # frame: same, {hex: ...}, or what is other than in what came
        in

Pure. Raises InvalidError with the line and the field.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mizar.functions.frame import changed, frame_of
from mizar.model.document import DocumentError, Path, read
from mizar.model.errors import InvalidError, ManifestErrors, Problem
from mizar.model.function_object import STAGES

HOOKS = {"ON_XDP_SCALED_EP": ("xdp", "tc"), "ENDPOINT_INGRESS": ("xdp", "tc"), "ENDPOINT_EGRESS": ("tc",)}
"""By which hooks a stage is reached; all others by XDP alone."""
VERDICTS = ("continue", "drop", "pass", "redirect", "transmit")
_KNOWN = {
    "": {"function", "maps", "parameters", "cases"},
    "case": {"name", "stage", "hook", "frame", "context", "maps", "expect"},
    "expect": {"verdict", "reason", "frame", "maps"},
}


@dataclass(frozen=True, slots=True)
class Expected:
    """What a case wants: None where it does not say."""

    verdict: str
    reason: str | int | None = None
    frame: bytes | None = None
    maps: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Case:
    """A frame at a stage and a hook, and what is expected of it."""

    name: str
    line: int
    stage: str
    hook: str
    frame: bytes
    context: Mapping[str, Any]
    maps: Mapping[str, Sequence[Mapping[str, Any]]]
    expected: Expected


@dataclass(frozen=True, slots=True)
class Cases:
    """All of a file. `maps`: what is there before each case."""

    function: str
    cases: tuple[Case, ...]
    maps: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    parameters: Mapping[str, Any] = field(default_factory=dict)


def parse(text: str, source: str) -> Cases:
    """The cases of a text; `source` names its file. Raises ManifestErrors with every problem."""
    try:
        documents = [one for one in read(text) if one[0] is not None]
    except DocumentError as error:
        raise ManifestErrors([Problem(str(error), file=source, line=error.line)]) from error
    if len(documents) != 1:
        raise ManifestErrors([Problem(f"expected one document, found {len(documents)}", file=source)])
    value, lines = documents[0]
    found, problems = _Reader(source, lines).all(value)
    if problems:
        raise ManifestErrors(problems)
    return found


class _Reader:
    def __init__(self, source: str, lines: Mapping[Path, int]) -> None:
        self._source, self._lines = source, lines
        self._problems: list[Problem] = []

    def all(self, value: Any) -> tuple[Cases, list[Problem]]:
        if not isinstance(value, Mapping):
            self._wrong((), "expected function and cases")
            return Cases("", ()), self._problems
        self._known(value, "", ())
        cases: list[Case] = []
        listed = value.get("cases")
        if not isinstance(listed, list) or not listed:
            self._wrong(("cases",), "expected a list of cases")
            listed = []
        for place, each in enumerate(listed):
            cases += self._case(each, ("cases", place))
        function = value.get("function")
        if not isinstance(function, str):
            self._wrong(("function",), "expected the name of the function")
        maps, parameters = self._maps(value, ()), value.get("parameters") or {}
        return Cases(str(function), tuple(cases), maps, parameters), self._problems

    def _case(self, value: Any, at: Path) -> list[Case]:
        if not isinstance(value, Mapping):
            self._wrong(at, "expected name, stage, frame and expect")
            return []
        self._known(value, "case", at)
        stages = value.get("stage")
        stages = stages if isinstance(stages, list) else [stages]
        for stage in stages:
            if stage not in STAGES:
                self._wrong((*at, "stage"), f"expected {', '.join(STAGES)}, found {stage!r}")
                return []
        frame = self._frame(value.get("frame"), (*at, "frame"))
        expected = self._expected(value.get("expect"), value.get("frame"), frame, (*at, "expect"))
        if frame is None or expected is None:
            return []
        name, context = str(value.get("name", f"case {at[-1]}")), value.get("context") or {}
        made = []
        for stage in stages:
            for hook in [value["hook"]] if "hook" in value else HOOKS.get(stage, ("xdp",)):
                if hook not in HOOKS.get(stage, ("xdp",)):
                    self._wrong((*at, "hook"), f"{stage} is not reached by {hook}")
                maps = self._maps(value, at)
                made.append(Case(name, self._line(at), stage, hook, frame, context, maps, expected))
        return made

    def _expected(self, value: Any, description: Any, came: bytes | None, at: Path) -> Expected | None:
        if not isinstance(value, Mapping) or value.get("verdict") not in VERDICTS:
            self._wrong(at if not isinstance(value, Mapping) else (*at, "verdict"), f"expected {', '.join(VERDICTS)}")
            return None
        self._known(value, "expect", at)
        frame = value.get("frame")
        if frame is None:
            wanted = None
        elif frame == "same":
            wanted = came
        elif (
            isinstance(frame, Mapping)
            and "hex" not in frame
            and isinstance(description, Mapping)
            and "hex" not in description
        ):
            wanted = self._frame(changed(description, frame), (*at, "frame"))
        else:
            wanted = self._frame(frame, (*at, "frame"))
        return Expected(str(value["verdict"]), value.get("reason"), wanted, self._maps(value, at))

    def _frame(self, value: Any, at: Path) -> bytes | None:
        try:
            return frame_of(value)
        except InvalidError as error:
            for problem in error.problems:
                path = at + tuple(part for part in problem.field.split(".") if part)
                self._wrong(path, problem.message)
            return None

    def _maps(self, value: Mapping[str, Any], at: Path) -> Mapping[str, Sequence[Mapping[str, Any]]]:
        found: dict[str, Sequence[Mapping[str, Any]]] = {}
        maps = value.get("maps") or {}
        if not isinstance(maps, Mapping):
            self._wrong((*at, "maps"), "expected lists of entries by name of the map")
            return found
        for name, entries in maps.items():
            good = isinstance(entries, list) and all(
                isinstance(one, Mapping) and one.keys() <= {"key", "value"} for one in entries
            )
            if good:
                found[str(name)] = entries
            else:
                self._wrong((*at, "maps", str(name)), "expected a list of {key: ..., value: ...}")
        return found

    def _known(self, value: Mapping[str, Any], where: str, at: Path) -> None:
        for name in value:
            if name not in _KNOWN[where]:
                self._wrong((*at, str(name)), f"unexpected; known are {', '.join(sorted(_KNOWN[where]))}")

    def _line(self, path: Path) -> int:
        while path and path not in self._lines:
            path = path[:-1]
        return self._lines.get(path, 0)

    def _wrong(self, path: Path, message: str) -> None:
        written = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")
        self._problems.append(Problem(message, written, file=self._source, line=self._line(path)))
