# SPDX-License-Identifier: Apache-2.0
"""A function and its twin in Python, at each stage: the oracle and the kernel say the same of the golden frames."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path

import pytest
from hypothesis import Phase, given, settings

from mizar.functions.build import build as compile_function
from mizar.kernel.function_tables import U64
from mizar.kernel.layout import Codec
from mizar.kernel.maps import Table
from mizar.model.addresses import to_mapped
from mizar.oracle import functions
from mizar.oracle.agent import agent
from mizar.oracle.function_examples import Metadata, blocklist, metadata_inject, metadata_strip
from mizar.oracle.functions import Decision, Says, Seen
from mizar.oracle.outcome import Outcome, Verdict
from mizar.oracle.tables import Droplet, Function
from mizar.oracle.transit import transit
from tests.dataplane.chained import PASS, REDIRECT, TRANSMIT, Chained, from_text, member, saying
from tests.oracle import build, golden
from tests.oracle.differential import Arrival, Case, cases, check_case, observe, predict, visible
from tests.oracle.draws import steady
from tests.oracle.droplets import address, mac_of
from tests.oracle.golden import Golden
from tests.oracle.golden_droplet import droplet
from tests.oracle.real import RealDroplet
from tests.oracle.seeds import carried, seeds

STAGES = ("ON_XDP_TX", "ON_XDP_PASS", "ON_XDP_DROP", "ENDPOINT_INGRESS", "ENDPOINT_EGRESS")
ODD = 'MIZAR_REASONS({ 1, "ODD", "Odd." });'
_KEY = Codec(
    "struct blocked_key", 20, lambda one: struct.pack("=I16s", *one), lambda data: struct.unpack("=I16s", data)
)
FRAMES = [one for one in vars(golden).values() if isinstance(one, Golden)]
TEXT = """
    return call->frame->family == FAMILY_IPV4 && call->frame->src[15] & 1 ? mizar_drop(call, 1) : FUNCTION_CONTINUE;"""


def twin(seen: Seen) -> bool:
    """Drops IPv4 packets whose sender's address has that bit."""
    return seen.inner[12:14] == b"\x08\x00" and len(seen.inner) >= 34 and bool(seen.inner[29] & 1)


@pytest.fixture
def attached(real: RealDroplet) -> Iterator[Chained]:
    functions.TWINS["picky"] = twin
    chained = Chained(real)
    yield chained
    chained.close()
    del functions.TWINS["picky"]


def told_blocked(chained: Chained, *prefixes: str) -> None:
    """Into the map of the example."""
    table = Table("blocked", chained.own["blocklist"]["blocked"], _KEY, U64)
    for network in map(ip_network, prefixes):
        bits = network.prefixlen + (96 if network.version == 4 else 0)
        table.put((bits, to_mapped(network.network_address.packed)), 0)


def marked() -> list[Arrival]:
    """IPv6 with a DSCP, in either tunnel, for an endpoint of the droplet."""
    inner = build.ipv6(address(6, 1, 21), address(6, 1, 11), 17, build.udp(4001, 4002, b"mizar!"))
    frame = build.ethernet(build.ROUTER, mac_of(1, 21), 0x86DD, b"\x65" + inner[1:])
    return [Arrival("transit", carried(kind, frame)) for kind in ("vxlan", "geneve")]


def compare(real: RealDroplet, here: Droplet, stages: Iterable[str]) -> int:
    """Golden frames at their doors: whole frames, verdicts and counters; returns how many became another frame or went
    another way than without functions."""
    changed = 0
    for arrival in (*(Arrival(one.door, one.comes) for one in FRAMES), *marked()):
        real.fill(droplet())
        by_oracle, by_kernel = predict(here, arrival), observe(real, arrival)
        assert visible(by_oracle, arrival.door) == visible(by_kernel, arrival.door), arrival
        plain = predict(droplet(), arrival)
        changed += (by_oracle.verdict, by_oracle.frame) != (plain.verdict, plain.frame)
        assert {met.stage for met in by_oracle.met} <= set(stages)
    return changed


EXAMPLES = Path(__file__).parents[2] / "examples" / "functions"
TOLD = Metadata(tag=0x01020304, dscp=46, longest=1400)
BLOCKED_AT = ("ENDPOINT_INGRESS", "ON_XDP_TX", "ON_XDP_PASS", "ON_XDP_SCALED_EP")
PREFIXES = ("10.0.1.0/24", "fd00:10:0:1::/64", "10.0.2.21/32")


@pytest.mark.root
@pytest.mark.parametrize(
    ("name", "stages", "twin_of", "parameters"),
    [
        ("blocklist", BLOCKED_AT, blocklist(map(ip_network, PREFIXES)), b""),
        ("metadata-inject", ("ENDPOINT_EGRESS", "ON_XDP_TX"), metadata_inject(TOLD), TOLD.packed),
        ("metadata-strip", ("ENDPOINT_INGRESS",), metadata_strip, b""),
    ],
    ids=["blocklist", "metadata-inject", "metadata-strip"],
)
def test_examples_have_twins(
    real: RealDroplet, attached: Chained, name: str, stages: tuple[str, ...], twin_of: functions.Twin, parameters: bytes
) -> None:
    """What they make of a frame, byte for byte."""
    data = compile_function(EXAMPLES / name / f"{name}.c").read_bytes()
    attached.put({stage: [member(data, parameters=parameters)] for stage in stages}, droplet=1)
    if name == "blocklist":
        told_blocked(attached, *PREFIXES)
    functions.TWINS[name] = twin_of
    try:
        changed = compare(real, replace(droplet(), functions=(Function(name, stages, droplet=True),)), stages)
    finally:
        del functions.TWINS[name]
    assert changed


@pytest.mark.root
@pytest.mark.parametrize("verdict", [PASS, TRANSMIT, REDIRECT])
@pytest.mark.parametrize("stage", STAGES)
def test_a_twin_ends_a_chain_as_the_function_does(
    real: RealDroplet, attached: Chained, stage: str, verdict: int
) -> None:
    """It lets pass, transmits or redirects; the one behind it, which would drop all, is not asked."""
    attached.put(
        {stage: [saying(verdict, ifindex=1), member(from_text("return mizar_drop(call, 1);", ODD, name="last"), 1)]}
    )
    decision = {PASS: Decision.PASS, TRANSMIT: Decision.TRANSMIT, REDIRECT: Decision.REDIRECT}[verdict]
    functions.TWINS.update({"verdict": lambda _: Says(decision), "last": lambda _: True})
    try:
        chain = tuple(Function(name, (stage,), place, True) for place, name in enumerate(("verdict", "last")))
        compare(real, replace(droplet(), functions=chain), (stage,))
    finally:
        del functions.TWINS["verdict"], functions.TWINS["last"]


@pytest.mark.root
def test_what_is_redirected_meets_the_functions_of_that_stage(real: RealDroplet, attached: Chained) -> None:
    """The one behind it at ENDPOINT_INGRESS is not asked; those at ON_XDP_REDIRECT are, and one of them drops."""
    picky = member(from_text(TEXT, ODD, name="picky"), 1)
    attached.put({"ENDPOINT_INGRESS": [saying(REDIRECT, ifindex=1), picky], "ON_XDP_REDIRECT": [picky]})
    functions.TWINS["verdict"] = lambda _: Says(Decision.REDIRECT)
    at = ("ENDPOINT_INGRESS", "ON_XDP_REDIRECT")
    chain = (Function("verdict", at[:1], 0, True), Function("picky", at, 1, True))
    try:
        assert compare(real, replace(droplet(), functions=chain), at)
    finally:
        del functions.TWINS["verdict"]


def said(outcome: Outcome) -> tuple[object, ...]:
    """As a test run shows it: what leaves, leaves."""
    verdict = Verdict.SEND if outcome.verdict is Verdict.ANSWER else outcome.verdict
    return verdict, {key: dict(fields) for key, fields in outcome.counted.items()}


@pytest.mark.root
@pytest.mark.parametrize("stage", STAGES)
def test_a_twin_says_what_the_function_does(real: RealDroplet, attached: Chained, stage: str) -> None:
    """Verdicts and all counters, those of the function's drop included."""
    attached.put({stage: [member(from_text(TEXT, 'MIZAR_REASONS({ 1, "ODD", "Odd." });', name="picky"))]}, droplet=1)
    here = replace(droplet(), functions=(Function("picky", (stage,), droplet=True),))
    met = 0
    for one in FRAMES:
        real.fill(droplet())
        by_oracle = transit(here, one.comes) if one.door == "transit" else agent(here, 1, one.comes)
        by_kernel = real.transit(one.comes) if one.door == "transit" else real.agent(1, one.comes)
        assert said(by_oracle) == said(by_kernel), one.name
        met += len(by_oracle.met)
    assert met or stage in ("ON_XDP_PASS", "ON_XDP_DROP")


@pytest.mark.root
@pytest.mark.long
@pytest.mark.parametrize("stage", [*(one for one in STAGES if one != "ON_XDP_DROP"), "ON_XDP_SCALED_EP"])
def test_a_twin_in_any_droplet(real: RealDroplet, attached: Chained, stage: str) -> None:
    """Of generated droplets and packets: frames, verdicts and counters of the kernel, with a function that judges at a
    stage; and it does judge there. Not of refused frames: how long a refused message about one is, the oracle does not
    tell."""
    attached.put({stage: [member(from_text(TEXT, 'MIZAR_REASONS({ 1, "ODD", "Odd." });', name="picky"))]}, droplet=1)
    judged: Counter[bool | None] = Counter()

    @settings(steady(200 if stage == "ON_XDP_SCALED_EP" else 60), phases=(Phase.generate,))
    @given(cases())
    def each(case: Case) -> None:
        here = replace(case.here, functions=(Function("picky", (stage,), droplet=True),))
        outcomes = check_case(real, replace(case, here=here), count=2)
        judged.update(one.dropped for outcome in outcomes for one in outcome.met if one.stage == stage)

    each()
    if stage != "ON_XDP_SCALED_EP":  # a droplet that does all else, so that what was drawn need not
        here = replace(droplet(), functions=(Function("picky", (stage,), droplet=True),))
        outcomes = check_case(real, Case(here, tuple(seeds())))
        judged.update(one.dropped for outcome in outcomes for one in outcome.met if one.stage == stage)
    assert judged


def test_a_function_without_a_twin_continues_and_is_named() -> None:
    """For whom it is, is known all the same."""
    for scope, seen in ({"vnis": frozenset({9})}, 0), ({"droplet": True}, 1):
        here = replace(droplet(), functions=(Function("unknown", STAGES, **scope),))
        outcome = transit(here, golden.GENEVE_DELIVERED.comes)
        assert outcome.frame == golden.GENEVE_DELIVERED.goes
        assert [(one.function, one.dropped) for one in outcome.met] == [("unknown", None)] * seen
