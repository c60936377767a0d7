# SPDX-License-Identifier: Apache-2.0
"""What each CPU remembers for a tick of the kernel's clock (lib/senders.h and others): tests change tables faster."""

from __future__ import annotations

from collections.abc import Mapping

from mizar.kernel.libbpf import check, info, lib, possible_cpus

NEAR = ("near_senders", "near_policy_flows", "near_flows")  # endpoints and agents: see mizar/kernel/versioned.py


def forget_near(maps: Mapping[str, int]) -> None:
    """From now on the tables are asked again."""
    for name in NEAR:
        size = info("map", maps[name]).value_size * possible_cpus()
        check(lib().bpf_map_update_elem(maps[name], bytes(4), bytes(size), 0), "forget")
