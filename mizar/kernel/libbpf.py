# SPDX-License-Identifier: Apache-2.0
"""Bindings of libbpf.so.1: the calls that this room uses, their errors, and what libbpf has to say about them.

Owns the one dlopen and the mapping from errno to Mizar's errors. Called by every module of this room that touches
bpf, and by nobody outside. It must never need a compiler (cffi's ABI mode) nor print: what libbpf logs is collected
per thread, and becomes part of the error when a call fails. Structs are declared up to the last member that is used;
their first member `sz` tells libbpf which that is (libbpf.h, OPTS_VALID), so that newer libraries accept them.
"""

from __future__ import annotations

import contextlib
import errno as errno_module
import functools
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cffi

from mizar.model.errors import (
    ConflictError,
    ExhaustedError,
    InvalidError,
    MizarError,
    NotFoundError,
    TemporaryError,
)

ffi: Any = cffi.FFI()  # its values are checked by C, not by mypy
ffi.cdef("""
int vsnprintf(char *buf, size_t size, const char *format, void *args);

struct bpf_object; struct bpf_map; struct bpf_program; struct ring_buffer;
struct bpf_object_open_opts { size_t sz; const char *object_name; };
typedef int (*print_fn)(int level, const char *format, void *args);
print_fn libbpf_set_print(print_fn fn);
const char *libbpf_version_string(void);
int libbpf_num_possible_cpus(void);

struct bpf_object *bpf_object__open_mem(const void *buf, size_t size, const struct bpf_object_open_opts *opts);
int bpf_object__load(struct bpf_object *obj);
void bpf_object__close(struct bpf_object *obj);
struct bpf_program *bpf_object__next_program(const struct bpf_object *obj, struct bpf_program *prog);
const char *bpf_program__name(const struct bpf_program *prog);
int bpf_program__fd(const struct bpf_program *prog);
int bpf_program__set_flags(struct bpf_program *prog, uint32_t flags);
int bpf_program__set_autoload(struct bpf_program *prog, _Bool autoload);
int bpf_program__set_log_level(struct bpf_program *prog, uint32_t level);
struct bpf_map *bpf_object__next_map(const struct bpf_object *obj, const struct bpf_map *map);
struct bpf_map *bpf_object__find_map_by_name(const struct bpf_object *obj, const char *name);
const char *bpf_map__name(const struct bpf_map *map);
_Bool bpf_map__is_internal(const struct bpf_map *map);
uint32_t bpf_map__type(const struct bpf_map *map);
uint32_t bpf_map__key_size(const struct bpf_map *map);
uint32_t bpf_map__value_size(const struct bpf_map *map);
uint32_t bpf_map__max_entries(const struct bpf_map *map);
uint32_t bpf_map__map_flags(const struct bpf_map *map);
int bpf_map__set_map_flags(struct bpf_map *map, uint32_t flags);
int bpf_map__set_max_entries(struct bpf_map *map, uint32_t max_entries);
int bpf_map__reuse_fd(struct bpf_map *map, int fd);
int bpf_map__fd(const struct bpf_map *map);
int bpf_map__set_initial_value(struct bpf_map *map, const void *data, size_t size);
const void *bpf_map__initial_value(struct bpf_map *map, size_t *size);

struct map_create_opts { size_t sz; uint32_t btf_fd, btf_key_type_id, btf_value_type_id, btf_vmlinux_value_type_id,
    inner_map_fd, map_flags; };
struct batch_opts { size_t sz; uint64_t elem_flags; uint64_t flags; };
int bpf_map_create(int type, const char *name, uint32_t key_size, uint32_t value_size, uint32_t max, const void *opts);
int bpf_map_lookup_elem(int fd, const void *key, void *value);
int bpf_map_update_elem(int fd, const void *key, const void *value, uint64_t flags);
int bpf_map_delete_elem(int fd, const void *key);
int bpf_prog_get_fd_by_id(uint32_t id);
int bpf_map_get_next_key(int fd, const void *key, void *next_key);
int bpf_map_lookup_batch(int fd, void *in, void *out, void *keys, void *values, uint32_t *count, const void *opts);
int bpf_map_update_batch(int fd, const void *keys, const void *values, uint32_t *count, const void *opts);
int bpf_map_delete_batch(int fd, const void *keys, uint32_t *count, const void *opts);

int bpf_obj_pin(int fd, const char *path);
int bpf_obj_get(const char *path);
int bpf_obj_get_info_by_fd(int fd, void *info, uint32_t *size);
struct map_info { uint32_t type, id, key_size, value_size, max_entries, map_flags; char name[16]; };
struct prog_info { uint32_t type, id; uint8_t tag[8]; uint32_t jited_prog_len, xlated_prog_len; const void *jited,
    *xlated; uint64_t load_time; uint32_t created_by_uid, nr_map_ids; const uint32_t *map_ids; };
/* link_info of the kernel: what a netdevice link holds begins at offset 16 for both xdp and tcx */
struct link_info { uint32_t type, id, prog_id, pad, ifindex, attach_type; };

struct insn { uint8_t code, regs; int16_t off; int32_t imm; };
struct prog_load_opts { size_t sz; int attempts; int expected_attach_type; uint32_t prog_btf_fd, prog_flags,
    prog_ifindex, kern_version; uint32_t attach_btf_id, attach_prog_fd; int attach_btf_obj_fd; const int *fd_array;
    const void *func_info; uint32_t func_info_cnt, func_info_rec_size; const void *line_info;
    uint32_t line_info_cnt, line_info_rec_size; uint32_t log_level, log_size; char *log_buf; };
int bpf_prog_load(int type, const char *name, const char *license, const struct insn *insns, size_t count,
    const struct prog_load_opts *opts);

struct link_create_opts { size_t sz; uint32_t flags; };
int bpf_link_create(int prog_fd, int target_fd, int attach_type, const struct link_create_opts *opts);
int bpf_link_update(int link_fd, int prog_fd, const void *opts);
int bpf_link_detach(int link_fd);

struct test_run_opts { size_t sz; const void *data_in; void *data_out; uint32_t data_size_in, data_size_out;
    const void *ctx_in; void *ctx_out; uint32_t ctx_size_in, ctx_size_out; uint32_t retval; int repeat;
    uint32_t duration, flags, cpu, batch_size; };
int bpf_prog_test_run_opts(int prog_fd, struct test_run_opts *opts);
struct xdp_md { uint32_t data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex; };
struct sk_buff_ctx { uint32_t len, pkt_type, mark, queue_mapping, protocol, vlan_present, vlan_tci, vlan_proto,
    priority, ingress_ifindex, ifindex, tc_index, cb[5], hash, tc_classid, data, data_end, napi_id, family,
    remote_ip4, local_ip4, remote_ip6[4], local_ip6[4], remote_port, local_port, data_meta; uint64_t flow_keys,
    tstamp; uint32_t wire_len, gso_segs; uint64_t sk; uint32_t gso_size; uint8_t tstamp_type; uint64_t hwtstamp; };

typedef int (*sample_fn)(void *ctx, void *data, size_t size);
struct ring_buffer *ring_buffer__new(int map_fd, sample_fn fn, void *ctx, const void *opts);
void ring_buffer__free(struct ring_buffer *ring);
int ring_buffer__consume(struct ring_buffer *ring);
int ring_buffer__epoll_fd(const struct ring_buffer *ring);
""")

ENOTSUPP = 524
"""The kernel's own "not supported", which leaks to user space from maps without batch operations."""

_LOG_LINES_SHOWN = 25
_ERRORS: dict[int, type[MizarError]] = {
    errno_module.EEXIST: ConflictError,
    errno_module.EBUSY: ConflictError,
    errno_module.EADDRINUSE: ConflictError,
    errno_module.ENOENT: NotFoundError,
    errno_module.ENODEV: NotFoundError,
    errno_module.ENXIO: NotFoundError,
    errno_module.ESRCH: NotFoundError,
    errno_module.EADDRNOTAVAIL: NotFoundError,
    errno_module.E2BIG: ExhaustedError,
    errno_module.ENOSPC: ExhaustedError,
    errno_module.EMFILE: ExhaustedError,
    errno_module.ENFILE: ExhaustedError,
    errno_module.ENOMEM: TemporaryError,
    errno_module.EAGAIN: TemporaryError,
    errno_module.EINTR: TemporaryError,
    errno_module.ENOBUFS: TemporaryError,
    errno_module.ENETDOWN: TemporaryError,
    errno_module.ENETUNREACH: TemporaryError,
    errno_module.EHOSTUNREACH: TemporaryError,
    errno_module.ETIMEDOUT: TemporaryError,
}
_PERMISSION = "permission denied (it needs root, or CAP_BPF, CAP_NET_ADMIN and CAP_SYS_ADMIN)"


def error_of(number: int, what: str, log: str = "") -> MizarError:
    """The error for a positive errno. `what` names the operation and its object, `log` is what libbpf said."""
    if number in (errno_module.EPERM, errno_module.EACCES) and not log:
        reason = _PERMISSION
    else:
        reason = "not supported by this kernel" if number == ENOTSUPP else os.strerror(number)
    tail = "\n".join(log.rstrip().splitlines()[-_LOG_LINES_SHOWN:])
    error = _ERRORS.get(number, InvalidError)(f"{what}: {reason}" + (f"\n{tail}" if tail else ""))
    error.__cause__ = OSError(number, os.strerror(number))
    return error


def errno_of(error: BaseException) -> int:
    """The errno behind an error of this room, 0 when there is none."""
    cause = error.__cause__
    return cause.errno or 0 if isinstance(cause, OSError) else 0


class _Logs(threading.local):
    lines: list[str] | None = None


_logs = _Logs()


_LOG_BYTES = 1 << 24
"""As much as libbpf takes of a verifier's log: what it says in the end is why. Only what is written to costs memory."""
_unset = ffi.new_allocator(should_clear_after_alloc=False)


@ffi.callback("int(int, const char *, void *)", error=0)  # type: ignore[untyped-decorator]
def _collect(_level: int, form: Any, args: Any) -> int:
    # A va_list is passed as a pointer on x86-64 and arm64, so libc can be asked to expand it; once.
    if _logs.lines is not None:
        text = _unset("char[]", _LOG_BYTES)
        length = _libc().vsnprintf(text, _LOG_BYTES, form, args)
        _logs.lines.append(ffi.buffer(text, min(length, _LOG_BYTES - 1))[:].decode(errors="replace"))
    return 0


@functools.cache
def _libc() -> Any:
    return ffi.dlopen(None)


@functools.cache
def lib() -> Any:
    """The library. Raises MizarError when it is not installed."""
    try:
        library = ffi.dlopen("libbpf.so.1")
    except OSError as error:
        raise MizarError(
            f"libbpf.so.1 cannot be loaded ({error}); on Debian and Ubuntu: apt install libbpf1"
        ) from error
    library.libbpf_set_print(_collect)
    return library


@contextlib.contextmanager
def collected_log() -> Iterator[list[str]]:
    """Collects what libbpf logs on this thread while the block runs."""
    before, _logs.lines = _logs.lines, []
    try:
        yield _logs.lines
    finally:
        _logs.lines = before


def check(result: int, what: str, log: list[str] | None = None) -> int:
    """`result` when it is not negative, else raises: libbpf 1.x returns -errno."""
    if result < 0:
        raise error_of(-result, what, "".join(log or ()))
    return result


def check_pointer(pointer: Any, what: str, log: list[str] | None = None) -> Any:
    """`pointer` unless it is NULL: then raises from errno. Must directly follow the call."""
    number = ffi.errno
    if pointer == ffi.NULL:
        raise error_of(number, what, "".join(log or ()))
    return pointer


def possible_cpus() -> int:
    """CPUs for which a per-CPU map keeps a value."""
    return check(lib().libbpf_num_possible_cpus(), "count the possible CPUs")


def info(kind: str, fd: int) -> Any:
    """`struct map_info`, `prog_info` or `link_info` (`kind` is "map", "prog" or "link") of an open object."""
    found = ffi.new(f"struct {kind}_info *")
    length = ffi.new("uint32_t *", ffi.sizeof(f"struct {kind}_info"))
    check(lib().bpf_obj_get_info_by_fd(fd, found, length), f"read the facts of bpf {kind} {fd}")
    return found


def map_ids(fd: int) -> set[int]:
    """The kernel's numbers of the maps that an open program uses, those of its functions included."""
    count = info("prog", fd).nr_map_ids
    ids = ffi.new("uint32_t[]", count)
    found = ffi.new("struct prog_info *", {"nr_map_ids": count, "map_ids": ids})
    length = ffi.new("uint32_t *", ffi.sizeof("struct prog_info"))
    check(lib().bpf_obj_get_info_by_fd(fd, found, length), f"read the maps of bpf prog {fd}")
    return set(ids)


def pin(fd: int, path: Path) -> None:
    """Pins an object. The path must be free."""
    check(lib().bpf_obj_pin(fd, str(path).encode()), f"pin {path}")


def open_pin(path: Path) -> int | None:
    """A new file descriptor of what is pinned there; None when nothing is."""
    fd: int = lib().bpf_obj_get(str(path).encode())
    if fd == -errno_module.ENOENT:
        return None
    return check(fd, f"open the pin {path}")


def make_map(kind: int, key_size: int, value_size: int, entries: int, flags: int = 0) -> int:
    """Makes a map of type `kind` (enum bpf_map_type); for probes and tests. Returns a file descriptor that the caller
    closes."""
    opts = ffi.new("struct map_create_opts *", {"sz": ffi.sizeof("struct map_create_opts"), "map_flags": flags})
    made = lib().bpf_map_create(kind, b"mizar_probe", key_size, value_size, entries, opts)
    return check(made, f"make a map of type {kind} with {entries} entries")


def load_program(kind: int, code: bytes, name: str = "mizar_probe") -> int:
    """Loads raw instructions (8 bytes each) as a program of type `kind`; for probes. The error carries the verifier's
    words. Returns a file descriptor that the caller closes."""
    log = ffi.new("char[]", 65536)
    opts = ffi.new("struct prog_load_opts *", {"sz": ffi.sizeof("struct prog_load_opts")})
    opts.log_level, opts.log_size, opts.log_buf = 1, 65536, log
    instructions = ffi.cast("struct insn *", ffi.from_buffer(code))
    fd: int = lib().bpf_prog_load(kind, name.encode(), b"GPL", instructions, len(code) // 8, opts)
    if fd < 0:
        raise error_of(-fd, f"load a program of type {kind}", ffi.string(log).decode(errors="replace"))
    return fd
