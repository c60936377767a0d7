#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Measures what a policy costs: per packet, with more and more rules, and to change a million entries.

    python bench/policy.py [--repeat N] [--rounds N]          (as root; needs clang, like the build)

As program_cost.py, of which this is a part. An endpoint sends and is sent the packets of one flow; it is not policed,
or by sets of 1, 1000 and 100,000 rules for each direction, each about another peer. "By the rules" is a packet that is
judged anew each time (a fragment of no flow), as the first of a flow is. What is shown is what policing adds to the
packet of an endpoint that is not policed: rounds of both take turns, and the fastest of each counts.
"""

from __future__ import annotations

import argparse
import itertools
import struct
import sys
import time
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from scapy.layers.inet import IP  # noqa: E402
from scapy.layers.inet6 import IPv6ExtHdrFragment  # noqa: E402
from scapy.layers.l2 import Ether  # noqa: E402
from scapy.packet import Raw  # noqa: E402

from bench.program_cost import OVERHEAD, Bench  # noqa: E402
from tests.dataplane.frames import datagram, tunnel  # noqa: E402
from tests.dataplane.plan import BOUNCER, FAMILIES, A, R, mapped  # noqa: E402
from tests.dataplane.policies import POLICED, big, police  # noqa: E402
from tests.dataplane.testbed import TC_REDIRECT, XDP_PASS, Testbed  # noqa: E402

RULES = (1, 1_000, 100_000)
CHANGED = 1_000_000
SIZES = {"policy_peers": 1_100_000, "policy_verdicts": 1_100_000}
UDP, PORTS_BITS = 17, 88


def peer_key(number: int, address: bytes) -> bytes:
    """Of a single address in a set."""
    return struct.pack("=II", 32 + 128, big(number)) + address


def row_key(number: int, class_: int, port: int) -> bytes:
    """Of one UDP port."""
    return struct.pack("=IIIB", PORTS_BITS, big(number), big(class_), UDP) + port.to_bytes(2, "big") + b"\0"


def peers(count: int, family: int) -> Iterator[bytes]:
    """r, and others all over the address space."""
    yield mapped(R.address(family))
    for i in range(1, count):
        spread = i * 2654435761 & 0xFFFFFFFF
        text = ip_address(spread) if family == 4 else ip_address(0x20010DB8 << 96 | spread << 32 | i)
        yield mapped(str(text))


def fill(testbed: Testbed, number: int, count: int, family: int, ports: tuple[int, ...]) -> None:
    """A set of so many rules, each of which lets one peer reach the ports, and fragments of anybody."""
    tables = testbed.tables
    found = list(peers(count, family))
    tables.policy_peers.put_raw([(peer_key(number, one), struct.pack("=I", i + 1)) for i, one in enumerate(found)])
    value = struct.pack("=III", 1, 1, 7)
    rows = [(row_key(number, i + 1, port), value) for i in range(count) for port in ports]
    rows.append((struct.pack("=IIIB", 72, big(number), big(1), UDP) + bytes(3), value))
    tables.policy_verdicts.put_raw(rows)


def later(frame: bytes, family: int) -> bytes:
    """The same packet as a fragment behind a first one that nobody has seen."""
    ether = Ether(frame)
    if family == 4:
        ether[IP].frag, ether[IP].flags = 100, 0
        del ether[IP].chksum
        return bytes(ether)
    header, body = ether.copy(), bytes(ether.payload.payload)
    header.payload.remove_payload()
    header.payload.plen = None
    return bytes(header / IPv6ExtHdrFragment(nh=UDP, offset=100, id=9) / Raw(body))


def frames(family: int) -> list[tuple[str, str, bytes, int, int]]:
    """Name, program, frame, how its beginning moves, verdict."""
    out, back = datagram(family, A, R.address(family)), datagram(family, R, A.address(family), sport=4002, dport=4001)
    into, alone = (tunnel("geneve", one, src=BOUNCER) for one in (back, later(bytes(back), family)))
    return [
        ("agent, known flow", "agent", bytes(out), OVERHEAD, TC_REDIRECT),
        ("agent, by the rules", "agent", later(bytes(out), family), OVERHEAD, TC_REDIRECT),
        ("transit, known flow", "transit", into, OVERHEAD, XDP_PASS),
        ("transit, by the rules", "transit", alone, OVERHEAD, XDP_PASS),
    ]  # fmt: skip


def added(bench: Bench, rounds: int, work: tuple[str, str, bytes, int, int]) -> float:
    """What policing adds to one packet."""
    _, program, frame, room, verdict = work
    tables = bench.testbed.tables
    agent = tables.agents.get(A.ifindex)
    assert agent is not None
    best = {0: 0, POLICED: 0}
    for _, flag in itertools.product(range(rounds), best):
        bench.testbed.endpoint(A, flags=flag)
        tables.agents.put(A.ifindex, agent | {"flags": flag})
        took = bench.run_ns(program, frame, room, verdict)
        best[flag] = min(best[flag], took) if best[flag] else took
    return best[POLICED] - best[0]


def change(bench: Bench) -> float:
    """Seconds that the writing of half a million peers and half a million verdicts takes, and their removal."""
    tables, half = bench.testbed.tables, CHANGED // 2
    value = struct.pack("=III", 1, 1, 7)
    found = [(peer_key(9, one), struct.pack("=I", i)) for i, one in enumerate(peers(half, 4))]
    rows = [(row_key(9, i, 80), value) for i in range(half)]
    begin = time.monotonic()
    tables.policy_peers.put_raw(found)
    tables.policy_verdicts.put_raw(rows)
    took = time.monotonic() - begin
    print(f"{CHANGED:,} entries written in {took:.1f} s")
    begin = time.monotonic()
    tables.policy_peers.delete_raw([key for key, _ in found])
    tables.policy_verdicts.delete_raw([key for key, _ in rows])
    print(f"{CHANGED:,} entries removed in {time.monotonic() - begin:.1f} s")
    return took


def main() -> int:
    """Print both tables; exit 1 when a known flow costs more than 50 ns, or a million entries more than 5 s."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=300_000, help="runs per round")
    parser.add_argument("--rounds", type=int, default=6, help="rounds; the fastest counts")
    arguments = parser.parse_args()
    bench = Bench(arguments.repeat, 1, SIZES)
    print(f"{'work':<24}{'rules':>8}" + "".join(f"{f'IPv{family} ns':>9}" for family in FAMILIES), flush=True)
    most = 0.0
    for number, count in enumerate(RULES):
        costs: dict[str, list[float]] = {}
        for family in FAMILIES:
            bench.testbed.reset()
            bench.testbed.as_host()
            police(bench.testbed, A, ingress=1, egress=2)
            fill(bench.testbed, 1, count, family, (4001,))
            fill(bench.testbed, 2, count, family, (4002,))
            bench.testbed.send(frames(family)[0][2])
            for work in frames(family):
                costs.setdefault(work[0], []).append(added(bench, arguments.rounds, work))
        for name, pair in costs.items():
            print(f"{name:<24}{RULES[number]:>8}" + "".join(f"{cost:>9.0f}" for cost in pair), flush=True)
            most = max(most, *pair) if name.endswith("known flow") else most
    return 0 if change(bench) <= 5 and most <= 50 else 1


if __name__ == "__main__":
    sys.exit(main())
