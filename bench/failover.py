#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Measures how long traffic stands still when a droplet dies, and how long it takes to find the direct path.

    python bench/failover.py [-o json]          (as root; needs what the build makes)

Droplets are namespaces with real daemons, as in tests/transit. Datagrams go one way, from an endpoint of one network to
one of another, and bear when they were sent. A droplet dies by its cable. What is shown is the longest time of any flow
from the cable to the sending of the first packet that arrives again; and from the first packet of all to the first that
comes by the direct path, which its TTL tells. For the dead host of a direct path, the endpoint is on another droplet
already, and the bouncers are told at that moment, as a manager would.
"""

from __future__ import annotations

import argparse
import json
import socket
import struct
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from mizar._built import transit_pb2 as pb  # noqa: E402
from mizar.kernel.namespaces import Namespace  # noqa: E402
from tests.transit.rig import BACK, FRONT, Droplet, Rig, endpoint, local, put_droplet, put_network, put_vpc, rig, until  # noqa: E402  # noqa: E402
from tests.transit.test_failover import called_down, wire  # noqa: E402

TUNNELS = {"geneve": pb.GENEVE, "vxlan": pb.VXLAN}
FAILOVER_MS, DIRECT_MS = 500, 100
FLOWS, PAUSE_S, LIMIT_S = 16, 0.002, 30.0
TARGET, PORT = "10.0.2.12", 7001
DIRECT_TTL = 63
IP_RECVTTL = 12
"""Of ip(7); not in Python's socket."""
STAMP = struct.Struct("!Hd")


def inside(namespace: str) -> socket.socket:
    """A socket for datagrams in a namespace."""
    with Namespace.by_name(namespace) as entered:
        return entered.run(partial(socket.socket, socket.AF_INET, socket.SOCK_DGRAM))


@dataclass
class Traffic:
    """Flows from one namespace, and what arrives in others: flow, when it was sent, TTL."""

    source: str
    targets: list[str]
    flows: int = FLOWS
    arrived: list[tuple[int, float, int]] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)
    threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> Traffic:
        work = [partial(self._receive, name) for name in self.targets] + [self._send]
        self.threads = [threading.Thread(target=one, daemon=True) for one in work]
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        for thread in self.threads:
            thread.join()

    def _send(self) -> None:
        sockets = [inside(self.source) for _ in range(self.flows)]
        while not self.ended.wait(PAUSE_S):
            for flow, sender in enumerate(sockets):
                sender.sendto(STAMP.pack(flow, time.monotonic()), (TARGET, PORT))
        for sender in sockets:
            sender.close()

    def _receive(self, namespace: str) -> None:
        with inside(namespace) as found:
            found.bind(("", PORT))
            found.setsockopt(socket.IPPROTO_IP, IP_RECVTTL, 1)
            found.settimeout(0.1)
            while not self.ended.is_set():
                try:
                    data, more, _, _ = found.recvmsg(100, 64)
                except TimeoutError:
                    continue
                self.arrived.append((*STAMP.unpack(data), int.from_bytes(more[0][2][:4], sys.byteorder)))

    def again(self, after: float) -> dict[int, float]:
        """Of each flow, when the first packet was sent after a time that arrived."""
        first: dict[int, float] = {}
        for flow, sent, _ in list(self.arrived):
            if sent > after:
                first[flow] = min(sent, first.get(flow, sent))
        return first


class Stage:
    """Endpoint 1 of "front" lives on droplet 1, 2 of "back" on 2; 5 and 6 divide.

    With a direct path, 3 bounces "front" and 4 "back", and 7 has endpoint 2 for when its host is dead. `through`
    dividers, 3 and 4 bounce "front" and 7 "back".
    """

    def __init__(self, made: Rig, tunnel: pb.TunnelProtocol.ValueType, *, through: bool) -> None:
        self.made, self.tunnel = made, tunnel
        self.droplets = [made.add_droplet() for _ in range(7)]
        one, two, three, four, five, six, seven = self.droplets
        self.front, self.back = ([three, four], [seven]) if through else ([three], [four])
        front, back = put_network(FRONT, *self.front), put_network(BACK, *self.back)
        front.put_network.through_divider = through
        for droplet in self.droplets:
            droplet.start()
            droplet.apply(*map(put_droplet, self.droplets), put_vpc(five, six))
        for droplet in (one, five, six, *self.front):
            droplet.apply(front)
        for droplet in (two, five, six, seven, *([] if through else self.back)):
            droplet.apply(back)
        self.names = {number: made.make_namespace(f"e{number}") for number in (1, 2, 7)}
        for bouncer in self.front:
            bouncer.apply(pb.Change(put_endpoint=endpoint(1, FRONT, one, tunnel)))
        self.tell_bouncers(two)
        one.attach_whole(local("uid-1", endpoint(1, FRONT, one, tunnel), name=self.names[1]))
        two.attach_whole(local("uid-2", endpoint(2, BACK, two, tunnel), name=self.names[2]))
        if not through:
            seven.attach_whole(local("uid-7", endpoint(2, BACK, seven, tunnel), name=self.names[7]))
        for droplet in self.droplets:
            until(lambda at=droplet: not called_down(at), "all are up")  # type: ignore[misc]

    def tell_bouncers(self, host: Droplet) -> None:
        """Where endpoint 2 is."""
        for bouncer in self.back:
            bouncer.apply(pb.Change(put_endpoint=endpoint(2, BACK, host, self.tunnel)))

    def dies(self, number: int) -> float:
        """How long the flows stand still when a droplet dies, in ms."""
        with Traffic(self.names[1], [self.names[2], self.names[7]]) as traffic:
            until(lambda: len(traffic.again(0)) == FLOWS, "all flows arrive", LIMIT_S)
            wire(self.made, self.droplets[number - 1], "down")
            began = time.monotonic()
            if number == 2:
                self.tell_bouncers(self.droplets[6])
            until(lambda: len(traffic.again(began)) == FLOWS, "all flows arrive again", LIMIT_S)
            time.sleep(1)  # what stood still for longer is seen as well
            stood = max(traffic.again(began).values()) - began
        wire(self.made, self.droplets[number - 1], "up")
        until(lambda: not called_down(self.droplets[0]) and not called_down(self.droplets[3]), "it is up again")
        return stood * 1000

    def becomes_direct(self) -> float:
        """From the first packet of all to the first on the direct path, in ms."""
        with Traffic(self.names[1], [self.names[2]], flows=1) as traffic:
            until(lambda: any(ttl == DIRECT_TTL for _, _, ttl in list(traffic.arrived)), "the direct path", LIMIT_S)
        return (min(sent for _, sent, ttl in traffic.arrived if ttl == DIRECT_TTL) - traffic.arrived[0][1]) * 1000


def measured(
    name: str, rigs: Callable[[], AbstractContextManager[Rig]], *, direct_only: bool = False
) -> dict[str, tuple[float, int]]:
    """What was measured in a tunnel, and the limit. `direct_only`: without bouncers and dividers that die."""
    found: dict[str, tuple[float, int]] = {}
    with rigs() as made:
        stage = Stage(made, TUNNELS[name], through=False)
        found["first packet to direct path, one way"] = stage.becomes_direct(), DIRECT_MS
        found["a direct path's host dies"] = stage.dies(2), FAILOVER_MS
    if direct_only:
        return found
    with rigs() as made:
        stage = Stage(made, TUNNELS[name], through=True)
        found["a bouncer dies"] = stage.dies(3), FAILOVER_MS
        found["a divider alone dies"] = stage.dies(5), FAILOVER_MS
    return found


@contextmanager
def own_rig() -> Iterator[Rig]:
    """In a folder of its own."""
    with tempfile.TemporaryDirectory() as folder, rig(Path(folder)) as made:
        yield made


def main() -> int:
    """Print the table; exit 1 when a limit is passed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", choices=("text", "json"), default="text", dest="output")
    arguments = parser.parse_args()
    rows = [
        {"tunnel": tunnel, "what": what, "ms": round(ms, 1), "limitMs": limit}
        for tunnel in TUNNELS
        for what, (ms, limit) in measured(tunnel, own_rig).items()
    ]
    if arguments.output == "json":
        print(json.dumps(rows))
    else:
        print(f"{'tunnel':<8}{'what':<40}{'ms':>8}{'limit ms':>10}")
        for row in rows:
            print(f"{row['tunnel']:<8}{row['what']:<40}{row['ms']:>8}{row['limitMs']:>10}")
    return 0 if all(float(row["ms"]) <= int(row["limitMs"]) for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
