# SPDX-License-Identifier: Apache-2.0
"""Whether the rules of a `nat:` section go together, and with the ways of the pipeline. Called by `validation`.

An end outside (metadata, address, port) has one owner: a static rule, one forward, or one masquerade rule. So no data
plane has to ask two tables for one port.
"""

from __future__ import annotations

from collections.abc import Iterator

from mizar.model.errors import Problem
from mizar.pipeline.description import Pipeline, Spot
from mizar.pipeline.nat import Forward, Masquerade, NatRules, Rule, Static, inside_metas
from mizar.pipeline.nat_text import metas_text, ports_text
from mizar.pipeline.ranges import Ranges, Span
from mizar.pipeline.steps import META_BITS, Nat, Where
from mizar.pipeline.structure import all_steps, problem
from mizar.pipeline.ways import Ways


def nat_problems(pipeline: Pipeline) -> list[Problem]:
    """Every two rules that want the same thing."""
    if pipeline.nat is None:
        return []
    found = [*_outside(pipeline, pipeline.nat), *_inside(pipeline, pipeline.nat), *_quotas(pipeline, pipeline.nat)]
    if not any(isinstance(step, Nat) for _, step in all_steps(pipeline)):
        found.append(_problem(pipeline, "", pipeline.nat.where, "no step translates: expected nat in a group"))
    return found


def nat_way_problems(pipeline: Pipeline, ways: Ways) -> list[Problem]:
    """Tenants that no frame can have where the pipeline translates."""
    metas = Ranges(META_BITS, ())
    for spot, step in all_steps(pipeline):
        if isinstance(step, Nat):
            for known in ways.before.get(spot, ()):
                metas |= known.meta or Ranges(META_BITS, ())
    found = []
    for name, rule in () if pipeline.nat is None or metas.is_empty else pipeline.nat.rules():
        for word, wanted in (("inside", inside_metas(rule)), ("outside", Ranges.of(META_BITS, [rule.outside]))):
            missing = wanted - metas
            if not missing.is_empty:
                message = f"{word}: no frame comes to nat with metadata {metas_text(missing)}"
                found.append(_problem(pipeline, name, rule.where, f"{message}; there are {metas_text(metas)}"))
    return found


def _problem(pipeline: Pipeline, name: str, where: Where, message: str) -> Problem:
    return problem(pipeline, Spot(f"nat: {name}" if name else "nat"), where, message)


Owned = tuple[int, object, str, Span]
"""An end outside: metadata, address, protocol, ports."""


def _owned(rule: Rule) -> Iterator[Owned]:
    if isinstance(rule, Masquerade):
        yield from ((rule.outside, address, "any", rule.ports) for address in rule.addresses)
    elif isinstance(rule, Static):
        yield rule.outside, rule.outside_address, "any", (0, 65535)
    else:
        yield from ((rule.outside, rule.outside_address, one, rule.outside_ports) for one in rule.protocols)


def _outside(pipeline: Pipeline, nat: NatRules) -> Iterator[Problem]:
    owners: dict[tuple[int, object], list[tuple[str, Rule, str, Span]]] = {}
    for name, rule in nat.rules():
        said = set()
        for meta, address, protocol, ports in _owned(rule):
            for other, there, with_protocol, with_ports in owners.setdefault((meta, address), []):
                together = max(ports[0], with_ports[0]), min(ports[1], with_ports[1])
                apart = protocol != with_protocol and "any" not in (protocol, with_protocol)
                if there is rule or other in said or apart or together[0] > together[1]:
                    continue
                said.add(other)
                line = f" in line {there.where.line}" if there.where.line else ""
                what = f"port {ports_text(together)}" if isinstance(rule, Masquerade | Forward) else "all ports"
                message = f"{address} outside has {what} in {other}{line} already"
                yield _problem(pipeline, name, rule.where, message)
            owners[meta, address].append((name, rule, protocol, ports))


def _inside(pipeline: Pipeline, nat: NatRules) -> Iterator[Problem]:
    """Of two rules that fit the same connection from inside, the second is never asked."""
    statics: dict[tuple[int, object], str] = {}
    for number, rule in enumerate(nat.static, 1):
        key = (rule.inside, rule.inside_address)
        if key in statics:
            message = f"{rule.inside_address} inside is {statics[key]}'s already"
            yield _problem(pipeline, f"static {number}", rule.where, message)
        statics.setdefault(key, f"static {number}")
    for number, masquerade in enumerate(nat.masquerade, 1):
        for before, earlier in enumerate(nat.masquerade[: number - 1], 1):
            both = masquerade.inside & earlier.inside
            if earlier.version == masquerade.version and not both.is_empty:
                family = f"IPv{masquerade.version}"
                message = f"inside {metas_text(both)} has {family} in masquerade {before} already"
                yield _problem(pipeline, f"masquerade {number}", masquerade.where, message)


def _quotas(pipeline: Pipeline, nat: NatRules) -> Iterator[Problem]:
    seen = Ranges(META_BITS, ())
    for number, quota in enumerate(nat.quotas, 1):
        twice = quota.inside & seen
        if not twice.is_empty:
            message = f"inside {metas_text(twice)} has a quota already"
            yield _problem(pipeline, f"quota {number}", quota.where, message)
        seen |= quota.inside
