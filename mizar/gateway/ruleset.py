# SPDX-License-Identifier: Apache-2.0
"""The text that nftables is given: who is whose, what is translated, what passes. Pure.

A connection's original direction is in its tenant's zone and its answers in zone 0, where all tenants' outer ends are
told apart: tenants with equal addresses share a pool. What is forwarded from outside belongs to one tenant by its outer
end, and is in that tenant's zone both ways. Every packet has the tenant's metadata as its mark, by which it is routed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from mizar.gateway.kernel_plan import KernelPlan, inner
from mizar.pipeline.nat import Address, Forward, Masquerade, Static
from mizar.pipeline.ranges import Span

TABLE = "mizar"


def ruleset(plan: KernelPlan) -> str:
    """All of it, as one transaction that replaces what was there; connections stay."""
    chains = (
        ("zones", "type filter hook prerouting priority raw", "accept", _zones(plan)),
        ("marks", "type filter hook prerouting priority mangle", "accept", _marks(plan)),
        ("forwards", "type nat hook prerouting priority dstnat", "accept", _forwards(plan)),
        ("pass", "type filter hook forward priority filter", "drop", _pass(plan)),
        ("own", "type route hook output priority mangle", "accept", _own(plan)),
        ("leave", "type nat hook postrouting priority srcnat", "accept", _leave(plan)),
        ("left", "type filter hook postrouting priority srcnat + 50", "accept", _left(plan)),
    )
    lines = [f"add table inet {TABLE}", f"delete table inet {TABLE}", f"table inet {TABLE} {{"]
    for name, hook, policy, rules in chains:
        lines += [f"  chain {name} {{", f"    {hook}; policy {policy};", *(f"    {rule}" for rule in rules), "  }"]
    return "\n".join([*lines, "}"]) + "\n"


def _zones(plan: KernelPlan) -> Iterator[str]:
    for rule, ours, theirs in _fixed(plan):
        zone = plan.zones[rule.inside]
        yield f"{theirs} ct zone set {zone} accept"
        yield f"{ours} ct zone set {zone} accept"
    yield from _mapped(
        "ct original zone set", "iifname", ((_name(plan, meta), plan.zones[meta]) for meta in _insides(plan))
    )


def _marks(plan: KernelPlan) -> Iterator[str]:
    yield from _mapped(
        "ct state new ct mark set", "iifname", ((_name(plan, one), f"{one:#x}") for one in _insides(plan))
    )
    for rule, _, theirs in _fixed(plan):
        yield f"ct state new {theirs} ct mark set {rule.inside:#x}"
    yield "meta mark set ct mark"
    ports = ((f'"{inner(port)}"', f"{port.meta:#x}") for port in plan.path.ports)
    yield from _mapped("ct mark 0 fib daddr . iif type local meta mark set", "iifname", ports)


def _forwards(plan: KernelPlan) -> Iterator[str]:
    for rule, _, theirs in _fixed(plan):
        inside = rule.inside_address
        family = _family(inside)
        if isinstance(rule, Static) or rule.inside_ports == rule.outside_ports:
            yield f"{theirs} dnat {family} to {inside}"
        else:
            pairs = zip(_ports(rule.outside_ports), _ports(rule.inside_ports), strict=True)
            ports = ", ".join(f"{outer} : {port}" for outer, port in pairs)
            yield f"{theirs} dnat {family} to {_bracketed(inside)} : th dport map {{ {ports} }}"


def _pass(plan: KernelPlan) -> Iterator[str]:
    yield "ct state established,related accept"
    yield "ct state invalid drop"
    for meta in _insides(plan):
        quota = plan.nat.quota(meta)
        if quota is not None:
            yield f"ct mark {meta:#x} ct count over {quota} drop"
    for version in (4, 6):
        ways = [
            f"{_name(plan, meta)} . {_name(plan, outside)}"
            for (meta, of), outside in plan.outside.items()
            if of == version and _translated(plan, meta, version)
        ]
        if ways:
            yield f"meta nfproto ipv{version} iifname . oifname {{ {', '.join(ways)} }} accept"
    yield "ct status dnat accept"


def _own(plan: KernelPlan) -> Iterator[str]:
    """Errors that the kernel itself sends: to the tenant, or outside where they are about an answer."""
    for version in (4, 6):
        pairs = ((f"{meta:#x}", f"{outside:#x}") for (meta, of), outside in plan.outside.items() if of == version)
        yield from _mapped(
            f"meta nfproto ipv{version} ct state related ct direction original meta mark set", "ct mark", pairs
        )


def _leave(plan: KernelPlan) -> Iterator[str]:
    for rule in plan.nat.static:
        if plan.insides(rule):
            source = f"{_family(rule.inside_address)} saddr {rule.inside_address}"
            way = f"oifname {_name(plan, rule.outside)} ct mark {rule.inside:#x}"
            yield f"{way} {source} snat {_family(rule.outside_address)} to {rule.outside_address}"
    for masquerade in plan.nat.masquerade:
        ports = plan.insides(masquerade)
        if ports:
            marks = ", ".join(f"{port.meta:#x}" for port in ports)
            way = f"oifname {_name(plan, masquerade.outside)} ct mark {{ {marks} }}"
            yield from (f"{way} {rest}" for rest in _masqueraded(masquerade))


def _left(plan: KernelPlan) -> Iterator[str]:
    """What no rule translates stays: a tenant's own addresses mean nothing outside."""
    outer = ", ".join(_name(plan, meta) for meta in sorted(set(plan.outside.values())))
    if outer:
        yield f"oifname {{ {outer} }} ct mark != 0 ct direction original ct status & snat == 0 drop"


def _masqueraded(rule: Masquerade) -> Iterator[str]:
    """Paired: an inner address always has the same outer one."""
    family = _family(rule.addresses[0])
    icmp = "icmp" if family == "ip" else "icmpv6"
    first, last = rule.ports
    for number, address in enumerate(rule.addresses):
        share = f"jhash {family} saddr mod {len(rule.addresses)} {number} " if len(rule.addresses) > 1 else ""
        match = f"{share}meta nfproto {'ipv4' if family == 'ip' else 'ipv6'} meta l4proto"
        yield f"{match} {{ tcp, udp, {icmp} }} snat {family} to {_bracketed(address)}:{first}-{last}"


def _fixed(plan: KernelPlan) -> Iterator[tuple[Static | Forward, str, str]]:
    """Static and forward rules that are for a port, and which of the tenant's and outer packets belong to one."""
    for static in plan.nat.static:
        if plan.insides(static):
            ours = (
                f"iifname {_name(plan, static.inside)} {_family(static.inside_address)} saddr {static.inside_address}"
            )
            yield static, ours, _outer(plan, static)
    for forward in plan.nat.forward:
        if plan.insides(forward):
            protocols = f"meta l4proto {{ {', '.join(forward.protocols)} }}"
            source = f"{_family(forward.inside_address)} saddr {forward.inside_address}"
            ours = f"iifname {_name(plan, forward.inside)} {source} {protocols} th sport {_span(forward.inside_ports)}"
            yield forward, ours, f"{_outer(plan, forward)} {protocols} th dport {_span(forward.outside_ports)}"


def _outer(plan: KernelPlan, rule: Static | Forward) -> str:
    address = rule.outside_address
    return f"iifname {_name(plan, rule.outside)} {_family(address)} daddr {address}"


def _translated(plan: KernelPlan, meta: int, version: int) -> bool:
    """Whether a tenant may open connections outside: untranslated ones never leave."""
    masquerades = any(rule.version == version and meta in rule.inside for rule in plan.nat.masquerade)
    statics = any(rule.inside == meta and rule.inside_address.version == version for rule in plan.nat.static)
    return masquerades or statics


def _insides(plan: KernelPlan) -> list[int]:
    return sorted({meta for meta, _ in plan.outside})


def _mapped(statement: str, key: str, pairs: Iterable[tuple[object, object]]) -> Iterator[str]:
    """A map without entries is no map to nft."""
    entries = ", ".join(f"{one} : {value}" for one, value in pairs)
    if entries:
        yield f"{statement} {key} map {{ {entries} }}"


def _name(plan: KernelPlan, meta: int) -> str:
    return f'"{inner(plan.port(meta))}"'


def _family(address: Address) -> str:
    return "ip" if address.version == 4 else "ip6"


def _bracketed(address: Address) -> str:
    return str(address) if address.version == 4 else f"[{address}]"


def _span(ports: Span) -> str:
    return str(ports[0]) if ports[0] == ports[1] else f"{ports[0]}-{ports[1]}"


def _ports(ports: Span) -> range:
    return range(ports[0], ports[1] + 1)
