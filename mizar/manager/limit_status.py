# SPDX-License-Identifier: Apache-2.0
"""What the limits of a network or VPC come to: each droplet with endpoints of it has the whole limit, and
tunnel ends without a daemon have none.

Called by mizar.manager.manager when an object is shown. It only reads.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from typing import Any

from mizar.manager.registry import Item, Registry
from mizar.model.qos import QosSpec, RateSpec
from mizar.model.resources import VPC, Droplet, Endpoint, Network


def limited(registry: Registry, item: Item) -> dict[str, Any]:
    """`limits` of its status: a sentence for each direction; empty for an object without any."""
    resource = item.resource
    qos = resource.spec.qos if isinstance(resource, VPC | Network) else QosSpec()
    rates = {word: rate for word, rate in (("egress", qos.egress), ("ingress", qos.ingress)) if rate is not None}
    if not rates:
        return {}
    networks = registry.children(item) if isinstance(resource, VPC) else (item,)
    hosts = _hosts(chain.from_iterable(registry.children(network) for network in networks))
    droplets = sum(_has_daemon(registry, name) for name in hosts)
    foreign = len(hosts) - droplets
    beside = f"; none on {foreign} tunnel end{'s' if foreign > 1 else ''} without a daemon" if foreign else ""
    return {"limits": [f"{word}: {_text(rate, droplets)}{beside}" for word, rate in rates.items()]}


def _hosts(endpoints: Iterable[Item]) -> set[str]:
    found = (one.resource for one in endpoints if not one.deleting)
    return {one.status.host for one in found if isinstance(one, Endpoint) and one.status.host}


def _has_daemon(registry: Registry, name: str) -> bool:
    item = registry.find_droplet(name)
    return item is not None and isinstance(item.resource, Droplet) and item.resource.spec.has_daemon


def _text(rate: RateSpec, droplets: int) -> str:
    units = (("bit/s", rate.bits_per_second), ("packets/s", rate.packets_per_second))
    each = ", ".join(f"{number} {unit}" for unit, number in units if number)
    if droplets < 2:
        return f"{each} on its droplet" if droplets else f"{each} on each droplet; no endpoint is on any yet"
    most = ", ".join(f"{number * droplets} {unit}" for unit, number in units if number)
    return f"{each} on each of {droplets} droplets, which is {most} in all"
