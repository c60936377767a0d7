# SPDX-License-Identifier: Apache-2.0
"""Control groups as a kernel has them, in a guest where they are free; see tests/unit/transit/test_cgroups.py."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.guest.image import UnavailableError
from tests.guest.rooted import Rooted, rooted_image

HANDED = (
    "mount -t cgroup2 none /sys/fs/cgroup && mkdir -p /sys/fs/cgroup/mizar /run/own && "
    "echo '+cpu +memory +pids' > /sys/fs/cgroup/cgroup.subtree_control"
)


@pytest.mark.long
@pytest.mark.timeout(300)
def test_a_process_gets_no_more_than_its_group_has(tmp_path: Path) -> None:
    """All that it starts is in its group: no more processes than it may have, and one that takes too much memory is
    killed. Its end leaves no group. Without groups it makes more processes than its limit, and none is killed."""
    try:
        image = rooted_image()
    except UnavailableError as error:
        pytest.skip(f"no virtual machine here: {error}")
    with Rooted(image, tmp_path) as guest:
        guest.run(HANDED)
        said = guest.python("tests.guest.cgroup_guest", "/run/own", limit_s=200)
    found = json.loads(said.strip().splitlines()[-1])
    assert found["told"] == "cgroup /sys/fs/cgroup/mizar"
    assert found["inside"]
    assert found["killed"]
    assert (found["pids"], found["said"]) == ("16", ["made 15"])
    assert not found["left"]
