# SPDX-License-Identifier: Apache-2.0
"""Counting what a run of a program does: a mark in each block of the compiler's assembly, and what the marks tell.

A block is entered at its beginning and left at its end, so how often it ran says how often each of its instructions
did: what is counted is the code as it is compiled anyway, and a mark needs nothing of the sources. Each adds to a place
of the program's own the address of these places, which is the one number that a register can get together with the way
there; so one register is enough, one that nobody reads any more. Where all are read, one waits on the stack meanwhile.
Used by counted.py.
"""

from __future__ import annotations

import re
import struct
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

PLACES = 1 << 13
"""Blocks of a program, at most. In the first place stands the address of the places."""
RUNS = 12
"""Of the same packet: with the first a flow begins and names are remembered, and now and then the clock moves on."""
INSTRUCTIONS = "instructions"
MARKS = "marks"

_FAR = 1 << 15  # bytes that an instruction can reach
_REGISTERS = range(10)
_STACK_MOST = 512
_TAIL_CALL = "call 12"
_LABEL = re.compile(r"([\w.$]+):")
_FUNCTION = re.compile(r"\s*\.type\s+(\w+),@function")
_SECTION = re.compile(r"\s*\.(?:section\s+([^,]+),|(text)\b)")
_REGISTER = re.compile(r"\b[rw](\d+)\b")
_ASSIGNED = re.compile(r"[rw](\d+) (\S*=) (.*)")
_COPIED = re.compile(r"r(\d+) = r(\d+)")
_STACK = re.compile(r"r10 - (\d+)|r\d+ \+= -(\d+)")
_NAMED = re.compile(r"r(\d+) = (\w+) ll")
_WIDENED = re.compile(r"\br(\d+) = w(\d+)")
_ATOMIC = re.compile(r"\b([rw])\d+ = ((?:cmp)?xchg|atomic_fetch_[a-z]+).*\(r(\d+) ([+-]) (\d+)\)?,.*[rw](\d+)\)")
_ATOMICS = {
    "atomic_fetch_add": 0x01, "atomic_fetch_or": 0x41, "atomic_fetch_and": 0x51, "atomic_fetch_xor": 0xA1,
    "xchg": 0xE1, "cmpxchg": 0xF1,
}  # fmt: skip
_ATOMIC_OF = {"r": 0xDB, "w": 0xC3}
"""Numbers of instructions, of Linux's Documentation/bpf/standardization/instruction-set.rst."""
_HELPER = re.compile(r"\(\*\s*(?:const )?bpf_(\w+)\)\([^;]*?\)\s*=\s*\(void \*\)\s*(\d+);")
Costs = dict[str, int]
"""What is done, by name: how often."""


def declared(program: str) -> str:
    """The places of a program, in C; a map of the kernel's by the name of marks()."""
    section = f'__attribute__((section(".data.{marks(program)}"), used))'
    return f"unsigned long long {marks(program)}[{PLACES}] {section};\n"


def marks(program: str) -> str:
    """The name of a program's places."""
    return f"{MARKS}_{program}"


def helpers(text: str) -> dict[int, str]:
    """Names of the kernel's helpers by number, of libbpf's bpf_helper_defs.h."""
    return {int(number): name for name, number in _HELPER.findall(text)}


@dataclass(frozen=True)
class Instruction:
    """One of them: registers that it sets and reads, where it may go, and whether a block ends with it."""

    text: str
    sets: frozenset[int] = frozenset()
    reads: frozenset[int] = frozenset()
    target: str = ""
    last: bool = False
    goes_on: bool = True

    @classmethod
    def read(cls, text: str) -> Instruction:
        """A line of assembly. Raises ValueError for what is none."""
        first, named = text.split()[0], frozenset(map(int, _REGISTER.findall(text)))
        match first:
            case "exit":
                return cls(text, reads=frozenset((0,)), last=True, goes_on=False)
            case "goto":
                return cls(text, target=text.split()[1], last=True, goes_on=False)
            case "if":
                return cls(text, reads=named, target=text.split()[-1], last=True)
            case "call":  # how many arguments it has does not matter: a mark finds another register
                return cls(text, frozenset(range(6)), frozenset(range(1, 6)), last=text == _TAIL_CALL)
            case "lock":
                return cls(text, reads=named)
        if text.startswith("*("):
            return cls(text, reads=named)
        found = _ASSIGNED.fullmatch(text)
        if found is None:
            raise ValueError(f"no instruction that is known: {text}")
        target = int(found[1])
        reads = {int(number) for number in _REGISTER.findall(found[3])} | ({target} if found[2] != "=" else set())
        return cls(text, frozenset((target,)), frozenset(reads))


@dataclass
class Block:
    """Instructions of a function that run one after the other, each with its line; `begins`: a program with it."""

    function: str
    begins: bool = False
    code: list[tuple[int, Instruction]] = field(default_factory=list)
    next: list[int] = field(default_factory=list)

    def live(self, after: Iterable[int]) -> list[set[int]]:
        """Registers that are read later on, before each instruction; `after`: behind the last."""
        live, found = set(after), []
        for _, one in reversed(self.code):
            live = live - one.sets | one.reads
            found.append(live)
        return found[::-1]


def blocks_of(lines: Sequence[str]) -> list[Block]:
    """The blocks of all functions, in their order."""
    functions = {found[1] for line in lines if (found := _FUNCTION.match(line))}
    code = {number: Instruction.read(text) for number, line in enumerate(lines) if (text := _instruction(line))}
    targets = {one.target for one in code.values()} | functions
    blocks: list[Block] = []
    places: dict[str, int] = {}
    section, function, fresh, begins = ".text", "", True, False
    for number, line in enumerate(lines):
        if found := _SECTION.match(line):
            section = (found[1] or "").strip('"') or ".text"
        elif (found := _LABEL.match(line)) and found[1] in targets:
            places[found[1]], fresh = len(blocks), True
            if found[1] in functions:
                function, begins = found[1], section != ".text"
        elif number in code:
            if fresh:
                blocks.append(Block(function, begins))
            blocks[-1].code.append((number, code[number]))
            fresh, begins = code[number].last, False
    for place, block in enumerate(blocks):
        end = block.code[-1][1]
        block.next = [places[end.target]] if end.target else []
        block.next += [place + 1] if end.goes_on and place + 1 < len(blocks) else []
    return blocks


def _instruction(line: str) -> str:
    """What a line does; nothing where it is a label, a directive or a remark."""
    text = line.partition("#")[0].strip()
    return "" if not line.startswith("\t") or text.startswith(".") else text


def live_at(blocks: Sequence[Block]) -> list[set[int]]:
    """Registers that are read later on, at the beginning of each block."""
    found: list[set[int]] = [set() for _ in blocks]
    changed = True
    while changed:
        changed = False
        for place in reversed(range(len(blocks))):
            block = blocks[place]
            now = block.live(live_behind(block, found))[0]
            changed, found[place] = changed or now != found[place], now
    return found


def stack_of(blocks: Iterable[Block]) -> dict[str, int]:
    """Bytes of the stack that each function uses, or more."""
    found: dict[str, int] = {}
    for block in blocks:
        depths = [int(one[1] or one[2]) for _, each in block.code for one in _STACK.finditer(each.text)]
        used = [depth for depth in depths if depth <= _STACK_MOST]
        found[block.function] = max([*used, found.get(block.function, 0)])
    return found


def live_behind(block: Block, at: Sequence[set[int]]) -> set[int]:
    """The same at a block's end; `at`: at the beginnings."""
    return set().union(*(at[one] for one in block.next))


def names_at(blocks: Sequence[Block]) -> list[dict[int, str]]:
    """Which registers hold the address of what, at the beginning of each block, whichever way leads there."""
    reached = {one for block in blocks for one in block.next}
    found: dict[int, dict[int, str]] = {place: {} for place in range(len(blocks)) if place not in reached}
    todo = list(found)
    while todo:
        block = blocks[place := todo.pop()]
        held = dict(found[place])
        for _, one in block.code:
            hold(held, one)
        for following in block.next:
            before = found.get(following)
            now = held if before is None else {of: name for of, name in before.items() if held.get(of) == name}
            if now != before:
                found[following] = dict(now)
                todo.append(following)
    return [found.get(place, {}) for place in range(len(blocks))]


def hold(held: dict[int, str], one: Instruction) -> None:
    """What registers hold after an instruction."""
    named, copied = _NAMED.fullmatch(one.text), _COPIED.fullmatch(one.text)
    name = named[2] if named else held.get(int(copied[2])) if copied else None
    for register in one.sets:
        held.pop(register, None)
        if name is not None:
            held[register] = name


def legible(line: str) -> str:
    """A line as clang 14 reads it, which does not read all that it writes: an instruction that does the same."""
    if found := _ATOMIC.search(line):
        width, name, target, sign, offset, source = found.groups()
        head = f"{_ATOMIC_OF[width]}, {int(source) << 4 | int(target)}"
        return f"\t.byte {head}\n\t.short {sign}{offset}\n\t.long {_ATOMICS[name]}"
    return _WIDENED.sub(r"w\1 = w\2", line)


class Marked:
    """A program's assembly with marks, and what they say."""

    def __init__(self, program: str, text: str, names: Mapping[int, str]) -> None:
        """`names`: of helpers."""
        self.program, self._names = program, names
        lines = text.splitlines()
        blocks = blocks_of(lines)
        assert len(blocks) < PLACES, f"{program} has {len(blocks)} blocks"
        self._costs = [self._does(block, held) for block, held in zip(blocks, names_at(blocks), strict=True)]
        at, stack, added = live_at(blocks), stack_of(blocks), {}
        for place, block in enumerate(blocks):
            live = block.live(live_behind(block, at))
            free = (
                (number, f"r{register}")
                for (number, _), used in zip(block.code, live, strict=True)
                for register in _REGISTERS
                if register not in used
            )
            line, register = next(free, (block.code[0][0], ""))
            steps = self._mark(8 * (place + 1), register or "r0", first=block.begins)
            if not register:
                slot = f"*(u64 *)(r10 - {(stack[block.function] + 7) // 8 * 8 + 8})"
                steps = [f"{slot} = r0", *steps, f"r0 = {slot}"]
            added[line] = "".join(f"\t{step}\n" for step in steps)
        self.text = "\n".join(added.get(number, "") + legible(line) for number, line in enumerate(lines)) + "\n"

    def _mark(self, at: int, free: str, *, first: bool) -> list[str]:
        """Of the place so many bytes behind the address."""
        steps = [f"{free} = {marks(self.program)} ll"]
        steps += [f"*(u64 *)({free} + 0) = {free}"] if first else []
        if at >= _FAR:
            steps.append(f"{free} += {at}")
        steps.append(f"lock *(u64 *)({free} + {0 if at >= _FAR else at}) += {free}")
        return steps

    def _does(self, block: Block, held: dict[int, str]) -> Counter[str]:
        """All that a block does when it runs once."""
        does, held = Counter({INSTRUCTIONS: len(block.code)}), dict(held)
        for _, one in block.code:
            if one.text.startswith("call "):
                does[self._called(one.text.removeprefix("call "), held.get(1))] += 1
            hold(held, one)
        return does

    def _called(self, what: str, first: str | None) -> str:
        """A helper by name, of maps by map; `first`: what its first argument is."""
        if not what.isdecimal():
            return f"call {what}"
        name = self._names[int(what)]
        if first is not None and name.startswith("map_"):
            return f"{name.removesuffix('_elem').removeprefix('map_')} {first}"
        return name

    def told(self, places: bytes) -> Counter[str]:
        """What a run has done; nothing if the program did not run."""
        told: Counter[str] = Counter()
        (base, *found) = struct.unpack(f"={PLACES}q", places)
        for place, (sums, does) in enumerate(zip(found, self._costs, strict=False)):
            if sums:
                at = 8 * (place + 1)
                times, rest = divmod(sums, base + (at if at >= _FAR else 0))
                assert not rest, f"{self.program}: block {place} was marked with something else"
                told.update({name: times * count for name, count in does.items()})
        return told


def cheapest(runs: Iterable[Costs]) -> Costs:
    """The run that did least: the fewest calls, and of those the fewest instructions."""
    return min(runs, key=lambda costs: (sum(costs.values()) - costs[INSTRUCTIONS], costs[INSTRUCTIONS]))
