# SPDX-License-Identifier: Apache-2.0
"""Filters and actions of tc as values, and how tc's batch form and JSON write them.

Made by `compile`; applied by mizar.kernel.flower. Knows tc's words (iproute2 6.1) alone, never what a
filter is for.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from mizar.pipeline.headers import Notation

BLOCK = "block"
"""The place of filters that all devices of the pipeline share, at their ingress."""


@dataclass(frozen=True, slots=True)
class Match:
    """A field of flower's: the value of the bits in the mask, or, with `last`, a range (ports)."""

    name: str
    value: int
    mask: int
    width: int
    notation: Notation = Notation.NUMBER
    last: int | None = None

    @property
    def whole(self) -> bool:
        """Whether all bits count."""
        return self.mask == (1 << self.width) - 1

    def __str__(self) -> str:
        if self.last is not None:
            return f"{self.name} {self.value}-{self.last}"
        if self.notation is Notation.MAC:
            mask = "" if self.whole else f"/{self.mask.to_bytes(6, 'big').hex(':')}"
            return f"{self.name} {self.value.to_bytes(6, 'big').hex(':')}{mask}"
        if self.notation in (Notation.IPV4, Notation.IPV6):
            address = IPv4Address if self.notation is Notation.IPV4 else IPv6Address
            return f"{self.name} {address(self.value)}/{self.mask.bit_count()}"
        if self.name in ("ip_tos", "ip_ttl", "tcp_flags"):
            return f"{self.name} {self.value:#x}/{self.mask:#x}"
        return f"{self.name} {self.value}" + ("" if self.whole else f"/{self.mask}")


@dataclass(frozen=True, slots=True)
class Flags:
    """A field whose bits have names: those that are set and those that are not, as `ct_state +trk+new`."""

    name: str
    on: tuple[str, ...]
    off: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.name == "ct_state":
            return f"{self.name} {''.join(f'+{one}' for one in self.on)}{''.join(f'-{one}' for one in self.off)}"
        return f"{self.name} {'/'.join([*self.on, *(f'no{one}' for one in self.off)])}"


@dataclass(frozen=True, slots=True)
class Word:
    """A field whose value is a word of tc's: `ip_proto tcp`, `vlan_ethtype ipv4`, `indev uplink`."""

    name: str
    value: str

    def __str__(self) -> str:
        return f"{self.name} {self.value}"


Field = Match | Flags | Word


@dataclass(frozen=True, slots=True)
class Action:
    """An action with its configuration, in tc's words and order; a value of True is a word alone."""

    kind: str
    conf: tuple[tuple[str, int | str | bool], ...] = ()

    def __str__(self) -> str:
        words = [self.kind]
        for name, value in self.conf:
            words += [name] if value is True else [name, str(value)]
        return "action " + " ".join(words)

    def get(self, name: str) -> int | str | bool | None:
        """A value of the configuration; None where it has none."""
        return dict(self.conf).get(name)


def action(kind: str, *words: str, **conf: int | str) -> Action:
    """An action by its words."""
    return Action(kind, (*((word, True) for word in words), *conf.items()))


@dataclass(frozen=True, slots=True)
class Filter:
    """A filter. `place` is BLOCK or the device whose egress it is for; `spot` the rule that it is of.

    `classifier`: flower by `fields`; fw by the packet's mark (`mark`, which is metadata); matchall.
    """

    spot: str
    place: str
    chain: int
    priority: int
    classifier: str
    protocol: str
    fields: tuple[Field, ...]
    actions: tuple[Action, ...]
    mark: tuple[int, int] | None = None

    def command(self, block: int) -> str:
        """What tc reads (`tc -batch`)."""
        where = f"block {block}" if self.place == BLOCK else f"dev {self.place} egress"
        head = f"filter add {where} chain {self.chain} prio {self.priority} protocol {self.protocol}"
        handle = "" if self.mark is None else f"handle {self.mark[0]:#x}/{self.mark[1]:#x} "
        return " ".join([head, f"{handle}{self.classifier}", *map(str, self.fields), *map(str, self.actions)])

    def plain(self, block: int) -> dict[str, Any]:
        """The filter as JSON's values."""
        return {
            "from": self.spot,
            "place": self.place,
            "chain": self.chain,
            "priority": self.priority,
            "protocol": self.protocol,
            "classifier": self.classifier,
            "match": [str(one) for one in self.fields],
            "mark": None if self.mark is None else {"value": self.mark[0], "mask": self.mark[1]},
            "actions": [{"kind": one.kind} | dict(one.conf) for one in self.actions],
            "tc": self.command(block),
        }


@dataclass(frozen=True, slots=True)
class Policer:
    """A token bucket that filters share by its number."""

    number: int
    name: str
    meta: int | None
    packets_per_s: int
    burst: int

    def command(self) -> str:
        """What makes it."""
        rate = f"pkts_rate {self.packets_per_s} pkts_burst {self.burst}"
        return f"actions add action police {rate} conform-exceed drop/pipe index {self.number}"


@dataclass(frozen=True, slots=True)
class Counter:
    """What a counter's number stands for (the cookie of its actions); those with one number are added up."""

    number: int
    name: str
    meta: int | None


@dataclass(frozen=True, slots=True)
class Vtep:
    """A tunnel device in external mode: the kernel takes tunnels off and puts them on."""

    name: str
    kind: str
    port: int

    def commands(self) -> list[str]:
        """What ip reads (`ip -batch`)."""
        learning = " nolearning" if self.kind == "vxlan" else ""
        kind = f"{self.kind} external dstport {self.port}{learning}"
        return [f"link add {self.name} type {kind}", f"link set {self.name} up"]


@dataclass(frozen=True, slots=True)
class Exit:
    """How frames in a tunnel leave: from a local address to a neighbour on a device."""

    end: str
    device: str
    source: IPv4Address
    destination: IPv4Address
    mac: int

    def commands(self) -> list[str]:
        """What ip reads (`ip -batch`)."""
        mac = self.mac.to_bytes(6, "big").hex(":")
        return [
            f"address replace {self.source}/32 dev lo",
            f"route replace {self.destination}/32 dev {self.device} src {self.source}",
            f"neighbour replace {self.destination} lladdr {mac} nud permanent dev {self.device}",
        ]


@dataclass(frozen=True, slots=True)
class Plan:
    """Devices and routes first, then limits, then filters; what the counters mean; what tc does differently."""

    block: int
    ingress: tuple[str, ...]
    vteps: tuple[Vtep, ...]
    exits: tuple[Exit, ...]
    policers: tuple[Policer, ...]
    filters: tuple[Filter, ...]
    counters: tuple[Counter, ...]
    zones: tuple[tuple[int, int], ...]
    notes: tuple[str, ...]

    def links(self) -> list[str]:
        """What has to be there before, as `ip -batch` reads it."""
        found = [line for one in self.vteps for line in one.commands()]
        found += [line for exit_ in self.exits for line in exit_.commands()]
        return list(dict.fromkeys(found))

    def commands(self) -> list[str]:
        """Everything else, as `tc -batch` reads it."""
        egress = dict.fromkeys(one.place for one in self.filters if one.place != BLOCK)
        return [
            *(f"qdisc add dev {device} ingress_block {self.block} clsact" for device in self.ingress),
            *(f"qdisc add dev {device} clsact" for device in egress if device not in self.ingress),
            *(one.command() for one in self.policers),
            *(one.command(self.block) for one in self.filters),
        ]

    def plain(self) -> dict[str, Any]:
        """The plan as JSON's values."""
        return {
            "block": self.block,
            "ingress": list(self.ingress),
            "links": self.links(),
            "setup": [line for line in self.commands() if not line.startswith("filter")],
            "filters": [one.plain(self.block) for one in self.filters],
            "counters": [{"number": one.number, "name": one.name, "meta": one.meta} for one in self.counters],
            "limits": [{"number": one.number, "name": one.name, "meta": one.meta} for one in self.policers],
            "zones": [{"meta": meta, "zone": zone} for meta, zone in self.zones],
            "notes": list(self.notes),
        }


def chains(filters: tuple[Filter, ...]) -> Iterator[tuple[int, int]]:
    """Which chain leads to which: pairs of chains of the block."""
    for one in filters:
        for done in one.actions:
            to = done.get("goto chain")
            if one.place == BLOCK and isinstance(to, int):
                yield one.chain, to
