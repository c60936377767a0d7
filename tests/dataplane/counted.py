# SPDX-License-Identifier: Apache-2.0
"""What each kind of packet makes the data plane do: instructions, lookups by table, calls of helpers and of functions.
Those are what a packet costs (docs/decisions/costs.md), and unlike nanoseconds they are exact, on every machine; calls
with every compiler, too, instructions with the one that costs.toml names.

    python -m tests.dataplane.counted            (as root) compares costs.toml with what is
    python -m tests.dataplane.counted --write    renews it

The programs are compiled as always, but by way of their assembly, in which each block gets a mark (counting.py): so
nothing in the sources is made for it, and a new map, helper or function is counted without a word here.
"""

from __future__ import annotations

import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import mizar.kernel.programs
from bench.policy import fill
from bench.policy import frames as policy_frames
from bench.program_cost import SOURCES, WORK, build_module
from mizar.kernel import test_run
from mizar.kernel.libbpf import check, ffi, lib
from mizar.kernel.programs import OBJECTS, Programs, object_bytes

from . import counted_nat
from .chained import Chained, from_text, member
from .counting import INSTRUCTIONS, PLACES, RUNS, Costs, Marked, cheapest, declared, helpers, marks
from .plan import FAMILIES, A, P
from .policies import police
from .testbed import Testbed

ROOT = Path(__file__).resolve().parents[2]
COSTS = Path(__file__).parent / "costs.toml"
RENEW = ".venv/bin/python -m tests.dataplane.counted --write"
RULES = 1, 30
COUNTED = ("agent", "transit", "deliver", "proxy", "substrate")
MORE = {"deliver": ("-include", str(SOURCES / "note.h"))}  # a test run has no metadata


HELPERS = Path("/usr/include/bpf/bpf_helper_defs.h")
COMPILER = "compiler"
"""What costs.toml was written with, and the instructions in it are of."""


def compiler() -> str:
    """clang's version."""
    command = [build_module().find_clang(), "-dumpversion"]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def compiled(name: str, source: Path, more: Sequence[str] = ()) -> tuple[Marked, bytes]:
    """The object of a program that counts."""
    build = build_module()
    clang = build.find_clang()
    include = [f"-I{ROOT / 'dataplane'}", f"-I{ROOT / 'contracts'}", *build.system_includes()]
    text = f'{declared(name)}#include "{source}"\n'
    command = [clang, *build.C_FLAGS, *include, *more, "-x", "c", "-S", "-", "-o", "-"]
    assembly = subprocess.run(command, check=True, input=text, stdout=subprocess.PIPE, text=True).stdout
    marked = Marked(name, assembly, helpers(HELPERS.read_text()))
    command = [clang, "-target", "bpf", "-mcpu=v3", "-x", "assembler", "-c", "-", "-o", "-"]
    return marked, subprocess.run(command, check=True, input=marked.text.encode(), stdout=subprocess.PIPE).stdout


@contextmanager
def shared_marks(*names: str) -> Iterator[None]:
    """Programs that are loaded meanwhile have their places as maps."""
    variables = mizar.kernel.programs.VARIABLES
    ours = {f".data.{marks(name)}": marks(name) for name in names}
    variables.update(ours)
    try:
        yield
    finally:
        for variable in ours:
            del variables[variable]


class Places:
    """The places of programs that are loaded."""

    def __init__(self, programs: Programs, marked: Sequence[Marked]) -> None:
        self._of = [(one, programs.maps[marks(one.program)]) for one in marked]

    def clear(self) -> None:
        """Nothing has run."""
        for _, fd in self._of:
            check(lib().bpf_map_update_elem(fd, bytes(4), bytes(8 * PLACES), 0), "clear the marks")

    def told(self) -> Costs:
        """What all programs have done since then."""
        told: Counter[str] = Counter()
        places = ffi.new("char[]", 8 * PLACES)
        for one, fd in self._of:
            check(lib().bpf_map_lookup_elem(fd, bytes(4), places), "read the marks")
            told.update(one.told(bytes(ffi.buffer(places))))
        return dict(told)


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
        with ThreadPoolExecutor(2) as pool:
            sources = [ROOT / "dataplane" / f"{name}.c" for name in COUNTED]
            made = list(pool.map(compiled, COUNTED, sources, (MORE.get(name, ()) for name in COUNTED)))
        objects = {name: object_bytes(name) for name in OBJECTS}
        objects |= {one.program: code for one, code in made}
        with shared_marks(*COUNTED):
            self.testbed = Testbed(objects=objects)
        self.places = Places(self.testbed.programs, [one for one, _ in made])
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
            self.places.clear()
            if path.program == "transit":
                result = test_run.run_xdp(fd, frame)
            else:
                result = test_run.run_tc(fd, frame, cb=P.ifindex if path.program == "proxy" else 0)
            assert result.retval == path.verdict, (path.name, result.retval, self.testbed.counted())
            found.append(self.places.told())
        return cheapest(found)


def measured() -> dict[str, Costs]:
    """Of all kinds of packets, in both families."""
    counting = Counting()
    try:
        found = {f"{path.name}, IPv{family}": counting.costs(path, family) for path in paths() for family in FAMILIES}
    finally:
        counting.close()
    return found | translated()


def translated() -> dict[str, Costs]:
    """Of the gateway's translation."""
    marked, code = compiled(counted_nat.PROGRAM, counted_nat.SOURCE)
    with shared_marks(counted_nat.PROGRAM), counted_nat.loaded(code) as programs:
        places = Places(programs, [marked])

        def run(frame: bytes, wanted: int) -> Costs:
            places.clear()
            result = test_run.run_xdp(programs.programs[counted_nat.PROGRAM].fd, frame)
            assert result.retval == wanted, (result.retval, wanted)
            return places.told()

        return {
            f"{kind.name}, IPv{family}": cheapest([run(frame, kind.verdict) for frame in kind.frames(family)])
            for kind in counted_nat.KINDS
            for family in FAMILIES
        }


def known() -> dict[str, Costs]:
    """What costs.toml says."""
    return {name: costs for name, costs in tomllib.loads(COSTS.read_text()).items() if name != COMPILER}


def compiler_of_known() -> str:
    """What costs.toml was written with."""
    return str(tomllib.loads(COSTS.read_text())[COMPILER])


def calls(costs: Mapping[str, Costs]) -> dict[str, Costs]:
    """Without instructions, which another compiler makes others of."""
    return {path: {name: of[name] for name in of if name != INSTRUCTIONS} for path, of in costs.items()}


def instructions(costs: Mapping[str, Costs]) -> dict[str, Costs]:
    """Those alone."""
    return {path: {INSTRUCTIONS: of[INSTRUCTIONS]} for path, of in costs.items()}


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


def text_of(costs: Mapping[str, Costs], version: str) -> str:
    """As costs.toml has it."""
    lines = ["# What a packet makes the data plane do: written by", f"#     {RENEW}", f'{COMPILER} = "{version}"']
    for name, of in costs.items():
        lines += ["", f'["{name}"]', *(f'"{each}" = {count}' for each, count in sorted(of.items()))]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Compares or renews."""
    now = measured()
    if "--write" in sys.argv[1:]:
        COSTS.write_text(text_of(now, compiler()))
        return 0
    same = compiler() == compiler_of_known()
    changes = difference(now, known()) if same else difference(calls(now), calls(known()))
    print("\n".join(changes))
    if not same:
        print(f"Instructions are not compared: {COSTS.name} has those of clang {compiler_of_known()}.", file=sys.stderr)
    return 1 if changes else 0


if __name__ == "__main__":
    sys.exit(main())
