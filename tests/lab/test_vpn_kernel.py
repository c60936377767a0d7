# SPDX-License-Identifier: Apache-2.0
"""What the kernel can carry itself is carried by it: probed at run time, and said in the status."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mizar.kernel import tunnel_kernel
from tests.guest.image import UnavailableError
from tests.guest.rooted import Rooted, rooted_image


def test_a_probe_leaves_nothing_and_agrees_with_the_kernel() -> None:
    """WireGuard's devices and ESP's associations are there, or are not; either way nothing of the probe stays."""
    before = sorted(path.name for path in Path("/sys/class/net").iterdir())
    assert tunnel_kernel.has_wireguard() in (True, False)
    if not Path("/proc/net/xfrm_stat").exists():
        assert not tunnel_kernel.has_esp()
    assert sorted(path.name for path in Path("/sys/class/net").iterdir()) == before


@pytest.mark.long
@pytest.mark.timeout(300)
def test_the_kernels_wireguard_and_esp_carry_datagrams(tmp_path: Path) -> None:
    """In a guest that has both: a hundred datagrams by WireGuard, five hundred by ESP whose keys change three times at
    least meanwhile, and none is lost; no process for WireGuard; charon is no root, and its associations are the
    kernel's."""
    try:
        image = rooted_image()
    except UnavailableError as error:
        pytest.skip(f"no virtual machine here: {error}")
    with Rooted(image, tmp_path) as guest:
        guest.run("mkdir -p /run/vpn")
        said = guest.python("tests.guest.vpn_guest", "/run/vpn", limit_s=240)
    found = json.loads(said.strip().splitlines()[-1])
    assert found["has"] == [True, True]
    wireguard, ipsec = found["wireguard"], found["ipsec"]
    assert (wireguard["engine"], wireguard["state"], wireguard["lost"]) == ("wireguard (kernel)", "up", 0)
    assert wireguard["received"] > 100 * 64
    assert not wireguard["left"]
    assert (ipsec["engine"], ipsec["state"], ipsec["lost"]) == ("strongswan (kernel ESP)", "up", 0)
    assert ipsec["changes"] >= 3
    assert ipsec["refused"] == {}
    assert ipsec["kernel"].count("proto") >= 2
    assert "encap" in ipsec["kernel"]
    assert int(ipsec["user"][0]) >= 1_900_000_000
