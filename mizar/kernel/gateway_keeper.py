# SPDX-License-Identifier: Apache-2.0
"""Installs and removes connections beside a data plane that writes them (dataplane/gateway_keeper.c).

Called by the gateway's flow table. The program shares the maps of the gateway's program, or of whoever made them. It
must never be run with the keys of an order turned round: the first one is that of the ORIGINAL direction.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from mizar.kernel import libbpf
from mizar.kernel.layout import U32, Fields, constant, struct, struct_codec
from mizar.kernel.libbpf import ffi, lib
from mizar.kernel.programs import Programs, load_into, object_bytes
from mizar.model.errors import ConflictError, ExhaustedError

_NAME = "gateway_keeper"
_SHARED = ("connections4", "connections6", "lines4", "lines6", "connection_places", "nat_tenants")
_BODY = 224


class Keeper:
    """The program, loaded over open maps by name; they stay the caller's."""

    def __init__(self, maps: Mapping[str, int]) -> None:
        self._programs = Programs(maps={name: os.dup(maps[name]) for name in _SHARED})
        sizes = {name: libbpf.info("map", maps[name]).max_entries for name in _SHARED}
        try:
            load_into(self._programs, _NAME, object_bytes(_NAME), sizes)
        except BaseException:
            self._programs.close()
            raise
        self._install, self._remove = constant("ORDER_INSTALL"), constant("ORDER_REMOVE")
        self._expire = constant("ORDER_EXPIRE")
        self._quota, self._renew = constant("ORDER_QUOTA"), constant("ORDER_RENEW")

    def install(self, version: int, first: tuple[Fields, Fields], twin: tuple[Fields, Fields]) -> None:
        """Makes a connection of both entries. Raises ConflictError when one is there already, ExhaustedError when the
        tenant's quota or the map is full; then neither is there."""
        keys, values = struct_codec(f"connection{version}_key"), struct_codec(f"connection{version}")
        body = keys.pack(first[0]) + keys.pack(twin[0]) + values.pack(first[1]) + values.pack(twin[1])
        result = self._run(self._install, version, body)
        if result == -errno.EEXIST:
            raise ConflictError("another connection has one of its ends")
        if result == -errno.EDQUOT:
            raise ExhaustedError(f"tenant {first[1]['tenant']:#x} has as many connections as its quota allows")
        libbpf.check(result, "install a connection")

    def remove(self, version: int, first: Fields, twin: Fields, outlived: Fields | None = None) -> bool:
        """Removes a connection; False when it is gone, or another has its key, or somebody else is about to.

        `outlived`: the value that it was judged by. False, too, where packets have begun it anew since.
        """
        keys, values = struct_codec(f"connection{version}_key"), struct_codec(f"connection{version}")
        body = keys.pack(first) + keys.pack(twin)
        if outlived is None:
            result = self._run(self._remove, version, body)
        else:
            result = self._run(self._expire, version, body + values.pack(outlived))
        if result == -errno.ENOENT:
            return False
        libbpf.check(result, "remove a connection")
        return True

    def renew(self, version: int, first: tuple[Fields, Fields], twin: tuple[Fields, Fields]) -> bool:
        """Writes what packets have changed (stamps, flags, acknowledgements) into both entries of a connection; False
        when it is gone."""
        keys, values = struct_codec(f"connection{version}_key"), struct_codec(f"connection{version}")
        body = keys.pack(first[0]) + keys.pack(twin[0]) + values.pack(first[1]) + values.pack(twin[1])
        result = self._run(self._renew, version, body)
        if result == -errno.ENOENT:
            return False
        libbpf.check(result, "renew a connection")
        return True

    def pin(self, folder: Path) -> None:
        """Pins the program in a folder of bpffs, in place of one that was there: for programs in other languages that
        make connections, as examples/queue_worker does."""
        path = folder / _NAME
        path.unlink(missing_ok=True)
        libbpf.check(lib().bpf_obj_pin(self._programs.programs[_NAME].fd, os.fsencode(path)), f"pin {path}")

    def set_quota(self, meta: int, quota: int) -> None:
        """How many connections a tenant may have from now on. ExhaustedError when there is no room."""
        libbpf.check(self._run(self._quota, 4, U32.pack(meta) + U32.pack(quota)), f"set the quota of tenant {meta:#x}")

    def close(self) -> None:
        """Unloads it. May be called twice."""
        self._programs.close()

    def _run(self, what: int, version: int, body: bytes) -> int:
        order = struct("gateway_order", what=what, version=version, body=body.ljust(_BODY, b"\0"))
        opts = ffi.new("struct test_run_opts *", {"sz": ffi.sizeof("struct test_run_opts")})
        context = ffi.new("char[]", order)
        opts.ctx_in, opts.ctx_size_in = context, len(order)
        libbpf.check(lib().bpf_prog_test_run_opts(self._programs.programs[_NAME].fd, opts), f"run {_NAME}")
        return ctypes.c_int32(opts.retval).value

    def __enter__(self) -> Keeper:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
