# SPDX-License-Identifier: Apache-2.0
"""A tenant and the world talk through the first-pass pipeline; DPDK in a namespace of its own makes their connections.

The gateway has one interface: tenant A comes in VXLAN in VLAN 2, the world in VLAN 100, with the address plan of
tests/unit/pipeline/frames.py. No router is about: the pipeline leaves inner MAC addresses as they are, so each side has
the other's as its neighbour.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from mizar.kernel import interfaces, namespaces
from mizar.kernel.attach import create_link
from mizar.kernel.clang import compile_program
from mizar.kernel.namespaces import Namespace
from mizar.kernel.programs import load
from mizar.pipeline import builder as b
from mizar.pipeline.nat import NatRules
from mizar.pipeline.writer import write_pipeline
from tests.gateway.rig import UdpEcho, heard_from
from tests.peers.foreign import command
from tests.queue_worker.build import CannotBuildError, worker
from tests.queue_worker.rig import LIMIT_S, Wires, Worker, wait_until, wires
from tests.unit.pipeline import frames as f

pytestmark = [pytest.mark.root, pytest.mark.long]

FORWARDED = "203.0.113.4"
NAT = NatRules(
    masquerade=(b.masquerade(f.TENANT_A, f.WORLD, f.PUBLIC), b.masquerade(f.TENANT_A, f.WORLD, f.PUBLIC6)),
    forward=(b.forward(f.WORLD, FORWARDED, "8080-8089", f.TENANT_A, f.INSIDE, "7000-7009"),),
)
WORLD_MAC = "02:00:00:00:0b:01"
_MIZAR = [sys.executable, "-c", "from mizar.cli.main import main; main()"]


@dataclass
class Lab:
    """The ends that talk, and the worker."""

    tenant: Namespace
    world: Namespace
    worker: Worker


def _ends(made: Wires, stack: ExitStack) -> tuple[Namespace, Namespace]:
    """The tenant behind a VXLAN device, the world: each behind a port of a switch that tags its frames on `wire`."""
    tenant, world = (stack.enter_context(namespaces.scratch(f"{made.prefix}-{name}")) for name in ("tenant", "world"))
    for name, space, port, device in (("tenant", tenant, "p2", "u2"), ("world", world, "p100", "w100")):
        own = f"{made.prefix}-{name}"
        far = ["peer", "name", device, "netns", own]
        command("ip", "link", "add", port, "type", "veth", *far, namespace=f"{made.prefix}-peers")
        command("ip", "-n", f"{made.prefix}-peers", "link", "set", port, "addrgenmode", "none", "up")
        command("ip", "-n", own, "link", "set", device, "address", f.MAC_B, "mtu", "1460", "up")
        space.run(partial(interfaces.set_tx_checksum, device, on=False))
        space.run(partial(interfaces.set_gro, device, on=True))
    _switch(made, stack)
    ip = ["ip", "-n", f"{made.prefix}-tenant"]
    command(*ip, "link", "set", "u2", "address", "02:00:00:00:02:02")
    command(*ip, "addr", "add", "192.0.2.2/24", "dev", "u2")
    command(*ip, "neigh", "add", "192.0.2.1", "lladdr", "02:00:00:00:02:01", "dev", "u2", "nud", "permanent")
    kind = ["type", "vxlan", "id", "5", "local", "192.0.2.2", "remote", "192.0.2.1", "dstport", "4789", "nolearning"]
    command(*ip, "link", "add", "vx5", "mtu", "1400", *kind)
    ends = (
        ("tenant", "vx5", f.MAC_A, WORLD_MAC, f.INSIDE, f.INSIDE6, ("default", "10.0.0.254", "2001:db8:a::fe")),
        ("world", "w100", WORLD_MAC, f.MAC_A, f.SERVER, f.SERVER6, ("", f.PUBLIC, f.PUBLIC6)),
    )
    for name, device, mac, other, four, six, (default, *vias) in ends:
        words = ["ip", "-n", f"{made.prefix}-{name}"]
        command(*words, "link", "set", device, "address", mac, "up")
        command(*words, "link", "set", "lo", "up")
        made_in = tenant if name == "tenant" else world
        made_in.run(partial(interfaces.set_tx_checksum, device, on=False))
        command(*words, "addr", "add", f"{four}/24", "dev", device)
        command(*words, "addr", "add", f"{six}/64", "dev", device, "nodad")
        for via in vias if default else [*vias, FORWARDED]:
            wide = "128" if ":" in via else "32"
            command(*words, "route", "replace", f"{via}/{wide}", "dev", device)
            command(*words, "neigh", "add", via, "lladdr", other, "dev", device, "nud", "permanent")
            if default:
                command(*words, "route", "add", "default", "via", via)
    return tenant, world


_TAGS = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>

struct tagged { __u8 macs[12]; __be16 type, tag, inner; } __attribute__((packed));

static __attribute__((always_inline)) inline void move(__u8 *to, const __u8 *from)
{
	__u8 macs[12];

	__builtin_memcpy(macs, from, 12);
	__builtin_memcpy(to, macs, 12);
}

SEC("xdp")
int tags(struct xdp_md *ctx)
{
	struct tagged *eth = (void *)(long)ctx->data;
	int vid;

	if (ctx->ingress_ifindex == WIRE) {
		if ((void *)(eth + 1) > (void *)(long)ctx->data_end || eth->type != bpf_htons(0x8100))
			return XDP_DROP;
		vid = bpf_ntohs(eth->tag) & 0xfff;
		move((__u8 *)eth + 4, eth->macs);
		return bpf_xdp_adjust_head(ctx, 4) ? XDP_DROP : (int)bpf_redirect(vid == 2 ? FABRIC : WORLD, 0);
	}
	if (bpf_xdp_adjust_head(ctx, -4))
		return XDP_DROP;
	eth = (void *)(long)ctx->data;
	if ((void *)(eth + 1) > (void *)(long)ctx->data_end)
		return XDP_DROP;
	move(eth->macs, (__u8 *)eth + 4);
	eth->type = bpf_htons(0x8100);
	eth->tag = bpf_htons(ctx->ingress_ifindex == FABRIC ? 2 : 100);
	return bpf_redirect(WIRE, 0);
}

char program_license[] SEC("license") = "Dual BSD/GPL";
"""


def _switch(made: Wires, stack: ExitStack) -> None:
    """Tags between p2, p100 and the wire: a kernel without VLAN devices has none of its own."""
    names = {"WIRE": "wire", "FABRIC": "p2", "WORLD": "p100"}
    ports = {word: made.spaces["peers"].run(partial(socket.if_nametoindex, name)) for word, name in names.items()}
    defines = "".join(f"#define {word} {number}\n" for word, number in ports.items())
    programs = stack.enter_context(load(b"", objects={"tags": compile_program(defines + _TAGS, "tags")}))
    for number in ports.values():
        link = made.spaces["peers"].run(partial(create_link, programs.programs["tags"].fd, number, "driver"))
        stack.callback(os.close, link)


@contextmanager
def _gateway(made: Wires, folder: Path) -> Iterator[None]:
    """`mizar gateway run` on the host, with queue 0 behind veth.kernel."""
    file = folder / "gateway-queue.yaml"
    file.write_text(write_pipeline(replace(f.shipped("gateway-queue"), nat=NAT)))
    inside = ["nsenter", f"--net=/run/netns/{made.prefix}-host", *_MIZAR, "gateway"]
    words = ["run", "-f", str(file), "--interface", "gw", "--name", made.prefix, "--queue", "0=veth.kernel"]
    sizes = ["--max-connections", "4096"]
    log = folder / "gateway.log"
    with log.open("wb") as out:
        process = subprocess.Popen([*inside, *words, *sizes], stdout=out, stderr=out)
    try:
        wait_until(lambda: b"event=ready" in log.read_bytes() or process.poll() is not None)
        assert process.poll() is None, log.read_text()
        yield
    finally:
        process.terminate()
        process.wait(LIMIT_S)
        stop = [*inside, "stop", "--name", made.prefix, "--remove", str(file)]
        subprocess.run(stop, capture_output=True, check=False)


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    """Everything at work."""
    try:
        program: Any = worker()
    except CannotBuildError as error:
        pytest.skip(f"the queue worker cannot be built: {error}")
    with wires() as made, ExitStack() as stack:
        made.spaces["host"].run(lambda: interfaces.set_tx_checksum("gw", on=False))
        tenant, world = _ends(made, stack)
        stack.enter_context(_gateway(made, tmp_path))
        yield Lab(tenant, world, stack.enter_context(Worker(program, made)))


class TcpEcho:
    """Sends back what it gets, on one connection after the other, until it is closed."""

    def __init__(self, namespace: Namespace, address: str, port: int) -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._socket = namespace.run(lambda: socket.socket(family, socket.SOCK_STREAM))
        self._socket.bind((address, port))
        self._socket.listen()
        threading.Thread(target=self._work, daemon=True).start()

    def _work(self) -> None:
        with suppress(OSError):
            while True:
                peer, _ = self._socket.accept()
                with peer, suppress(OSError):
                    while data := peer.recv(65536):
                        peer.sendall(data)

    def close(self) -> None:
        """Ends it."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


def echoed(namespace: Namespace, address: str, port: int, size: int) -> bool:
    """Whether so many bytes come back over TCP as they were sent."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with namespace.run(lambda: socket.socket(family, socket.SOCK_STREAM)) as sock:
        sock.settimeout(LIMIT_S)
        sock.connect((address, port))
        data, found = bytes(range(256)) * (size // 256), b""
        sender = threading.Thread(target=sock.sendall, args=(data,))
        sender.start()
        while len(found) < len(data) and (more := sock.recv(65536)):
            found += more
        sender.join()
        return found == data


def test_tenant_and_world_talk_over_connections_that_dpdk_made(lab: Lab) -> None:
    """TCP and UDP of both families, ping, an ICMP error, a forward from outside: DPDK sees first packets alone."""
    with UdpEcho(lab.world, f.SERVER, 53), UdpEcho(lab.world, f.SERVER6, 53), UdpEcho(lab.tenant, f.INSIDE, 7001):
        assert heard_from(lab.tenant, f.SERVER, 53, source_port=4000) == (f.PUBLIC, 4000)
        assert heard_from(lab.tenant, f.SERVER6, 53, source_port=4000) == (f.PUBLIC6, 4000)
        assert heard_from(lab.world, FORWARDED, 8081, source_port=5000) == (f.SERVER, 5000)
    for address in (f.SERVER, f.SERVER6):
        server = TcpEcho(lab.world, address, 80)
        try:
            assert echoed(lab.tenant, address, 80, 1 << 20)
        finally:
            server.close()
    ping = ["ping", "-c", "1", "-W", "1", f.SERVER]
    wait_until(lambda: lab.tenant.run(lambda: subprocess.run(ping, capture_output=True, check=False)).returncode == 0)
    refused(lab.tenant, f.SERVER, 9)
    lab.worker.stop()
    ended = lab.worker.ended
    assert ended["made"] >= 7
    assert sum(ended.values()) - ended["strange"] < 100  # of thousands of packets


def refused(namespace: Namespace, address: str, port: int) -> None:
    """A closed port's ICMP error reaches the tenant's socket."""
    with namespace.run(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sock:
        sock.connect((address, port))
        sock.settimeout(0.3)
        deadline = time.monotonic() + LIMIT_S
        while time.monotonic() < deadline:
            try:
                sock.send(b"anybody?")
                sock.recv(100)
            except TimeoutError:
                continue
            except ConnectionRefusedError:
                return
    raise AssertionError("no ICMP error came")
