# SPDX-License-Identifier: Apache-2.0
"""Run in a guest, whose kernel has fq: a droplet on an interface with that queue, and how fast its endpoint sends.

`python -m tests.guest.pace_guest FOLDER`. One daemon; the far ends are the kernel's own tunnels, so that no second one
has to start, for emulation takes its time. Prints as JSON what the daemon says of its limits and what arrived.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from mizar._built import transit_pb2 as pb
from mizar.kernel import interfaces
from mizar.kernel.namespaces import Namespace
from mizar.kernel.netlink import Netlink
from mizar.kernel.qdisc import keeps_departure_times
from tests.transit.rig import (
    FRONT,
    UPLINK,
    Droplet,
    Rig,
    endpoint,
    local,
    put_droplet,
    put_network,
    put_vpc,
    until,
)
from tests.transit.traffic import ping

RATE, UPLINK_RATE = 1_000_000, 2_000_000
"""Bits a second, which emulation carries with ease."""
BURST_BYTES, UPLINK_BURST_BYTES = 20_000, 128 << 10
"""The second as the daemon chooses it."""
WINDOW_S = 4.0
LIMIT_S = 400.0
"""Until the daemon answers: the kernel verifies its programs, by emulation."""
MTU, PAYLOAD, PORT = 1400, 1000, 4300
FEELS, HOARDS = 16 << 10, 200 << 10
"""Buffers of sockets: one that is full long before 200 ms of its endpoint's rate wait, and one that never is."""
SMALL = (
    "--max-droplets 16 --max-vpcs 16 --max-networks 64 --max-endpoints 256 --max-local-endpoints 16 --max-proxies 2 "
    "--max-proxy-flows 64 --max-services 8 --max-policy-sets 16 --max-policy-rows 256 --max-policy-flows 256 "
    "--max-flows 256 --max-learned 64 --pool 0"
)
FAR = {2: ("geneve", "type geneve id 7 remote 172.30.9.1 dstport 6081"),
       3: ("vxlan", "type vxlan id 7 local 172.30.9.2 remote 172.30.9.1 dstport 4789")}  # fmt: skip
"""Tunnels by the number of the endpoint at their end."""
ADDRESSES = {4: "10.0.1.1{}", 6: "fd00:10:0:1::1{}"}


def sh(words: str) -> None:
    done = subprocess.run(words.split(), capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{words}: {done.stderr}")


def told(what: str) -> None:
    """For who waits, on standard error."""
    print(f"{time.monotonic():8.1f} s: {what}", file=sys.stderr, flush=True)


def queues(droplet: Droplet) -> dict[str, bool]:
    """By what its interface has for a queue, whether that keeps departure times. The last one stays."""
    found = {}
    with Namespace.by_name(droplet.namespace) as host, Netlink(host) as netlink:
        index = interfaces.get(netlink, UPLINK).index

        def put(name: str, *commands: str) -> None:
            for command in commands:
                sh(f"tc -n {droplet.namespace} qdisc {command}")
            found[name] = host.run(lambda: keeps_departure_times(index))

        put("none")
        put("fq for one of two", f"add dev {UPLINK} root handle 1: mq", f"replace dev {UPLINK} parent 1:1 fq")
        put("fq for both", f"replace dev {UPLINK} parent 1:2 fq")
        put("fq_codel", f"replace dev {UPLINK} root fq_codel")
        put("fq", f"replace dev {UPLINK} root fq")
    return found


def far_ends(made: Rig, droplet: Droplet) -> dict[int, str]:
    """A namespace for each of FAR, with a tunnel to the droplet whose other end is in the far droplet's stack."""
    found = {}
    for number, (_, kind) in FAR.items():
        found[number] = name = made.make_namespace(f"e{number}")
        device = f"t{number}"
        sh(f"ip -n {droplet.namespace} link add {device} mtu {MTU} address 02:00:00:00:01:0{number} {kind}")
        sh(f"ip -n {droplet.namespace} link set {device} netns {name}")
        sh(f"ip -n {name} addr add 10.0.1.1{number}/24 dev {device}")
        sh(f"ip -n {name} addr add fd00:10:0:1::1{number}/64 dev {device} nodad")
        sh(f"ip -n {name} link set {device} up")
        for address in ("10.0.1.11", "fd00:10:0:1::11"):
            sh(f"ip -n {name} neighbour replace {address} lladdr 02:4d:5a:00:00:01 nud permanent dev {device}")
    return found


class Stream:
    """As much as can be sent from one namespace into another, and how many bytes of it have arrived."""

    def __init__(self, kind: str, ends: tuple[str, str], address: tuple[str, int], buffer: int) -> None:
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        of = socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM
        sockets = []
        for end in ends:
            with Namespace.by_name(end) as inside:
                sockets.append(inside.run(lambda: socket.socket(family, of)))
        self._out, self._in = sockets
        self._in.bind(address)
        if kind == "tcp":
            self._in.listen()
        else:
            self._out.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
        self._out.settimeout(30)
        self._in.settimeout(1)
        self._out.connect(address)
        if kind == "tcp":
            listener, (self._in, _) = self._in, self._in.accept()
            listener.close()
        self.received, self._over = 0, threading.Event()
        self._data = bytes(PAYLOAD if kind == "udp" else 16 << 10)
        self._threads = [threading.Thread(target=one) for one in (self._send, self._receive)]
        for thread in self._threads:
            thread.start()

    def _send(self) -> None:
        while not self._over.is_set():
            with contextlib.suppress(OSError):
                self._out.send(self._data)

    def _receive(self) -> None:
        while not self._over.is_set():
            with contextlib.suppress(OSError):
                self.received += len(self._in.recv(1 << 16))

    def close(self) -> None:
        self._over.set()
        with contextlib.suppress(OSError):
            self._out.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(30)
        if self._out.type == socket.SOCK_STREAM:  # what it has not sent yet would come into the next window
            self._out.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._out.close()
        self._in.close()


class Paced:
    """The droplet with its endpoint, and the far ends by number."""

    def __init__(self, droplet: Droplet, source: str, far: dict[int, str]) -> None:
        self.droplet, self._source, self._far = droplet, source, far
        self._ports = itertools.count(PORT)

    def limit(self, bits: int) -> None:
        """Of what the endpoint sends; 0: none."""
        qos = pb.Qos(egress=pb.Rate(bits_per_second=bits, burst_bytes=BURST_BYTES)) if bits else None
        wanted = local("uid-1", endpoint(1, FRONT, self.droplet), name=self._source)
        wanted.mtu = MTU
        if qos:
            wanted.qos.CopyFrom(qos)
        self.droplet.attach_whole(wanted)

    def reach(self) -> None:
        """Until every far end has answered."""
        for address in [form.format(number) for number in self._far for form in ADDRESSES.values()]:
            until(partial(self._answers, address), f"{address} answers", 60.0)

    def _answers(self, address: str) -> bool:
        return ping(self._source, address, 1.0) is not None

    def counts(self) -> dict[str, int]:
        """What was dropped by reason, and given a later time to leave by place."""
        found = self.droplet.client.GetCounters(pb.GetCountersRequest(), timeout=30)
        late = {one.place: one.delayed_packets for one in found.limiters if one.direction == "egress"}
        return {one.name: one.packets for one in found.drops} | late

    def sent(
        self, kind: str, number: int = 2, family: int = 4, buffer: int = FEELS, burst: int = BURST_BYTES
    ) -> dict[str, Any]:
        """What arrives of it in a window, as bits a second of inner frames, and what was counted meanwhile."""
        address = ADDRESSES[family].format(number)
        ip = 20 if family == 4 else 40
        payload, headers = (MTU - ip - 32, 14 + ip + 32) if kind == "tcp" else (PAYLOAD, 14 + ip + 8)
        ends = self._source, self._far[number]
        with contextlib.closing(Stream(kind, ends, (address, next(self._ports)), buffer)) as stream:
            until(lambda: stream.received > 3 * burst, "the burst has arrived, and what TCP sent too much then", 60.0)
            before = self.counts()
            began, was = time.monotonic(), stream.received
            time.sleep(WINDOW_S)  # what is measured
            bits = (stream.received - was) * 8 * (payload + headers) / payload / (time.monotonic() - began)
            counted = {name: count - before.get(name, 0) for name, count in self.counts().items()}
        found = {"what": [FAR[number][0], family, kind], "bits": round(bits), **{k: v for k, v in counted.items() if v}}
        told(str(found))
        return found


@contextlib.contextmanager
def paced(folder: Path, found: dict[str, Any]) -> Iterator[Paced]:
    """The droplet, from its interface to its endpoint; what it says of its limits goes into `found`."""
    made = Rig(folder, "pace")
    made.wire["near"] = 2
    one, two = made.add_droplet(), made.add_droplet()
    source = made.make_namespace("e1")
    found["queues"] = queues(one)
    far = far_ends(made, two)
    told("the daemon starts")
    one.launch("--uplink-rate", str(UPLINK_RATE), *SMALL.split())
    try:
        one.wait(LIMIT_S)
        told("it answers")
        info = one.client.GetInfo(pb.GetInfoRequest(), timeout=30)
        found["told"] = [info.limits_mode, info.limits_reason]
        one.apply(put_droplet(one), put_droplet(two), put_vpc(one), put_network(FRONT, one))
        for number in far:
            there = endpoint(number, FRONT, two, pb.TunnelProtocol.Value(FAR[number][0].upper()))
            one.apply(pb.Change(put_endpoint=there))
        droplet = Paced(one, source, far)
        droplet.limit(RATE)
        droplet.reach()
        told("both far ends answer")
        yield droplet
    finally:
        assert one.process is not None
        one.process.kill()
        one.process.wait(30)


def main() -> None:
    folder = Path(sys.argv[1])
    found: dict[str, Any] = {}
    with paced(folder, found) as droplet:
        ways = itertools.product(FAR, (4, 6), ("tcp", "udp"))
        found["limited"] = [droplet.sent(kind, number, family) for number, family, kind in ways]
        found["hoarded"] = droplet.sent("udp", buffer=HOARDS)
        droplet.limit(0)
        found["uplink"] = [droplet.sent(kind, burst=UPLINK_BURST_BYTES) for kind in ("tcp", "udp")]
        droplet.limit(RATE)
        sh(f"tc -n {droplet.droplet.namespace} qdisc replace dev {UPLINK} root pfifo")
        found["without"] = droplet.sent("udp")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
