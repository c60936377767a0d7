# SPDX-License-Identifier: Apache-2.0
"""Faults that somebody made by hand on live droplets: `mizar audit` finds and names each, `--repair` mends all, and
traffic flows again."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from mizar.api.client import Client
from mizar.kernel.tables import network_key
from mizar.lab import lab as labs
from mizar.lab.names import LabName
from mizar.model.addresses import parse_address, to_mapped
from tests.lab.conftest import manifests, wait_until
from tests.meddling import detach_agent, flush, maps_of, set_mtu
from tests.transit.traffic import ping

MIZAR = [sys.executable, "-m", "mizar.cli.main"]
LIMIT_S = 30.0


class Audited:
    """The small lab, and what is asked of it."""

    def __init__(self, lab: LabName) -> None:
        labs.up(manifests(lab))
        self.lab = lab
        with Client(lab.server_url) as client:
            self.status = {
                f"{one['metadata']['tenant']}/{one['metadata']['name']}": one["status"]
                for one in client.list("Endpoint")
            }
            self.vnis = {one["metadata"]["tenant"]: one["status"]["vni"] for one in client.list("VPC")}

    def inside(self, name: str) -> str:
        return self.lab.endpoint_namespace(*name.split("/"))

    def key(self, name: str, address: str = "") -> dict[str, Any]:
        """Of an endpoint in `endpoints`; or of another address in its VPC."""
        found = parse_address(address or self.status[name]["addresses"][0])
        return {"vni": self.vnis[name.split("/")[0]], "addr": to_mapped(found.packed)}

    def answers(self, one: str, other: str) -> bool:
        return ping(self.inside(one), self.status[other]["addresses"][0]) is not None

    def audit(self, *arguments: str) -> tuple[int, list[dict[str, Any]]]:
        """Exit code, and what was found, with the droplet."""
        command = [*MIZAR, "audit", "--server", self.lab.server_url, "-o", "json", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode in (0, 1), done.stderr
        return done.returncode, [
            {"droplet": item["droplet"], **one} for item in json.loads(done.stdout) for one in item["findings"]
        ]


def test_every_fault_is_found_named_and_mended(lab: LabName) -> None:
    """An entry deleted, one altered, one of nobody; a wrong MTU; an agent detached."""
    here = Audited(lab)
    pairs = [("blue/blue-web", "blue/db"), ("red/red-web", "red/db")]
    wait_until(lambda: all(here.answers(*pair) for pair in pairs), LIMIT_S)
    assert here.audit() == (0, [])
    with maps_of(lab.instance("d1")) as maps:
        mine = maps.endpoints.get(here.key("blue/blue-web"))
        assert mine is not None
        maps.endpoints.delete(here.key("blue/blue-web"))
        maps.endpoints.put(here.key("red/red-web", "10.0.1.77"), mine)
    with maps_of(lab.instance("d2")) as maps:
        other = maps.endpoints.get(here.key("red/db"))
        assert other is not None
        maps.endpoints.put(here.key("red/db"), {**other, "ifindex": 1})
    set_mtu(here.inside("blue/db"), "eth0", 1300)
    detach_agent(lab.instance("d1"), here.status["red/red-web"]["hostInterface"])
    assert not here.answers("blue/blue-web", "blue/db"), "the fault hurts"
    code, found = here.audit()
    assert code == 1
    told = {(one["droplet"], one["kind"], one["table"], one["object"]) for one in found}
    assert told == {
        ("d1", "missing", "endpoints", "Endpoint blue/blue-web"),
        ("d1", "foreign", "endpoints", "VPC red/main"),
        ("d1", "missing", "program", "Endpoint red/red-web"),
        ("d2", "altered", "endpoints", "Endpoint red/db"),
        ("d2", "altered", "interface", "Endpoint blue/db"),
    }
    size = next(one for one in found if one["table"] == "interface")
    assert (size["wanted"], size["found"], size["vpc"]) == ("1450", "1300", "blue/main")
    code, mended = here.audit("--repair")
    assert code == 1
    assert len(mended) == len(found)
    assert all(one["repair"] and not one["error"] for one in mended), mended
    assert here.audit() == (0, [])
    wait_until(lambda: all(here.answers(*pair) for pair in pairs), LIMIT_S)


@pytest.mark.long
def test_forgotten_by_the_daemon_too(lab: LabName) -> None:
    """Who asks for the state makes the daemon believe its maps: what it has forgotten is found against the plan. A lost
    address comes back."""
    here = Audited(lab)
    wait_until(lambda: here.answers("blue/blue-web", "blue/db"), LIMIT_S)
    with Client(lab.server_url) as client:
        with maps_of(lab.instance("d1")) as maps:
            prefix = network_key(here.vnis["blue"], to_mapped(parse_address("10.0.1.0").packed), 24)
            assert maps.networks.delete(prefix)
        client.state("d1")
    flush(here.inside("blue/db"), "eth0")
    _, found = here.audit("--repair")
    told = {(one["kind"], one["at"], one["object"], one["table"]) for one in found}
    assert told == {
        ("altered", "daemon", "Network blue/front", "networks"),
        ("missing", "kernel", "Endpoint blue/db", "interface"),
    } | {one for one in told if one[1:3] == ("daemon", "Endpoint blue/blue-web")}
    assert all(one["repair"] for one in found), found
    assert here.audit() == (0, [])
    wait_until(lambda: here.answers("blue/blue-web", "blue/db"), LIMIT_S)
