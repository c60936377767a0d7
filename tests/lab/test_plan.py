# SPDX-License-Identifier: Apache-2.0
"""What a lab is made of, from its manifests alone."""

from __future__ import annotations

import pytest

from mizar.lab.names import LabName
from mizar.lab.plan import plan
from mizar.model.errors import InvalidError
from mizar.model.manifest import parse_manifests
from mizar.model.resources import Endpoint
from tests.lab.conftest import manifests

LAB = LabName("plan")


def test_droplets_have_the_addresses_after_the_first() -> None:
    """Droplet N has the N-th address after the substrate's first, a daemon of its own and a namespace of its own."""
    made = plan(manifests(LAB))
    assert [(host.name, *map(str, host.addresses)) for host in made.hosts] == [
        ("d1", "172.31.0.2/24"),
        ("d2", "172.31.0.3/24"),
    ]
    assert [item.ref.name for item in made.objects[:2]] == ["d1", "d2"]
    assert len({host.namespace for host in made.hosts}) == 2


def test_endpoints_without_a_workload_get_a_namespace() -> None:
    """The lab names a namespace for each endpoint that names none, unlike for every endpoint."""
    made = plan(manifests(LAB))
    workloads = [item.spec.workload for item in made.objects if isinstance(item, Endpoint)]
    assert [workload and workload.namespace for workload in workloads] == list(made.endpoint_namespaces)
    assert len(set(made.endpoint_namespaces)) == 4


def test_a_workload_that_is_named_stays() -> None:
    """A manifest that says where the workload is has its way; the lab makes no namespace for it."""
    text = """
{apiVersion: mizar/v1, kind: Lab, metadata: {name: plan}, spec: {droplets: 1}}
---
apiVersion: mizar/v1
kind: Endpoint
metadata: {name: own, tenant: blue}
spec: {network: front, droplet: d1, workload: {namespace: mine}}
"""
    made = plan(parse_manifests(text, "test"))
    assert made.endpoint_namespaces == ()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{apiVersion: mizar/v1, kind: Tenant, metadata: {name: blue}}", "exactly one object of kind Lab, found 0"),
        (
            "{apiVersion: mizar/v1, kind: Lab, metadata: {name: x}, "
            "spec: {droplets: 6, substrate: {cidr: 10.9.0.0/29}}}",
            "no room for 6 droplets",
        ),
        (
            "{apiVersion: mizar/v1, kind: Lab, metadata: {name: x}, spec: {droplets: 1}}\n---\n"
            "{apiVersion: mizar/v1, kind: Droplet, metadata: {name: d1}, spec: {address: 10.9.0.9, daemon: none}}",
            "makes d1 itself",
        ),
        (f"{{apiVersion: mizar/v1, kind: Lab, metadata: {{name: {'x' * 41}}}, spec: {{droplets: 1}}}}", "at most 40"),
    ],
)
def test_what_describes_no_lab_is_refused(text: str, words: str) -> None:
    """Each contradiction has its sentence."""
    with pytest.raises(InvalidError, match=words):
        plan(parse_manifests(text, "test"))


@pytest.mark.parametrize("name", ["", "..", "a/b", "A", "a_b", "-a", "a-"])
def test_a_name_that_could_mean_something_else_is_refused(name: str) -> None:
    """`mizar lab down NAME` removes folders by name: only DNS labels are names."""
    with pytest.raises(InvalidError):
        LabName(name)


def test_no_labs_names_begin_like_anothers() -> None:
    """What belongs to lab `a` is never taken for `a-b`'s, nor the other way round."""
    one, other = LabName("a"), LabName("a-b")
    for mine, theirs in ((one, other), (other, one)):
        assert not mine.droplet_namespace("d1").startswith(theirs.namespace_prefix)
        assert not mine.instance("d1").startswith(theirs.instance_prefix)
