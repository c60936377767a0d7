# SPDX-License-Identifier: Apache-2.0
"""Limits by earliest departure time, in a guest whose kernel has fq; tests/lab/test_qos.py has those of the shaper."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.guest.image import UnavailableError
from tests.guest.pace_guest import RATE, UPLINK_RATE
from tests.guest.rooted import Rooted, rooted_image

GUEST_S = 800.0


@pytest.mark.long
@pytest.mark.timeout(900)
def test_what_is_over_a_limit_waits_for_its_time_where_the_interface_has_fq(tmp_path: Path) -> None:
    """The daemon says so. TCP, and UDP whose sender feels its queue, come to their endpoint's limit in either tunnel
    and family, and to the interface's; what waits is counted, and of such UDP none is dropped. A sender that puts in
    more than 200 ms loses that, and no more. Once the interface has another queue, nothing waits for its time, and the
    sender that has lost nothing before loses packets."""
    try:
        image = rooted_image(newer=True)
    except UnavailableError as error:
        pytest.skip(f"no virtual machine here: {error}")
    with Rooted(image, tmp_path) as guest:
        guest.run("mkdir -p /run/pace")
        said = guest.python("tests.guest.pace_guest", "/run/pace", limit_s=GUEST_S)
    found = json.loads(said.strip().splitlines()[-1])
    none = {"none": False, "fq for one of two": False, "fq_codel": False}
    assert found["queues"] == none | {"fq for both": True, "fq": True}
    assert found["told"] == ["paced", "the queue of the droplet's interface is fq, which keeps departure times"]
    assert len(found["limited"]) == 8
    for one, wanted in [(one, RATE) for one in found["limited"]] + [(one, UPLINK_RATE) for one in found["uplink"]]:
        assert 0.8 * wanted < one["bits"] < 1.2 * wanted, one
        assert one["endpoint" if wanted == RATE else "uplink"] > 0, one
        assert one["what"][2] == "tcp" or not {"LIMIT_EGRESS", "UPLINK_FULL"} & one.keys(), one
    assert 0.8 * RATE < found["hoarded"]["bits"] < 1.2 * RATE
    assert found["hoarded"]["LIMIT_EGRESS"] > 0
    assert found["without"]["LIMIT_EGRESS"] > 0
