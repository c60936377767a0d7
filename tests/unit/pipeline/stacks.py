# SPDX-License-Identifier: Apache-2.0
"""Any stack of headers as a frame, and any valid pipeline over it: what property tests draw from."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address
from typing import Any

from hypothesis import assume
from hypothesis import strategies as st
from scapy.all import (
    ARP,
    ICMP,
    IP,
    TCP,
    UDP,
    VXLAN,
    Dot1Q,
    Ether,
    ICMPv6EchoRequest,
    ICMPv6ND_NS,
    IPv6,
    IPv6ExtHdrFragment,
    Raw,
)
from scapy.contrib.geneve import GENEVE

from mizar.pipeline.box import Box
from mizar.pipeline.description import Block, Case, Group, On, Otherwise, Pipeline, State, Switch, TunnelEnd
from mizar.pipeline.effects import Known, Refusal, apply, leaving
from mizar.pipeline.headers import HEADERS
from mizar.pipeline.pattern import Condition, Pattern, Term
from mizar.pipeline.ranges import Ranges
from mizar.pipeline.steps import (
    Count,
    Decap,
    Drop,
    Encap,
    Limit,
    Nat,
    PopVlan,
    PushVlan,
    Queue,
    SetMeta,
    SetVid,
    SetVni,
    Step,
    Stop,
    Table,
    Trap,
)
from mizar.pipeline.validation import problems_of

NEAR = TunnelEnd(
    name="near",
    source=IPv4Address("192.0.2.1"),
    destination=IPv4Address("192.0.2.2"),
    source_mac=0x020000000201,
    destination_mac=0x020000000202,
    vid=2,
)
_MACS = {"src": "02:00:00:00:0a:01", "dst": "02:00:00:00:0a:02"}
_V6 = {"src": "2001:db8:a::1", "dst": "2001:db8:9::7"}


@st.composite
def chains(draw: st.DrawFn, most: int = 9, begin: tuple[str, ...] = ("eth",)) -> tuple[str, ...]:
    """Kinds as they may follow one another."""
    kinds = list(begin)
    while len(kinds) < most and HEADERS[kinds[-1]].followers and draw(st.integers(0, 5)):
        kinds.append(draw(st.sampled_from(HEADERS[kinds[-1]].followers)))
    return tuple(kinds)


@st.composite
def _layer(draw: st.DrawFn, kind: str, following: str) -> Any:
    """One header, with the port that the next one is recognised by."""
    small = draw(st.integers(1, 3))
    if kind == "udp":
        return UDP(sport=draw(st.integers(1, 3)), dport={"vxlan": 4789, "geneve": 6081}.get(following, small))
    if kind == "tcp":
        return TCP(sport=draw(st.integers(1, 3)), dport=small, flags=draw(st.sampled_from(["S", "A", "R"])))
    if kind == "icmp4":
        return ICMP(type=draw(st.sampled_from([8, 0, 3])), id=small)
    make: dict[str, Callable[[], Any]] = {
        "eth": lambda: Ether(**_MACS),
        "vlan": lambda: Dot1Q(vlan=small),
        "arp": lambda: ARP(),
        "ipv4": lambda: IP(src="10.0.0.1", dst=f"198.51.100.{small}", frag=9 * (following == "fragment")),
        "fragment": lambda: Raw(b""),
        "ipv6": lambda: IPv6(**_V6) / IPv6ExtHdrFragment(offset=9, nh=17) if following == "fragment" else IPv6(**_V6),
        "icmp6": lambda: ICMPv6EchoRequest(id=small),
        "nd": lambda: ICMPv6ND_NS(),
        "vxlan": lambda: VXLAN(vni=small, flags=8),
        "geneve": lambda: GENEVE(vni=small, proto=0x6558),
    }
    return make[kind]()


@st.composite
def stacks(draw: st.DrawFn, begin: tuple[str, ...] = ("eth",), whole: bool = False) -> bytes:
    """A frame with the headers of a chain and small numbers in its fields; unless `whole`, sometimes cut or damaged."""
    packet: Any = None
    kinds = draw(chains(begin=begin))
    for place, kind in enumerate(kinds):
        layer = draw(_layer(kind, kinds[place + 1] if place + 1 < len(kinds) else ""))
        packet = layer if packet is None else packet / layer
    # A tunnel without a whole inner Ethernet header is none to the interpreter, and one to a rule: docs/pipeline.md.
    least = 14 if whole and kinds[-1] in ("vxlan", "geneve") else 0
    frame = bytes(packet / Raw(draw(st.binary(min_size=least, max_size=30))))
    damage = 2 if whole else draw(st.integers(0, 9))
    if damage == 0:
        return frame[: draw(st.integers(0, len(frame)))]
    if damage == 1:
        at = draw(st.integers(0, len(frame) - 1))
        return frame[:at] + bytes([draw(st.integers(0, 255))]) + frame[at + 1 :]
    return frame


STEPS: tuple[Step, ...] = (
    SetMeta(source="vni", add=0x01000000),
    SetMeta(source="vlan", add=0x02FF0000),
    SetMeta(source="vni", table=Table(((1, 11), (2, 12)))),
    SetMeta(source="vlan", table=Table(((1, 21), (3, 23)))),
    PopVlan(),
    PopVlan(),
    PushVlan(),
    Decap(tunnel="vxlan"),
    Decap(tunnel="vxlan", vlan=True),
    Decap(tunnel="geneve"),
    Encap(tunnel="vxlan", to="near"),
    Encap(tunnel="geneve", to="near", vlan=True),
    SetVni(),
    SetVid(),
    SetVni(table=Table(((11, 7), (0x01000001, 8)))),
    Count(name="all"),
    Count(name="each", per_meta=True),
    Limit(name="slow", packets_per_s=1, burst=3),
)
ENDS: tuple[Step, ...] = (Stop(), Drop(), Trap(), Queue(number=2))


def _conditions(kind: str) -> st.SearchStrategy[tuple[Condition, ...]]:
    """Sometimes a condition that the small numbers of frames often satisfy."""
    small = Ranges(16, ((1, 2),))
    if kind not in ("tcp", "udp"):
        return st.just(())
    return st.sampled_from([(), (), (Condition("src", small),), (Condition("src", ~Ranges.of(16, [1])),)])


@st.composite
def pipelines(draw: st.DrawFn, connections: bool = True) -> Pipeline:
    """A valid pipeline: a pattern, steps that may stand behind it, sometimes connections and NAT, steps, an end."""
    pattern = Pattern(tuple(Term(kind, draw(_conditions(kind))) for kind in draw(chains(6))))
    known = frozenset(Known(box) for box in pattern.boxes)
    steps, known = _steps(draw, known)
    groups = []
    cases = [Case(when=pattern, block=Block(steps))]
    if draw(st.booleans()):
        cases.append(Case(when=Otherwise(), block=Block((Drop(),))))
    groups.append(Group(name="first", block=Block((), Switch(on=On.PARSE, cases=tuple(cases)))))
    if connections and all(one.meta is not None for one in known) and draw(st.booleans()):
        groups.append(Group(name="track", block=_tracked()))
        known = frozenset(
            done
            for box in _CONNECTIONS.boxes
            for one in known
            if (met := one.box.meet(box)) is not None
            and not isinstance(done := apply(_BARE, Nat(), _as_established(one, met)), Refusal)
        )
        assume(known)
    more, known = _steps(draw, known)
    end = draw(st.sampled_from(ENDS))
    assume(all(leaving(end, one) is None for one in known))  # type: ignore[arg-type]
    groups.append(Group(name="last", block=Block((*more, end))))
    made = Pipeline(name="drawn", groups=tuple(groups), tunnels=(NEAR,))
    problems = [one for one in problems_of(made) if "no step uses tunnel" not in one.message]
    assume(not problems)
    return made


_CONNECTIONS = Pattern((Term("eth"), Term("ip")))
_BARE = Pipeline(name="bare", groups=(Group(name="g", block=Block((Stop(),))),), tunnels=(NEAR,))


def _tracked() -> Block:
    """Connections: established and new ones translated, the rest dropped."""
    established = Case(when=frozenset({State.ESTABLISHED, State.RELATED}), block=Block((Nat(),)))
    new = Case(when=frozenset({State.NEW}), block=Block((Nat(allocate=True),)))
    other = Case(when=Otherwise(), block=Block((Drop(),)))
    switch = Switch(on=On.CONNTRACK, cases=(established, new, other))
    cases = tuple(
        Case(when=Pattern((Term("eth"), Term("ip"), Term(kind))), block=Block((), switch))
        for kind in ("tcp", "udp", "icmp")
    )
    return Block((), Switch(on=On.PARSE, cases=cases))


def _as_established(known: Known, box: Box) -> Known:
    shape = (*box.shape[:2], "tcp")
    return Known(Box.of(shape, {}), known.meta, frozenset({State.ESTABLISHED}))


def _steps(draw: st.DrawFn, known: frozenset[Known]) -> tuple[tuple[Step, ...], frozenset[Known]]:
    """Steps that may stand where this is known, and what is known behind them."""
    found: list[Step] = []
    for _ in range(draw(st.integers(0, 6))):
        possible = [step for step in STEPS if not any(isinstance(apply(_BARE, step, one), Refusal) for one in known)]
        step = draw(st.sampled_from(possible))
        found.append(step)
        known = frozenset(after for one in known if not isinstance(after := apply(_BARE, step, one), Refusal))
    return tuple(found), known
