# SPDX-License-Identifier: Apache-2.0
"""A switch on headers → filters, first case first. Called by `compile`.

A case that asks for a tunnel is asked in two places: on the uplink by its outer headers, which gives the frame to the
kernel's tunnel device under a mark (a token), and behind that device by the VNI and what was inside. So every frame
whose outer headers fit is decapsulated, and no later case may want it as it came.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mizar.pipeline.box import Box
from mizar.pipeline.description import Case, Spot, Switch
from mizar.pipeline.headers import TUNNELS
from mizar.pipeline.pattern import Pattern
from mizar.pipeline.ranges import Ranges
from mizar.pipeline.steps import SOURCE_BITS, Count, Drop, SetMeta
from mizar.pipeline.tc.lowering import Way, source_keys
from mizar.pipeline.tc.match import CannotError, excluded, fields_of, vni_field, vni_fields
from mizar.pipeline.tc.rules import Action, action

if TYPE_CHECKING:
    from mizar.pipeline.tc.compile import Compiler

_VNI = 24


@dataclass(frozen=True)
class Entry:
    """One box of a case; `number` is the case's place, from 1."""

    number: int
    case: Case
    box: Box

    @property
    def kind(self) -> str:
        """The tunnel that the box asks for; "": none."""
        return "" if self.box.tunnel is None else self.box.shape[self.box.tunnel]

    @property
    def outside(self) -> Box:
        """The headers in front of the tunnel's."""
        tunnel = self.box.tunnel
        assert tunnel is not None
        port = Ranges.of(16, [TUNNELS[self.kind]])
        limits = {(place, name): ranges for (place, name), ranges in self.box.limits if place < tunnel}
        return Box.of(self.box.shape[:tunnel], limits | {(tunnel - 1, "dst"): port})

    @property
    def inside(self) -> Box:
        """The headers behind the tunnel's."""
        tunnel = self.box.tunnel
        assert tunnel is not None
        rest = self.box.without(0, tunnel + 1)
        return rest if rest.shape else Box(("eth",))

    @property
    def vnis(self) -> Ranges:
        """The VNIs that the box lets through."""
        assert self.box.tunnel is not None
        return self.box.limit(self.box.tunnel, "vni")

    def keys(self, metas: tuple[int, ...]) -> list[int] | None:
        """VNIs or VLAN ids with filters of their own, where the case begins with metadata from them; else None."""
        step = self.case.block.steps[0] if self.case.block.steps else None
        tagged = self.box.shape[1:2] == ("vlan",)
        if not isinstance(step, SetMeta) or (step.source == "vni") != bool(self.kind) or not (self.kind or tagged):
            return None
        allowed = self.vnis if self.kind else self.box.limit(1, "vid")
        return [key for key in source_keys(step, metas, SOURCE_BITS[step.source]) if key in allowed]

    @property
    def ends_here(self) -> bool:
        """Whether the case only counts and drops, which is the same of a frame with and without its tunnel."""
        block = self.case.block
        return block.switch is None and all(isinstance(step, Count | Drop) for step in block.steps)


def entries(switch: Switch) -> list[Entry]:
    """The boxes of all cases in order."""
    found = []
    for number, case in enumerate(switch.cases, 1):
        boxes = case.when.boxes if isinstance(case.when, Pattern) else (Box(("eth",)),)
        found += [Entry(number, case, box) for box in boxes]
    return found


@dataclass
class ParseSwitch:
    """The filters of one switch in group `number`."""

    work: Compiler
    spot: Spot
    number: int
    entries: list[Entry]

    def fill(self, chain: int, first: int = 0) -> None:
        """The entries from one on, and the drop of what none of them takes."""
        priority = 1
        for place in range(first, len(self.entries)):
            entry = self.entries[place]
            try:
                self._around(chain, priority, place)
                if entry.kind:
                    self._tunnelled(chain, priority + 1, place)
                else:
                    self._plain(chain, priority + 1, entry)
            except CannotError as error:
                self.work.refuse(self._spot(entry), entry.case.where, str(error))
            priority += 2
        self.work.missed(self.spot, chain)

    def _spot(self, entry: Entry) -> Spot:
        return Spot(self.spot.group, (*self.spot.cases, entry.number))

    def _around(self, chain: int, priority: int, place: int) -> None:
        """What a box excludes goes on with the entries behind it."""
        entry = self.entries[place]
        for gone in excluded(entry.outside if entry.kind else entry.box):
            rest = self.work.to(("rest", self.spot, place + 1), lambda inner: self.fill(inner, place + 1))
            for protocol, fields in fields_of(gone):
                self.work.add(str(self._spot(entry)), chain, priority, protocol, fields, [rest])

    def _plain(self, chain: int, priority: int, entry: Entry) -> None:
        here, block = self._spot(entry), entry.case.block
        keys = entry.keys(self.work.metas)
        if keys is not None:
            for key in keys:
                one = entry.box.with_limit(1, "vid", Ranges.of(12, [key]))
                done = self.work.actions(here, block, self.number, Way(), 0, None, key)
                for protocol, fields in fields_of(one):
                    self.work.add(str(here), chain, priority, protocol, fields, done)
            missing = self.work.resources.dropped(f"{here}: no filter for this vlan")
            for protocol, fields in fields_of(entry.box):
                self.work.add(f"{here}: other", chain, priority + 1, protocol, fields, missing)
            return
        filters = sum(len(list(fields_of(one.box))) for one in self.entries if one.case is entry.case)
        done = self.work.enter(here, entry.case, self.number, Way(), filters)
        for protocol, fields in fields_of(entry.box):
            self.work.add(str(here), chain, priority, protocol, fields, done)

    def _tunnelled(self, chain: int, priority: int, place: int) -> None:
        """On the uplink: tags off, a mark, and up to the tunnel device."""
        entry, work = self.entries[place], self.work
        if any(one.kind and one.outside == entry.outside for one in self.entries[:place]):
            return  # which has asked for this one too
        here = self._spot(entry)
        if any(state.meta is not None for state in work.ways.before.get(self.spot, ())):
            raise CannotError("a tunnel behind set_meta: on the way through the tunnel device a frame has no metadata")
        inner = work.chain(("inside", self.spot, place), lambda chain: self._inside(chain, place))
        token = work.resources.token(("tunnel", self.spot, place))
        work.resources.vtep(entry.kind)
        lead = action("gact", **{"goto chain": inner})
        work.add_mark(str(here), 0, 10 + work.generation, (token, 0xFFFFFFFF), [lead])
        done: list[Action] = [action("vlan", "pop") for kind in entry.outside.shape if kind == "vlan"]
        done += [action("skbedit", ptype="host", mark=token), action("gact", "pass")]
        for protocol, fields in fields_of(entry.outside):
            work.add(str(here), chain, priority, protocol, fields, done)

    def _inside(self, chain: int, first: int) -> None:
        """Behind the tunnel device: every entry that asks for the same outer headers."""
        lead = self.entries[first]
        priority, nameless = 1, Ranges(_VNI, ())
        for entry in self.entries[first:]:
            here = self._spot(entry)
            try:
                together = (entry.outside if entry.kind else entry.box).meet(lead.outside)
                if together is None:
                    continue
                if not entry.kind:
                    if not entry.ends_here:
                        raise CannotError(f"may want a frame that the {lead.kind} device has decapsulated by then")
                    done = self.work.actions(here, entry.case.block, self.number, Way(lead.kind), 0)
                    self.work.add(str(here), chain, priority, "all", (), done)
                    return
                if entry.outside != lead.outside:
                    raise CannotError("asks for outer headers that another case asks for in part")
                if not (entry.vnis & nameless).is_empty and not entry.ends_here:
                    raise CannotError("asks for VNIs that a case before takes, with filters for known tenants alone")
                keys = entry.keys(self.work.metas)
                if keys is not None:
                    nameless |= entry.vnis
                for found in vni_fields(entry.vnis) if keys is None else [vni_field(key) for key in keys]:
                    source = None if keys is None or found is None else found.value
                    done = self.work.actions(here, entry.case.block, self.number, Way(lead.kind), 0, None, source)
                    for protocol, fields in fields_of(entry.inside):
                        asked = fields if found is None else (found, *fields)
                        self.work.add(str(here), chain, priority, protocol, asked, done)
            except CannotError as error:
                self.work.refuse(here, entry.case.where, str(error))
            priority += 1
        self.work.missed(self.spot, chain)
