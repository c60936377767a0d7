# SPDX-License-Identifier: Apache-2.0
"""Policies for the differential tests: any records and rules, and flows that go on already."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from hypothesis import strategies as st

from mizar.oracle.policies import (
    Direction,
    EndpointPolicy,
    NetworkAcl,
    PolicyFlow,
    PolicyFlowKey,
    PolicyFlows,
    PolicyRow,
    PolicySet,
    RuleVerdict,
)
from tests.oracle.draws import Draw

GENERATION, SINCE = 5, 3
CLASSES = (0, 1, 2)
PORTS = ((4002, 80), (80, 4002), (7, 7), (443, 4002), (0, 0))
PROTOCOLS = (17, 17, 6, 6, 1, 58, 132, 50)

rows = st.one_of(
    st.builds(PolicyRow, st.sampled_from(CLASSES)),
    st.builds(PolicyRow, st.sampled_from(CLASSES), st.sampled_from(PROTOCOLS)),
    st.builds(
        lambda class_, protocol, port, bits: PolicyRow(class_, protocol, port >> 16 - bits << 16 - bits, bits),
        st.sampled_from(CLASSES), st.sampled_from((17, 6, 1, 58)),
        st.sampled_from((4002, 80, 8 << 8, 128 << 8, 3 << 8, 1 << 8, 2 << 8)), st.sampled_from((16, 16, 8, 1)),
    ),
)  # fmt: skip
rule_verdicts = st.builds(
    RuleVerdict,
    rank=st.integers(1, 4),
    allow=st.sampled_from([True, True, False]),
    rule=st.sampled_from([0, 1, 7, 9, 0x1FFFF, 0xFFFF]),
    log=st.booleans(),
    audit=st.sampled_from([False, False, True]),
    keep=st.booleans(),
)
everything = st.dictionaries(st.builds(PolicyRow, st.sampled_from(CLASSES)), rule_verdicts, min_size=1, max_size=3)


@st.composite
def policy_sets(draw: Draw, prefixes: Iterable[tuple[bytes, int]]) -> PolicySet:
    """The rules of one direction: often with a verdict for all that a class sends."""
    peers = draw(st.dictionaries(st.sampled_from(sorted(prefixes)), st.sampled_from(CLASSES), max_size=4))
    groups = draw(st.dictionaries(st.sampled_from([7, 7, 1, 2, 0xFFFF]), st.sampled_from(CLASSES), max_size=2))
    return PolicySet(peers, groups, draw(everything) | draw(st.dictionaries(rows, rule_verdicts, max_size=5)))


@st.composite
def endpoint_policies(draw: Draw, prefixes: Iterable[tuple[bytes, int]]) -> EndpointPolicy:
    """One record; now and then it selects the endpoint for nothing."""
    maybe = st.one_of(policy_sets(prefixes), policy_sets(prefixes), st.none())
    audit = draw(st.sampled_from([(), (), (), (Direction.INGRESS,), tuple(Direction)]))
    grace, beside = draw(st.booleans()), st.one_of(st.none(), st.none(), policy_sets(prefixes))
    return EndpointPolicy(
        draw(maybe), draw(maybe), GENERATION, SINCE, frozenset(audit), grace, draw(beside), draw(beside)
    )


@st.composite
def policies(draw: Draw, uids: Mapping[str, int], prefixes: Iterable[tuple[bytes, int]]) -> dict[str, EndpointPolicy]:
    """Of half of the droplets none; else of most of their endpoints."""
    if not uids or draw(st.booleans()):
        return {}
    some = draw(st.lists(st.sampled_from(sorted(uids)), min_size=1, max_size=4, unique=True))
    return {uid: draw(endpoint_policies(prefixes)) for uid in some}


@st.composite
def network_acls(
    draw: Draw, places: Iterable[tuple[int, bytes, int, int]], prefixes: Iterable[tuple[bytes, int]]
) -> dict[tuple[int, bytes, int], NetworkAcl]:
    """Of half of the droplets none; else of some prefixes. `places`: VNI, prefix, its length, the network."""
    if draw(st.booleans()):
        return {}
    maybe = st.one_of(st.none(), policy_sets(prefixes))
    acls = st.builds(NetworkAcl, st.just(0), maybe, maybe, maybe, maybe)
    some = draw(st.lists(st.sampled_from(sorted(places)), min_size=1, max_size=6, unique=True))
    return {(vni, prefix, length): replace(draw(acls), network=number) for vni, prefix, length, number in some}


@st.composite
def policy_flows(draw: Draw, policed: Mapping[str, int], peers: Iterable[bytes]) -> PolicyFlows:
    """Room for some, many or no flows, and some that were begun before, by any generation. `policed`: uid → VNI."""
    flows = PolicyFlows({vni: draw(st.sampled_from([1000, 1000, 1000, 1, 0])) for vni in set(policed.values())})
    for uid, vni in policed.items():
        for peer in draw(st.lists(st.sampled_from(sorted(peers)), max_size=3, unique=True)):
            own, other = draw(st.sampled_from(PORTS))
            protocol = draw(st.sampled_from(PROTOCOLS))
            later = (own, other) == (0, 0) and draw(st.booleans())
            ports = own.to_bytes(2, "big"), other.to_bytes(2, "big")
            direction = draw(st.sampled_from(Direction))
            flows[PolicyFlowKey(vni, uid, peer, *ports, protocol, later)] = PolicyFlow(
                draw(st.sampled_from([GENERATION, GENERATION, GENERATION - 1, SINCE - 1])), direction, 7,
                draw(st.sampled_from([0, 7])) if direction is Direction.INGRESS else 0,
                answered=not later and draw(st.booleans()),
                ended=not later and draw(st.sampled_from([False, False, True])), kept=draw(st.booleans()),
            )  # fmt: skip
    return flows
