# SPDX-License-Identifier: Apache-2.0
"""Counting calls in C: one addition to a variable before each, put into the text behind the preprocessor. Which call
counts where, and what a run has counted. Used by counted.py."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

PLACES = 512
RUNS = 12
"""Of the same packet: with the first a flow begins and names are remembered, and now and then the clock moves on."""

_CALL = re.compile(r"\b(bpf_\w+)\((?!void \*ctx)(\s*&(\w+)\s*,)?")
_FUNCTION = re.compile(r"__attribute__\(\(noinline\)\)[^;{}()]*?\b(\w+)\([^;{}]*?\)\s*\{")
_DECLARED = f'\nunsigned long long operations[{PLACES}] __attribute__((section(".data.operations")));\n'
Costs = dict[str, int]
"""What is done, by name: how often."""


class Names:
    """What is counted where, for all programs alike."""

    def __init__(self) -> None:
        self.places: dict[str, int] = {}

    def place(self, name: str) -> int:
        """The place of an operation."""
        place = self.places.setdefault(name, len(self.places))
        assert place < PLACES, "more operations than there is room for"
        return place

    def instrument(self, text: str) -> str:
        """A preprocessed source that counts."""
        begin = "struct endpoint_key {"  # behind the helpers' own declarations

        def call(found: re.Match[str]) -> str:
            name = found[1].removeprefix("bpf_")
            if found[3] and name.startswith("map_"):
                name = f"{name.removesuffix('_elem').removeprefix('map_')} {found[3]}"
            return f"(operations[{self.place(name)}]++, {found[1]})({found[2] or ''}"

        def function(found: re.Match[str]) -> str:
            return f"{found[0]} operations[{self.place(f'call {found[1]}')}]++;"

        head, _, rest = text.partition(begin)
        return _DECLARED + head + begin + _FUNCTION.sub(function, _CALL.sub(call, rest))

    def told(self, values: Sequence[int]) -> Costs:
        """What was counted, by name."""
        return {name: values[place] for name, place in self.places.items() if values[place]}


def cheapest(runs: Iterable[Costs]) -> Costs:
    """The run that did least."""
    return min(runs, key=lambda costs: sum(costs.values()))
