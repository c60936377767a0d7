# SPDX-License-Identifier: Apache-2.0
"""Programs of network functions, loaded: one for each function, stage and hook (contracts/function.h).

Owns what happens between an object file and a program in the kernel: constants, shared maps, the limit of complexity,
and the words for a refusal. Called by the daemon's functions, by the process that loads for them (function_loader), and
by tests. It must never touch a chain that runs: what is loaded here is entered by nobody, until the caller links it.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from mizar.kernel import libbpf
from mizar.kernel.function_shared import close_to_writing, is_shared
from mizar.kernel.layout import U32, constant, struct
from mizar.kernel.libbpf import ffi, lib
from mizar.kernel.programs import maps_of, name_of
from mizar.kernel.verifier import explain, processed
from mizar.model.errors import ExhaustedError, InvalidError, MizarError
from mizar.model.function_object import STAGES, FunctionObject

Hook = Literal["xdp", "tc"]
HOOKS: Mapping[str, tuple[Hook, ...]] = {
    "ON_XDP_TX": ("xdp",),
    "ON_XDP_PASS": ("xdp",),
    "ON_XDP_REDIRECT": ("xdp",),
    "ON_XDP_DROP": ("xdp",),
    "ON_XDP_SCALED_EP": ("xdp", "tc"),
    "ENDPOINT_INGRESS": ("xdp", "tc"),
    "ENDPOINT_EGRESS": ("tc",),
}
"""Where each stage is."""
MOST_INSTRUCTIONS = 200_000
"""That the verifier may have to look at for one program of a function, unless somebody says otherwise."""
PARAMETERS = ".rodata.parameters"

_INSTANCE = ".rodata.instance"
_XDP_HAS_FRAGS = 1 << 5
_LOG_STATISTICS = 4
_REFUSED = "BEGIN PROG LOAD LOG"


@dataclass(frozen=True, slots=True)
class Place:
    """One stage of the data plane on one hook."""

    stage: str
    hook: Hook

    @property
    def number(self) -> int:
        """enum function_stage."""
        return STAGES.index(self.stage)

    def __str__(self) -> str:
        return f"{self.stage} ({self.hook})"


@dataclass(frozen=True, slots=True)
class Wanted:
    """A program of a function for one place. `constants`: what its sections of .rodata hold, by name; `maps` and
    `shared`: names of maps, its own and the data plane's."""

    name: str
    digest: str
    data: bytes
    place: Place
    constants: Mapping[str, bytes]
    maps: tuple[str, ...]
    shared: tuple[str, ...]

    @classmethod
    def of(cls, function: FunctionObject, data: bytes, number: int, place: Place, parameters: bytes = b"") -> Wanted:
        """From a function's object. `number`: its bit on this droplet."""
        constants = {_INSTANCE: struct("function_instance", number=number, stage=place.number)}
        if parameters:
            constants[PARAMETERS] = parameters
        return cls(function.name, function.digest, data, place, constants, tuple(function.maps), function.shared)

    def __str__(self) -> str:
        return f"function {self.name} at {self.place}"


@dataclass(frozen=True, slots=True)
class Instance:
    """A program of a function. `fd` is the program's, `next_fd` that of the map which names the program behind it;
    both are open until close(). `instructions`: how many the verifier looked at."""

    place: Place
    fd: int
    next_fd: int
    instructions: int

    def lead_to(self, program: int | None) -> None:
        """From the next packet on, a program (by its descriptor) follows this one; None: it is the last."""
        point(self.next_fd, 0, program)

    def close(self) -> None:
        """Lets go of it; what is linked runs on."""
        os.close(self.fd)
        os.close(self.next_fd)


@dataclass(frozen=True, slots=True)
class Room:
    """What functions are loaded into. `maps`: the data plane's, by name; `several_buffers`: Transit XDP takes frames of
    several buffers, so its functions must too."""

    maps: Mapping[str, int]
    several_buffers: bool
    most_instructions: int = MOST_INSTRUCTIONS


def point(table: int, at: int, program: int | None) -> None:
    """Writes one place of a map of programs, atomically for whoever enters it."""
    if program is not None:
        libbpf.check(lib().bpf_map_update_elem(table, U32.pack(at), U32.pack(program), 0), "link a function")
    else:
        lib().bpf_map_delete_elem(table, U32.pack(at))  # there may be none


def load(room: Room, wanted: Wanted, own: dict[str, int]) -> Instance:
    """Loads a program of a function. `own`: its own maps that are there; what it makes is added.

    Raises InvalidError, in words for who wrote the function, and ExhaustedError when it is too complex.
    """
    try:
        return _closed_then_open(room, wanted, own, _LOG_STATISTICS)
    except MizarError as error:
        refuse_size(error, str(wanted))
        if _REFUSED not in str(error):
            raise
    # Asked for statistics alone, libbpf shows nothing else; asked for nothing, it tries again and gets the whole log.
    return _closed_then_open(room, wanted, own, 0)


def refuse_size(error: MizarError, named: str) -> None:
    """Raises ExhaustedError where the verifier gave up: to ask it for its words would take as long again, or longer."""
    if libbpf.errno_of(error) == errno.E2BIG:
        raise ExhaustedError(
            f"{named} is too complex: the kernel's verifier gave up following its ways, at a million instructions or "
            "8192 branches; bound loops by small constants, and look at less of a packet"
        ) from error


def _closed_then_open(room: Room, wanted: Wanted, own: dict[str, int], log_level: int) -> Instance:
    """Loaded; where it shares maps of the data plane's, the verifier has seen before that it writes none of them."""
    if wanted.shared:
        _load(room, wanted, own, log_level, closed=True).close()
    return _load(room, wanted, own, log_level, closed=False)


def _load(room: Room, wanted: Wanted, own: dict[str, int], log_level: int, *, closed: bool) -> Instance:
    named, hook = str(wanted), wanted.place.hook
    with contextlib.ExitStack() as end, libbpf.collected_log() as log:
        opts = ffi.new("struct bpf_object_open_opts *", {"sz": ffi.sizeof("struct bpf_object_open_opts")})
        title = ffi.new("char[]", b"mizar_function")
        opts.object_name = title
        obj = libbpf.check_pointer(
            lib().bpf_object__open_mem(wanted.data, len(wanted.data), opts), f"open {named}", log
        )
        end.callback(lib().bpf_object__close, obj)
        for section, value in wanted.constants.items():
            item = lib().bpf_object__find_map_by_name(obj, section.encode())
            if item == ffi.NULL:
                raise InvalidError(f"{named} has no {section}")
            set_constant(item, value, f"{section} of {named}")
        maps = {name_of(item): item for item in maps_of(obj)}
        for name, item in maps.items():
            _give(item, name, named, room.maps, own, closed=closed)
        program = choose(obj, f"mizar_{hook}", named)
        if hook == "xdp" and room.several_buffers:
            libbpf.check(lib().bpf_program__set_flags(program, _XDP_HAS_FRAGS), f"prepare {named}")
        libbpf.check(lib().bpf_program__set_log_level(program, log_level), f"prepare {named}")
        try:
            libbpf.check(lib().bpf_object__load(obj), f"load {named}", log)
        except MizarError as error:
            text = "".join(log)
            if log_level or _REFUSED not in text:
                raise
            raise InvalidError(f"the kernel refuses {named}: {explain(text)}") from error
        instructions = processed("".join(log))
        if instructions > room.most_instructions:
            raise ExhaustedError(
                f"{named} is too complex: the verifier looked at {instructions} instructions, and "
                f"{room.most_instructions} are allowed; look at less of a packet, or allow more"
            )
        for name in wanted.maps:
            if name not in own:
                own[name] = os.dup(lib().bpf_map__fd(maps[name]))
        following = os.dup(lib().bpf_map__fd(maps[f"next_{hook}"]))
        return Instance(wanted.place, os.dup(lib().bpf_program__fd(program)), following, instructions)


def set_constant(item: Any, value: bytes, title: str) -> None:
    """What a map of libbpf's own (.rodata) has when it is loaded. Raises InvalidError when it has another size."""
    length = ffi.new("size_t *")
    libbpf.check_pointer(lib().bpf_map__initial_value(item, length), f"read {title}")
    if length[0] != len(value):
        raise InvalidError(f"{title} has {length[0]} bytes, not {len(value)}")
    libbpf.check(lib().bpf_map__set_initial_value(item, value, len(value)), f"write {title}")


def _give(item: Any, name: str, named: str, shared: Mapping[str, int], own: Mapping[str, int], *, closed: bool) -> None:
    """Lets it use a map that is there. One without entries is the data plane's (`closed`: one like it, that it cannot
    write); `next_*` are always new."""
    entries = lib().bpf_map__max_entries(item)
    if entries and (name not in own or name in ("next_xdp", "next_tc")):
        return
    fd = own[name] if entries else shared.get(name)
    if fd is None:
        raise InvalidError(f"{named} shares the map {name}, which the data plane does not have")
    have = libbpf.info("map", fd)
    wanted = {
        "type": lib().bpf_map__type(item),
        "key_size": lib().bpf_map__key_size(item),
        "value_size": lib().bpf_map__value_size(item),
    } | ({"max_entries": entries} if entries else {})
    different = [
        f"{key} {value}, where it is {getattr(have, key)}"
        for key, value in wanted.items()
        if getattr(have, key) != value
    ]
    if different:
        whose = "its map, of which the content is kept," if entries else "the data plane's map"
        advice = "; give it another name, or unload the function first" if entries else "; build it again"
        raise InvalidError(f"{named} declares {whose} {name} in another shape: {', '.join(different)}{advice}")
    if closed and is_shared(item, name):
        close_to_writing(item, name, named)
        return
    libbpf.check(lib().bpf_map__reuse_fd(item, fd), f"share the map {name} with {named}")


def choose(obj: Any, wanted: str, named: str) -> Any:
    """The program of that name, which alone is going to be loaded. `named`: the function, for messages."""
    found = None
    program = lib().bpf_object__next_program(obj, ffi.NULL)
    while program != ffi.NULL:
        meant = ffi.string(lib().bpf_program__name(program)).decode() == wanted
        libbpf.check(lib().bpf_program__set_autoload(program, meant), f"choose a program of {named}")
        found = program if meant else found
        program = lib().bpf_object__next_program(obj, program)
    if found is None:
        raise InvalidError(f"{named} has no program {wanted}: expected one made with MIZAR_FUNCTION")
    return found


def most_at_a_stage() -> int:
    """How many functions one stage takes, or two that one packet meets."""
    return constant("FUNCTION_CHAIN")
