# SPDX-License-Identifier: Apache-2.0
"""Every kind of endpoint and way: whatever the examples hold, a live trace of each pair goes as predicted."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from mizar.api.client import Client
from mizar.lab import lab as labs
from mizar.lab.names import LabName
from mizar.model.manifest import parse_manifests
from mizar.model.resources import Lab, Resource

EXAMPLES = Path(__file__).parents[2] / "examples"
KINDS = (
    "private-link",
    "scaled",
    "peering",
    "routing",
    "direct-path",
    "mixed-substrate",
    "ipv6-substrate",
    "substrate-route",
    "one-vni",
    "groups",
)
MOST_PAIRS = 24

pytestmark = pytest.mark.long


def example(name: str, lab: LabName) -> list[Resource]:
    """An example under another name of its lab."""
    found = parse_manifests((EXAMPLES / f"{name}.yaml").read_text(), name)
    return [
        one.model_copy(update={"metadata": one.metadata.model_copy(update={"name": lab.name})})
        if isinstance(one, Lab)
        else one
        for one in found
    ]


@pytest.mark.parametrize("name", KINDS)
def test_what_happens_is_what_was_predicted(lab: LabName, name: str) -> None:
    """Each pair of endpoints that shares a tenant, in each family, over UDP; delivered or not."""
    labs.up(example(name, lab))
    problems, arrived = [], 0
    with Client(lab.server_url) as client:
        endpoints = [one for one in client.list("Endpoint") if one["spec"]["type"] != "source"]
        pairs = [
            (one, other, address)
            for one, other in itertools.permutations(endpoints, 2)
            if one["spec"]["type"] == "simple" and one["metadata"]["tenant"] == other["metadata"]["tenant"]
            for address in other["status"]["addresses"]
        ]
        for one, other, address in pairs[:MOST_PAIRS]:
            if not any((":" in address) == (":" in own) for own in one["status"]["addresses"]):
                continue
            found = client.trace(question(one, address))
            arrived += found["ok"]
            if found["divergence"]:
                problems.append((one["metadata"]["name"], other["metadata"]["name"], found))
        if name == "substrate-route":
            away = client.trace(question(endpoints[0], "192.0.2.7"))
            assert away["ok"], away
            assert "handed to the host's own stack" in away["ending"]
    assert not problems, problems[0]
    assert arrived, "nothing arrived anywhere"


def question(one: dict[str, Any], address: str) -> dict[str, Any]:
    """UDP from an endpoint to an address, sent."""
    metadata = one["metadata"]
    source = {"tenant": metadata["tenant"], "name": metadata["name"]}
    return {"source": source, "destination": address, "protocol": "udp", "live": True}
