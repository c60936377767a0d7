# SPDX-License-Identifier: Apache-2.0
"""Faults of every kind, put there by hand in a lab with real daemons: `mizar trace` finds each and names it."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Iterator
from ipaddress import ip_address
from typing import Any

import pytest
from pyroute2 import NetNS

from mizar.api.client import Client
from mizar.lab import lab as labs
from mizar.lab.names import LabName
from mizar.model.addresses import from_mapped
from tests.lab.conftest import wait_until
from tests.lab.live_maps import endpoint_key, open_droplets, open_endpoints
from tests.lab.test_direct import example
from tests.lab.test_trace import addresses

HOSTS = {"web-1": "d1", "web-2": "d2", "data-1": "d3", "data-2": "d4"}

pytestmark = pytest.mark.long


class Site:
    """The lab of the direct path: endpoints on d1 to d4; bouncers and dividers wherever they are."""

    def __init__(self, lab: LabName, client: Client) -> None:
        self.lab, self.client = lab, client
        self.source, self.to = "web-1", "data-2"
        self.number = int(client.get("VPC", "main", "shop")["status"]["number"])

    @property
    def target(self) -> str:
        return addresses(self.client, "shop", self.to)[0]

    def ask(self, *, live: bool = False, size: int = 0, port: int = 7) -> dict[str, Any]:
        source = {"tenant": "shop", "name": self.source}
        question = {"source": source, "destination": self.target, "protocol": "udp", "live": live, "size": size}
        return self.client.trace(question | {"sourcePort": port})

    def way(self, found: dict[str, Any]) -> list[str]:
        """The droplets that a packet comes to."""
        return list(dict.fromkeys(hop["droplet"] for hop in found["hops"]))

    def over_a_bouncer(self) -> tuple[int, str]:
        """Chooses source and target so that a flow goes over a bouncer that hosts neither: its port, and that bouncer.
        Nothing is sent meanwhile, so that no direct path comes to be."""
        for source, to in itertools.permutations(HOSTS, 2):
            self.source, self.to = source, to
            for port in range(1000, 1016):
                way = self.way(self.ask(port=port))
                if len(way) > 2 and way[-1] == HOSTS[to]:
                    return port, way[-2]
        raise AssertionError("no flow goes over a bouncer")


@pytest.fixture
def site(lab: LabName) -> Iterator[Site]:
    labs.up(example(lab))
    with Client(lab.server_url) as client:
        yield Site(lab, client)


def test_an_altered_entry(site: Site) -> None:
    """On a bouncer, the endpoint's entry leads to another host than its own: the prediction says so, and the live
    packet goes there."""
    port, bouncer = site.over_a_bouncer()
    with open_endpoints(site.lab, bouncer) as endpoints, open_droplets(site.lab, bouncer) as droplets:
        key = endpoint_key(site.number, site.target)
        held = endpoints.get(key)
        assert held is not None
        wrong = HOSTS[site.source]
        own = site.client.get("Droplet", wrong)["spec"]["address"]
        elsewhere = next(
            slot for slot, one in droplets.items() if slot and from_mapped(one["addr"]) == ip_address(own).packed
        )
        endpoints.put(key, held | {"droplet": elsewhere})
        for live in (False, True):
            found = site.ask(port=port, live=live)
            assert not found["ok"], found
            notes = [note for hop in found["hops"] for note in hop["notes"] if hop["droplet"] == bouncer]
            said = f"the entry of shop/{site.to} leads to {wrong}, but it lives on {HOSTS[site.to]}"
            assert any(said in note for note in notes), found
        endpoints.put(key, held)
    assert site.ask(port=port)["ok"]


def test_an_mtu_that_is_wrong_in_a_table(site: Site) -> None:
    """`droplets` of the source says that less fits than does: refused, with both numbers."""
    way = site.way(site.ask())
    address = ip_address(site.client.get("Droplet", way[1])["spec"]["address"]).packed
    with open_droplets(site.lab, "d1") as droplets:
        slot, held = next((slot, one) for slot, one in droplets.items() if slot and from_mapped(one["addr"]) == address)
        droplets.put(slot, held | {"mtu": 600})
        found = site.ask(size=1000)
        assert not found["ok"]
        assert "PACKET_TOO_BIG" in found["ending"]
        assert f"way to {way[1]} takes IP packets of 600 bytes, but both interfaces have 1500" in str(found)
        assert site.ask(size=500)["ok"]
        droplets.put(slot, held)
    assert site.ask(size=1000)["ok"]


def test_a_wire_that_is_narrower_than_its_ends(site: Site) -> None:
    """A port of the switch loses long packets, which no table knows: the live packet vanishes; what fits is named."""
    assert site.ask(live=True, size=1400)["ok"]
    with NetNS(site.lab.substrate_namespace) as switch:
        port = switch.link_lookup(ifname="d4")[0]
        switch.link("set", index=port, mtu=1000)
        assert site.ask(size=1400)["ok"], "the tables do not know"
        found = site.ask(live=True, size=1400)
        assert not found["ok"]
        assert "lost between" in found["divergence"], found
        assert "and d4:" in found["divergence"], found
        assert any("a packet of 9" in one and "smaller MTU" in one for one in found["findings"]), found
        switch.link("set", index=port, mtu=1500)


def test_a_dead_bouncer(site: Site) -> None:
    """Its daemon is gone: the prediction ends there, with its name, and the live packet shows that its data plane
    works. Then its host leaves the substrate: where packets vanish is named, or another way is shown, which works."""
    port, bouncer = site.over_a_bouncer()
    processes = {one["name"]: one["pid"] for one in labs.status(site.lab)["processes"]}
    os.kill(processes[bouncer], signal.SIGKILL)
    silent = f"sent to {bouncer}, which cannot be asked"
    wait_until(lambda: silent in site.ask(port=port)["ending"], 30.0)
    found = site.ask(port=port, live=True)
    assert not found["ok"]
    assert silent in found["ending"], found
    assert any(f"{HOSTS[site.to]}, transit: handed over" in one for one in found["findings"]), found
    with NetNS(site.lab.droplet_namespace(bouncer)) as inside:
        inside.link("set", index=inside.link_lookup(ifname="eth0")[0], state="down")
    found = site.ask(port=port, live=True)
    assert found["ok"] or bouncer in str(found), found

    def healed() -> bool:
        again = site.ask(port=port, live=True)
        return bool(again["ok"]) and bouncer not in site.way(again)

    wait_until(healed, 30.0)
