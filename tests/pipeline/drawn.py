# SPDX-License-Identifier: Apache-2.0
"""Any valid pipeline with several groups, cases and conditions, and frames that reach its cases: what targets are
compared over. Steps are drawn among those that may stand where they stand, so that few drawings are refused."""

from __future__ import annotations

from functools import cache

from hypothesis import assume
from hypothesis import strategies as st

from mizar.pipeline.box import Box
from mizar.pipeline.description import Block, Case, Group, On, Otherwise, Pipeline, Switch, When
from mizar.pipeline.effects import Known, Refusal, apply, leaving
from mizar.pipeline.headers import HEADERS
from mizar.pipeline.interpreter.frame import field, headers
from mizar.pipeline.pattern import Condition, Pattern, Term
from mizar.pipeline.ranges import Ranges
from mizar.pipeline.steps import META_BITS, Count, Limit, SetMeta, SetVid, SetVni, Step, Table
from mizar.pipeline.validation import problems_of
from tests.pipeline.corpus import corpus, whole
from tests.unit.pipeline.stacks import ENDS, NEAR, STEPS, chains, stacks

Knowns = frozenset[Known]
_LONG = Table(tuple((number, 0x03000000 + number) for number in range(0, 120, 2)))
_MORE: tuple[Step, ...] = (
    *STEPS,
    SetMeta(source="vni", table=_LONG),
    SetVid(table=Table(((0x02FF0064, 7), (21, 8)))),
    SetVni(table=Table(tuple((0x01000000 + number, number + 1) for number in range(60)))),
    Limit(name="each slow", packets_per_s=7, burst=2, per_meta=True),
    Limit(name="fast", packets_per_s=1_000_000_000, burst=1_000_000),
    Count(name="*/ odd"[3:]),
)
_BARE = Pipeline(name="bare", groups=(Group(name="g", block=Block((ENDS[0],))),), tunnels=(NEAR,))
_METAS = Ranges.of(META_BITS, [5, 11, 21])
_METAS_OF = (
    _METAS,
    Ranges(META_BITS, ((0x01000000, 0x01FFFFFF),)),
    Ranges(META_BITS, ((0, 0xFF), (0x02FF0000, 0x02FF00FF))),
)


@cache
def _values() -> dict[tuple[str, str], list[int]]:
    """What stands in the fields of the corpus's valid frames."""
    found: dict[tuple[str, str], set[int]] = {}
    for _, frame in whole():
        for part in headers(frame):
            for name in HEADERS[part.kind].fields:
                found.setdefault((part.kind, name), set()).add(field(frame, part, name))
    return {key: sorted(values) for key, values in found.items()}


@st.composite
def _condition(draw: st.DrawFn, kind: str) -> tuple[Condition, ...]:
    """Now and then a condition on a field: a value, a set, a span, a prefix, many spans, or anything but these."""
    names = list(HEADERS[kind].fields)
    if not names or draw(st.integers(0, 2)) == 0:
        return ()
    name = draw(st.sampled_from(names))
    width = HEADERS[kind].fields[name].width
    some = _values().get((kind, name), [1])
    top = (1 << width) - 1
    first = draw(st.sampled_from(some))
    form = draw(st.integers(0, 1 if width == 48 else 4))  # MACs are written one by one
    if form == 0:
        ranges = Ranges.of(width, [first])
    elif form == 1:
        ranges = Ranges.of(width, draw(st.lists(st.sampled_from(some), min_size=1, max_size=4)))
    elif form == 2:
        ranges = Ranges(width, ((max(0, first - draw(st.integers(0, 3))), min(top, first + draw(st.integers(0, 3)))),))
    elif form == 3:
        size = 1 << draw(st.integers(0, width - 1))
        ranges = Ranges(width, ((first // size * size, first // size * size + size - 1),))
    else:
        ranges = Ranges.of(width, range(first % 2, min(top, 40), 2))
    ranges = ~ranges if draw(st.booleans()) else ranges
    return () if ranges.is_empty or ranges.is_full else (Condition(name, ranges),)


@st.composite
def patterns(draw: st.DrawFn) -> Pattern:
    """A chain with conditions. Tunnels are recognised by their ports, so UDP in front of one has none."""
    kinds = draw(chains(7))
    terms = []
    for place, kind in enumerate(kinds):
        tunnel = kinds[place + 1 : place + 2] in (("vxlan",), ("geneve",))
        terms.append(Term(kind, () if tunnel else draw(_condition(kind))))
    return Pattern(tuple(terms))


@st.composite
def _steps(draw: st.DrawFn, known: Knowns) -> tuple[tuple[Step, ...], Knowns]:
    found: list[Step] = []
    for _ in range(draw(st.integers(0, 4))):
        possible = [step for step in _MORE if not any(isinstance(apply(_BARE, step, one), Refusal) for one in known)]
        step = draw(st.sampled_from(possible))
        found.append(step)
        known = frozenset(after for one in known if not isinstance(after := apply(_BARE, step, one), Refusal))
    return tuple(found), known


@st.composite
def _block(draw: st.DrawFn, known: Knowns, depth: int) -> tuple[Block, Knowns]:
    """Steps; then a switch, an end, or on to the next group. What is known of frames that go on."""
    steps, known = draw(_steps(known))
    form = draw(st.integers(0, 3 if depth else 2))
    ends = [end for end in ENDS if all(leaving(end, one) is None for one in known)]  # type: ignore[arg-type]
    if depth == 2 or form == 3:
        cases, known = draw(_cases(known, depth))
        return Block(steps, cases), known
    if form == 0 and ends:
        return Block((*steps, draw(st.sampled_from(ends)))), frozenset()
    return Block(steps), known


@st.composite
def _cases(draw: st.DrawFn, known: Knowns, depth: int) -> tuple[Switch, Knowns]:
    on_metadata = all(one.meta is not None for one in known) and draw(st.booleans())
    whens: list[When] = []
    for _ in range(draw(st.integers(1, 4 if depth == 2 else 2))):
        when: When = draw(st.sampled_from(_METAS_OF)) if on_metadata else draw(patterns())
        if when not in whens and _taken(when, known):
            whens.append(when)
    if not whens or draw(st.booleans()):
        whens.append(Otherwise())
    cases: list[Case] = []
    left: set[Known] = set()
    for when in whens:
        block, after = draw(_block(_taken(when, known), depth - 1))
        cases.append(Case(when=when, block=block))
        left |= after
    return Switch(on=On.METADATA if on_metadata else On.PARSE, cases=tuple(cases)), frozenset(left)


def _taken(when: When, known: Knowns) -> Knowns:
    if isinstance(when, Pattern):
        met = ((one, one.box.meet(box)) for one in known for box in when.boxes)
        return frozenset(Known(box, one.meta, None, one.unfilled) for one, box in met if box is not None)
    if isinstance(when, Ranges):
        met_ = ((one, one.meta & when) for one in known if one.meta is not None)
        return frozenset(Known(one.box, meta, None, one.unfilled) for one, meta in met_ if not meta.is_empty)
    return known


@st.composite
def described(draw: st.DrawFn) -> Pipeline:
    """A valid pipeline of up to four groups."""
    groups: list[Group] = []
    known: Knowns = frozenset({Known(Box(("eth",)))})
    while known and len(groups) < 3:
        flat = draw(st.booleans())
        block, known = draw(_block(known, 0 if flat and groups else 2))
        groups.append(Group(name=f"g{len(groups)}", block=block))
    if known:
        ends = [end for end in ENDS if all(leaving(end, one) is None for one in known)]  # type: ignore[arg-type]
        groups.append(Group(name="last", block=Block((draw(st.sampled_from(ends)),))))
    made = Pipeline(name="drawn", groups=tuple(groups), tunnels=(NEAR,))
    assume(not [one for one in problems_of(made) if "no step uses tunnel" not in one.message])
    return made


def _patterns_of(block: Block) -> list[Pattern]:
    cases = block.switch.cases if block.switch else ()
    own = [case.when for case in cases if isinstance(case.when, Pattern)]
    return own + [pattern for case in cases for pattern in _patterns_of(case.block)]


class Frames(list[tuple[str, bytes]]):
    """Named frames that a failure does not print."""

    def __repr__(self) -> str:
        return f"{len(self)} frames"


@st.composite
def frames_for(draw: st.DrawFn, pipeline: Pipeline, fewest: int = 40) -> Frames:
    """Frames with the headers that the cases ask for, and some of the corpus."""
    every = corpus()
    first = draw(st.integers(0, len(every) - 1))
    found = Frames(every[(first + number * 17) % len(every)] for number in range(fewest))
    for pattern in [pattern for group in pipeline.groups for pattern in _patterns_of(group.block)][:6]:
        for box in pattern.boxes[:2]:
            found += [(f"drawn for {box}", draw(stacks(begin=box.shape))) for _ in range(2)]
    return found
