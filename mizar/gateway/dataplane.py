# SPDX-License-Identifier: Apache-2.0
"""A gateway's program on its interfaces: generated, compiled, loaded over pinned maps, put in place atomically.

Called by the gateway's process at its start and for a changed file. Frames go on without the process, and from one
program to the next without one being lost; maps are the state and are never replaced. Numbers of counters are kept with
their names in a file, so that a new program counts on.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mizar.gateway.options import Options, pins, place
from mizar.kernel import attach, interfaces, libbpf
from mizar.kernel.clang import compile_program
from mizar.kernel.gateway_program import (
    PAIR,
    TALLY,
    Counters,
    GatewayProgram,
    MetaCounters,
    load_gateway,
)
from mizar.kernel.gateway_tables import GatewayTables, is_translating
from mizar.kernel.layout import U32
from mizar.kernel.maps import Table
from mizar.kernel.netlink import Netlink
from mizar.model.errors import InvalidError, NotFoundError
from mizar.pipeline.description import Pipeline
from mizar.pipeline.xdp.generate import Program, generate

_NAMES = "program.json"
_PORTS = "gateway_queue_ports"
_KEPT = ("pipeline", "counters", "limits", "table_names")


@dataclass(frozen=True)
class Tally:
    """A counter; `meta` is None where it is one for all tenants."""

    name: str
    meta: int | None
    packets: int
    octets: int


@dataclass
class Dataplane:
    """What runs. `tables` is None for a pipeline that translates nothing."""

    program: Program
    loaded: list[GatewayProgram]
    tables: GatewayTables | None

    @property
    def maps(self) -> dict[str, int]:
        """The open maps by name."""
        return self.loaded[0].programs.maps

    def counters(self) -> Iterator[Tally]:
        """Everything that was counted, by name."""
        yield from _tallies(list(self.program.counters), self.loaded[0].counters, self.loaded[0].meta_counters)

    def close(self) -> None:
        """Closes file descriptors; what is pinned and attached lives on."""
        for one in self.loaded:
            one.close()


def prepare(options: Options, pipeline: Pipeline) -> Dataplane:
    """Generates, compiles and loads; what runs is not touched. Raises MizarError with what is missing or too large."""
    for interface, _ in _interfaces(options):
        index(interface)
    program = generate(pipeline, _before(options.gateway))
    data = compile_program(program.text, pipeline.name)
    if options.queues and _PORTS.encode() not in data:
        raise InvalidError(f"--queue: nothing goes to a queue in pipeline {pipeline.name}")
    here = pins(options.gateway)
    here.make()
    loaded: list[GatewayProgram] = []
    sizes = {name: size for name, size in options.sizes.by_map().items() if name.encode() in data}
    try:
        for _, egress in _interfaces(options):
            one = load_gateway(
                data, pipeline.name, egress_ifindex=index(egress) if egress else 0, pins=here, max_entries=sizes
            )
            loaded.append(one)
            one.fill_tables((number, dict(table.entries)) for number, table in program.tables)
    except BaseException:
        for one in loaded:
            one.close()
        raise
    maps = loaded[0].programs.maps
    return Dataplane(program, loaded, GatewayTables.of(maps) if is_translating(maps) else None)


def put_in_place(options: Options, dataplane: Dataplane) -> None:
    """From now on frames meet this program; those before met the one before."""
    folder = place(options.gateway)
    folder.mkdir(parents=True, exist_ok=True)
    kept = {name: getattr(dataplane.program, name) for name in _KEPT}
    new = folder / f"{_NAMES}.new"
    new.write_text(json.dumps(kept))
    new.replace(folder / _NAMES)
    links = pins(options.gateway).links
    for one, (interface, _) in zip(dataplane.loaded, _interfaces(options), strict=True):
        pin = links / f"xdp_{interface.replace('.', '_')}"  # bpffs refuses dots in names
        attach.attach_xdp(one.fd, index(interface), pin, force=options.xdp)
    if _PORTS in dataplane.maps:
        ports = Table(_PORTS, dataplane.maps[_PORTS], U32, U32)
        served = {queue: index(interface) for queue, interface in options.queues.items()}
        ports.put_many((queue, served.get(queue, 0)) for queue in range(ports.max_entries))


def take_away(name: str) -> None:
    """Detaches the program and forgets all state: connections end."""
    pins(name).remove()
    (place(name) / _NAMES).unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # there was none, or somebody has put something there
        place(name).rmdir()


def index(interface: str) -> int:
    """Of an interface of this namespace. Raises NotFoundError."""
    try:
        return socket.if_nametoindex(interface)
    except OSError as error:
        raise libbpf.error_of(error.errno or 19, f"find the interface {interface}") from error


def _interfaces(options: Options) -> list[tuple[str, str]]:
    """Where the program runs, and where its frames leave there; "" for the way they came (XDP_TX).

    Out of a veth they are redirected even then: XDP_TX wakes only an other end that has a program itself
    (veth_xdp_flush() of Linux 6.18), and what it sent lies there until something else does.
    """
    if not options.egress or options.egress == options.interface:
        with Netlink() as netlink:
            is_veth = interfaces.get(netlink, options.interface).kind == "veth"
        queues = ((one, options.interface) for one in options.queues.values())
        return [(options.interface, options.interface if is_veth else ""), *queues]
    return [(options.interface, options.egress), (options.egress, options.interface)]


def _before(name: str) -> Program | None:
    """What the numbers in the pinned maps mean: of the program before, without its text."""
    path: Path = place(name) / _NAMES
    try:
        kept = json.loads(path.read_text())
        counters, limits, tables = (tuple(kept[one]) for one in _KEPT[1:])
        found = Program(kept["pipeline"], "", counters, limits, tables, tables=(), questions=0)
    except (FileNotFoundError, ValueError, KeyError):
        return None
    return found if pins(name).maps.is_dir() else None


def is_there(name: str) -> bool:
    """Whether a gateway of this name is pinned."""
    return pins(name).progs.is_dir() and any(pins(name).progs.iterdir())


def counted(name: str) -> list[Tally]:
    """What a gateway that is pinned has counted, its process running or not. Raises NotFoundError."""
    before = _before(name)
    maps = _pinned(name)
    try:
        if before is None or "gateway_counters" not in maps:
            raise NotFoundError(f"there is no gateway {name} on this host")
        one = Counters("gateway_counters", maps["gateway_counters"], U32, TALLY)
        each = maps.get("gateway_meta_counters")
        per_meta = None if each is None else MetaCounters("gateway_meta_counters", each, PAIR, TALLY)
        return list(_tallies(list(before.counters), one, per_meta))
    finally:
        for fd in maps.values():
            os.close(fd)


def opened(name: str) -> GatewayTables:
    """The tables of a gateway that is pinned, its process running or not. Raises NotFoundError."""
    maps = _pinned(name)
    if not is_translating(maps):
        for fd in maps.values():
            os.close(fd)
        raise NotFoundError(f"there is no gateway {name} that translates on this host")
    return GatewayTables.of(maps)


def _pinned(name: str) -> dict[str, int]:
    """The maps by name, opened."""
    folder = pins(name).maps
    found = {entry.name: libbpf.open_pin(entry) for entry in (folder.iterdir() if folder.is_dir() else ())}
    return {entry: fd for entry, fd in found.items() if fd is not None}


def _tallies(names: list[str], counters: Counters, meta_counters: MetaCounters | None) -> Iterator[Tally]:
    for number, (packets, octets) in counters.items():
        if number < len(names):
            yield Tally(names[number], None, packets, octets)
    for (number, meta), (packets, octets) in meta_counters.items() if meta_counters is not None else ():
        if number < len(names):
            yield Tally(names[number], meta, packets, octets)
