# SPDX-License-Identifier: Apache-2.0
"""Single steps → actions of tc, and what they need beside filters: limits, counters, ways out, conntrack zones.

Called by `compile`, which knows what leads where. A frame that the description has encapsulated is not yet longer
here: the tunnel device does that behind the pipeline's end. `Way` says that it will be.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field

from mizar.pipeline.description import Pipeline, Spot
from mizar.pipeline.headers import TUNNELS
from mizar.pipeline.steps import Count, Encap, Limit, PopVlan, PushVlan, Queue, SetMeta, SetVid, SetVni, Step
from mizar.pipeline.tc.match import CannotError
from mizar.pipeline.tc.rules import Action, Counter, Exit, Filter, Flags, Policer, Vtep, action

LIMITS = 0x4D000000
"""Limits are numbered from here on, by generation: a new plan stands beside the old one and shares no number."""
TOKENS = 0xFF000000
"""Marks from here on say what a tunnel device's frame is; no tenant's metadata may be one of them."""
NO_VID = 4095
_TTL = 64


@dataclass(frozen=True, slots=True)
class Ports:
    """Devices: frames come from `uplink` and leave by `egress` ("": the uplink); `kernel` and `worker` take what is
    trapped and what goes to a user-space program's queue ("": nobody)."""

    uplink: str = "uplink"
    egress: str = ""
    kernel: str = ""
    worker: str = ""
    block: int = 7

    @property
    def out(self) -> str:
        """Where `stop` sends."""
        return self.egress or self.uplink


@dataclass(frozen=True, slots=True)
class Way:
    """Where tc's frame differs from the description's: its tunnel is off already, or the one of a step not yet on."""

    inside: str = ""
    encap: Encap | None = None

    def refuse(self, words: str) -> None:
        """Raises CannotError for a step that would see the difference."""
        if self.encap is not None:
            raise CannotError(f"{words} behind encap: tc's tunnel device encapsulates behind the pipeline's end")
        if self.inside:
            raise CannotError(f"{words} before decap: the {self.inside} device has decapsulated by then")


@dataclass
class Resources:
    """Everything that has a name or a number, made when it is first asked for."""

    pipeline: Pipeline
    ports: Ports
    generation: int
    metas: tuple[int, ...]
    egress: list[Filter] = field(default_factory=list)
    vteps: dict[str, Vtep] = field(default_factory=dict)
    exits: dict[str, Exit] = field(default_factory=dict)
    _tokens: dict[object, int] = field(default_factory=dict)
    _counters: dict[tuple[str, int | None], int] = field(default_factory=dict)
    _policers: dict[tuple[str, int | None], Policer] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.zones = zones(self.metas)

    @property
    def counters(self) -> tuple[Counter, ...]:
        """All counters so far."""
        return tuple(Counter(number, name, meta) for (name, meta), number in self._counters.items())

    @property
    def policers(self) -> tuple[Policer, ...]:
        """All limits so far."""
        return tuple(self._policers.values())

    def count(self, name: str, meta: int | None = None) -> Action:
        """Counting under a name."""
        number = self._counters.setdefault((name, meta), len(self._counters) + 1)
        return action("gact", "pipe", cookie=f"{number:08x}")

    def dropped(self, reason: str) -> list[Action]:
        """Counting and dropping."""
        return [self.count(reason), action("gact", "drop")]

    def limit(self, step: Limit, meta: int | None) -> Action:
        """A bucket: what exceeds it is dropped, and counted by the bucket itself."""
        key = (step.name, meta if step.per_meta else None)
        if key not in self._policers:
            number = LIMITS + (self.generation << 20) + len(self._policers) + 1
            self._policers[key] = Policer(number, *key, step.packets_per_s, step.burst)
        return action("police", index=self._policers[key].number)

    def token(self, what: object) -> int:
        """A mark that says what a tunnel device's frame is."""
        first = TOKENS + (self.generation << 16) + 1
        return first + self._tokens.setdefault(what, len(self._tokens))

    def vtep(self, kind: str) -> Vtep:
        """The device that knows a tunnel."""
        return self.vteps.setdefault(kind, Vtep(f"mizar-{kind}", kind, TUNNELS[kind]))

    def edit(self, step: Step, way: Way, meta: int | None) -> list[Action]:
        """The actions of a step that changes the frame; `meta` is known where it needs it. None: not in its table."""
        match step:
            case PopVlan():
                way.refuse("pop_vlan")
                return [action("vlan", "pop")]
            case PushVlan():
                way.refuse("push_vlan")
                return [action("vlan", "push", protocol="802.1q", id=0)]
            case SetVid():
                way.refuse("set_vid")
                return [action("vlan", "modify", protocol="802.1q", id=_value(step, meta, 12))]
            case SetVni():
                if way.encap is None:
                    raise CannotError("set_vni of a frame that came in a tunnel: tc's tunnel device has taken it off")
                end = self.pipeline.tunnel(way.encap.to)
                conf: dict[str, int | str] = {"src_ip": str(end.source), "dst_ip": str(end.destination)}
                conf |= {"id": _value(step, meta, 24), "dst_port": TUNNELS[way.encap.tunnel], "ttl": _TTL}
                return [action("tunnel_key", "set", "nocsum", **conf)]
        raise AssertionError(f"{step} changes no frame: `compile` takes care of it")

    def leave(self, spot: Spot, way: Way, device: str, queue: int | None = None) -> list[Action]:
        """Out of a device, through the tunnel device if a tunnel has to be put on."""
        if way.encap is None:
            mapped = () if queue is None else (("queue_mapping", queue),)
            return [Action("skbedit", (*mapped, ("mark", 0))), action("mirred", "egress", "redirect", dev=device)]
        token = self._exit(spot, way.encap, device, queue)
        out = self.vtep(way.encap.tunnel).name
        return [action("skbedit", mark=token), action("mirred", "egress", "redirect", dev=out)]

    def _exit(self, spot: Spot, encap: Encap, device: str, queue: int | None) -> int:
        """The mark of what leaves by a device in the headers of a tunnel end; its last touch is at the egress."""
        end = self.pipeline.tunnel(encap.to)
        wanted = Exit(end.name, device, end.source, end.destination, end.destination_mac)
        known = self.exits.setdefault(str(end.destination), wanted)
        if known != wanted:
            way = f"{end.destination} is behind {known.device} as {known.end}"
            raise CannotError(f"{way}: expected one way to an address, found {device} as {end.name}")
        key = ("exit", encap.to, encap.tunnel, encap.vlan, queue)
        new = key not in self._tokens
        token = self.token(key)
        if new:
            self._touch(spot, encap, device, token, queue)
        return token

    def _touch(self, spot: Spot, encap: Encap, device: str, token: int, queue: int | None) -> None:
        """What the kernel writes otherwise than raw encap: MACs, id, DF, source port, ECN, the tag."""
        end = self.pipeline.tunnel(encap.to)
        chain = 1 + (self.generation << 20) + (token & 0xFFFF)
        macs = [number.to_bytes(6, "big").hex(":") for number in (end.source_mac, end.destination_mac)]
        munge: list[tuple[str, int | str | bool]] = [
            ("munge eth src set", macs[0]),
            ("munge eth dst set", macs[1]),
            ("munge ip tos set", 0),
            ("munge offset 4 u32 set", 0x4000),
            ("munge udp sport set", end.source_port),
        ]
        done = [Action("pedit ex", (*munge, ("pipe", True))), action("csum", "ip4h", "pipe")]
        if encap.vlan:
            done.append(action("vlan", "push", protocol="802.1q", id=end.vid or 0))
        mapped = () if queue is None else (("queue_mapping", queue),)
        done += [Action("skbedit", (*mapped, ("mark", 0))), action("gact", "pass")]
        lead = (action("gact", **{"goto chain": chain}),)
        name, mark = str(spot), (token, 0xFFFFFFFF)
        whole = (Flags("ip_flags", (), ("frag",)),)
        self.egress += [
            Filter(name, device, 0, 10 + self.generation, "fw", "all", (), lead, mark),
            Filter(name, device, chain, 1, "flower", "ip", whole, tuple(done)),
            Filter(name, device, chain, 2, "matchall", "all", (), tuple(self.dropped(f"{end.name}: too long"))),
        ]


def zones(metas: Iterable[int]) -> dict[int, int]:
    """Each tenant's conntrack zone: the same one in every plan, unless two tenants want the same."""
    found: dict[int, int] = {}
    taken: set[int] = set()
    for meta in sorted(metas):
        zone = zlib.crc32(meta.to_bytes(4, "big")) % 65535
        while zone + 1 in taken:
            zone = (zone + 1) % 65535
        taken.add(zone + 1)
        found[meta] = zone + 1
    return found


def wants_meta(step: Step) -> bool:
    """Whether what is done depends on metadata: then there is a filter for each value."""
    return isinstance(step, SetVni | SetVid) or (isinstance(step, Count | Limit) and step.per_meta)


def source_keys(step: SetMeta, metas: Iterable[int], width: int) -> dict[int, int]:
    """VNIs or VLAN ids with filters of their own, and the metadata that each becomes."""
    if step.table is not None:
        return dict(step.table.entries)
    return {meta - step.add: meta for meta in metas if 0 <= meta - step.add < 1 << width}


def queue_words(step: Queue) -> str:
    """Why a queue cannot be had."""
    return f"tc has no queue {step.number} of a user-space program; name the interface that it listens on"


class NotInTableError(Exception):
    """For these packets a table has no value: they are dropped."""


def _value(step: SetVni | SetVid, meta: int | None, width: int) -> int:
    if meta is None:
        raise AssertionError("a filter for each metadata value leads here")
    value = meta & (1 << width) - 1 if step.table is None else step.table.get(meta)
    if value is None:
        raise NotInTableError
    if isinstance(step, SetVid) and value == NO_VID:
        raise CannotError(f"tc writes no VLAN id {NO_VID}, which {meta:#x} would get")
    return value
