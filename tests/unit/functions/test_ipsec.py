# SPDX-License-Identifier: Apache-2.0
"""What strongSwan is told, and when a tunnel is called up or down."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path

from mizar.functions.ipsec import charon
from mizar.functions.ipsec.values import IpsecSeen, IpsecTunnel, judge

TUNNEL = IpsecTunnel(
    b"very-secret", "a.example", "b.example",
    (ip_network("10.0.0.0/16"), ip_network("fd00:10::/48")),
    (ip_network("10.9.0.0/24"), ip_network("10.8.0.0/24"), ip_network("fd09::/64")),
    4510, (ip_address("192.0.2.9"), 4500), ("aes256-sha256-x25519",), (), 600, 10,
)  # fmt: skip


def test_each_pair_of_a_family_is_joined() -> None:
    """By a security association of its own, with the times and names that were asked for."""
    found = charon.connection(TUNNEL, "169.254.0.2")
    pairs = [(one["local_ts"], one["remote_ts"]) for one in found["children"].values()]
    assert pairs == [
        (["10.0.0.0/16"], ["10.9.0.0/24"]),
        (["10.0.0.0/16"], ["10.8.0.0/24"]),
        (["fd00:10::/48"], ["fd09::/64"]),
    ]
    assert (found["remote_addrs"], found["remote_port"], found["local_port"]) == (["192.0.2.9"], "4500", "4510")
    assert found["proposals"] == ["aes256-sha256-x25519"]
    assert "esp_proposals" not in found["children"]["c0"]
    times = [found["children"]["c0"][f"{name}_time"] for name in ("rekey", "life", "rand")]
    assert times == ["600", "660", "60"]
    short = charon.connection(replace(TUNNEL, rekey_s=6), "169.254.0.2")["children"]["c0"]
    assert int(short["rand_time"]) < int(short["rekey_time"]) < int(short["life_time"])


def test_no_file_and_no_print_has_the_key() -> None:
    """It goes over vici alone."""
    assert "very-secret" not in charon.configuration(Path("/run/x"), TUNNEL, "u")
    assert "path" not in charon.configuration(Path("/run/x"), TUNNEL, "u")  # a log of its own would fill the memory
    assert "very-secret" not in repr(TUNNEL)
    assert "very-secret" not in repr(charon.connection(TUNNEL, "169.254.0.2"))


def test_what_is_said_of_it() -> None:
    """Up with all pairs; else what is in the way, after a while."""
    assert judge(TUNNEL, IpsecSeen(joined=3), 100, 15) == ("up", "")
    assert judge(TUNNEL, IpsecSeen(joined=1), 100, 15)[1] == "192.0.2.9:4500 agreed to 1 of 3 pairs of prefixes"
    assert judge(TUNNEL, IpsecSeen(asked=True), 3, 15)[0] == "connecting"
    assert "has not answered for 20 s" in judge(TUNNEL, IpsecSeen(asked=True), 20, 15)[1]
    assert "refused" in judge(TUNNEL, IpsecSeen(), 20, 15)[1]
    assert "none of the prefixes" in judge(TUNNEL, IpsecSeen(established_s=9), 20, 15)[1]


def test_esp_in_user_space_comes_before_the_kernels() -> None:
    """Of two that could do it the first one does; where the kernel can, the other one is not there."""
    own = charon.configuration(Path("/run/x"), TUNNEL, "u")
    assert 0 < own.index("kernel-libipsec") < own.index("kernel-netlink")
    assert "kernel-libipsec" not in charon.configuration(Path("/run/x"), TUNNEL, "u", kernel=True)
