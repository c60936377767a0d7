# SPDX-License-Identifier: Apache-2.0
"""A switch on patterns as one C function: which case takes the frame.

The shapes of all cases together are a tree of headers. The function goes down the tree as far as the frame does, each
header parsed once, and then asks the cases whose headers are there, in their order. What is known of every frame that
comes here (from earlier cases) is not asked again. Called by the groups. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mizar.pipeline.box import Box
from mizar.pipeline.headers import HEADERS, TUNNELS
from mizar.pipeline.ranges import Ranges
from mizar.pipeline.xdp.conditions import inside, read

_FOLLOWS = {
    "vlan": "TYPE_VLAN",
    "ipv4": "TYPE_IPV4",
    "ipv6": "TYPE_IPV6",
    "arp": "TYPE_ARP",
    "fragment": "FOLLOWS_FRAGMENT",
    "tcp": "IPPROTO_TCP",
    "udp": "IPPROTO_UDP",
    "icmp4": "IPPROTO_ICMP",
    "icmp6": "IPPROTO_ICMPV6",
    "nd": "IPPROTO_ICMPV6",
    "vxlan": "bpf_htons(PORT_VXLAN)",
    "geneve": "bpf_htons(PORT_GENEVE)",
}
Path = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """A case's number, and frames that it takes; None: whatever comes to it."""

    number: int
    box: Box | None


@dataclass(frozen=True)
class Tree:
    """The function of one switch."""

    answers: tuple[Answer, ...]
    known: tuple[Box, ...]

    def function(self, name: str) -> list[str]:
        """The function's lines. It returns the number of the case, 0 where none takes the frame."""
        return [
            f"__noinline int {name}(struct xdp_md *ctx, struct gateway_packet *p)",
            "{",
            "\tstruct cursor c;",
            "",
            "\tif (!p || !cursor_begin(ctx, p, &c))",
            "\t\treturn 0;",
            *_indented(self._node(("eth",))),
            "}",
        ]

    @property
    def questions(self) -> int:
        """How many headers and comparisons the function has: what decides its size."""
        return sum(line.count("&&") + line.count("||") + line.count("?") + 1 for line in self._node(("eth",)))

    def _node(self, path: Path) -> list[str]:
        """What is done behind the last header of a path: its fields, deeper headers, then the answer."""
        lines = [*self._notes(path), *self._fields(path)]
        for kind in self._children(path):
            known = len(path) < len(self._certain) and self._certain[: len(path) + 1] == (*path, kind)
            met = f"header_{kind}(&c, {'true' if known else 'false'})"
            asked = met if known or kind == "eth" else f"c.follows == {_FOLLOWS[kind]} && {met}"
            lines += [f"if ({asked}) {{", *_indented(self._node((*path, kind))), "}"]
        return [*lines, f"/* {' / '.join(path)} */", *self._decision(path)]

    @property
    def _certain(self) -> Path:
        """The headers that every frame has that comes here."""
        first, *rest = [box.shape for box in self.known] or [("eth",)]
        size = 0
        while size < len(first) and all(shape[: size + 1] == first[: size + 1] for shape in rest):
            size += 1
        return first[:size]

    def _children(self, path: Path) -> list[str]:
        found: dict[str, None] = {}
        size = len(path)
        for answer in self.answers:
            if answer.box is not None and len(answer.box.shape) > size and answer.box.shape[:size] == path:
                found[answer.box.shape[size]] = None
        certain = self._certain
        if len(certain) > size and certain[:size] == path:
            return [kind for kind in found if kind == certain[size]]
        return list(found)

    def _notes(self, path: Path) -> list[str]:
        kind = path[-1]
        if kind in TUNNELS and not set(path[:-1]) & set(TUNNELS):
            return ["note_tunnel(p, &c);"]
        return []

    def _fields(self, path: Path) -> list[str]:
        """Reads what a case may ask of the last header."""
        lines = []
        for name, field in HEADERS[path[-1]].fields.items():
            place = (len(path) - 1, name)
            if any(place == asked for answer in self.answers for asked, _ in self._asked(answer, path)):
                variable = _variable(path, name)
                if field.width <= 64:
                    lines.append(f"const uint64_t {variable} = {read(field)};")
                else:
                    at = field.bit // 8
                    lines.append(f"const uint64_t {variable}_high = wire_u64(c.head + {at});")
                    lines.append(f"const uint64_t {variable}_low = wire_u64(c.head + {at + 8});")
        return lines

    def _asked(self, answer: Answer, path: Path) -> Iterable[tuple[tuple[int, str], Ranges]]:
        """The conditions of an answer below a path that what is known does not answer."""
        box = answer.box
        if box is None or box.shape[: len(path)] != path:
            return
        for (index, name), ranges in box.limits:
            if box.shape[index + 1 : index + 2] and box.shape[index + 1] in TUNNELS and name == "dst":
                continue  # the tunnel is there: it was recognised by this port
            if self.known and all(_implies(known, box.shape, index, name, ranges) for known in self.known):
                continue
            yield (index, name), ranges

    def _decision(self, path: Path) -> list[str]:
        lines: list[str] = []
        for answer in self.answers:
            if answer.box is None:
                return [*lines, f"return {answer.number};"]
            if path[: len(answer.box.shape)] != answer.box.shape:
                continue
            asked = [
                inside(_variable(answer.box.shape[: index + 1], name), ranges)
                for (index, name), ranges in self._asked(answer, ())
            ]
            if not asked:
                return [*lines, f"return {answer.number};"]
            lines += [f"if ({' && '.join(asked)})", f"\treturn {answer.number};"]
        return [*lines, "return 0;"]


def answers(cases: Sequence[tuple[int, Iterable[Box] | None]]) -> tuple[Answer, ...]:
    """Answers in the order of the cases; None for `otherwise`."""
    found: list[Answer] = []
    for number, boxes in cases:
        found += [Answer(number, box) for box in boxes] if boxes is not None else [Answer(number, None)]
    return tuple(found)


def _implies(known: Box, shape: Path, index: int, name: str, ranges: Ranges) -> bool:
    """Whether every frame of `known` that has the headers of `shape` has a field in `ranges`."""
    size = min(len(known.shape), len(shape))
    if known.shape[:size] != shape[:size]:
        return True  # none has
    return len(known.shape) > index and (known.limit(index, name) - ranges).is_empty


def _variable(path: Path, name: str) -> str:
    """`vlan1_vid`: the header's kind, its index from the outside, the field."""
    return f"{path[-1]}{len(path) - 1}_{name}"


def _indented(lines: Iterable[str]) -> list[str]:
    return [f"\t{line}" if line else line for line in lines]
