# SPDX-License-Identifier: Apache-2.0
"""The alias of an interface is the only record of its workload: it tells a new daemon all of it."""

import pytest

from mizar.model.errors import InvalidError
from mizar.transit import replies
from mizar.transit.requests import workloads
from mizar.transit.workloads import InNamespace, NamespaceBy, OvsPort, Tap, Workload, of_alias

WORKLOADS: list[Workload] = [
    InNamespace(NamespaceBy.NAME, "red.a", "eth0"),
    InNamespace(NamespaceBy.PATH, "/run/my containers/1", "net0"),
    InNamespace(NamespaceBy.PID, "12", "eth0"),
    InNamespace(NamespaceBy.POOL, "red.f", "eth0"),
    Tap("", 0, 1),
    Tap("vm-web", 1000, 4),
    OvsPort("br0", "", 0),
    OvsPort("br-int", "to-mizar", 4094),
]


@pytest.mark.parametrize("workload", WORKLOADS)
def test_an_alias_and_a_message_tell_all(workload: Workload) -> None:
    assert of_alias(workload.inner, workload.spec) == workload
    assert workloads.workload(replies.workload(workload)) == workload


@pytest.mark.parametrize(
    "spec", ["", "tap:", "tap:1", "tap:x/1", "tap:1/x", "ovs:br0", "ovs:/1", "ovs:br0/x", "sock:1"]
)
def test_an_alias_of_another_version_is_not_guessed_at(spec: str) -> None:
    with pytest.raises(InvalidError, match="names no workload"):
        of_alias("eth0", spec)
