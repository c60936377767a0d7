# SPDX-License-Identifier: Apache-2.0
"""Single steps → rte_flow actions, and the numbers of meters, counters and encapsulations that they need.

Called by `compile`, which has refused what a switch cannot do.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from mizar.pipeline.description import Pipeline, Spot, TunnelEnd
from mizar.pipeline.headers import TUNNELS
from mizar.pipeline.rte_flow.rules import Action, Counter, action
from mizar.pipeline.steps import (
    SOURCE_BITS,
    Count,
    Decap,
    Drop,
    Encap,
    Limit,
    PopVlan,
    PushVlan,
    Queue,
    SetMeta,
    SetVid,
    SetVni,
    Step,
    Stop,
    Table,
    Trap,
)

QUEUE_TAG, FLOW_TAG = 1, 0
"""Tag registers: the queue that the application's port shall use, and the number of the packet's connection."""
ALL_ONES = "0xffffffff"
MAX_RAW = 8
"""How many raw_encap and raw_decap testpmd 22.11 keeps (RAW_ENCAP_CONFS_MAX_NUM)."""


def queue_tag(queue: int) -> int:
    """The tag of a queue; 0 is what a packet has that nobody tagged."""
    return queue + 1


class CannotError(Exception):
    """Rules cannot say this; the text says why, for the one who wrote the description."""


class NotInTableError(Exception):
    """For these packets a table has no value: they are dropped."""


@dataclass(frozen=True, slots=True)
class Ports:
    """DPDK's numbers of the ports: the uplink (and the application's own), and the kernel's representor."""

    uplink: int = 0
    kernel: int = 1


@dataclass(frozen=True, slots=True)
class Context:
    """What is known where a step is done: the headers up to the tunnel, and the metadata if it is one value."""

    outer: tuple[str, ...] | None
    meta: int | None

    def tunnel(self) -> tuple[str, ...]:
        """The headers up to the tunnel. Raises CannotError where ways differ."""
        if self.outer is None:
            raise CannotError("ways lead here with different outer headers: do it in the case that asks for them")
        return self.outer


@dataclass
class Resources:
    """Everything that has a number, made when it is first asked for. `setup` are the commands that make it."""

    pipeline: Pipeline
    ports: Ports
    setup: list[str] = field(default_factory=list)
    queues: set[int] = field(default_factory=set)
    _counters: dict[tuple[str, int | None], int] = field(default_factory=dict)
    _meters: dict[tuple[str, int | None], int] = field(default_factory=dict)
    _profiles: dict[tuple[int, int], int] = field(default_factory=dict)
    _raw: dict[tuple[str, ...], int] = field(default_factory=dict)

    @property
    def counters(self) -> tuple[Counter, ...]:
        """All counters so far."""
        return tuple(Counter(number, name, meta) for (name, meta), number in self._counters.items())

    @property
    def decapsulates(self) -> bool:
        """Whether any rule takes a tunnel off."""
        return any(kind == "raw_decap" for kind, *_ in self._raw)

    def count(self, name: str, meta: int | None = None) -> Action:
        """Counting under a name."""
        return action("count", identifier=self._counters.setdefault((name, meta), len(self._counters) + 1))

    def dropped(self, reason: str) -> list[Action]:
        """Counting and dropping."""
        return [self.count(reason), action("drop")]

    def meter(self, step: Limit, meta: int | None) -> Action:
        """A meter that lets as many packets through as the limit says."""
        key = (step.name, meta if step.per_meta else None)
        if key not in self._meters:
            port = self.ports.uplink
            rate = (step.packets_per_s, step.burst)
            if not self._profiles:
                self.setup.append(f"add port meter policy {port} 1 g_actions end y_actions end r_actions drop / end")
            if rate not in self._profiles:
                self._profiles[rate] = number = len(self._profiles) + 1
                words = f"{number} {step.packets_per_s} {step.burst} 0 1"  # 1: packets, not bytes
                self.setup.append(f"add port meter profile srtcm_rfc2697 {port} {words}")
            self._meters[key] = number = len(self._meters) + 1
            words = f"{number} {self._profiles[rate]} 1 yes 65535 1 g 0"  # 1: several rules share it
            self.setup.append(f"create port meter {port} {words}")
        return action("meter", mtr_id=self._meters[key])

    def raw(self, kind: str, headers: list[str]) -> Action:
        """raw_encap or raw_decap of headers."""
        key = (kind, *headers)
        if key not in self._raw:
            number = sum(1 for other in self._raw if other[0] == kind)
            if number == MAX_RAW:
                raise CannotError(f"testpmd has room for {MAX_RAW} different {kind}, this is one more")
            self._raw[key] = number
            self.setup.append(f"set {kind} {number} {' / '.join([*headers, 'end_set'])}")
        return action(kind, index=self._raw[key])

    def lower(self, spot: Spot, step: Step, known: Context) -> list[Action]:
        """The actions of one step that neither goes on elsewhere nor asks for a connection."""
        match step:
            case SetMeta():
                return _set_meta(spot, step, known)
            case PopVlan():
                return [action("of_pop_vlan")]
            case PushVlan():
                return [action("of_push_vlan", ethertype="0x8100")]
            case Decap():
                return [self.raw("raw_decap", list(known.tunnel()))]
            case Encap():
                return [self.raw("raw_encap", _headers(step, self.pipeline.tunnel(step.to)))]
            case SetVni():
                return [_from_meta(spot, f"{known.tunnel()[-1]}_vni", 24, step.table, known)]
            case SetVid():
                return [_from_meta(spot, "vlan_id", 12, step.table, known)]
            case Count():
                return [self.count(step.name, known.meta if step.per_meta else None)]
            case Limit():
                return [self.meter(step, known.meta)]
            case Trap():
                return [action("represented_port", ethdev_port_id=self.ports.kernel)]
            case Stop():
                return [action("represented_port", ethdev_port_id=self.ports.uplink)]
            case Queue():
                self.queues.add(step.number)
                tag = action("set_tag", data=queue_tag(step.number), mask="0xffff", index=QUEUE_TAG)
                return [tag, action("port_representor", port_id=self.ports.uplink)]
            case Drop():
                return self.dropped(f"{spot}: drop")
        raise AssertionError(f"{step} is no single action: `compile` takes care of it")


def _set_meta(spot: Spot, step: SetMeta, known: Context) -> list[Action]:
    if step.table is not None:
        if known.meta is None:
            raise NotInTableError(f"{spot}: not in the table")
        return [action("set_meta", data=hex(known.meta), mask=ALL_ONES)]
    width = SOURCE_BITS[step.source]
    source = "vlan_id" if step.source == "vlan" else f"{known.tunnel()[-1]}_vni"
    rest = ((1 << 32) - 1) & ~((1 << width) - 1)
    return [_copy("meta", source, width), action("set_meta", data=hex(step.add), mask=hex(rest))]


def _from_meta(spot: Spot, target: str, width: int, table: Table | None, known: Context) -> Action:
    if table is None:
        return _copy(target, "meta", width)
    value = None if known.meta is None else table.get(known.meta)
    if value is None:
        raise NotInTableError(f"{spot}: not in the table")
    octets = value.to_bytes((width + 7) // 8, "big").hex()
    return action(
        "modify_field",
        op="set",
        dst_type=target,
        dst_level=0,
        dst_offset=0,
        src_type="value",
        src_value=octets,
        width=width,
    )


def _copy(target: str, source: str, width: int) -> Action:
    """The low bits of one field into another."""
    return action(
        "modify_field",
        op="set",
        dst_type=target,
        dst_level=0,
        dst_offset=0,
        src_type=source,
        src_level=0,
        src_offset=0,
        width=width,
    )


def _headers(step: Encap, end: TunnelEnd) -> list[str]:
    """The fixed headers in testpmd's words, with what it does not fill in; lengths and checksums are the hardware's."""
    macs = [number.to_bytes(6, "big").hex(":") for number in (end.source_mac, end.destination_mac)]
    tags = [f"vlan vid is {end.vid} inner_type is 0x0800"] if step.vlan else []
    return [
        f"eth src is {macs[0]} dst is {macs[1]}",
        *tags,
        f"ipv4 src is {end.source} dst is {end.destination} ttl is 64 fragment_offset is 0x4000",
        f"udp src is {end.source_port} dst is {TUNNELS[step.tunnel]}",
        "vxlan vni is 0" if step.tunnel == "vxlan" else "geneve protocol is 0x6558 vni is 0",
    ]
