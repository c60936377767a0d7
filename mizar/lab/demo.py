# SPDX-License-Identifier: Apache-2.0
"""The demo: a lab, traffic between all its endpoints, the proof of isolation, ways hop by hop, a verdict.

Called by mizar.cli.demo and tests. What it shows is told to a Screen as it happens; what it found is returned.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

from mizar.api.client import Client
from mizar.lab import lab as labs
from mizar.lab.findings import Cell, Group, Isolation, Member, Outcome, pairs
from mizar.lab.isolation import foreign, isolation
from mizar.lab.names import LabName
from mizar.lab.path import Counts, Path, Roles, follow
from mizar.lab.plan import plan
from mizar.lab.probes import Probes
from mizar.lab.progress import Progress
from mizar.lab.traffic import matrix
from mizar.model.errors import InvalidError
from mizar.model.network_acl import NetworkAcl
from mizar.model.policy import Policy
from mizar.model.resources import Resource

LIMIT_S = 3.0
"""How long an answer may take, on a machine that is busy with everybody's transfers."""
PATHS = 40
"""How many ways are followed hop by hop, at most."""
SWITCHES, SWITCH_INTERVAL_S = 3, 0.003
"""How many ways are tried, at most, to show one that becomes direct; and how fast its packets follow one another."""


class Screen(Protocol):
    """Who is told what happens."""

    @property
    def progress(self) -> Progress:
        """Shows the steps of setting up and taking down."""

    def show_switch(self, found: Path) -> None:
        """The first packets of a way were followed: over the hops, then direct."""

    def begin_matrix(self, members: Sequence[Member]) -> None:
        """The matrix is about to fill."""

    def fill(self, cell: Cell) -> None:
        """One cell has got further. Called from several threads, one at a time."""

    def end_matrix(self) -> None:
        """The matrix is full."""

    def show_isolation(self, found: Isolation) -> None:
        """The proof of isolation is done."""

    def show_paths(self, found: Sequence[Path]) -> None:
        """Some ways were followed, at least one."""


@dataclass(frozen=True, slots=True)
class Result:
    """All that the demo found."""

    lab: str
    switch: Path | None
    """A way that became direct; None where the manifests have none."""
    cells: tuple[Cell, ...]
    isolation: Isolation
    paths: tuple[Path, ...]
    elapsed_s: float

    @property
    def ok(self) -> bool:
        """Whether every cell, the isolation and every path are as they should be."""
        ways = (*self.paths, *((self.switch,) if self.switch else ()))
        return all(cell.ok for cell in self.cells) and self.isolation.ok and all(path.ok for path in ways)


def run(resources: Sequence[Resource], screen: Screen, keep: bool = False) -> Result:
    """Brings the lab up, runs the traffic, takes the lab down again unless it is to be kept or was up before."""
    lab = plan(resources).lab
    if any(isinstance(one, Policy | NetworkAcl) for one in resources):
        message = "policies decide who reaches whom here, and the demo is for who reaches everybody"
        raise InvalidError(f"{message}: use `mizar lab up -f`, or `mizar demo --simulate -f`")
    keep = keep or labs.is_up(lab)
    try:
        labs.up(resources, screen.progress)
        return traffic(lab, screen)
    finally:
        if not keep:
            with screen.progress("lab down"):
                labs.down(lab)


def traffic(lab: LabName, screen: Screen, limit_s: float = LIMIT_S) -> Result:
    """All traffic of the demo on a lab that is up."""
    begun = time.monotonic()
    with Client(lab.server_url) as client:
        view = _View(client)
        members = view.members()
        if not pairs(members):
            raise InvalidError(f"lab {lab.name} has no two endpoints in one VPC: there is nothing to show")
        with screen.progress(f"{len(members)} probes"):
            probes = Probes(lab.name, members)
        with probes:
            switch = _switch(probes, view, members, limit_s)
            if switch:
                screen.show_switch(switch)
            screen.begin_matrix(members)
            cells = _unheard(matrix(probes, screen.fill, limit_s), probes)
            screen.end_matrix()
            separate = isolation(probes, view.delivered, limit_s)
            screen.show_isolation(separate)
            paths = _paths(probes, view, cells, limit_s)
            if paths:
                screen.show_paths(paths)
            separate = _with_strangers(separate, foreign(probes))
    return Result(lab.name, switch, tuple(cells), separate, paths, time.monotonic() - begun)


def members(client: Client) -> list[Member]:
    """Endpoints that can take part: those that a server knows and whose namespace has a name here."""
    return _View(client).members()


def _unheard(cells: Sequence[Cell], probes: Probes) -> list[Cell]:
    """Marks the echo requests that were answered but that their destination never heard: somebody else answered."""
    heard = {probe.member: probes.heard(probe) for probe in probes}
    numbers = {probe.member: number for number, probe in enumerate(probes)}
    return [
        cell
        if not cell.ok or heard[cell.destination].get(("icmp", numbers[cell.source]))
        else cell.with_outcomes([Outcome("heard", 0.0, f"{cell.destination} never heard the echo that was answered")])
        for cell in cells
    ]


def _paths(probes: Probes, view: _View, cells: Sequence[Cell], limit_s: float) -> tuple[Path, ...]:
    """Follows the pairs of different networks and droplets; none where there are no such pairs."""
    apart = [
        (cell.source, cell.destination)
        for cell in cells
        if cell.source.droplet != cell.destination.droplet
        and cell.source.network != cell.destination.network
        and cell.source.group == cell.destination.group
        and not view.by_appliance(cell.source)
    ]
    return tuple(
        follow(
            probes, source, destination, view.roles(source, destination), partial(view.counts, source.group), limit_s
        )
        for source, destination in apart[:PATHS]
    )


def _switch(probes: Probes, view: _View, members: Sequence[Member], limit_s: float) -> Path | None:
    """Follows the very first packets of a way, before anybody else has sent any: over the hops, then direct.

    Of a few ways the first that is whole: a droplet may not have found its neighbours yet when a lab has just come up.
    """
    far = [
        (source, destination)
        for source, destination in pairs(members)
        if source.droplet != destination.droplet
        and source.droplet not in view.roles(source, destination).destination_bouncers
        and view.share_family(source.droplet, destination.droplet)
        and not view.by_appliance(source)
    ]
    far.sort(key=lambda pair: _shortcuts(view, *pair))
    found: Path | None = None
    for source, destination in far[:SWITCHES]:
        roles, counts = view.roles(source, destination), partial(view.counts, source.group)
        found = follow(probes, source, destination, roles, counts, limit_s, SWITCH_INTERVAL_S)
        if found.ok and found.direct:
            return found
    if found is not None and found.ok:
        found = replace(found, problems=(f"none of {found.packets} packets went on the direct path",))
    return found


def _shortcuts(view: _View, source: Member, destination: Member) -> int:
    """How many hops a way lacks because one droplet has two parts: the longest ways show most."""
    roles = view.roles(source, destination)
    return (
        2 * (source.network == destination.network)
        + (source.droplet in roles.source_bouncers | roles.dividers)
        + (destination.droplet in roles.destination_bouncers)
        + bool(roles.dividers & (roles.source_bouncers | roles.destination_bouncers))
    )


def _with_strangers(found: Isolation, strangers: Sequence[str]) -> Isolation:
    return Isolation(found.sent, found.expected, found.heard, tuple(strangers), found.problems)


class _View:
    """What the demo needs to know from the server, and nothing from the lab's own files."""

    def __init__(self, client: Client) -> None:
        self._client = client
        droplets = client.list("Droplet")
        self._droplets = [i["metadata"]["name"] for i in droplets if i["spec"]["daemon"] != "none"]
        self._families = {
            i["metadata"]["name"]: {
                ":" in i["spec"][field] for field in ("address", "secondAddress") if field in i["spec"]
            }
            for i in droplets
        }
        self._vpcs = {(i["metadata"]["tenant"], i["metadata"]["name"]): i["status"] for i in client.list("VPC")}
        networks = client.list("Network")
        self._peers = _peers(client.list("VPCPeering"))
        self._networks = {(i["metadata"]["tenant"], i["metadata"]["name"]): i for i in networks}

    def members(self) -> list[Member]:
        """Endpoints whose namespace has a name here."""
        return [
            Member(
                tenant=item["metadata"]["tenant"],
                vpc=self._vpc_of(item),
                peers=self._peers.get((item["metadata"]["tenant"], self._vpc_of(item)), ()),
                network=item["spec"]["network"],
                name=item["metadata"]["name"],
                droplet=item["spec"]["droplet"],
                namespace=item["spec"]["workload"]["namespace"],
                addresses=tuple(item["status"]["addresses"]),
            )
            for item in self._client.list("Endpoint")
            if (item["spec"].get("workload") or {}).get("namespace")
        ]

    def _vpc_of(self, endpoint: dict[str, Any]) -> str:
        found: str = self._networks[endpoint["metadata"]["tenant"], endpoint["spec"]["network"]]["spec"]["vpc"]
        return found

    def by_appliance(self, source: Member) -> bool:
        """Whether packets of an endpoint may go by way of another, which sends them once more."""
        routes = self._networks[source.tenant, source.network]["spec"].get("routes", ())
        return any(isinstance(route["via"], dict) for route in routes)

    def share_family(self, one: str, other: str) -> bool:
        """Whether two droplets can speak straight to one another."""
        return bool(self._families[one] & self._families[other])

    def roles(self, source: Member, destination: Member) -> Roles:
        """Who may be what between two endpoints of a VPC."""
        return Roles(
            frozenset(self._networks[source.tenant, source.network]["status"]["bouncers"]),
            frozenset(self._vpcs[source.group]["dividers"]),
            frozenset(self._networks[destination.tenant, destination.network]["status"]["bouncers"]),
        )

    def counts(self, group: Group) -> Counts:
        """Counters of a VPC on every droplet."""
        return {name: self._by_vni(name).get(self._vpcs[group]["number"], _NOTHING) for name in self._droplets}

    def delivered(self) -> Mapping[Group, int]:
        """Packets delivered in each VPC, on all droplets together."""
        total: Counter[Group] = Counter()
        for name in self._droplets:
            by_vni = self._by_vni(name)
            for group, status in self._vpcs.items():
                total[group] += by_vni.get(status["number"], _NOTHING)["deliveredPackets"]
        return total

    def _by_vni(self, droplet: str) -> dict[int, dict[str, int]]:
        rows: list[dict[str, Any]] = self._client.counters(droplet)["vpcs"]
        return {int(row["vni"]): {key: int(row.get(key, 0)) for key in _NOTHING} for row in rows}


def _peers(halves: Sequence[dict[str, Any]]) -> Mapping[Group, tuple[Group, ...]]:
    """Each VPC's peers, as far as both agree."""
    found: dict[Group, tuple[Group, ...]] = {}
    for half in halves:
        if half["status"]["state"] == "Active":
            own, peer = (half["metadata"]["tenant"], half["spec"]["vpc"]), half["spec"]["peer"]
            found[own] = (*found.get(own, ()), (peer["tenant"], peer["vpc"]))
    return found


_NOTHING = dict.fromkeys(
    (
        "sentPackets",
        "directPackets",
        "toDividerPackets",
        "dividedPackets",
        "bouncedPackets",
        "deliveredPackets",
    ),
    0,
)
