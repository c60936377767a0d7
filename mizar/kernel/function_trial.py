# SPDX-License-Identifier: Apache-2.0
"""A network function alone, without a data plane around it: loaded for one stage and one hook, and run on frames.

Called by the developer's tool (mizar.functions.harness). Nothing is pinned or attached: all ends with the trial. The
maps that it shares with the data plane are made here, empty; the chain behind it is empty, and so are the ends of a
chain.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal

from mizar.kernel import libbpf
from mizar.kernel.function_shared import close_to_writing, is_shared
from mizar.kernel.functions import choose, refuse_size, set_constant
from mizar.kernel.layout import constant, parse, size, struct
from mizar.kernel.libbpf import ffi, lib
from mizar.kernel.test_run import run_tc, run_xdp
from mizar.kernel.verifier import explain, processed
from mizar.model.errors import InvalidError, MizarError

Hook = Literal["xdp", "tc"]
_SHARED_ENTRIES = 1024
_SIZES = {
    "function_frames": "1",
    "function_counters": "FUNCTIONS",
    "function_xdp": "FUNCTION_PLACES",
    "function_tc": "FUNCTION_PLACES",
}
_XDP_HAS_FRAGS = 1 << 5
_LOG_STATISTICS = 4
_INSTANCE = ".rodata.instance"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a frame. `verdict`: enum function_verdict; `reason`: the function's own; `frame`: as it is
    then."""

    verdict: int
    reason: int
    frame: bytes
    returned: int
    left: Mapping[str, Any]
    """Fields of struct function_frame as the function left them."""


class Trial:
    """`instructions`: how many the verifier has looked at."""

    def __init__(
        self, data: bytes, name: str, stage: int, hook: Hook, config: Mapping[str, bytes] | None = None
    ) -> None:
        """`config`: bytes of other .rodata sections by name. Raises InvalidError that explains the verifier's
        refusal."""
        self.maps: dict[str, int] = {}
        self.hook, self.stage = hook, stage
        self._fd = -1
        try:
            try:
                self._load(data, name, dict(config or {}), _LOG_STATISTICS)
            except MizarError as error:
                refuse_size(error, f"function {name}")
                if "BEGIN PROG LOAD LOG" not in str(error):
                    raise
                self._load(data, name, dict(config or {}), 0)  # asked for nothing, libbpf tries again and gets all
        except BaseException:
            self.close()
            raise

    def _load(self, data: bytes, name: str, config: dict[str, bytes], log_level: int) -> None:
        with contextlib.ExitStack() as end, libbpf.collected_log() as log:
            opts = ffi.new("struct bpf_object_open_opts *", {"sz": ffi.sizeof("struct bpf_object_open_opts")})
            title = ffi.new("char[]", b"mizar_trial")
            opts.object_name = title
            obj = libbpf.check_pointer(
                lib().bpf_object__open_mem(data, len(data), opts), f"open the function {name}", log
            )
            end.callback(lib().bpf_object__close, obj)
            config[_INSTANCE] = struct("function_instance", number=0, stage=self.stage)
            maps = list(_maps_of(obj))
            for item, map_name in maps:
                _prepare(item, map_name, config.pop(map_name, None), f"function {name}")
            if config:
                raise InvalidError(f"function {name} has no {', '.join(config)}")
            program = choose(obj, f"mizar_{self.hook}", f"function {name}")
            if self.hook == "xdp":
                libbpf.check(lib().bpf_program__set_flags(program, _XDP_HAS_FRAGS), f"prepare the function {name}")
            libbpf.check(lib().bpf_program__set_log_level(program, log_level), f"prepare the function {name}")
            log.clear()
            try:
                libbpf.check(lib().bpf_object__load(obj), f"load the function {name}", log)
            except MizarError as error:
                text = "".join(log)
                if log_level or "BEGIN PROG LOAD LOG" not in text:
                    raise
                raise InvalidError(f"the kernel refuses function {name}: {explain(text)}") from error
            self.instructions = processed("".join(log))
            for item, map_name in maps:
                self.maps[map_name] = os.dup(lib().bpf_map__fd(item))
            self._fd = os.dup(lib().bpf_program__fd(program))

    def run(self, frame: bytes, fields: Mapping[str, Any], note: bytes = b"") -> Outcome:
        """Runs it on a frame of which `fields` (of struct function_frame) are known. `note`: what Transit XDP has left
        in front of it (struct handover)."""
        told = struct("function_frame", **{**fields, "functions": 1, "stage": self.stage, "decided": 0})
        stride = (len(told) + 7) // 8 * 8
        value = told.ljust(stride, b"\0") * libbpf.possible_cpus()
        key = bytes(4)
        libbpf.check(lib().bpf_map_update_elem(self.maps["function_frames"], key, value, 0), "tell of the frame")
        run = run_xdp(self._fd, frame, metadata=note) if self.hook == "xdp" else run_tc(self._fd, frame)
        counted = self._counted()
        found = [
            self._left(each) for each in _per_cpu(self.maps["function_frames"], stride) if each[: len(told)] != told
        ]
        left = found[0] if found else parse("function_frame", told)
        verdict = next((number for number, times in enumerate(counted) if times), 0)
        return Outcome(verdict, left["reason"] if verdict == 1 else 0, run.frame, run.retval, left)

    def _left(self, data: bytes) -> Mapping[str, Any]:
        return parse("function_frame", data[: size("function_frame")])

    def _counted(self) -> list[int]:
        """Verdicts since the last call, over all CPUs."""
        place = self.stage.to_bytes(4, "little")
        stride = size("function_counters")
        rows = [parse("function_counters", each) for each in _per_cpu(self.maps["function_counters"], stride, place)]
        zero = bytes(stride * libbpf.possible_cpus())
        libbpf.check(lib().bpf_map_update_elem(self.maps["function_counters"], place, zero, 0), "start counting again")
        return [sum(row["verdicts"][number] for row in rows) for number in range(5)]

    def close(self) -> None:
        """Ends it. May be called twice."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        while self.maps:
            os.close(self.maps.popitem()[1])

    def __enter__(self) -> Trial:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _per_cpu(fd: int, stride: int, key: bytes = bytes(4)) -> list[bytes]:
    out = ffi.new("char[]", stride * libbpf.possible_cpus())
    libbpf.check(lib().bpf_map_lookup_elem(fd, key, out), "read a per-CPU value")
    data = ffi.buffer(out)[:]
    return [data[at : at + stride] for at in range(0, len(data), stride)]


def _maps_of(obj: Any) -> list[tuple[Any, str]]:
    found = []
    item = lib().bpf_object__next_map(obj, ffi.NULL)
    while item != ffi.NULL:
        name = ffi.string(lib().bpf_map__name(item)).decode()
        found.append((item, name))
        item = lib().bpf_object__next_map(obj, item)
    return found


def _prepare(item: Any, name: str, value: bytes | None, named: str) -> None:
    if value is not None:
        set_constant(item, value, name)
    elif is_shared(item, name):
        close_to_writing(item, name, named, _SHARED_ENTRIES)
    elif name in _SIZES:
        entries = int(_SIZES[name]) if _SIZES[name].isdigit() else constant(_SIZES[name])
        entries *= constant("FUNCTION_STAGES") if name == "function_counters" else 1
        libbpf.check(lib().bpf_map__set_max_entries(item, entries), f"set the size of map {name}")
