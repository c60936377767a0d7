# SPDX-License-Identifier: Apache-2.0
"""Wishes and what was found → ordered steps, or why there must be none. Pure.

Called by host. A link that carries this topology's mark may be changed or removed; any other that has a wanted name
is a conflict. What cannot be changed in place (the kind, a VXLAN device's VNI, a veth's other end) is made anew.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from mizar.kernel.topology_facts import GROUP, HOST, Found, Link
from mizar.topology import eswitches
from mizar.topology.present import Plan, Present, foreign, half_made, ours
from mizar.topology.steps import (
    GivePort,
    Key,
    MakeLink,
    MakeNamespace,
    MarkLink,
    RemoveLink,
    RemoveNamespace,
    SetLink,
    Step,
    TakePort,
)
from mizar.topology.wishes import LinkWish, Wishes

_FALLBACK = {"tunl0", "gre0", "gretap0", "erspan0", "sit0", "ip_vti0", "ip6_vti0", "ip6tnl0", "ip6gre0"}
"""Interfaces that the kernel itself puts into every new namespace."""

_FIELDS = ("mtu", "vlan_filtering", "master", "vlans", "vnis", "addresses", "up")


def plan(wishes: Wishes, present: Present) -> Plan:
    """What makes the host as wished; no steps when it is."""
    found = Plan()
    _features(wishes, present, found)
    _namespaces(wishes, present, found)
    eswitches.plan_eswitches(wishes, present, found)
    wanted = {link.key for wish in wishes.links for link in wish.links}
    wanted |= {(port.namespace, port.interface) for port in wishes.ports} | eswitches.keys(wishes)
    stale = [item for item in present.of(wishes.topology) if item.link.key not in wanted]
    remade = [wish for wish in wishes.links if _remade(wish, wishes, present, found)]
    for wish in remade:
        there = [present.links[link.key] for link in wish.links if link.key in present.links]
        found.steps += _removals(there, present, "it is not as wanted")
    found.steps += _removals(stale, present, "it is no longer wanted")
    gone = {link.key for step in found.steps if isinstance(step, RemoveLink) for link in step.links}
    kept_links = [wish for wish in wishes.links if wish not in remade]
    repairs = {wish.object: list(_settled(wish, wishes, present, gone)) for wish in kept_links}
    for steps in repairs.values():  # no two devices may have a VNI at once: first all give theirs up
        found.steps += [step for step in steps if _gives_up(step)]
    for wish in wishes.links:
        if wish in remade:
            found.steps.append(MakeLink(wish.object, wish.links))
        else:
            found.steps += [step for step in repairs[wish.object] if not _gives_up(step)]
    _ports(wishes, present, found)
    kept = {*wishes.namespaces, *wishes.existing}
    _leftover_namespaces(wishes, present, found, [name for name in _owned(wishes, present) if name not in kept])
    return found


def plan_removal(wishes: Wishes, present: Present) -> Plan:
    """What takes away everything that the topology made, also what the description no longer names."""
    found = Plan()
    links = present.of(wishes.topology)
    wanted = [link.key for wish in wishes.links for link in wish.links]
    abandoned = [present.links[key] for key in wanted if key in present.links and half_made(present.links[key])]
    found.steps += eswitches.removals(wishes, present)
    found.steps += _removals([*links, *abandoned], present, "the topology is deleted")
    _leftover_namespaces(wishes, present, found, _owned(wishes, present))
    return found


def differences(now: Link, wanted: Link) -> tuple[str, ...]:
    """Fields in which a link that is there has to change, in the order in which they do."""
    found = []
    for name in _FIELDS:
        is_now, should = getattr(now, name), getattr(wanted, name)
        if name == "vlans" and should is not None:
            is_now = is_now or frozenset()
        if should is not None and is_now != should:
            found.append(name)
    return tuple(found)


def same(now: Link, wanted: Link) -> bool:
    """Whether a link is the wanted one in what cannot change."""
    return (now.kind, now.vxlan, now.peer) == (wanted.kind, wanted.vxlan, wanted.peer)


def _features(wishes: Wishes, present: Present, found: Plan) -> None:
    for feature, said in present.missing.items():
        found.refusals.append(f"this kernel lacks {feature}: {said}")
    for name in wishes.existing:
        if name not in present.enterable:
            found.refusals.append(f"there is no namespace {name}; it says existing: true, so somebody else makes it")


def _namespaces(wishes: Wishes, present: Present, found: Plan) -> None:
    for name in wishes.namespaces:
        if name not in present.namespaces:
            found.steps.append(MakeNamespace(f"namespace {name}", name))
            continue
        mark = present.namespaces[name]
        if mark is None or mark.topology != wishes.topology:
            whose = f"topology {mark.topology}" if mark is not None else "somebody else"
            found.conflicts.append(f"namespace {name} is there, and {whose} made it: it is left alone")


def _remade(wish: LinkWish, wishes: Wishes, present: Present, found: Plan) -> bool:
    there = [present.links[link.key] for link in wish.links if link.key in present.links]
    conflicts = [foreign(item, wishes.topology) for item in there if not ours(item, wishes.topology)]
    found.conflicts += conflicts
    if conflicts:
        return False
    whole = len(there) == len(wish.links) and not any(half_made(item) and len(there) == 1 for item in there)
    return not whole or not all(same(present.links[link.key].link, link) for link in wish.links)


def _settled(wish: LinkWish, wishes: Wishes, present: Present, gone: set[Key]) -> Iterable[Step]:
    """Repairs of a link that is there. One whose bridge is made anew is a port of nothing for now."""
    for link in wish.links:
        item = present.links.get(link.key)
        if item is None or not ours(item, wishes.topology):
            continue
        now = item.link
        if now.master and (now.namespace, now.master) in gone:
            now = replace(now, master="", vlans=None)
        if item.alias != str(wishes.mark(wish.object)):
            yield MarkLink(wish.object, link.key, item.group, item.alias)
        for name in differences(now, link):
            if name == "vnis" and now.vnis - link.vnis:
                fewer = replace(now, vnis=now.vnis & link.vnis)
                yield SetLink(wish.object, now, fewer, name)
                now = fewer
            if getattr(now, name) != getattr(link, name):
                yield SetLink(wish.object, now, link, name)


def _gives_up(step: Step) -> bool:
    return isinstance(step, SetLink) and step.field == "vnis" and step.after.vnis < step.before.vnis


def _removals(items: Iterable[Found], present: Present, why: str) -> list[Step]:
    """Removes links, a veth by one of its ends; ports and functions are given back."""
    steps: list[Step] = []
    gone: set[Key] = set()
    for item in items:
        link, subject = item.link, item.mark.object if item.mark else ""
        if link.key in gone:
            continue
        kind = subject.partition(" ")[0]
        if kind == "port":
            steps.append(GivePort(subject, link.name, link.namespace))
        elif kind not in ("representor", "function"):
            other = present.links.get(link.peer) if link.peer is not None else None
            whole = other is not None and other.group == GROUP and other.link.key not in gone
            links = (link, other.link) if other is not None and whole else (link,)
            gone.update(end.key for end in links)
            steps.append(RemoveLink(subject, links, why))
    return steps


def _ports(wishes: Wishes, present: Present, found: Plan) -> None:
    for port in wishes.ports:
        key = port.namespace, port.interface
        there = present.links.get(key)
        at_home = present.links.get((HOST, port.interface))
        if there is not None:
            if not ours(there, wishes.topology):
                found.conflicts.append(foreign(there, wishes.topology))
            elif not there.link.up:
                found.steps.append(SetLink(port.object, there.link, replace(there.link, up=True), "up"))
        elif at_home is None:
            elsewhere = [item for item in present.of(wishes.topology) if item.link.name == port.interface]
            if elsewhere:
                found.steps.append(TakePort(port.object, port.interface, port.namespace))  # given back before
            else:
                found.refusals.append(f"there is no interface {port.interface} on the host for {port.object}")
        elif at_home.alias and not ours(at_home, wishes.topology):
            found.conflicts.append(f"{port.interface} has the alias {at_home.alias!r}, so it is somebody's: left alone")
        else:
            found.steps.append(TakePort(port.object, port.interface, port.namespace))


def _owned(wishes: Wishes, present: Present) -> list[str]:
    return [name for name, mark in present.namespaces.items() if mark and mark.topology == wishes.topology]


def _leftover_namespaces(wishes: Wishes, present: Present, found: Plan, names: Iterable[str]) -> None:
    """Removes namespaces, unless they hold something that stays."""
    gone = {link.key for step in found.steps if isinstance(step, RemoveLink) for link in step.links}
    gone |= {(step.namespace, step.interface) for step in found.steps if isinstance(step, GivePort)}
    for name in names:
        inside = [key for key in present.links if key[0] == name and key not in gone and key[1] not in _FALLBACK]
        others = [key[1] for key in inside if not ours(present.links[key], wishes.topology)]
        if others:
            found.conflicts.append(
                f"namespace {name} holds {', '.join(sorted(others))}, which {wishes.topology} did not make and which"
                " would end with it: take it out first"
            )
        else:
            found.steps.append(RemoveNamespace(f"namespace {name}", name))
