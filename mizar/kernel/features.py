# SPDX-License-Identifier: Apache-2.0
"""What this machine can do, found out by trying.

Called by `mizar doctor`. Every probe does the thing itself, on scratch objects without a name (a namespace, a veth
pair, maps, programs of a few instructions), which end with it. It must never change anything that was there before.
"""

from __future__ import annotations

import ctypes
import os
import platform
import socket
import struct
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path

from mizar.kernel import attach, bpffs, clsact, libbpf, namespaces, test_run
from mizar.kernel.endpoint_link import EndpointLink
from mizar.kernel.libbpf import ffi, lib
from mizar.kernel.links import Links
from mizar.kernel.namespaces import Namespace
from mizar.kernel.neighbours import Neighbours, NextHop
from mizar.model.errors import InvalidError, MizarError, TemporaryError

_XDP, _SCHED_CLS = 6, 3  # enum bpf_prog_type
_HASH, _ARRAY, _LPM_TRIE, _RINGBUF = 1, 2, 11, 27  # enum bpf_map_type


@dataclass(frozen=True)
class Feature:
    """One thing that Mizar uses."""

    name: str
    present: bool
    needed: bool
    """False: Mizar works without it, at the cost told."""
    detail: str
    """What was found: a version, or why the attempt failed."""
    cost_if_missing: str
    how_to_fix: str


def probe() -> list[Feature]:
    """Tries everything. Takes some tens of milliseconds; raises nothing for what is missing."""
    return [_tried(*row) for row in _PROBES]


def _tried(name: str, needed: bool, attempt: Callable[[], str], cost: str, fix: str) -> Feature:
    try:
        return Feature(name, True, needed, attempt(), cost, fix)
    except MizarError as error:
        return Feature(name, False, needed, str(error), cost, fix)
    except OSError as error:
        return Feature(name, False, needed, error.strerror or str(error), cost, fix)


def _kernel() -> str:
    return platform.release()


def _capabilities() -> str:
    wanted = {"CAP_NET_ADMIN": 12, "CAP_SYS_ADMIN": 21, "CAP_BPF": 39}
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    mask = int(status["CapEff"], 16)
    missing = [name for name, bit in wanted.items() if not mask >> bit & 1]
    if missing:
        raise PermissionError(1, f"the process lacks {', '.join(missing)}")
    return "all"


def _libbpf() -> str:
    return str(ffi.string(lib().libbpf_version_string()).decode())


def _load(kind: int, *instructions: bytes) -> Callable[[], str]:
    def attempt() -> str:
        os.close(libbpf.load_program(kind, b"".join(instructions)))
        return "loaded"

    return attempt


def _btf() -> str:
    return f"{Path('/sys/kernel/btf/vmlinux').stat().st_size} bytes"


def _bpffs() -> str:
    if bpffs.is_mounted():
        return f"mounted on {bpffs.ROOT}"
    with tempfile.TemporaryDirectory() as folder:
        bpffs.ensure_mounted(Path(folder))
        ctypes.CDLL(None).umount2(os.fsencode(folder), 2)
    return "not mounted yet; the daemon mounts it"


def _map(kind: int, key: int, value: int, entries: int, flags: int = 0) -> Callable[[], str]:
    def attempt() -> str:
        os.close(libbpf.make_map(kind, key, value, entries, flags))
        return "made"

    return attempt


def _batch() -> str:
    fd = libbpf.make_map(_HASH, 4, 4, 8)
    try:
        opts = ffi.new("struct batch_opts *", {"sz": ffi.sizeof("struct batch_opts")})
        count = ffi.new("uint32_t *", 2)
        keys = struct.pack("=2I", 1, 2)
        libbpf.check(lib().bpf_map_update_batch(fd, keys, keys, count, opts), "write a map in a batch")
    finally:
        os.close(fd)
    return "written"


def _encapsulate() -> str:
    flags = 1 << 0 | 1 << 1 | 1 << 4 | 14 << 56 | 1 << 6  # FIXED_GSO, ENCAP_L3_IPV4, L4_UDP, L2(14), L2_ETH
    _make_room(50, flags, "make room for tunnel headers")
    return "50 bytes of room"


def change_families() -> str:
    """Whether a tc program may take off headers in front of packets of the other family; MizarError where not."""
    for family in (1 << 7, 1 << 8):  # DECAP_L3_IPV4, DECAP_L3_IPV6; beside FIXED_GSO
        _make_room(-20, 1 | family, "take off headers in front of the other family's")
    return "to both families"


def _make_room(size: int, flags: int, what: str) -> None:
    """bpf_skb_adjust_room() behind the MAC header of an IPv4 frame."""
    code = _insn(0xB7, 2, imm=size) + _insn(0xB7, 3, imm=1) + _wide(4, flags) + _insn(0x85, imm=50) + _EXIT
    fd = libbpf.load_program(_SCHED_CLS, code)
    try:
        result = test_run.run_tc(fd, bytes(12) + b"\x08\x00" + b"\x45" + bytes(99)).retval
    finally:
        os.close(fd)
    if result:
        raise libbpf.error_of(-ctypes.c_int32(result).value, what)


def _verifier() -> str:
    try:
        os.close(libbpf.load_program(_SCHED_CLS, _SOME_BYTES))
    except InvalidError as error:
        raise InvalidError("it expects 0 where a number was found not to be, and so refuses all programs") from error
    return "loaded"


def _namespace() -> str:
    namespaces.anonymous().close()
    return "made"


@contextmanager
def _veth() -> Iterator[tuple[Namespace, int]]:
    """A veth in a namespace of its own, whose other end (192.0.2.2, RFC 5737) is in a second one."""
    name, mac = "mizar-probe", bytes.fromhex("024d5a0000fe")
    address = IPv4Interface("192.0.2.2/30")
    with namespaces.anonymous() as host, namespaces.anonymous() as workload:
        links = Links(host)
        try:
            link = EndpointLink("probe", "probe", name, "eth0", mac, 1400, (address,), ())
            yield host, links.ensure_endpoint(link, workload)[0].index
        finally:
            links.close()


def _veth_works() -> str:
    with _veth():
        return "made"


def _attaches(kind: int, mode: attach.XdpMode | attach.TcMode, code: bytes) -> Callable[[], str]:
    def attempt() -> str:
        fd = libbpf.load_program(kind, code)
        try:
            with _veth() as (host, index):
                host.run(lambda: _attach(fd, index, mode))
        finally:
            os.close(fd)
        return "attached"

    return attempt


def _attach(fd: int, index: int, mode: attach.XdpMode | attach.TcMode) -> None:
    if mode == "clsact":
        clsact.attach(fd, index, "mizar-probe")
    else:
        os.close(attach.create_link(fd, index, mode))


def _managed_neighbour() -> str:
    with _veth() as (host, index):
        neighbours = Neighbours(host)
        try:
            if not neighbours.install(NextHop(index, IPv4Address("192.0.2.2"))):
                raise TemporaryError("the kernel does not know managed neighbours")
        finally:
            neighbours.close()
    return "installed"


def _ipv6() -> str:
    socket.socket(socket.AF_INET6, socket.SOCK_DGRAM).close()
    return "present"


def _insn(code: int, dst: int = 0, src: int = 0, off: int = 0, imm: int = 0) -> bytes:
    return struct.pack("=BBhi", code, dst | src << 4, off, imm)


def _wide(dst: int, value: int) -> bytes:
    return struct.pack("=BBhI", 0x18, dst, 0, value & 0xFFFFFFFF) + struct.pack("=BBhI", 0, 0, 0, value >> 32)


_EXIT = _insn(0x95)
_RETURN_0, _RETURN_2 = _insn(0xB7, 0, imm=0) + _EXIT, _insn(0xB7, 0, imm=2) + _EXIT
_REDIRECT_PEER = _insn(0xB7, 1, imm=1) + _insn(0xB7, 2, imm=0) + _insn(0x85, imm=155) + _EXIT

# Some bytes of the frame, where its length has any in its lower seven bits: the helper may not be asked for none.
_SOME_BYTES = (
    _insn(0x61, 4, 1) + _insn(0x54, 4, imm=127) + _insn(0x16, 4, off=4) + _insn(0xB7, 2) + _insn(0xBF, 3, 10)
    + _insn(0x07, 3, imm=-128) + _insn(0x85, imm=26) + _RETURN_0
)  # fmt: skip

_UPGRADE = "use a newer kernel (6.6 or later is best)"
_ROOT = "run as root, or with these capabilities"
_CONFIG = "use a kernel built with "
_NOTHING = "Mizar does not start."

_PROBES: tuple[tuple[str, bool, Callable[[], str], str, str], ...] = (
    ("kernel", True, _kernel, _NOTHING, _UPGRADE),
    ("privileges", True, _capabilities, _NOTHING, _ROOT),
    ("libbpf", True, _libbpf, _NOTHING, "install libbpf 1.x (Debian, Ubuntu: apt install libbpf1)"),
    ("bpf programs", True, _load(_XDP, _RETURN_2), _NOTHING, _CONFIG + "CONFIG_BPF_SYSCALL, and privileges"),
    ("kernel BTF", False, _btf, "Tools cannot show the types of maps.", _CONFIG + "CONFIG_DEBUG_INFO_BTF"),
    ("bpf file system", True, _bpffs, "State does not survive the daemon.", "mount -t bpf bpf /sys/fs/bpf"),
    ("memory for maps", True, _map(_ARRAY, 4, 4096, 4096), _NOTHING, "raise the limit of locked memory (ulimit -l)"),
    ("LPM trie", True, _map(_LPM_TRIE, 24, 8, 8, 1), _NOTHING, _UPGRADE),
    ("ring buffer", True, _map(_RINGBUF, 0, 0, 4096), _NOTHING, _UPGRADE),
    ("batched map access", False, _batch, "Large changes take several times as long.", _UPGRADE),
    ("tunnel encapsulation", True, _encapsulate, "Agents cannot send to other droplets.", _UPGRADE),
    ("tunnel removal across families", False, change_families,
     "Daemons do not start with --xdp off.", "use kernel 6.3 or later"),
    ("a verifier that knows what is not 0", True, _verifier, _NOTHING, "use kernel 6.8 or later"),
    ("redirect to a peer", True, _load(_SCHED_CLS, _REDIRECT_PEER), "Nothing is delivered to endpoints.", _UPGRADE),
    ("network namespaces", True, _namespace, _NOTHING, _CONFIG + "CONFIG_NET_NS, and privileges"),
    ("veth", True, _veth_works, "Endpoints cannot be attached.", _CONFIG + "CONFIG_VETH (modprobe veth)"),
    ("XDP driver mode and links", False, _attaches(_XDP, "driver", _RETURN_2),
     "Transit XDP runs in generic mode: several times the cost per packet.", _UPGRADE),
    ("XDP generic mode", False, _attaches(_XDP, "generic", _RETURN_2),
     "Interfaces whose driver has no XDP cannot be droplets.", _UPGRADE),
    ("tcx", False, _attaches(_SCHED_CLS, "tcx", _RETURN_0),
     "Agents attach by clsact: programs are not pinned with the link.", "use kernel 6.6 or later"),
    ("clsact", False, _attaches(_SCHED_CLS, "clsact", _RETURN_0),
     "There is no fallback where tcx is missing.", _CONFIG + "CONFIG_NET_CLS_BPF and CONFIG_NET_SCH_INGRESS"),
    ("managed neighbours", False, _managed_neighbour,
     "The daemon asks for next hops every minute; a silent one may be forgotten in between.", _UPGRADE),
    ("IPv6", False, _ipv6, "Endpoints have IPv4 addresses only.", _CONFIG + "CONFIG_IPV6 (and no ipv6.disable=1)"),
)  # fmt: skip
