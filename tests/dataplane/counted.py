# SPDX-License-Identifier: Apache-2.0
"""The data plane compiled so that it counts what it does: every call of a helper, by name and for maps by map, and
every call of a function of its own. Those are what a packet costs (docs/decisions/costs.md), and unlike nanoseconds
they are exact, on every machine and with every compiler.

    python -m tests.dataplane.counted            (as root) compares costs.toml with what is
    python -m tests.dataplane.counted --write    renews it

Counting is put into the text behind the preprocessor, one addition to a variable before each call; so nothing in the
sources is made for it, and a new map, helper or function is counted without a word here.
"""

from __future__ import annotations

import struct
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import mizar.kernel.programs
from bench.policy import fill
from bench.policy import frames as policy_frames
from bench.program_cost import SOURCES, WORK, build_module
from mizar.kernel import test_run
from mizar.kernel.libbpf import check, ffi, lib
from mizar.kernel.programs import OBJECTS, object_bytes

from .chained import Chained, from_text, member
from .counting import PLACES, RUNS, Costs, Names, cheapest
from .plan import FAMILIES, A, P
from .policies import police
from .testbed import Testbed

ROOT = Path(__file__).resolve().parents[2]
COSTS = Path(__file__).parent / "costs.toml"
RENEW = ".venv/bin/python -m tests.dataplane.counted --write"
RULES = 1, 30
COUNTED = ("agent", "transit", "deliver", "proxy", "substrate")
MORE = {"deliver": ("-include", str(SOURCES / "note.h"))}  # a test run has no metadata


def compiled(names: Names) -> dict[str, bytes]:
    """The objects of a droplet; those of the hot paths count."""
    build = build_module()
    clang = build.find_clang()
    include = [f"-I{ROOT / 'dataplane'}", f"-I{ROOT / 'contracts'}", *build.system_includes()]

    def read(name: str) -> str:
        source = str(ROOT / "dataplane" / f"{name}.c")
        command = [clang, *build.C_FLAGS, *include, *MORE.get(name, ()), "-E", "-P", source]
        return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout

    def translate(text: str) -> bytes:
        command = [clang, *build.C_FLAGS, "-Wno-everything", "-x", "c", "-c", "-", "-o", "-"]
        return subprocess.run(command, check=True, input=text.encode(), stdout=subprocess.PIPE).stdout

    with ThreadPoolExecutor(2) as pool:
        texts = [names.instrument(text) for text in pool.map(read, COUNTED)]
        objects = dict(zip(COUNTED, pool.map(translate, texts), strict=True))
    return {name: objects.get(name) or object_bytes(name) for name in OBJECTS}


@dataclass(frozen=True)
class Kind:
    """One kind of packet."""

    name: str
    program: str
    setup: Callable[[Testbed], None]
    frame: Callable[[int], bytes]
    verdict: int
    stage: str = ""
    """Where a function is attached that is for others."""


def policed(number: int, testbed: Testbed) -> None:
    """What a sends and is sent is judged by so many rules, each about another peer."""
    testbed.as_host()
    police(testbed, A, ingress=1, egress=2)
    for direction, port in ((1, 4001), (2, 4002)):
        for family in FAMILIES:
            fill(testbed, direction, number, family, (port,))


def policy_frame(place: int, family: int) -> bytes:
    """One of those that bench/policy.py sends."""
    return policy_frames(family)[place][2]


def paths() -> Iterator[Kind]:
    """What is looked at: the work of bench/program_cost.py, functions that are for others, and policies."""
    for work in WORK:
        yield Kind(work.name, work.program, work.setup, work.frame, work.verdict)
    for work in WORK:
        if work.stage:
            name = f"{work.name}, a function for others"
            yield Kind(name, work.program, work.setup, work.frame, work.verdict, work.stage)
    for number in RULES:
        for place, (name, program, _, _, verdict) in enumerate(policy_frames(FAMILIES[0])):
            called = f"{name.replace(',', ', policy,')}, {number} rule{'s' if number > 1 else ''}"
            yield Kind(called, program, partial(policed, number), partial(policy_frame, place), verdict)


class Counting:
    """A droplet whose programs count."""

    def __init__(self) -> None:
        self.names = Names()
        variables = mizar.kernel.programs.VARIABLES
        variables[".data.operations"] = "operations"
        try:
            self.testbed = Testbed(objects=compiled(self.names))
        finally:
            del variables[".data.operations"]
        self.chained = Chained(self.testbed)

    def close(self) -> None:
        """Frees programs and maps."""
        self.chained.close()
        self.testbed.close()

    def costs(self, path: Kind, family: int) -> Costs:
        """Of the run that did least."""
        self.testbed.reset()
        path.setup(self.testbed)
        self.chained.put({path.stage: [member(from_text("return FUNCTION_CONTINUE;"))]} if path.stage else {}, 0)
        fd = self.testbed.programs.programs[path.program].fd
        frame = path.frame(family)
        found = []
        for _ in range(RUNS):
            self._write(bytes(8 * PLACES))
            if path.program == "transit":
                result = test_run.run_xdp(fd, frame)
            else:
                result = test_run.run_tc(fd, frame, cb=P.ifindex if path.program == "proxy" else 0)
            assert result.retval == path.verdict, (path.name, result.retval, self.testbed.counted())
            found.append(self._read())
        return cheapest(found)

    def _write(self, counts: bytes) -> None:
        fd = self.testbed.programs.maps["operations"]
        check(lib().bpf_map_update_elem(fd, bytes(4), counts, 0), "write the counts")

    def _read(self) -> Costs:
        counts = ffi.new("char[]", 8 * PLACES)
        check(lib().bpf_map_lookup_elem(self.testbed.programs.maps["operations"], bytes(4), counts), "read the counts")
        return self.names.told(struct.unpack(f"={PLACES}Q", bytes(ffi.buffer(counts))))


def measured() -> dict[str, Costs]:
    """Of all kinds of packets, in both families."""
    counting = Counting()
    try:
        return {f"{path.name}, IPv{family}": counting.costs(path, family) for path in paths() for family in FAMILIES}
    finally:
        counting.close()


def known() -> dict[str, Costs]:
    """What costs.toml says."""
    return tomllib.loads(COSTS.read_text())


def difference(now: Mapping[str, Costs], before: Mapping[str, Costs]) -> list[str]:
    """One line for each kind of packet that costs something else."""
    lines = []
    for name in dict.fromkeys((*before, *now)):
        if name not in now or name not in before:
            lines.append(f"{name}: {'not looked at any more' if name in before else 'new'}")
            continue
        grew, shrank = Counter(now[name]), Counter(before[name])
        grew.subtract(before[name])
        shrank.subtract(now[name])
        changes = [f"{count} more of {each}" for each, count in grew.items() if count > 0]
        changes += [f"{count} less of {each}" for each, count in shrank.items() if count > 0]
        if changes:
            lines.append(f"{name}: {', '.join(changes)}")
    return lines


def text_of(costs: Mapping[str, Costs]) -> str:
    """As costs.toml has it."""
    lines = ["# What a packet makes the data plane do: written by", f"#     {RENEW}"]
    for name, of in costs.items():
        lines += ["", f'["{name}"]', *(f'"{each}" = {count}' for each, count in sorted(of.items()))]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Compares or renews."""
    now = measured()
    if "--write" in sys.argv[1:]:
        COSTS.write_text(text_of(now))
        return 0
    changes = difference(now, known())
    print("\n".join(changes))
    return 1 if changes else 0


if __name__ == "__main__":
    sys.exit(main())
