# SPDX-License-Identifier: Apache-2.0
"""Chains of network functions: what stands at each place of the data plane, and how that is changed under traffic.

Owns the programs of functions and the pins that keep their links when the daemon is gone. Called by the daemon's
functions and by tests. A place changes by one write, whatever changes in its chain: what stays in front stays, what
stays behind is led to by the programs that are new; so a packet meets either the old chain or the new one, and none is
lost.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mizar.kernel import libbpf
from mizar.kernel.function_tables import FunctionTables, parked
from mizar.kernel.functions import HOOKS, Instance, Place, Room, Wanted, load, point
from mizar.kernel.libbpf import lib
from mizar.model.errors import MizarError
from mizar.model.function_object import STAGES, FunctionObject

PLACES = tuple(Place(stage, hook) for stage in STAGES for hook in HOOKS[stage])
GRACE_S = 0.02
"""How long a packet may still be under way in a chain that nobody leads to any more: far longer than any takes."""
Load = Callable[[Room, Wanted, dict[str, int]], Instance]
"""functions.load(), or who does the same elsewhere."""
_MIDWAY = ("ON_XDP_SCALED_EP", "ENDPOINT_EGRESS")


@dataclass(frozen=True, slots=True)
class Member:
    """One function as a member of chains. `number`: its bit on this droplet."""

    function: FunctionObject
    data: bytes
    number: int
    parameters: bytes = b""

    @property
    def key(self) -> tuple[int, str, str, bytes]:
        """What its programs are made from: equal keys, equal programs."""
        return self.number, self.function.name, self.function.digest, self.parameters


@dataclass(frozen=True, slots=True)
class Link:
    """A member at one place."""

    member: Member
    instance: Instance
    pin: Path | None


@dataclass(slots=True)
class Prepared:
    """A change that is loaded, and entered by nobody yet: commit() or abandon() it."""

    chains: dict[Place, tuple[Link, ...]]
    fresh: list[Link] = field(default_factory=list)
    writes: list[tuple[Place, Instance | None, int | None]] = field(default_factory=list)
    """Of each place that changes: whose next (None: the place's head) leads to which program (None: to none)."""


def _switches(chains: Mapping[Place, tuple[Link, ...]], droplet: int, finer: int) -> dict[str, Any]:
    """Fields of struct function_switches."""
    bits = dict.fromkeys(STAGES, 0)
    for place, links in chains.items():
        for link in links:
            bits[place.stage] |= 1 << link.member.number
    stages = sum(1 << number for number, stage in enumerate(STAGES) if bits[stage])
    members = tuple(bits[stage] for stage in STAGES)
    return {"droplet": droplet, "chains": members, "stages": stages, "finer": finer & stages}


class Chains:
    """The chains of one droplet. `folder`: where their links are pinned; None: they end with this object."""

    def __init__(self, tables: FunctionTables, room: Room, folder: Path | None = None) -> None:
        self._tables = tables
        self.room = room
        self.load: Load = load
        self._folder = folder
        self._taken_over = folder is not None  # what a daemon before has left runs, and is nobody's
        self._serial = itertools.count(time.time_ns() // 1_000_000)
        self.held: dict[Place, tuple[Link, ...]] = dict.fromkeys(PLACES, ())
        self._emptied: list[Place] = []
        self._left: list[Link] = []

    @property
    def taking_over(self) -> bool:
        """Until the first commit: what a daemon before has left runs still."""
        return self._taken_over

    def prepare(self, wanted: Mapping[Place, Sequence[Member]], own: Mapping[str, dict[str, int]]) -> Prepared:
        """Loads what is new. `own`: the functions' own maps by the function's name; what is made is added. Raises what
        load() raises, with nothing left behind but such maps."""
        done = Prepared(dict(self.held))
        try:
            for place in PLACES:
                self._prepare(place, tuple(wanted.get(place, ())), own, done)
        except BaseException:
            self.abandon(done)
            raise
        return done

    def _prepare(
        self, place: Place, wanted: tuple[Member, ...], own: Mapping[str, dict[str, int]], done: Prepared
    ) -> None:
        old, keys = self.held[place], [member.key for member in wanted]
        held = [link.member.key for link in old]
        if held == keys:
            return
        front = _common(held, keys)
        back = _common(held[front:][::-1], keys[front:][::-1])
        behind = old[len(old) - back :]
        links: list[Link] = []
        following = behind[0].instance.fd if behind else None
        for member in reversed(wanted[front : len(wanted) - back]):
            maps = own[member.function.name]
            program = Wanted.of(member.function, member.data, member.number, place, member.parameters)
            instance = self.load(self.room, program, maps)
            link = Link(member, instance, self._pin_path(member, place))
            done.fresh.append(link)
            links.insert(0, link)
            instance.lead_to(following)
            if link.pin is not None:
                libbpf.pin(instance.next_fd, link.pin)
            following = instance.fd
        done.chains[place] = (*old[:front], *links, *behind)
        done.writes.append((place, old[front - 1].instance if front else None, following))

    def commit(self, done: Prepared, droplet: int, finer: int) -> None:
        """enter() and leave()."""
        self.enter(done, droplet, finer)
        self.leave()

    def enter(self, done: Prepared, droplet: int, finer: int) -> None:
        """From here on packets meet the new chains. `droplet`: bits of functions that see every frame; `finer`: of the
        stages where frames in tunnels are looked up by network and group. leave() has to follow."""
        switches, before = _switches(done.chains, droplet, finer), self._stages()
        stages = switches["stages"]
        midway = sum(1 << STAGES.index(stage) for stage in _MIDWAY)
        if stages & midway & ~before:
            self._tables.frames.zero([0])  # nobody is midway that was so long ago
        for place, front, program in done.writes:
            if front is not None:
                front.lead_to(program)
            elif program is not None:
                point(self._tables.heads[place.hook], place.number, program)
            else:
                self._emptied.append(place)
        self._tables.switches.put(0, switches)
        kept = {id(link) for links in done.chains.values() for link in links}
        self._left += [link for links in self.held.values() for link in links if id(link) not in kept]
        if self._taken_over:
            self._emptied = [place for place in PLACES if not done.chains[place]]
        self.held = done.chains

    def leave(self) -> None:
        """Waits until no packet can be under way in what nobody enters any more, and lets go of it."""
        if self._emptied or self._left or self._taken_over:
            time.sleep(GRACE_S)
        for place in self._emptied:
            _park(self._tables.heads[place.hook], place.number)
        _let_go(self._left)
        self._emptied, self._left = [], []
        if self._taken_over:
            self._sweep()

    def switches(self, droplet: int, finer: int) -> dict[str, Any]:
        """What the switches should be."""
        return _switches(self.held, droplet, finer)

    def mend(self, droplet: int, finer: int) -> None:
        """Writes again what leads into the chains; somebody else has altered it."""
        for place, links in self.held.items():
            for link, behind in itertools.pairwise((*links, None)):
                if link is not None:
                    link.instance.lead_to(behind.instance.fd if behind else None)
            point(self._tables.heads[place.hook], place.number, links[0].instance.fd if links else None)
        self._tables.switches.put(0, self.switches(droplet, finer))

    def abandon(self, done: Prepared) -> None:
        """Lets go of what was loaded; what runs is as it was."""
        _let_go(done.fresh)

    def close(self) -> None:
        """Closes descriptors. Chains whose links are pinned run on."""
        for links in self.held.values():
            for link in links:
                link.instance.close()
        self.held = dict.fromkeys(PLACES, ())

    def _stages(self) -> int:
        value = self._tables.switches.get(0)
        return int(value["stages"]) if value else 0

    def _pin_path(self, member: Member, place: Place) -> Path | None:
        if self._folder is None:
            return None
        return self._folder / f"{member.function.name}-{place.number}-{place.hook}-{next(self._serial)}"

    def _sweep(self) -> None:
        """Remove the pins of a daemon before."""
        self._taken_over = False
        ours = {link.pin for links in self.held.values() for link in links}
        for pin in self._folder.iterdir() if self._folder is not None else ():
            if pin not in ours:
                pin.unlink()


def _let_go(links: Sequence[Link]) -> None:
    for link in links:
        with contextlib.suppress(MizarError):
            link.instance.lead_to(None)
        link.instance.close()
        if link.pin is not None:
            link.pin.unlink(missing_ok=True)


def _park(table: int, at: int) -> None:
    """No switch leads to this place any more: another program of the droplet's takes it. To empty it would take
    20 ms for each that has a jump to it: the kernel waits for all CPUs (prog_array_map_poke_run)."""
    program = lib().bpf_prog_get_fd_by_id(parked(table))
    if program < 0:
        point(table, at, None)
        return
    try:
        point(table, at, program)
    finally:
        os.close(program)


def _common(a: Sequence[object], b: Sequence[object]) -> int:
    """How many both begin with."""
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))


class OwnMaps:
    """The maps of functions themselves: pinned, each function's in a folder of its own, so that their content outlives
    replacements and the daemon."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.open: dict[str, dict[str, int]] = {}

    def folder(self, function: str) -> Path:
        """Where they are pinned."""
        return self._folder / function

    def of(self, function: str) -> dict[str, int]:
        """Open descriptors by name: those that are pinned. To be added to by whoever loads the function."""
        if function not in self.open:
            found = self.open[function] = {}
            for pin in sorted(self.folder(function).iterdir()) if self.folder(function).is_dir() else ():
                fd = libbpf.open_pin(pin)
                if fd is not None:
                    found[pin.name] = fd
        return self.open[function]

    def keep(self, function: FunctionObject) -> None:
        """Pins what is new, and lets go of what the function does not declare any more."""
        folder = self.folder(function.name)
        folder.mkdir(parents=True, exist_ok=True)
        for name, fd in list(self.of(function.name).items()):
            if name not in function.maps:
                os.close(self.open[function.name].pop(name))
                (folder / name).unlink(missing_ok=True)
            elif not (folder / name).exists():
                libbpf.pin(fd, folder / name)

    def remove(self, function: str) -> None:
        """Ends them, with what they hold."""
        for fd in self.open.pop(function, {}).values():
            os.close(fd)
        folder = self.folder(function)
        if folder.is_dir():
            for pin in folder.iterdir():
                pin.unlink()
            folder.rmdir()

    def forget_unpinned(self) -> None:
        """After a change that came to nothing: close what was made for it."""
        for function, maps in self.open.items():
            for name in [name for name in maps if not (self.folder(function) / name).exists()]:
                os.close(maps.pop(name))

    def folders(self) -> list[str]:
        """Functions that have maps."""
        return sorted(entry.name for entry in self._folder.iterdir()) if self._folder.is_dir() else []

    def close(self) -> None:
        """Closes descriptors; the pins stay."""
        for maps in self.open.values():
            for fd in maps.values():
                os.close(fd)
        self.open.clear()
