# SPDX-License-Identifier: Apache-2.0
"""Live frames over veths in driver mode, through our programs and through empty ones. See bench/live.py."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial

from bench import gateway_cost
from bench.live import Way, Wires, wires
from bench.policy import SIZES, fill
from bench.program_cost import LEARNED, NETWORK_ELSEWHERE, OVERHEAD, WORK, carrying
from bench.suite.figure import Figure, Plan, Turn
from bench.suite.leftovers import prefix
from bench.suite.machine import calmest, on_cpu
from tests.dataplane.frames import datagram, tunnel
from tests.dataplane.plan import BOUNCER, FAMILIES, B, P, R, S
from tests.dataplane.policies import police
from tests.dataplane.testbed import XDP_PASS, Testbed

RULES = (1, 1_000, 100_000)
LONG = bytes(100)
"""The restoring program writes 112 bytes: a frame has to have them."""
SENDS_BACK = ("bounce", "divide", "scaled", "public address", "drop")
"""Of the works of bench/program_cost.py: those that are Transit XDP's alone."""


def hosting(testbed: Testbed) -> None:
    """ME hosts b, which has learned where s is."""
    testbed.as_host()
    testbed.agent(B)
    testbed.endpoint(S, flags=LEARNED, network=NETWORK_ELSEWHERE)


def judged(testbed: Testbed, most: int) -> None:
    """Sets of rules for what b is sent and sends: of one rule 1 and 2, of a thousand 3 and 4, and so on."""
    hosting(testbed)
    for place, rules in enumerate(number for number in RULES if number <= most):
        for direction, port in ((1, 4001), (2, 4002)):
            for family in FAMILIES:
                fill(testbed, 2 * place + direction, rules, family, (port,))


def policed(place: int, testbed: Testbed) -> None:
    """By sets that are there: only the endpoint's record is another."""
    generation = place + 1
    police(testbed, B, ingress=2 * place + 1, egress=2 * place + 2, generation=generation, since=generation)


def to_b(family: int) -> bytes:
    """From r, as an answer to what b sends."""
    return tunnel("geneve", datagram(family, R, B.address(family), dst_mac=B.mac, sport=4002, dport=4001), src=BOUNCER)


def from_b(family: int) -> bytes:
    """To r."""
    return bytes(datagram(family, B, R.address(family), payload=LONG))


def ways() -> Iterator[Way]:
    """All that is measured without policies, each from empty tables."""
    for work in (work for work in WORK if work.name in SENDS_BACK):
        yield Way(work.name, work.setup, work.frame, work.verdict, room=work.room)
    yield DELIVERED("local delivery", hosting)
    yield SENT("agent, into the tunnel", hosting, from_b)
    yield SENT(
        "agent, direct path", hosting, lambda family: bytes(datagram(family, B, S.address(family), payload=LONG))
    )
    yield Way("proxied", carrying, to_p, XDP_PASS, room=OVERHEAD, tc="deliver", tc_room=OVERHEAD)


def policies(most: int) -> Iterator[Way]:
    """The same with policies of at most so many rules."""
    for place, rules in enumerate(number for number in RULES if number <= most):
        told, setup = f"{rules:,} rule{'s' if rules > 1 else ''}", partial(policed, place)
        yield DELIVERED(f"local delivery, policy of {told}", setup)
        yield SENT(f"agent, policy of {told}", setup, from_b)


def to_p(family: int) -> bytes:
    """From r, to the proxied endpoint, whose target is elsewhere."""
    return tunnel("geneve", datagram(family, R, P.address(family), dst_mac=P.mac), src=BOUNCER)


def translated(made: Wires, plan: Plan, *, ours: bool) -> dict[str, float]:
    """Frames of as many flows, of which the first pass begins each and the second knows it; or without translation."""
    flows, frame = 1 << (made.frames - 1).bit_length(), gateway_cost.frame(gateway_cost.UDP)
    told = {}
    with gateway_cost.bench(gateway_cost.UDP, 2 * flows, "-DLIVE") as gateway:
        program = (gateway.nat if ours else gateway.bare).programs["cost"].fd
        for name in ("NAT, new connections", "NAT, known flows"):
            gateway.point(flows)
            with on_cpu(calmest(plan.cpus)):
                told[name] = made.translated_ns(program, frame)
            if missing := gateway.refused():
                raise RuntimeError(f"{name}: {missing} of {made.frames} frames were not translated")
    return told


DELIVERED = partial(Way, frame=to_b, verdict=XDP_PASS, room=OVERHEAD, tc="deliver", to_peer=True)
SENT = partial(Way, verdict=XDP_PASS, into="end", tc="agent", tc_room=OVERHEAD)


@contextmanager
def opened(plan: Plan) -> Iterator[Mapping[str, Turn | str]]:
    """Two droplets: the sets of rules of one are written once. What ours add is measured beside the empty programs, in
    the same turn."""
    most, frames = plan.pick(1_000, 100_000), plan.pick(20_000, 200_000)
    with wires(prefix() + "live", frames, {}) as plain, wires(prefix() + "judge", frames, SIZES) as judging:
        judged(judging.bench.testbed, most)

        def turn(cost: Callable[[Wires, Way], float]) -> dict[str, float]:
            told = {}
            for made, every in ((plain, ways()), (judging, policies(most))):
                for way in every:
                    if made is plain:
                        made.bench.testbed.reset()
                    way.setup(made.bench.testbed)
                    with on_cpu(calmest(plan.cpus)):
                        told[way.name] = cost(made, way)
            return told

        def bare() -> dict[str, float]:
            return turn(lambda made, way: made.bare_ns(way, 4)) | translated(plain, plan, ours=False)

        def adds(family: int) -> dict[str, float]:
            told = turn(partial(added, family))
            if family == gateway_cost.FAMILY:
                without = translated(plain, plan, ours=False)
                told |= {name: ns - without[name] for name, ns in translated(plain, plan, ours=True).items()}
            return told

        def added(family: int, made: Wires, way: Way) -> float:
            return made.ours_ns(way, family) - made.bare_ns(way, family)

        turns: dict[str, Turn | str] = {"empty programs": bare}
        yield turns | {f"mizar adds, IPv{family}": partial(adds, family) for family in FAMILIES}


FIGURES = (
    Figure(
        "live",
        "What our programs add to live frames over veths in driver mode, one CPU",
        "ns",
        opened,
        "a network card. The CPU makes the frames, writes their headers anew, runs the programs, and takes what comes "
        "out at the other end of a veth: *empty programs* do that with the same verdicts, redirects and moves of the "
        "frame's beginning, but look at nothing. All frames are of one flow, which is known; but those of NAT, each of "
        "another one: those are IPv4 over UDP, come without a tunnel, and *empty programs* make the flows alone. "
        "What is redirected at tc, or passed on, is a packet of the kernel's by then, and most "
        "of its cost that. A whole gateway, tunnels and all, is measured over a wire of its own (`gateway`).",
        rounds=5,
    ),
)
