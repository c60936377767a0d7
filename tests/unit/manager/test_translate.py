# SPDX-License-Identifier: Apache-2.0
"""Entries become messages and messages entries: what a daemon says that it holds compares equal to what was wanted."""

import pytest

from mizar.manager.translate import attachment, local_entry
from mizar.planner.entries import EndpointEntry, LocalEntry, OvsEntry, TapEntry, WorkloadEntry

ENDPOINT = EndpointEntry(7, 1, (bytes((10, 0, 1, 11)),), bytes((2, 0, 0, 0, 1, 1)), bytes((172, 31, 0, 2)), 1)


@pytest.mark.parametrize(
    "workload",
    [
        WorkloadEntry(namespace="red.a"),
        WorkloadEntry(path="/proc/7/ns/net", interface="net0"),
        WorkloadEntry(pid=7),
        WorkloadEntry(namespace="red.f", pool=True),
        WorkloadEntry(tap=TapEntry()),
        WorkloadEntry(tap=TapEntry("vm1", 1000, 4)),
        WorkloadEntry(ovs=OvsEntry("br0")),
        WorkloadEntry(ovs=OvsEntry("br0", "p1", 4094)),
    ],
)
def test_every_kind_of_workload_comes_back_as_it_went(workload: WorkloadEntry) -> None:
    """No field is lost on the way."""
    entry = LocalEntry("uid-1", ENDPOINT, workload, 1400)
    assert local_entry(attachment(entry)) == entry
    assert entry.same(local_entry(attachment(entry)))
