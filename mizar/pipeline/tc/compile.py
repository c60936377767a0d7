# SPDX-License-Identifier: Apache-2.0
"""A validated pipeline → a plan of tc filters. Called by the command line and the report.

Blocks and switches become chains of one block of filters, which the uplink and the tunnel devices share; what depends
on metadata becomes a filter for each value. Raises InvalidError with everything that tc cannot do, by name. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from mizar.model.errors import InvalidError, Problem
from mizar.pipeline.description import Block, Case, On, Otherwise, Pipeline, Spot, State, Switch
from mizar.pipeline.ranges import Ranges
from mizar.pipeline.steps import (
    META_BITS,
    SOURCE_BITS,
    Count,
    Decap,
    Drop,
    Encap,
    Ending,
    Goto,
    Limit,
    Nat,
    Queue,
    SetMeta,
    Stop,
    Trap,
    Where,
)
from mizar.pipeline.structure import all_steps, problem
from mizar.pipeline.tc import nat
from mizar.pipeline.tc.depth import MAX_HOPS, hops
from mizar.pipeline.tc.lowering import (
    TOKENS,
    NotInTableError,
    Ports,
    Resources,
    Way,
    queue_words,
    source_keys,
    wants_meta,
)
from mizar.pipeline.tc.match import CannotError, vlan_field, vni_field
from mizar.pipeline.tc.notes import notes
from mizar.pipeline.tc.parse import ParseSwitch, entries
from mizar.pipeline.tc.rules import BLOCK, Action, Field, Filter, Flags, Match, Plan, Word, action
from mizar.pipeline.ways import follow

MAX_FILTERS = 100_000
_STATES = {State.NEW: "new", State.ESTABLISHED: "est", State.RELATED: "rel", State.INVALID: "inv"}


def compile_rules(
    pipeline: Pipeline,
    ports: Ports = Ports(),  # noqa: B008
    tenants: Iterable[int] = (),
    generation: int = 0,
) -> Plan:
    """The plan; a metadata value that is in `tenants`, in a table or in the `nat:` section can pass, no other.

    Raises InvalidError with every step and case that tc has no filter for.
    """
    work = Compiler(pipeline, ports, generation, known_metas(pipeline, tenants))
    work.everything()
    if not work.metas and any(isinstance(step, SetMeta) for _, step in all_steps(pipeline)):
        words = "tc has filters for each tenant, and none is known: name them (--tenant), or write a table"
        work.refuse(Spot(pipeline.groups[0].name), pipeline.where, words)
    if len(work.filters) > MAX_FILTERS:
        words = f"{len(work.filters)} filters are too many: at most {MAX_FILTERS}"
        work.refuse(Spot(pipeline.groups[0].name), pipeline.where, words)
    if work.refused:
        raise InvalidError(list(dict.fromkeys(work.refused)))
    found = work.resources
    filters = (*sorted(work.filters, key=lambda one: (-one.chain, one.priority)), *found.egress)
    if hops(filters) > MAX_HOPS:
        words = f"a frame would go through {hops(filters)} chains, the kernel follows {MAX_HOPS}"
        raise InvalidError([problem(pipeline, Spot(pipeline.groups[0].name), pipeline.where, words)])
    return Plan(
        block=ports.block,
        ingress=(ports.uplink, *(one.name for one in found.vteps.values())),
        vteps=tuple(found.vteps.values()),
        exits=tuple(found.exits.values()),
        policers=found.policers,
        filters=filters,
        counters=found.counters,
        zones=tuple(found.zones.items()) if work.tracks else (),
        notes=notes(found, work.tracks, any(isinstance(one, Nat) and one.allocate for _, one in all_steps(pipeline))),
    )


def known_metas(pipeline: Pipeline, tenants: Iterable[int]) -> tuple[int, ...]:
    """Every metadata value that has filters. Raises InvalidError."""
    found = dict.fromkeys(tenants)
    for _, step in all_steps(pipeline):
        table = getattr(step, "table", None)
        if table is not None:
            found |= dict.fromkeys(value if isinstance(step, SetMeta) else key for key, value in table.entries)
    for name, rule in () if pipeline.nat is None else pipeline.nat.rules():
        inside = rule.inside if isinstance(rule.inside, Ranges) else Ranges.of(META_BITS, [rule.inside])
        if sum(high - low + 1 for low, high in inside.spans) > MAX_FILTERS:
            raise InvalidError([problem(pipeline, Spot(f"nat: {name}"), rule.where, "too many tenants for tc")])
        found |= dict.fromkeys(meta for low, high in inside.spans for meta in range(low, high + 1))
        found[rule.outside] = None
    bad = [meta for meta in found if not 0 < meta < TOKENS]
    if bad:
        words = f"tc keeps metadata in the packet's mark: expected {1:#x} to {TOKENS - 1:#x}, found {bad[0]:#x}"
        raise InvalidError([problem(pipeline, Spot(pipeline.groups[0].name), pipeline.where, words)])
    return tuple(sorted(found))


@dataclass
class Compiler:
    """Filters so far, and the chains that are known by what they are for."""

    pipeline: Pipeline
    ports: Ports
    generation: int
    metas: tuple[int, ...]
    filters: list[Filter] = field(default_factory=list)
    refused: list[Problem] = field(default_factory=list)
    tracks: bool = False
    _chains: dict[object, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.resources = Resources(self.pipeline, self.ports, self.generation, self.metas)
        self.ways = follow(self.pipeline)

    def everything(self) -> None:
        """From the uplink's first filter on; and what comes from nowhere at a tunnel device is dropped."""
        first = self.pipeline.groups[0]
        start = self.block(Spot(first.name), first.block, 0, Way())
        uplink = (Word("indev", self.ports.uplink),)
        self.add("", 0, 1, "all", uplink, [action("gact", **{"goto chain": start})])
        if self.resources.vteps:
            stray = self.resources.dropped("a tunnel that did not come through the pipeline")
            self.add("", 0, 20 + self.generation, "all", (), stray)

    # ---- chains

    def chain(self, key: object, fill: Callable[[int], None]) -> int:
        """The chain for something; filled when it is first asked for."""
        if key not in self._chains:
            self._chains[key] = number = 1 + (self.generation << 20) + len(self._chains)
            fill(number)
        return self._chains[key]

    def to(self, key: object, fill: Callable[[int], None]) -> Action:
        """Going on in a chain."""
        return action("gact", **{"goto chain": self.chain(key, fill)})

    def add(
        self, spot: str, chain: int, priority: int, protocol: str, fields: Sequence[Field], actions: Sequence[Action]
    ) -> None:
        """A flower filter; without any condition, a matchall."""
        kind = "flower" if fields or protocol != "all" else "matchall"
        self.filters.append(Filter(spot, BLOCK, chain, priority, kind, protocol, tuple(fields), tuple(actions)))

    def add_mark(self, spot: str, chain: int, priority: int, mark: tuple[int, int], actions: Sequence[Action]) -> None:
        """A filter by the packet's mark."""
        self.filters.append(Filter(spot, BLOCK, chain, priority, "fw", "all", (), tuple(actions), mark))

    def missed(self, spot: Spot | str, chain: int, words: str = "no case", priority: int = 60000) -> None:
        """The last filter of a chain: count and drop."""
        self.add(str(spot), chain, priority, "all", (), self.resources.dropped(f"{spot}: {words}"))

    # ---- blocks

    def block(self, spot: Spot, block: Block, number: int, way: Way, start: int = 0) -> int:
        """The chain of a block from one of its steps on. `number`: the description's group around it."""
        return self.chain(("block", spot, start, way), lambda chain: self.fill(chain, spot, block, number, way, start))

    def fill(self, chain: int, spot: Spot, block: Block, number: int, way: Way, start: int) -> None:
        """What a block's chain begins with."""
        step = block.steps[start] if start < len(block.steps) else None
        if step is None and block.switch is not None:
            self.switch(chain, spot, block.switch, number, way)
        elif isinstance(step, SetMeta):
            self.by_source(chain, spot, block, number, way, start)
        elif step is not None and (wants_meta(step) or isinstance(step, Nat)):
            self.by_meta(
                chain,
                Spot(spot.group, spot.cases, start + 1),
                lambda meta: self.actions(spot, block, number, way, start, meta),
            )
        else:
            self.add(str(spot), chain, 1, "all", (), self.actions(spot, block, number, way, start))

    def by_meta(self, chain: int, spot: Spot, done: Callable[[int], list[Action]]) -> None:
        """A filter for each metadata value that frames may have here."""
        known = [state.meta for state in self.ways.before.get(spot, ())]
        for meta in self.metas:
            if not any(one is None or meta in one for one in known):
                continue
            self.add_mark(str(spot), chain, 1, (meta, 0xFFFFFFFF), done(meta))
        self.missed(spot, chain, "no filter for this metadata")

    def by_source(self, chain: int, spot: Spot, block: Block, number: int, way: Way, start: int) -> None:
        """A filter for each VNI or VLAN id that metadata is made of."""
        step = block.steps[start]
        assert isinstance(step, SetMeta)
        here = Spot(spot.group, spot.cases, start + 1)
        if (step.source == "vni") != bool(way.inside) or way.encap is not None:
            self.refuse(here, step.where, f"set_meta from {step.source}: tc's tunnel device has changed the headers")
        for key in source_keys(step, self.metas, SOURCE_BITS[step.source]):
            found = vni_field(key) if step.source == "vni" else vlan_field(key)
            protocol = "all" if step.source == "vni" else "802.1q"
            self.add(str(here), chain, 1, protocol, (found,), self.actions(spot, block, number, way, start, None, key))
        self.missed(here, chain, f"no filter for this {step.source}")

    def actions(
        self,
        spot: Spot,
        block: Block,
        number: int,
        way: Way,
        start: int,
        meta: int | None = None,
        source: int | None = None,
    ) -> list[Action]:
        """What is done from a step on, up to where another filter has to be asked. `meta`: the metadata, `source`: the
        VNI or VLAN id, where the filter knows it."""
        found: list[Action] = []
        for place, step in enumerate(block.steps[start:], start):
            here = Spot(spot.group, spot.cases, place + 1)
            asks = (isinstance(step, SetMeta) and source is None) or (
                (wants_meta(step) or isinstance(step, Nat)) and meta is None
            )
            if asks:
                return [*found, action("gact", **{"goto chain": self.block(spot, block, number, way, place)})]
            try:
                if isinstance(step, SetMeta):
                    assert source is not None
                    meta, source = source_keys(step, self.metas, SOURCE_BITS[step.source])[source], None
                    found.append(action("skbedit", mark=meta))
                elif isinstance(step, Decap):
                    way = self.decap(step, way, found)
                elif isinstance(step, Encap):
                    way.refuse("encap")
                    way = replace(way, encap=step)
                elif isinstance(step, Nat):
                    assert meta is not None
                    return [*found, *self.translate(here, step, spot, block, number, way, place + 1, meta)]
                elif isinstance(step, Ending):
                    return [*found, *self.end(here, step, way)]
                elif isinstance(step, Count):
                    found.append(self.resources.count(step.name, meta if step.per_meta else None))
                elif isinstance(step, Limit):
                    found.append(self.resources.limit(step, meta))
                else:
                    found += self.resources.edit(step, way, meta)
            except NotInTableError:
                return [*found, *self.resources.dropped(f"{here}: not in the table")]
            except CannotError as error:
                self.refuse(here, step.where, str(error))
                return [*found, *self.resources.dropped(f"{here}: refused")]
        try:
            return [*found, self.onwards(spot, block, number, way)]
        except CannotError as error:
            self.refuse(spot, self.pipeline.where, str(error))
            return [*found, *self.resources.dropped(f"{spot}: refused")]

    def onwards(self, spot: Spot, block: Block, number: int, way: Way) -> Action:
        """Behind a block's last step: its switch, or the next group."""
        if block.switch is not None:
            switch = block.switch
            return self.to(("switch", spot, way), lambda chain: self.switch(chain, spot, switch, number, way))
        return self.group(number + 1, way)

    def group(self, number: int, way: Way) -> Action:
        """A group from its beginning."""
        if way.inside:
            raise CannotError(f"a frame in {way.inside} goes on without decap: the tunnel device takes its tunnel off")
        group = self.pipeline.groups[number]
        return action("gact", **{"goto chain": self.block(Spot(group.name), group.block, number, way)})

    def decap(self, step: Decap, way: Way, found: list[Action]) -> Way:
        """The tunnel device has done it; what it told of the tunnel is forgotten."""
        if way.encap is not None:
            way.refuse("decap")
        if way.inside != step.tunnel:
            raise CannotError("decap has to stand in the case that asks for the tunnel: tc cannot take off one itself")
        found.append(action("tunnel_key", "unset"))
        return Way()

    def end(self, here: Spot, step: Ending, way: Way) -> list[Action]:
        """Where a way ends, or goes on in a later group."""
        if isinstance(step, Drop):
            return self.resources.dropped(f"{here}: drop")
        if isinstance(step, Goto):
            return [self.group(self.pipeline.number(step.group), way)]
        if way.inside:
            way.refuse(type(step).__name__.lower())
        if isinstance(step, Stop):
            return self.resources.leave(here, way, self.ports.out)
        if isinstance(step, Trap):
            if not self.ports.kernel:
                raise CannotError("trap: name the interface that leads to the kernel's slow path")
            return self.resources.leave(here, way, self.ports.kernel)
        assert isinstance(step, Queue)
        if not self.ports.worker:
            raise CannotError(queue_words(step))
        return self.resources.leave(here, way, self.ports.worker, step.number)

    def translate(
        self, here: Spot, step: Nat, spot: Spot, block: Block, number: int, way: Way, then: int, meta: int
    ) -> list[Action]:
        """The connection's entry in the tenant's zone translates; its mark is the metadata that the packet gets, in
        whose zone the connection has an entry too."""
        way.refuse("nat")
        rules = self.pipeline.nat if step.allocate else None
        reasons = list(nat.refusals(rules)) if step.allocate else []
        for reason in reasons:
            self.refuse(here, step.where, reason)
        if reasons:
            return self.resources.dropped(f"{here}: refused")

        def fill(chain: int) -> None:
            for other in self.metas:
                zone = self.resources.zones[other]
                done = [action("skbedit", mark=other), Action("ct", (("zone", zone), ("nat", True)))]
                rest = self.actions(spot, block, number, way, then, other)
                self.add(str(here), chain, 1, "all", (Match("ct_mark", other, 0xFFFFFFFF, 32),), [*done, *rest])
            self.missed(here, chain, "no translation")

        known = [Action("ct", (("zone", self.resources.zones[meta]), ("nat", True)))]
        known.append(self.to(("translated", here, way), fill))
        if rules is None:
            return known

        def begin(chain: int) -> None:
            """A connection that there is goes on as it is; a new one is of the first rule that fits."""
            for place, state in enumerate(("est", "rel"), 1):
                self.add(str(here), chain, place, "all", (Flags("ct_state", ("trk", state)),), known)
            for place, one in enumerate(nat.commits(rules, meta, self.resources.zones), 3):
                rest = self.actions(spot, block, number, way, then, one.then)
                self.add(str(here), chain, place, one.protocol, one.fields, [*one.actions, *rest])
            self.missed(here, chain, "no translation")

        return [self.to(("allocate", here, way, meta), begin)]

    # ---- switches

    def switch(self, chain: int, spot: Spot, switch: Switch, number: int, way: Way) -> None:
        """The filters of a switch's cases, and the drop of what none takes."""
        try:
            if switch.on is On.METADATA:
                self.metadata(chain, spot, switch, number, way)
            elif switch.on is On.CONNTRACK:
                self.conntrack(chain, spot, switch, number, way)
            else:
                if way.encap is not None or way.inside:
                    words = "behind encap" if way.encap is not None else "before decap"
                    raise CannotError(f"switch on the headers {words}: the tunnel device does that elsewhere")
                ParseSwitch(self, spot, number, entries(switch)).fill(chain)
        except CannotError as error:
            self.refuse(spot, switch.where, str(error))

    def metadata(self, chain: int, spot: Spot, switch: Switch, number: int, way: Way) -> None:
        """By the mark, a prefix of it at a time; there is no tenant 0."""
        priority = 0
        for place, case in enumerate(switch.cases, 1):
            here = Spot(spot.group, (*spot.cases, place))
            if isinstance(case.when, Otherwise):
                self.add(str(here), chain, priority + 1, "all", (), self.enter(here, case, number, way, 1))
                return
            assert isinstance(case.when, Ranges)
            several = list((case.when - Ranges.of(META_BITS, [0])).prefixes())
            for mark in several:
                priority += 1
                self.add_mark(str(here), chain, priority, mark, self.enter(here, case, number, way, len(several)))
        self.missed(spot, chain)

    def conntrack(self, chain: int, spot: Spot, switch: Switch, number: int, way: Way) -> None:
        """A lookup in the tenant's zone, then the states that it may have."""
        way.refuse("switch on conntrack")
        self.tracks = True

        def states(inner: int) -> None:
            left = list(State)
            for place, case in enumerate(switch.cases, 1):
                here = Spot(spot.group, (*spot.cases, place))
                wanted = [one for one in left if isinstance(case.when, Otherwise) or one in _states(case)]
                for state in wanted:
                    left.remove(state)
                    done = self.enter(here, case, number, way, len(wanted))
                    asked = (Flags("ct_state", ("trk", _STATES[state])),)
                    self.add(str(here), inner, place, "all", asked, done)
            self.missed(spot, inner)

        onwards = self.to(("states", spot), states)
        self.by_meta(chain, spot, lambda meta: [action("ct", zone=self.resources.zones[meta]), onwards])

    def enter(self, here: Spot, case: Case, number: int, way: Way, filters: int) -> list[Action]:
        """A case's actions in its filter, or in a chain where several filters lead to it."""
        first = case.block.steps[0] if case.block.steps else None
        branches = first is None or isinstance(first, SetMeta | Nat) or wants_meta(first)
        if filters == 1 and not branches:
            return self.actions(here, case.block, number, way, 0)
        if first is None and case.block.switch is None:
            return [self.group(number + 1, way)]
        return [action("gact", **{"goto chain": self.block(here, case.block, number, way)})]

    def refuse(self, spot: Spot, where: Where, message: str) -> None:
        """Something that tc has no filter for."""
        self.refused.append(problem(self.pipeline, spot, where, message))


def _states(case: Case) -> frozenset[State]:
    return case.when if isinstance(case.when, frozenset) else frozenset(State)
