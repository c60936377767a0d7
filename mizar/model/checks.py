# SPDX-License-Identifier: Apache-2.0
"""Rules between objects that need no store: the API looks the others up and asks here. Pure.

Each returns every problem, none when all is well; `field` is a path in the object that is checked.
"""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import BaseModel
from pydantic.alias_generators import to_camel

from mizar.model.addresses import containing, is_reserved, parse_address, parse_prefix, within
from mizar.model.errors import Problem
from mizar.model.resources import VPC, Droplet, Endpoint, Network, Resource


def check_immutable(old: Resource, new: Resource) -> list[Problem]:
    """Fields that cannot change while the object lives; same kind and name. A daemon may move, not come or go.

    A field that was left to the server (VNI, addresses, MAC) may be left to it again, and may now name what the
    server chose.
    """
    problems = []
    for name in new.IMMUTABLE:
        before, after = getattr(old.spec, name), getattr(new.spec, name)
        chosen = _chosen(old, name)
        if after == before or (chosen is not None and (not after or after == chosen)):
            continue
        instead = f"delete the {new.kind} and make another"
        if isinstance(new, Endpoint) and name == "droplet":
            instead = f"`mizar endpoint move {new.tenant}/{new.name} --to {after}` moves it"
        message = f"cannot change from {_text(before)} to {_text(after)}: {instead}"
        problems.append(Problem(message, f"spec.{to_camel(name)}", str(new.ref)))
    if isinstance(old, Droplet) and isinstance(new, Droplet) and old.spec.has_daemon != new.spec.has_daemon:
        message = f"cannot change from {old.spec.daemon} to {new.spec.daemon}: delete the Droplet and make another"
        problems.append(Problem(message, "spec.daemon", str(new.ref)))
    return problems


def check_network(network: Network, vpc: VPC, siblings: Iterable[Network]) -> list[Problem]:
    """Within the VPC's CIDRs, and no prefix that another network of the VPC has (`siblings`; itself is skipped).

    A prefix may lie in another network's: an address belongs to the network with the longest one.
    """
    problems = []
    outer = [parse_prefix(text) for text in vpc.spec.cidrs]
    others = [
        (sibling.name, parse_prefix(text))
        for sibling in siblings
        if sibling.ref != network.ref and sibling.spec.vpc == network.spec.vpc
        for text in sibling.spec.cidrs
    ]
    for place, text in enumerate(network.spec.cidrs):
        prefix, field = parse_prefix(text), f"spec.cidrs[{place}]"
        if not any(within(prefix, cidr) for cidr in outer):
            message = f"expected a prefix within {vpc.ref} ({', '.join(vpc.spec.cidrs)}), found {text}"
            problems.append(Problem(message, field, str(network.ref)))
        for name, other in others:
            if prefix == other:
                message = f"{text} is network {name}'s in the same VPC already; choose a longer or a shorter one"
                problems.append(Problem(message, field, str(network.ref)))
    return problems


def check_endpoint(endpoint: Endpoint, network: Network, droplet: Droplet | None) -> list[Problem]:
    """Requested addresses are usable addresses of the network; a workload exactly where there is a daemon.

    `droplet` is None where a droplet will be chosen.
    """
    problems = []
    prefixes = [parse_prefix(text) for text in network.spec.cidrs]
    for place, text in enumerate(endpoint.spec.addresses):
        address = parse_address(text)
        prefix, field = containing(prefixes, address), f"spec.addresses[{place}]"
        if prefix is None:
            message = f"expected an address within {network.ref} ({', '.join(network.spec.cidrs)}), found {text}"
            problems.append(Problem(message, field, str(endpoint.ref)))
        elif is_reserved(prefix, address):
            message = f"{text} is reserved in {prefix}: the network's, the gateway's or the broadcast address"
            problems.append(Problem(message, field, str(endpoint.ref)))
    if droplet is None:
        return problems
    if droplet.spec.has_daemon and endpoint.spec.workload is None:
        message = f"missing; expected a namespace, path, pid, tap or ovs on droplet {droplet.name}"
        problems.append(Problem(message, "spec.workload", str(endpoint.ref)))
    if not droplet.spec.has_daemon and endpoint.spec.workload is not None:
        message = f"unexpected: droplet {droplet.name} has no daemon that could make its interface"
        problems.append(Problem(message, "spec.workload", str(endpoint.ref)))
    return problems


def _chosen(old: Resource, name: str) -> object:
    """What the server chose for a field that the spec leaves open; None when there is no such thing."""
    chosen: object = None
    if isinstance(old, VPC) and name == "vni":
        chosen = old.status.vni
    if isinstance(old, Endpoint) and name in ("addresses", "mac"):
        chosen = getattr(old.status, name)
    return chosen or None


def _text(value: object) -> str:
    if value is None or value == ():
        return "nothing"
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    if isinstance(value, BaseModel):
        return ", ".join(f"{name} {_text(part)}" for name, part in value if part not in (None, False))
    return str(value)
