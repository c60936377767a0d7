# SPDX-License-Identifier: Apache-2.0
"""The direct path in a lab, from manifests on; and a droplet that dies under traffic."""

from __future__ import annotations

from pathlib import Path

import pytest
from pyroute2 import NetNS

from mizar.api.client import Client
from mizar.lab import lab as labs
from mizar.lab.demo import traffic
from mizar.lab.names import LabName
from mizar.model.manifest import parse_manifests
from mizar.model.resources import Network, Resource
from tests.lab.conftest import wait_until
from tests.lab.screen import Recorder
from tests.lab.test_lab import kill

EXAMPLE = Path(__file__).parents[2] / "examples" / "direct-path.yaml"


def example(lab: LabName) -> list[Resource]:
    """The example under a name of its own."""
    text = EXAMPLE.read_text()
    assert text.count("metadata: {name: direct}") == 1
    return parse_manifests(text.replace("metadata: {name: direct}", f"metadata: {{name: {lab.name}}}"), "example")


def test_everything_is_direct_after_the_first_packets(lab: LabName) -> None:
    """A way that becomes direct, all pairs served, and then nothing goes over hops any more; both tunnels."""
    labs.up(example(lab))
    result = traffic(lab, Recorder())
    assert result.ok, result
    assert result.switch is not None
    assert 0 < result.switch.direct < result.switch.packets
    assert result.paths
    with Client(lab.server_url) as client:
        bouncers = {
            item["metadata"]["name"]: set(item["status"]["bouncers"]) for item in client.list("Network", tenant="shop")
        }
    for path in result.paths:
        known = path.source.droplet in bouncers[path.destination.network]
        assert path.direct == (0 if known else path.packets), path


@pytest.mark.long
def test_a_network_may_keep_others_at_its_divider(lab: LabName) -> None:
    """`throughDivider`: what it and other networks say to one another stays on the hops, and arrives."""
    resources = [
        one.model_copy(update={"spec": one.spec.model_copy(update={"through_divider": True})})
        if isinstance(one, Network)
        else one
        for one in example(lab)
    ]
    labs.up(resources)
    result = traffic(lab, Recorder())
    assert all(cell.ok for cell in result.cells)
    assert result.paths
    assert all(path.ok and path.direct == 0 for path in result.paths), result.paths


def test_a_droplet_that_dies_is_replaced(lab: LabName) -> None:
    """Its peers pass it over at once; when the manager misses it too, others get its places, and all is well."""
    labs.up(example(lab))
    assert traffic(lab, Recorder()).ok
    with Client(lab.server_url) as client:

        def members() -> set[str]:
            found: set[str] = set()
            for item in (*client.list("Network", tenant="shop"), *client.list("VPC", tenant="shop")):
                found.update(item["status"].get("bouncers") or item["status"]["dividers"])
            return found

        dead = "d5" if "d5" in members() else sorted(members() - {"d1", "d3"})[0]
        hosts = {item["spec"]["droplet"] for item in client.list("Endpoint", tenant="shop")}
        with NetNS(lab.droplet_namespace(dead)) as inside:
            inside.link("set", index=inside.link_lookup(ifname="eth0")[0], state="down")

        def health() -> str:
            return next(str(i["status"]["health"]) for i in client.list("Droplet") if i["metadata"]["name"] == dead)

        wait_until(lambda: health() == "down")
        cells = traffic(lab, Recorder(), limit_s=10.0).cells if dead not in hosts else ()
        assert [cell for cell in cells if not cell.ok] == []
        kill(lab, dead)
        wait_until(lambda: health() == "dead", 30)
        wait_until(lambda: dead not in members(), 30)
