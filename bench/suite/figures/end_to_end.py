# SPDX-License-Identifier: Apache-2.0
"""Endpoint to endpoint over two hosts: ours beside what a user would pick instead, all there at once, in turns."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache, partial
from pathlib import Path

from bench.suite import contenders, traffic
from bench.suite.contenders import GENEVE, VXLAN, Pair
from bench.suite.figure import Figure, Goal, Opener, Plan, Turn
from bench.suite.leftovers import prefix
from bench.suite.machine import found
from tests.transit.rig import Rig

KERNEL, ROUTING, OVS = "vxlan + bridge", "routing, no overlay", "Open vSwitch, Geneve"
ONE_VETH, REDIRECTS = "one veth, no hosts", "redirects alone"
FLAT = ", wire TSO off"
AT_TC, GENERIC, WHOLE = "mizar, tc ingress,", "mizar, generic XDP,", ", wire TSO on"
MODES = {
    "mizar": ("--xdp", "driver"),
    "mizar, uplink offloads,": ("--xdp", "driver", "--uplink-offloads"),
    AT_TC: ("--xdp", "off", "--uplink-offloads"),
    GENERIC: ("--xdp", "generic"),
}
NO_GENERIC = "generic XDP skips what a droplet at the other end of this very veth sends"
TCP1, TCP4, RR, UDP, CRR = "TCP, 1 stream", "TCP, 4 streams", "request-response", "datagrams", "connections"
BUSY = ", CPU time"
ETHERNET = 1500
BRIEF_S = 0.2
LEFT_OUT = "left out of a quick run"
NARROW = (ROUTING, KERNEL, ONE_VETH, REDIRECTS, f"mizar {GENEVE}")
"""Contenders of a quick run: one of each kind; where that is not to see what else works, ours in one mode."""
WIDE = (ROUTING, KERNEL, OVS, f"mizar {GENEVE}", f"mizar {VXLAN}", f"{AT_TC} {GENEVE}{WHOLE}")

Measure = Callable[[traffic.Way, traffic.Way, int], dict[str, float]]


def opened(mtu: int, measure: Measure, wire: type[Rig] = Rig, brief: Sequence[str] = NARROW) -> Opener:
    """The set-up of a figure: every contender, on wires of an MTU: a bridge between all hosts, or cables. Of a quick
    run those that `brief` names; the others are not even set up."""

    @contextmanager
    def open_(plan: Plan) -> Iterator[Mapping[str, Turn | str]]:
        traffic.build()
        seconds, what = 1, briefly if plan.quick else measure
        cpus = plan.cpus[0], plan.cpus[-1]
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            made = wire(folder, prefix())
            made.wire["mtu"] = mtu
            stack.callback(made.close)
            contenders.quiet_bridges(made.switch)

            def turn(pair: Pair, tso: bool, what: Measure = what) -> Turn:
                contenders.ready(pair)
                ways = (traffic.Way(pair.source, pair.target, pair.addresses[family], cpus) for family in (4, 6))
                first, second = ways

                def measured() -> dict[str, float]:
                    contenders.tso(pair, tso)
                    contenders.ready(pair)
                    return what(first, second, seconds)

                return measured

            turns: dict[str, Turn | str] = {}

            def put(names: Mapping[str, bool], pair: Callable[[], Pair], what: Measure = what, why: str = "") -> None:
                """Contenders on one pair: by name whether their wire is whole. `why` there is none of them."""
                wanted = {name: tso for name, tso in names.items() if not plan.quick or name in brief}
                turns.update(dict.fromkeys(names, LEFT_OUT) | dict.fromkeys(wanted, why))
                if wanted and not why:
                    stands = pair()
                    turns.update({name: turn(stands, tso, what) for name, tso in wanted.items()})

            put({ROUTING: True, ROUTING + FLAT: False}, lambda: contenders.routing(made))
            put({KERNEL: True, KERNEL + FLAT: False}, lambda: contenders.vxlan(made))
            if wire is contenders.Cables:
                none = "" if found("clang") else "clang is not installed"
                few = briefly if plan.quick else small
                put({ONE_VETH: True}, lambda: contenders.one_veth(made), few)
                both = {REDIRECTS: True, REDIRECTS + FLAT: False}
                put(both, lambda: contenders.redirects(made, folder), few, none)
            none = "" if found("ovs-vswitchd") else "Open vSwitch is not installed"
            put({OVS: False}, lambda: contenders.ovs(made, stack, folder), why=none)
            for mode, options in MODES.items():
                pairs = cache(partial(contenders.mizar, made, *options))
                none = NO_GENERIC if mode == GENERIC and wire is contenders.Cables else ""
                for tunnel in (GENEVE, VXLAN):
                    name = f"{mode} {tunnel}"
                    names = {name: False} | ({name + WHOLE: True} if mode == AT_TC else {})
                    put(names, lambda: pairs()[tunnel], why=none)  # noqa: B023 - called at once
            yield turns

    return open_


def briefly(way: traffic.Way, way6: traffic.Way, seconds: int) -> dict[str, float]:
    """One of each kind, for a quick run; iperf3 knows no less than a second."""
    gbits, cost = traffic.tcp(way, 1, seconds)
    p50, _ = traffic.request_response(way6, BRIEF_S)
    return {TCP1: gbits, TCP1 + BUSY: cost, UDP: traffic.datagrams(way, BRIEF_S), RR + " p50, IPv6": p50}


def everything(way: traffic.Way, way6: traffic.Way, seconds: int) -> dict[str, float]:
    """All that is measured on wires of 1500 bytes."""
    told = streams(way, seconds)
    told[TCP1 + ", IPv6"] = traffic.tcp(way6, 1, seconds)[0]
    told[RR + " p50"], told[RR + " p99"] = traffic.request_response(way, seconds)
    told[RR + " p50, IPv6"], _ = traffic.request_response(way6, seconds)
    told[UDP] = traffic.datagrams(way, seconds)
    told[UDP + ", IPv6"] = traffic.datagrams(way6, seconds)
    told[CRR] = traffic.connections(way, seconds)
    return told


def small(way: traffic.Way, _way6: traffic.Way, seconds: int) -> dict[str, float]:
    """Small packets alone: for a limit of what they may cost."""
    told = {UDP: traffic.datagrams(way, seconds)}
    told[RR + " p50"], told[RR + " p99"] = traffic.request_response(way, seconds)
    return told


def streams(way: traffic.Way, seconds: int) -> dict[str, float]:
    """Bulk alone."""
    told = {}
    for name, count in ((TCP1, 1), (TCP4, 4)):
        told[name], told[name + BUSY] = traffic.tcp(way, count, seconds)
    return told


def jumbo(way: traffic.Way, _way6: traffic.Way, seconds: int) -> dict[str, float]:
    """Bulk on wires of 9000 bytes."""
    return streams(way, seconds)


GOALS = (
    ("TCP, 1 stream", TCP1, 1.15, False),
    ("TCP, 4 streams", TCP4, 1.15, False),
    ("TCP request-response p50 (pinned)", f"{RR} p50", 0.67, True),
    ("small UDP packets per second", UDP, 1.9, False),
)
JUDGED = (
    ("XDP", "mizar Geneve", FLAT),
    ("tc ingress", f"{AT_TC} Geneve", FLAT),
    ("tc ingress, wire TSO on", f"{AT_TC} Geneve{WHOLE}", ""),
)
"""Each ingress by every goal, on the wire that the others have, too."""
LIMITS = {"routing": ROUTING, "redirects alone": REDIRECTS}


def _goals(wire: str = "") -> Iterator[Goal]:
    for work, metric, limit, most in GOALS:
        for ingress, contender, tso in JUDGED:
            limits, over = {name: one + tso for name, one in LIMITS.items()}, KERNEL + tso
            where = f"{work}: {ingress}{wire}"
            yield Goal(where, over, metric, limit, most=most, contender=contender, over=over, limits=limits)


UNITS = {
    TCP1 + BUSY: "ns/KB", TCP4 + BUSY: "ns/KB", RR + " p50": "µs", RR + " p99": "µs", RR + " p50, IPv6": "µs",
    UDP: "packets/s", UDP + ", IPv6": "packets/s", CRR: "connections/s",
}  # fmt: skip
_HOW = (
    "*Wire TSO off*: the wire into a host takes single frames, as XDP on a veth always has it: compare ours with "
    "those. Without that mark, data of up to 64 KB cross the wire whole, which no card does. One stream and "
    "datagrams have a CPU at each end; four streams share the CPUs; request-response (a byte there and back) and "
    "connections have both ends on one CPU. *Uplink offloads*: checksums and superpackets are left to the wire, "
    "as the others leave them; otherwise ours completes them at the sender. XDP on a veth copies each frame "
    "(docs/decisions/delivery.md); *tc ingress* (`--xdp off`) has none, and superpackets cross a wire that takes "
    "them: compare *wire TSO on* with the kernel's without a mark. CPU time is that of the whole machine. Ours "
    "has no ingress that redirects in XDP: [delivery](decisions/delivery.md) says why."
)
NOT_SHOWN = (
    "a real network card. Hosts are namespaces on one bridge, and wires are veths: sender, both hosts, the bridge"
    " and the receiver share the same CPUs, and a packet takes two veths and that bridge from host to host. "
) + _HOW
NOT_SHOWN_CABLE = (
    "a real network card. Hosts are namespaces, and the wire is one veth from host to host with nothing between, "
    "as a cable is: sender, both hosts and the receiver share the same CPUs. *Wire TSO off* is the sender's own "
    "interface here. "
) + _HOW
TOOLS = {"iperf3": "iperf3", "ethtool": "ethtool", "ovs-vswitchd": "openvswitch-switch"}
FIGURES = (
    Figure(
        "end-to-end",
        "Endpoint to endpoint over two hosts, wires of 1500 bytes",
        "Gb/s",
        opened(ETHERNET, everything, brief=WIDE),
        NOT_SHOWN,
        floor="[delivery](decisions/delivery.md): XDP in driver mode on a veth copies each frame; kernel vxlan with "
        "an empty XDP program falls to half of itself. Superpackets on the wire (`--uplink-offloads`) were tried there",
        units=UNITS,
        goals=tuple(_goals()),
        packages=TOOLS,
        rounds=3,
        limit_s=900,
    ),
    Figure(
        "end-to-end-cable",
        "Endpoint to endpoint over two hosts, joined by one cable of 1500 bytes",
        "Gb/s",
        opened(ETHERNET, everything, contenders.Cables),
        NOT_SHOWN_CABLE,
        floor="*one veth, no hosts* is what sockets, scheduler and wakeups take; *redirects alone* is the least of any "
        "overlay at these hooks: programs that send to the wire and hand over, without lookup or tunnel. Where their "
        "request-response is above the goal's share of kernel vxlan + bridge, the goal is not to be had with endpoints "
        "and hosts behind veths: [delivery](decisions/delivery.md#what-is-left)",
        units=UNITS,
        goals=tuple(_goals(", on a cable")),
        packages=TOOLS,
        rounds=3,
        limit_s=900,
    ),
    Figure(
        "jumbo",
        "Endpoint to endpoint over two hosts, wires of 9000 bytes",
        "Gb/s",
        opened(9000, jumbo),
        NOT_SHOWN,
        units=UNITS,
        rounds=3,
        packages=TOOLS,
    ),
)
