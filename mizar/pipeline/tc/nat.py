# SPDX-License-Identifier: Apache-2.0
"""`nat: {allocate: true}` by the rules of the `nat:` section, as act_ct's commits. Called by `compile`.

A connection gets its two entries from two commits. Masquerading translates in both: in the tenant's zone to an address
that stands for the tenant and is never on a wire, in the outside's zone from that to the pool. So tenants with equal
addresses never meet, and a port that one of them has is seen by all. Static rules and forwards translate in the
tenant's zone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from mizar.pipeline.headers import Notation
from mizar.pipeline.nat import Filtering, Forward, Mapping, Masquerade, NatRules, Static
from mizar.pipeline.tc.match import MAX_LISTED, CannotError
from mizar.pipeline.tc.rules import Action, Field, Match, Word

_STANDS_FOR = {4: IPv4Address("240.0.0.0"), 6: IPv6Address("100::")}
"""Where addresses that stand for tenants are: of class E, and to be discarded (RFC 6666)."""
_PROTOCOLS = {4: "ip", 6: "ipv6"}


@dataclass(frozen=True)
class Commit:
    """A filter that begins connections of a tenant, which go on as tenant `then`."""

    protocol: str
    fields: tuple[Field, ...]
    actions: tuple[Action, ...]
    then: int


def refusals(nat: NatRules | None) -> Iterator[str]:
    """What act_ct cannot do, each a sentence."""
    if nat is None:
        yield "tc allocates by the rules of a nat section, there is none"
        return
    for number, rule in enumerate(nat.masquerade, 1):
        if rule.mapping is Mapping.ENDPOINT_INDEPENDENT or rule.filtering is not Filtering.ADDRESS_AND_PORT:
            yield f"masquerade {number}: tc's conntrack maps and filters per destination, not endpoint-independent"
        if int(max(rule.addresses)) - int(min(rule.addresses)) != len(rule.addresses) - 1:
            yield f"masquerade {number}: tc takes a pool of addresses that follow each other"
    if nat.quotas:
        yield "tc's conntrack has no quotas"


def commits(nat: NatRules, meta: int, zones: dict[int, int]) -> Iterator[Commit]:
    """What begins connections from a tenant, in the order in which rules are asked (docs/nat.md)."""
    for static in nat.static:
        if static.inside == meta:
            inner, outer = static.inside_address, static.outside_address
            done = _both(zones, static.inside, static.outside, ("src", outer), inside_first=True)
            yield Commit(_PROTOCOLS[inner.version], (_address("src_ip", inner),), done, static.outside)
    for rule in nat.masquerade:
        if meta in rule.inside:
            yield Commit(_PROTOCOLS[rule.version], (), _masquerade(rule, meta, zones), rule.outside)
    for static in nat.static:
        if static.outside == meta:
            yield _inward(static, zones, (), None)
    for forward in nat.forward:
        if forward.outside == meta:
            yield from _forward(forward, zones)


def _masquerade(rule: Masquerade, meta: int, zones: dict[int, int]) -> tuple[Action, ...]:
    stands = _STANDS_FOR[rule.version] + zones[meta]
    pool, ports = f"{min(rule.addresses)}-{max(rule.addresses)}", f"{rule.ports[0]}-{rule.ports[1]}"
    return (
        _commit(zones[meta], rule.outside, ("nat", True), ("src", True), ("addr", str(stands))),
        Action("skbedit", (("mark", rule.outside),)),
        _commit(zones[rule.outside], meta, ("nat", True), ("src", True), ("addr", pool), ("port", ports)),
    )


def _forward(rule: Forward, zones: dict[int, int]) -> Iterator[Commit]:
    first, last = rule.outside_ports
    spans: list[tuple[int, int, int | None]] = [(first, last, None)]
    if rule.outside_ports != rule.inside_ports:
        if last - first >= MAX_LISTED:
            raise CannotError(f"tc changes ports one by one, {last - first + 1} are too many")
        moved = rule.inside_ports[0] - first
        spans = [(port, port, port + moved) for port in range(first, last + 1)]
    for protocol in rule.protocols:
        for low, high, port in spans:
            asked = Match("dst_port", low, 0xFFFF, 16, last=None if low == high else high)
            yield _inward(rule, zones, (Word("ip_proto", protocol), asked), port)


def _inward(rule: Static | Forward, zones: dict[int, int], fields: tuple[Field, ...], port: int | None) -> Commit:
    outer = rule.outside_address
    done = _both(zones, rule.inside, rule.outside, ("dst", rule.inside_address), inside_first=False, port=port)
    return Commit(_PROTOCOLS[outer.version], (*fields, _address("dst_ip", outer)), done, rule.inside)


def _both(
    zones: dict[int, int],
    inside: int,
    outside: int,
    becomes: tuple[str, IPv4Address | IPv6Address],
    *,
    inside_first: bool,
    port: int | None = None,
) -> tuple[Action, ...]:
    """The translating entry in the tenant's zone, and one without translation in the outside's."""
    which, address = becomes
    ports: tuple[tuple[str, str], ...] = () if port is None else (("port", str(port)),)
    inner = _commit(zones[inside], outside, ("nat", True), (which, True), ("addr", str(address)), *ports)
    outer = _commit(zones[outside], inside)
    if inside_first:
        return inner, Action("skbedit", (("mark", outside),)), outer
    return outer, Action("skbedit", (("mark", inside),)), inner


def _commit(zone: int, mark: int, *rest: tuple[str, int | str | bool]) -> Action:
    return Action("ct", (("commit", True), ("zone", zone), ("mark", mark), *rest))


def _address(name: str, address: IPv4Address | IPv6Address) -> Match:
    notation = Notation.IPV4 if address.version == 4 else Notation.IPV6
    return Match(name, int(address), (1 << address.max_prefixlen) - 1, address.max_prefixlen, notation)
