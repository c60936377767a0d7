# SPDX-License-Identifier: Apache-2.0
"""The programs of a droplet, loaded: `agent`, `transit`, `deliver`, `proxy`, `substrate`, `function_end` and
`function_end_tc` (where chains of network functions end), and the maps that they share.

In driver mode, transit must take frames of several buffers (jumbo MTUs). In generic mode it must not: for a program
that does, newer kernels copy the skb and forget where its Ethernet header is, and what `deliver` gets then begins at
the IP header, without its note (seen on 6.18: skb_copy_header() leaves mac_len out). So transit is loaded once more
where generic mode is used, and only there; and what it may end in with it, for a program that takes several buffers
can end in no other.

Owns opening, configuring, loading and pinning. Called by the daemon at its start and by data-plane tests, which load
without pins. The maps are the state of the droplet: maps that are pinned are reused, never replaced; the programs
are new with each load, and take over where attach.py updates the pinned links. A daemon of the same build takes over
the pinned programs, too (builds.py).
"""

from __future__ import annotations

import contextlib
import importlib.resources
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from mizar.kernel import builds, libbpf
from mizar.kernel.bpffs import Pins
from mizar.kernel.builds import Build
from mizar.kernel.layout import U32, constant
from mizar.kernel.libbpf import ffi, lib
from mizar.model.errors import ConflictError, InvalidError, MizarError

OBJECTS = ("agent", "transit", "deliver", "proxy", "substrate", "shaped", "function_end", "function_end_tc")
"""In the order of loading; the first makes the maps, the others share them."""
GENERIC = "transit_generic"
"""Transit again, for generic mode."""
INGRESS, HANDING_OVER = "transit_tc", "deliver_tc"
"""Transit again, for tc ingress of an interface without XDP, and what it ends in."""
STAGES = {"agent": ("stages", 1), "proxy": ("stages", 0), HANDING_OVER: ("ingress_stages", 0)}
"""Programs that others end in: the map, and the place there (enum stage); each before those that end in it."""
FUNCTION_PLACES = {
    "function_end": ("function_xdp", "FUNCTION_END"),
    "transit": ("function_xdp", "FUNCTION_ONWARD"),
    "function_end_generic": ("function_xdp_generic", "FUNCTION_END"),
    GENERIC: ("function_xdp_generic", "FUNCTION_ONWARD"),
    "function_end_tc": ("function_tc", "FUNCTION_END"),
    "agent": ("function_tc", "FUNCTION_ONWARD"),
}
"""Where chains of network functions lead."""
VARIABLES = {".data.functions": "function_switches"}
"""Variables that programs share as a map of this name."""

SEVERAL_BUFFERS = ("transit", "xsk", "gateway", "function_end")
"""XDP programs in driver mode."""

_CONFIG_MAP = ".rodata.config"
_GENERIC_MAPS = ("function_xdp",)  # of programs that take one buffer only
_MAP_TYPE_RINGBUF = 27  # enum bpf_map_type
_XDP_HAS_FRAGS = 1 << 5  # BPF_F_XDP_HAS_FRAGS
_LOG_STATISTICS = 4  # BPF_LOG_STATS


@dataclass(frozen=True)
class Program:
    """A loaded program: `fd` is open until Programs.close(). `statistics` is what load() was asked for."""

    name: str
    fd: int
    statistics: str = ""


@dataclass
class Programs:
    """What load() made. Closing it releases file descriptors only: what is pinned or attached lives on."""

    programs: dict[str, Program] = field(default_factory=dict)
    maps: dict[str, int] = field(default_factory=dict)
    _load_generic: Callable[[], None] | None = None
    _load_ingress: Callable[[], None] | None = None

    @property
    def agent(self) -> Program:
        """tc program of the host side of every endpoint's veth."""
        return self.programs["agent"]

    @property
    def transit(self) -> Program:
        """XDP program of the droplet's interface, in driver mode."""
        return self.programs["transit"]

    @property
    def transit_generic(self) -> Program:
        """The same for generic mode; loaded when it is first asked for."""
        if GENERIC not in self.programs and self._load_generic is not None:
            self._load_generic()
        return self.programs[GENERIC]

    @property
    def at_tc(self) -> bool:
        """Whether transit_tc was asked for."""
        return INGRESS in self.programs

    @property
    def transit_tc(self) -> Program:
        """Transit and `deliver` in one, for tc ingress where there is no XDP; loaded when it is first asked for."""
        if INGRESS not in self.programs and self._load_ingress is not None:
            self._load_ingress()
        return self.programs[INGRESS]

    @property
    def deliver(self) -> Program:
        """tc program of the droplet's interface: hands decapsulated frames to their endpoint."""
        return self.programs["deliver"]

    @property
    def substrate(self) -> Program:
        """tc program of the pair into the host's own stack: brings in what that sends to endpoints."""
        return self.programs["substrate"]

    def close(self) -> None:
        """Closes every program and map. May be called twice."""
        self._load_generic = self._load_ingress = None
        while self.programs:
            os.close(self.programs.popitem()[1].fd)
        while self.maps:
            os.close(self.maps.popitem()[1])

    def __enter__(self) -> Programs:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def object_bytes(name: str) -> bytes:
    """The compiled ELF object of a program, as the package carries it."""
    try:
        return (importlib.resources.files("mizar._built") / "objects" / f"{name}.o").read_bytes()
    except (ModuleNotFoundError, FileNotFoundError) as error:
        raise MizarError(
            f"the compiled program {name}.o is missing from this installation; "
            "in a source tree run `python dataplane/build.py`, else reinstall the wheel"
        ) from error


def load(
    config: bytes,
    *,
    max_entries: Mapping[str, int] | None = None,
    pins: Pins | None = None,
    objects: Mapping[str, bytes] | None = None,
    statistics: bool = False,
    take_over: bool = False,
) -> Programs:
    """Loads the programs with `config` (bytes of struct droplet_config) as their constant configuration.

    `max_entries` sets the size of maps by name. With `pins`, maps are taken from there when they exist, and maps and
    programs are pinned there (its folders must exist); without, everything ends with the result. `objects` replaces
    the packaged ELF objects, for tests. With `statistics`, each program has what the verifier says of its work. With
    `take_over`, programs that such a load has pinned stay, where they were made from the same. Raises InvalidError with
    the last lines of the verifier's log when the kernel refuses a program, and ConflictError when a pinned map has
    another shape than the programs want.
    """
    loaded = Programs()
    opened = dict(objects) if objects is not None else {name: object_bytes(name) for name in OBJECTS}
    sizes = dict(max_entries or {})
    try:
        fresh: dict[str, Build] = {}
        for name, data in opened.items():
            made_from = builds.digest(data, name, config, sorted(sizes.items()), name in SEVERAL_BUFFERS)
            kept = builds.reopened(pins, name, made_from, loaded.maps) if take_over and pins is not None else None
            if kept is not None:
                loaded.programs[name] = Program(name, kept[0])
                loaded.maps.update(kept[1])
                continue
            used = _load_object(loaded, name, data, config, sizes, pins, statistics=statistics)
            fresh[name] = Build(made_from, {one: libbpf.info("map", loaded.maps[one]).id for one in used})
        unknown = sizes.keys() - loaded.maps.keys()
        if unknown:
            raise InvalidError(f"sizes are given for maps that no program has: {', '.join(sorted(unknown))}")
        if pins is not None:
            _pin_all(loaded, pins, fresh, noted=take_over)
        _fill_stages(loaded)
        if "transit" in opened:
            loaded._load_generic = partial(
                _load_generic, loaded, opened["transit"], config, sizes, pins, statistics=statistics
            )
            loaded._load_ingress = partial(_load_ingress, loaded, config, sizes, pins, statistics=statistics)
    except BaseException:
        loaded.close()
        raise
    return loaded


def load_into(loaded: Programs, name: str, data: bytes, sizes: Mapping[str, int]) -> None:
    """Loads one more program, which shares the maps that `loaded` has by name; `sizes` are theirs. Errors as load()."""
    _load_object(loaded, name, data, b"", sizes, None, statistics=False)


def _load_generic(
    loaded: Programs, data: bytes, config: bytes, sizes: Mapping[str, int], pins: Pins | None, *, statistics: bool
) -> None:
    again = {GENERIC: data}
    if "function_end" in loaded.programs:
        again["function_end_generic"] = object_bytes("function_end")
    _load_more(loaded, again, config, sizes, pins, statistics=statistics)


def _load_ingress(
    loaded: Programs, config: bytes, sizes: Mapping[str, int], pins: Pins | None, *, statistics: bool
) -> None:
    more = {name: object_bytes(name) for name in (INGRESS, HANDING_OVER)}
    _load_more(loaded, more, config, sizes, pins, statistics=statistics)


def _load_more(
    loaded: Programs,
    objects: Mapping[str, bytes],
    config: bytes,
    sizes: Mapping[str, int],
    pins: Pins | None,
    *,
    statistics: bool,
) -> None:
    for name, code in objects.items():
        _load_object(loaded, name, code, config, sizes, pins, statistics=statistics)
        if pins is not None:
            _pin_program(loaded.programs[name], pins)
    if pins is not None:
        _pin_maps(loaded, pins)
    _fill_stages(loaded)


def _fill_stages(loaded: Programs) -> None:
    """From here on the programs that run, those of a load before included, end in these."""
    places = [(name, table, place) for name, (table, place) in STAGES.items()]
    places += [(name, table, constant(place)) for name, (table, place) in FUNCTION_PLACES.items()]
    for name, table, place in places:
        if table in loaded.maps and name in loaded.programs:
            value = U32.pack(loaded.programs[name].fd)
            written = lib().bpf_map_update_elem(loaded.maps[table], U32.pack(place), value, 0)
            libbpf.check(written, f"write {name} into {table}")


def _load_object(
    loaded: Programs,
    name: str,
    data: bytes,
    config: bytes,
    sizes: Mapping[str, int],
    pins: Pins | None,
    *,
    statistics: bool,
) -> list[str]:
    """Returns the names of its maps."""
    with contextlib.ExitStack() as end, libbpf.collected_log() as log:
        title = ffi.new("char[]", f"mizar_{name}".encode())
        opts = ffi.new("struct bpf_object_open_opts *", {"sz": ffi.sizeof("struct bpf_object_open_opts")})
        opts.object_name = title
        obj = libbpf.check_pointer(lib().bpf_object__open_mem(data, len(data), opts), f"open the object {name}", log)
        end.callback(lib().bpf_object__close, obj)  # it holds more than is needed: the code, and each map once more
        maps = {_held_as(item, name): item for item in maps_of(obj)}
        for map_name, item in maps.items():
            if map_name in sizes:
                libbpf.check(lib().bpf_map__set_max_entries(item, sizes[map_name]), f"set the size of map {map_name}")
            if map_name in loaded.maps:
                share(item, loaded.maps[map_name], map_name, f"of object {name}")
            elif pins is not None:
                _reuse_pinned(item, pins.maps / map_name, map_name)
        _configure(obj, name, config)
        program = lib().bpf_object__next_program(obj, ffi.NULL)
        if program == ffi.NULL or lib().bpf_object__next_program(obj, program) != ffi.NULL:
            raise InvalidError(f"the object {name} must hold exactly one program")
        if name in SEVERAL_BUFFERS:
            libbpf.check(lib().bpf_program__set_flags(program, _XDP_HAS_FRAGS), f"allow {name} several buffers")
        if statistics:
            libbpf.check(lib().bpf_program__set_log_level(program, _LOG_STATISTICS), f"ask for statistics of {name}")
        libbpf.check(lib().bpf_object__load(obj), f"load the program {name}", log)
        for map_name, item in maps.items():
            if map_name not in loaded.maps:
                loaded.maps[map_name] = os.dup(lib().bpf_map__fd(item))
        fd = os.dup(lib().bpf_program__fd(program))
        loaded.programs[name] = Program(name, fd, "".join(log) if statistics else "")
        return list(maps)


def name_of(item: Any) -> str:
    """The name of a map in an object."""
    return str(ffi.string(lib().bpf_map__name(item)).decode())


def _held_as(item: Any, program: str) -> str:
    name = VARIABLES.get(name_of(item), name_of(item))
    return f"{name}_generic" if program.endswith("_generic") and name in _GENERIC_MAPS else name


def maps_of(obj: Any) -> list[Any]:
    """Maps that programs share: not libbpf's own (.rodata, .bss), which belong to one object, but for variables."""
    found = []
    item = lib().bpf_object__next_map(obj, ffi.NULL)
    while item != ffi.NULL:
        if not lib().bpf_map__is_internal(item) or name_of(item) in VARIABLES:
            found.append(item)
        item = lib().bpf_object__next_map(obj, item)
    return found


def _configure(obj: Any, name: str, config: bytes) -> None:
    item = lib().bpf_object__find_map_by_name(obj, _CONFIG_MAP.encode())
    if item == ffi.NULL:
        return  # a program that needs no configuration: clang left the section out
    length = ffi.new("size_t *")
    libbpf.check_pointer(lib().bpf_map__initial_value(item, length), f"read the configuration of {name}")
    if length[0] != len(config):
        raise InvalidError(f"the configuration of {name} is {length[0]} bytes long, not {len(config)}; rebuild it")
    libbpf.check(lib().bpf_map__set_initial_value(item, config, len(config)), f"configure the program {name}")


def share(item: Any, fd: int, name: str, where: str) -> None:
    """Makes an object use an existing map instead of its own; both must have one shape."""
    have = libbpf.info("map", fd)
    wanted = {
        "type": lib().bpf_map__type(item),
        "key_size": lib().bpf_map__key_size(item),
        "value_size": lib().bpf_map__value_size(item),
        "map_flags": lib().bpf_map__map_flags(item),
    }
    if have.type != _MAP_TYPE_RINGBUF:  # libbpf rounds the size of a ring to pages
        wanted["max_entries"] = lib().bpf_map__max_entries(item)
    different = [f"{key} {getattr(have, key)}, wanted {value}" for key, value in wanted.items()
                 if getattr(have, key) != value]  # fmt: skip
    if different:
        raise ConflictError(
            f"map {name} {where} has another shape than the programs want ({'; '.join(different)}). Start with the "
            "sizes that it was made with, or detach the droplet and remove its pins, which forgets its endpoints"
        )
    libbpf.check(lib().bpf_map__reuse_fd(item, fd), f"share the map {name}")


def _reuse_pinned(item: Any, path: Path, name: str) -> None:
    fd = libbpf.open_pin(path)
    if fd is None:
        return
    try:
        share(item, fd, name, f"pinned at {path}")  # libbpf keeps a duplicate
    finally:
        os.close(fd)


def _pin_maps(loaded: Programs, pins: Pins) -> None:
    for name, fd in loaded.maps.items():
        if not (pins.maps / name).exists():
            libbpf.pin(fd, pins.maps / name)


def _pin_all(loaded: Programs, pins: Pins, fresh: Mapping[str, Build], *, noted: bool) -> None:
    _pin_maps(loaded, pins)
    for name, build in fresh.items():
        _pin_program(loaded.programs[name], pins)
        if noted:
            build.write(pins.progs, name)
    for pin in pins.progs.iterdir():
        if builds.program_of(pin) not in loaded.programs:  # of a load before, which this one has no use for
            pin.unlink()


def _pin_program(program: Program, pins: Pins) -> None:
    builds.forget(pins.progs, program.name)
    new = pins.progs / f"{program.name}_new"
    with contextlib.suppress(FileNotFoundError):  # left by a daemon that died at this very place
        new.unlink()
    libbpf.pin(program.fd, new)
    new.replace(pins.progs / program.name)
