#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Packets per second of the gateway and of the kernel's VXLAN, routing and nftables, on the same veth.

    python bench/gateway_nft.py [--rounds N] [--seconds S] [--flows N] [-o json]     (as root; two CPUs; clang, nft)

Small UDP datagrams of one tenant come to the gateway's host in VXLAN, and leave as its one address outside, in another
VNI. One end of the veth sends them (live frames of BPF_PROG_TEST_RUN, on one CPU) and counts what comes back
translated; the other end's NAPI is a kernel thread on the other CPU, so that the whole of that CPU is the gateway and,
for everybody alike, the count at the end. More is sent than any of them can take. They take turns:

    bare      an XDP program that sends every frame back as it is: what the veth itself costs
    gateway   `mizar gateway run`, in line, XDP in driver mode (bench/gateway_nft/gateway.yaml)
    nftables  two VXLAN devices, routes, `masquerade`

The kernel gets what makes it faster: neighbours that are known, no bridge, no reverse path filter, no early demux, no
checksum validation in conntrack, no tracking of the tunnel's own packets, GRO on the veth and behind the tunnel.
Nothing else runs on the two CPUs during a turn: it takes real-time priority for as long.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import signal
import statistics
import struct
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import Queue
from shutil import rmtree

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from mizar.kernel import attach, interfaces, libbpf, namespaces, programs  # noqa: E402
from mizar.kernel.layout import U32  # noqa: E402
from mizar.kernel.libbpf import ffi, lib  # noqa: E402
from mizar.kernel.netlink import Netlink  # noqa: E402
from tests.dataplane.gateway_nat import compiled  # noqa: E402
from tests.gateway.rig import Rig  # noqa: E402
from tests.gateway.running import running  # noqa: E402
from tests.peers.foreign import command  # noqa: E402

HERE = ROOT / "bench" / "gateway_nft"
PREFIX = "mzbench-nft-"
HOST, PEER = "192.0.2.9", "192.0.2.2"
HOST_MAC, PEER_MAC = "02:00:00:00:02:09", "02:00:00:00:02:02"
ROUTER_MAC, WORLD_MAC = "02:00:5e:00:53:01", "02:00:5e:00:53:02"
TENANT, POOL, ROUTER, FAR = "10.0.0.5", "203.0.113.10", "203.0.113.254", "198.51.100.9"
FIRST_PORT, FAR_PORT = 20000, 4433
LIVE_FRAMES, BATCH, FOR_EVER = 1 << 1, 64, (1 << 31) - 1
LIMIT_S = 30.0
SWITCHES = {
    "net/ipv4/ip_forward": 1,
    "net/ipv4/conf/all/rp_filter": 0,
    "net/ipv4/conf/default/rp_filter": 0,
    "net/ipv4/ip_early_demux": 0,
    "net/netfilter/nf_conntrack_checksum": 0,
}
RULES = f"""
table ip bench {{
    chain tunnel_in {{ type filter hook prerouting priority raw; iifname "wire" notrack; }}
    chain tunnel_out {{ type filter hook output priority raw; oifname "wire" notrack; }}
    chain outgoing {{
        type nat hook postrouting priority srcnat; policy accept;
        ip saddr {TENANT} oifname "vx100" masquerade
    }}
}}
"""


@dataclass(frozen=True)
class Measured:
    """Of one turn: what was sent and what came back translated, a second; how much of its CPU the gateway's end had."""

    sent: float
    packets: float
    share: float


def address(text: str) -> bytes:
    """Of IPv4, four bytes."""
    return bytes(int(part) for part in text.split("."))


def mac(text: str) -> bytes:
    """Six bytes."""
    return bytes.fromhex(text.replace(":", ""))


def ones_sum(data: bytes) -> int:
    """The ones' complement sum (RFC 1071), not inverted."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def ipv4(source: str, destination: str, payload: int) -> bytes:
    """A header of UDP."""
    head = (
        struct.pack("!BBHHHBBH", 0x45, 0, 20 + payload, 0, 0x4000, 64, 17, 0) + address(source) + address(destination)
    )
    return head[:10] + struct.pack("!H", ~ones_sum(head) & 0xFFFF) + head[12:]


def frame() -> tuple[bytes, int]:
    """Of the first flow, without its ports, and the sum that its inner checksum is made from."""
    payload = b"bulk"
    udp = struct.pack("!HHHH", 0, FAR_PORT, 8 + len(payload), 0) + payload
    total = ones_sum(address(TENANT) + address(FAR) + struct.pack("!HH", 17, len(udp)) + udp)
    inner = mac(ROUTER_MAC) + mac(WORLD_MAC) + b"\x08\x00" + ipv4(TENANT, FAR, len(udp)) + udp
    vxlan = struct.pack("!II", 0x08000000, 5 << 8)
    outer = struct.pack("!HHHH", 0, 4789, 16 + len(inner), 0) + vxlan + inner
    return mac(HOST_MAC) + mac(PEER_MAC) + b"\x08\x00" + ipv4(PEER, HOST, len(outer)) + outer, total


@dataclass
class Bench:
    """Both ends of the veth, the programs, and the CPUs of the sender and of the gateway."""

    rig: Rig
    peers: namespaces.Namespace
    loaded: programs.Programs
    flows: int
    cpus: tuple[int, int]

    def point(self, bare: bool = False) -> None:
        """From the first flow on, nothing arrived."""
        template, total = frame()
        vni, source = (5, TENANT) if bare else (100, POOL)
        value = struct.pack("QIII", 0, self.flows - 1, total, FIRST_PORT) + struct.pack("!I", vni << 8)
        value += address(source) + bytes(4) + template
        for name, bytes_ in (("traffic", value), ("arrived", bytes(8))):
            libbpf.check(lib().bpf_map_update_elem(self.loaded.maps[name], U32.pack(0), bytes_, 0), f"fill {name}")

    def counts(self) -> tuple[int, int]:
        """How many were sent, and how many came back translated."""
        found = []
        for name, size in (("traffic", 32 + len(frame()[0])), ("arrived", 8)):
            value = ffi.new("char[]", size)
            libbpf.check(lib().bpf_map_lookup_elem(self.loaded.maps[name], U32.pack(0), value), f"read {name}")
            found.append(int(struct.unpack_from("Q", ffi.buffer(value))[0]))
        return found[0], found[1]

    def index(self, where: namespaces.Namespace) -> int:
        """Of the veth's end."""

        def look() -> int:
            with Netlink() as netlink:
                return interfaces.get(netlink, "wire").index

        return where.run(look)

    def send(self, sender: Queue[int]) -> None:
        """Sends as fast as it can, in one call, as each waits for the kernel's readers; a signal ends it."""
        prefer(threading.get_native_id(), self.cpus[0])
        template = ffi.from_buffer(frame()[0])
        context = ffi.new("struct xdp_md *")
        context.data_end = len(template)
        with Netlink() as netlink:
            context.ingress_ifindex = interfaces.get(netlink, "wire").index
        opts = ffi.new("struct test_run_opts *", {"sz": ffi.sizeof("struct test_run_opts"), "data_in": template})
        opts.data_size_in, opts.ctx_in, opts.ctx_size_in = len(template), context, ffi.sizeof("struct xdp_md")
        opts.repeat, opts.flags, opts.batch_size = FOR_EVER, LIVE_FRAMES, BATCH
        sender.put(threading.get_ident())
        result = lib().bpf_prog_test_run_opts(self.loaded.programs["generate"].fd, opts)
        if result != -errno.EINTR:
            libbpf.check(result, "send live frames")

    def measure(self, seconds: float) -> Measured:
        """A warm start (every flow is known by then), then what arrives."""
        host = self.rig.host.spec.removeprefix("name:")
        command("ip", "netns", "exec", host, "sh", "-c", "echo 1 > /sys/class/net/wire/threaded")
        (thread,) = napi_threads()
        prefer(thread, self.cpus[1])
        sender: Queue[int] = Queue()
        with in_front(), ThreadPoolExecutor(1) as pool:
            sending = pool.submit(self.peers.run, lambda: self.send(sender))
            ident = sender.get(timeout=LIMIT_S)
            try:
                self.until_sent(8 * self.flows)
                begun, before, ran = time.monotonic(), self.counts(), ran_ns(thread)
                time.sleep(seconds)
                after, elapsed, ran = self.counts(), time.monotonic() - begun, ran_ns(thread) - ran
            finally:
                while not sending.done():
                    signal.pthread_kill(ident, signal.SIGUSR1)
                    time.sleep(0.01)
            sending.result()
        sent, packets = ((new - old) / elapsed for old, new in zip(before, after, strict=True))
        return Measured(sent, packets, ran / elapsed / 1e9)

    def until_sent(self, frames: int) -> None:
        """Waits for so many, and a moment more."""
        deadline = time.monotonic() + LIMIT_S
        while self.counts()[0] < frames and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.2)

    @contextmanager
    def sink(self) -> Iterator[None]:
        """Counts at the sender's end of the veth."""
        index = self.index(self.peers)
        link = self.peers.run(lambda: attach.create_link(self.loaded.programs["sink"].fd, index, "driver"))
        try:
            yield
        finally:
            os.close(link)

    def bare(self, seconds: float) -> Measured:
        """Frames as they came."""
        index = self.index(self.rig.host)
        self.point(bare=True)
        link = self.rig.on_host(lambda: attach.create_link(self.loaded.programs["bare"].fd, index, "driver"))
        try:
            with self.sink():
                return self.measure(seconds)
        finally:
            os.close(link)

    def gateway(self, seconds: float) -> Measured:
        """Ours."""
        self.point()
        text = (HERE / "gateway.yaml").read_text()
        with tempfile.TemporaryDirectory() as folder, self.sink(), running(self.rig, text, Path(folder)):
            return self.measure(seconds)

    def nftables(self, seconds: float) -> Measured:
        """Theirs: the same host, without a program."""
        self.point()
        with self.sink():
            return self.measure(seconds)


def prefer(thread: int, cpu: int) -> None:
    """To this CPU, before whatever else runs there."""
    os.sched_setaffinity(thread, {cpu})
    os.sched_setscheduler(thread, os.SCHED_FIFO, os.sched_param(1))


@contextmanager
def in_front() -> Iterator[None]:
    """This thread before those of prefer(), as it has to end them."""
    os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(2))
    try:
        yield
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def ran_ns(thread: int) -> int:
    """How long it has had a CPU."""
    return int(Path(f"/proc/{thread}/schedstat").read_text().split()[0])


def napi_threads() -> list[int]:
    """Of the veth's end at the gateway; it alone is threaded."""
    found = []
    for comm in Path("/proc").glob("[0-9]*/comm"):
        with suppress(OSError):
            if comm.read_text().startswith("napi/wire-"):
                found.append(int(comm.parent.name))
    return found


def clean() -> None:
    """Ends what a bench that was killed has left: only what bears the name of one that no longer runs."""
    for name in namespaces.names():
        owner = name.removeprefix(PREFIX).partition("-")[0]
        if not name.startswith(PREFIX) or Path(f"/proc/{owner}").exists():
            continue
        for pid in command("ip", "netns", "pids", name).split():
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        namespaces.remove(name)
        for left in (
            Path("/sys/fs/bpf/mizar") / f"gateway-{PREFIX}{owner}",
            Path("/run/mizar/gateway") / f"{PREFIX}{owner}",
        ):
            rmtree(left, ignore_errors=True)


def kernel_gateway(host: str) -> None:
    """The tenant's and the outer VXLAN device, routes and nftables."""
    for switch, value in SWITCHES.items():
        command("sh", "-c", f"[ ! -w /proc/sys/{switch} ] || echo {value} > /proc/sys/{switch}", namespace=host)
    for vni, own, its_mac in ((5, "10.0.0.1/24", ROUTER_MAC), (100, f"{POOL}/24", WORLD_MAC)):
        kind = ["type", "vxlan", "id", str(vni), "local", HOST, "remote", PEER, "dstport", "4789", "nolearning"]
        command("ip", "-n", host, "link", "add", f"vx{vni}", "mtu", "1400", "address", its_mac, *kind)
        command("ip", "-n", host, "addr", "add", own, "dev", f"vx{vni}")
        command("ip", "-n", host, "link", "set", f"vx{vni}", "up")
    command("ip", "-n", host, "neigh", "add", ROUTER, "lladdr", ROUTER_MAC, "dev", "vx100", "nud", "permanent")
    command("ip", "-n", host, "route", "add", "default", "via", ROUTER)
    command("nft", RULES, namespace=host)


@contextmanager
def bench(flows: int, cpus: tuple[int, int]) -> Iterator[Bench]:
    """Everything but the gateways' programs."""
    prefix = f"{PREFIX}{os.getpid()}"
    names = {name: f"{prefix}-{name}" for name in ("host", "peers")}
    with ExitStack() as stack:
        opened = {name: stack.enter_context(namespaces.scratch(full)) for name, full in names.items()}
        queues = ["numtxqueues", "1", "numrxqueues", "1"]
        peer = ["peer", "name", "wire", *queues, "netns", names["peers"]]
        command("ip", "-n", names["host"], "link", "add", "wire", *queues, "type", "veth", *peer)
        ends = (("host", HOST, HOST_MAC, PEER, PEER_MAC), ("peers", PEER, PEER_MAC, HOST, HOST_MAC))
        for name, own, its_mac, other, other_mac in ends:
            there = ["ip", "-n", names[name]]
            command(*there, "link", "set", "lo", "up")
            command(*there, "link", "set", "wire", "address", its_mac)
            command(*there, "addr", "add", f"{own}/24", "dev", "wire")
            command(*there, "link", "set", "wire", "up")
            if name == "host":  # GRO makes the NAPI; the fresh /sys of `ip netns exec` is the namespace's own
                opened[name].run(lambda: interfaces.set_gro("wire", on=True))
            command(*there, "neigh", "add", other, "lladdr", other_mac, "dev", "wire", "nud", "permanent")
        kernel_gateway(names["host"])
        source = HERE / "traffic.c"
        parts = ("generate", "sink", "bare")
        objects = {part: compiled(source, f"-D{part.upper()}") for part in parts}
        loaded = stack.enter_context(programs.load(b"", objects=objects))
        yield Bench(Rig(prefix, opened["host"], {}), opened["peers"], loaded, flows, cpus)


def main() -> int:
    """Prints each contender's medians and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.5, help="of each turn; nothing else runs meanwhile")
    parser.add_argument("--flows", type=int, default=1 << 10, help="a power of two, at most 8192")
    parser.add_argument("-o", "--output", choices=("table", "json"), default="table")
    wanted = parser.parse_args()
    if wanted.flows & (wanted.flows - 1) or not 0 < wanted.flows <= 8192:
        parser.error(f"--flows {wanted.flows}: a power of two, at most 8192")
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < 2:
        parser.error("the sender and the gateway need a CPU each; there is one")
    clean()
    signal.signal(signal.SIGUSR1, lambda *_: None)
    found: dict[str, list[Measured]] = {"bare": [], "gateway": [], "nftables": []}
    with bench(wanted.flows, (cpus[0], cpus[-1])) as made:
        turns: dict[str, Callable[[float], Measured]] = {
            "bare": made.bare,
            "gateway": made.gateway,
            "nftables": made.nftables,
        }
        for number in range(wanted.rounds):
            for name, turn in turns.items():
                found[name].append(turn(wanted.seconds))
                print(f"round {number + 1}, {name}: {found[name][-1].packets:,.0f} a second", file=sys.stderr)
    middle = {name: statistics.median(one.packets for one in rounds) for name, rounds in found.items()}
    ratio = middle["gateway"] / middle["nftables"] if middle["nftables"] else 0.0
    if wanted.output == "json":
        rows = {name: [asdict(one) for one in rounds] for name, rounds in found.items()}
        print(json.dumps({"flows": wanted.flows, "rounds": rows, "packets_per_s": middle, "ratio": round(ratio, 2)}))
    else:
        for name, packets in middle.items():
            sent, share = (statistics.median(getattr(one, what) for one in found[name]) for what in ("sent", "share"))
            low, high = (pick(one.packets for one in found[name]) for pick in (min, max))
            print(
                f"{name:9} {packets / 1e6:6.3f} million packets a second ({low / 1e6:.3f} to {high / 1e6:.3f};"
                f" {sent / 1e6:.3f} sent), {1e9 / max(packets, 1):5.0f} ns each, {share:.0%} of the CPU"
            )
        print(f"gateway to nftables: {ratio:.2f}")
    return 0 if all(middle.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
