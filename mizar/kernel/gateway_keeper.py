# SPDX-License-Identifier: Apache-2.0
"""Installs and removes connections beside a data plane that writes them (dataplane/gateway_keeper.c).

Called by the gateway's flow table. The program shares the maps of the gateway's program, or of whoever made them. It
must never be run with the keys of an order turned round: the first one is that of the ORIGINAL direction.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from mizar.kernel import libbpf
from mizar.kernel.events import EventReader
from mizar.kernel.layout import U32, Codec, Fields, constant, parse, struct, struct_codec
from mizar.kernel.libbpf import ffi, lib
from mizar.kernel.maps import Table
from mizar.kernel.programs import Programs, load_into, object_bytes
from mizar.model.errors import ConflictError, ExhaustedError

_NAME = "gateway_keeper"
_SHARED = ("connections4", "connections6", "lines4", "lines6", "connection_places", "nat_tenants", "nat_settings")
_BODY = 224
_KEY: Codec[bytes] = Codec("a key to sweep", 48, bytes, bytes)
_SWEEP, _SWEPT = "gateway_sweep", "gateway_swept"
SWEEP_KEYS = 512
"""Connections that one order to sweep ends at most: with that it holds a CPU for about a millisecond."""
_SLICE_LINES = 16_384


class Keeper:
    """The program, loaded over open maps by name; they stay the caller's."""

    def __init__(self, maps: Mapping[str, int]) -> None:
        self._programs = Programs(maps={name: os.dup(maps[name]) for name in _SHARED})
        self._sizes = {name: libbpf.info("map", maps[name]).max_entries for name in _SHARED}
        self._swept: EventReader | None = None
        try:
            load_into(self._programs, _NAME, object_bytes(_NAME), self._sizes)
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

    def sweep(
        self, version: int, place: int, now: int, limits: Fields, *, tell: bool = False
    ) -> tuple[int, int, list[Fields]]:
        """Ends connections whose time is up (ticks `now`, time-outs as in nat_settings), of some lines from `place` on.
        Returns the next place, how many it ended, and, where they are to be told, these (struct gateway_swept)."""
        return self._sweep(version, now, limits, tell, place=place, lines=_SLICE_LINES, ends=SWEEP_KEYS)

    def sweep_far(
        self, version: int, packed: Sequence[bytes], now: int, limits: Fields, *, tell: bool = False
    ) -> tuple[int, list[Fields]]:
        """The same for some that are in the hash, by their keys: at most SWEEP_KEYS."""
        self._sweeper()
        keys = Table("gateway_sweep_keys", self._programs.maps["gateway_sweep_keys"], U32, _KEY)
        keys.put_many([(place, key.ljust(_KEY.size, b"\0")) for place, key in enumerate(packed)])
        return self._sweep(version, now, limits, tell, lines=0, ends=len(packed))[1:]

    def _sweeper(self) -> EventReader:
        if self._swept is None:
            load_into(self._programs, _SWEEP, object_bytes(_SWEEP), self._sizes)
            self._swept = EventReader(self._programs.maps[_SWEPT], _SWEPT)
        return self._swept

    def _sweep(self, version: int, now: int, limits: Fields, tell: bool, **what: int) -> tuple[int, int, list[Fields]]:
        swept = self._sweeper()
        order = {name: limits.get(name, 0) for name in ("udp", "icmp", "tcp", "tcp_transitory")}
        context = struct("gateway_sweep_order", version=version, now=now, tell=int(tell), **order, **what)
        result, context = self._run_program(_SWEEP, context)
        libbpf.check(result, "sweep connections")
        done = parse("gateway_sweep_order", context)
        return done["place"], done["ended"], swept.read() if tell else []

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
        if self._swept is not None:
            self._swept.close()
            self._swept = None
        self._programs.close()

    def _run(self, what: int, version: int, body: bytes) -> int:
        order = struct("gateway_order", what=what, version=version, body=body.ljust(_BODY, b"\0"))
        return self._run_program(_NAME, order)[0]

    def _run_program(self, name: str, order: bytes) -> tuple[int, bytes]:
        """What it returns, and the order as it has left it."""
        opts = ffi.new("struct test_run_opts *", {"sz": ffi.sizeof("struct test_run_opts")})
        context = ffi.new("char[]", order)
        opts.ctx_in, opts.ctx_size_in = context, len(order)
        libbpf.check(lib().bpf_prog_test_run_opts(self._programs.programs[name].fd, opts), f"run {name}")
        return ctypes.c_int32(opts.retval).value, ffi.buffer(context, len(order))[:]

    def __enter__(self) -> Keeper:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
