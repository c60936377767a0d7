# SPDX-License-Identifier: Apache-2.0
"""The data plane's maps in the hands of a network function: to be read, and never to be written.

A map can be closed to all programs when it is made, and to single ones never; so a function that shares any is loaded
first with maps of the same shape that are closed to it, and the verifier refuses what would write. Called by those who
load functions: for a droplet, and for a trial.
"""

from __future__ import annotations

from typing import Any

from mizar.kernel import libbpf
from mizar.kernel.libbpf import lib
from mizar.model.errors import InvalidError
from mizar.model.function_object import OF_THE_PLATFORM

_RDONLY_PROG = 1 << 7  # BPF_F_RDONLY_PROG
_VALUES = {1, 2, 5, 6, 9, 10, 11}
"""Hash and array, each CPU's own or not, least recently used or not, and longest prefix."""
_REDIRECTS = {14, 16, 17, 25}
"""Devices, CPUs and sockets: a program can do no more than lead a frame there."""


def is_shared(item: Any, name: str) -> bool:
    """Whether a map of an object is one of the data plane's that its author asked for: it has no entries."""
    return not (lib().bpf_map__max_entries(item) or lib().bpf_map__is_internal(item) or name in OF_THE_PLATFORM)


def close_to_writing(item: Any, name: str, named: str, entries: int = 1) -> None:
    """The object is going to have a map of its own there, empty, that its programs cannot write. `named`: the
    function, for messages. Raises InvalidError for what no function may share."""
    kind = lib().bpf_map__type(item)
    if kind not in _VALUES | _REDIRECTS:
        raise InvalidError(f"{named} shares the map {name}, whose type is one that functions cannot share to read")
    libbpf.check(lib().bpf_map__set_max_entries(item, entries), f"set the size of map {name}")
    if kind in _VALUES:
        flags = lib().bpf_map__map_flags(item) | _RDONLY_PROG
        libbpf.check(lib().bpf_map__set_map_flags(item, flags), f"close map {name} to {named}")
