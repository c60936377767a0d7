# SPDX-License-Identifier: Apache-2.0
"""A fleet as the planner wants it: every droplet's entries → the oracle's fleet, and who is where in it.

Called by mizar.lab.simulated, mizar.preview and tests. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from mizar.oracle.fleet import Fleet
from mizar.planner.entries import DropletEntry, Entry, LocalEntry
from mizar.simulation.tables import tables


@dataclass(frozen=True, slots=True)
class Station:
    """An endpoint that a droplet of the fleet attaches: it can send and be asked."""

    uid: str
    vni: int
    network: int
    addresses: tuple[bytes, ...]
    mac: bytes
    host: bytes
    ifindex: int
    forwards: bool = False
    """It sends on what is not for itself."""
    bypass: bool = False
    """It takes tunnel packets as they are: what it does with them is its own affair."""


@dataclass(frozen=True)
class Deployed:
    """The fleet, and its stations by uid."""

    fleet: Fleet
    stations: Mapping[str, Station]
    names: Mapping[bytes, str]
    """Of droplets, by address."""


def deploy(wanted: Mapping[str, Sequence[Entry]], keep: Callable[[Entry], bool] = lambda _: True) -> Deployed:
    """`wanted`: what each droplet with a daemon should hold, by its name; only what `keep` tells is looked at."""
    names = {entry.address: entry.name for own in wanted.values() for entry in own if isinstance(entry, DropletEntry)}
    addresses = {name: address for address, name in names.items()}
    kept = {
        name: [entry for entry in own if isinstance(entry, DropletEntry) or keep(entry)] for name, own in wanted.items()
    }
    attached = [entry for own in kept.values() for entry in own if isinstance(entry, LocalEntry) and not entry.standby]
    uids = dict.fromkeys(entry.uid for own in kept.values() for entry in own if isinstance(entry, LocalEntry))
    ifindexes = {uid: number for number, uid in enumerate(uids, start=1)}
    fleet = Fleet(tables(addresses[name], own, ifindexes) for name, own in kept.items() if name in addresses)
    return Deployed(fleet, dict(_stations(attached, ifindexes)), names)


def _stations(attached: Iterable[LocalEntry], ifindexes: Mapping[str, int]) -> Iterable[tuple[str, Station]]:
    for entry in attached:
        end = entry.endpoint
        yield entry.uid, Station(
            entry.uid, end.vni, end.network_id, end.addresses, end.mac, end.host, ifindexes[entry.uid],
            forwards=entry.forwarding, bypass=entry.bypass,
        )  # fmt: skip
