# SPDX-License-Identifier: Apache-2.0
"""What Transit XDP remembers for a tick of the kernel's clock (dataplane/lib/senders.h): tests change tables faster."""

from __future__ import annotations

from collections.abc import Mapping

from mizar.kernel.libbpf import check, info, lib, possible_cpus


def forget_senders(maps: Mapping[str, int]) -> None:
    """From now on the table of droplets is asked again."""
    fd = maps["near_senders"]
    check(lib().bpf_map_update_elem(fd, bytes(4), bytes(info("map", fd).value_size * possible_cpus()), 0), "forget")
