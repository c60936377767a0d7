# SPDX-License-Identifier: Apache-2.0
"""The world outside of all VPCs: a host on a lab's substrate with addresses of its own, to which droplets have routes.

It takes public addresses (those of examples/nat-gateway.yaml) for neighbours: whoever carries one has to answer for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from mizar.kernel.namespaces import Namespace
from mizar.lab.names import LabName
from tests.peers.foreign import command, plugged

WORLD4, WORLD6 = "198.51.100.9", "2001:db8:f::9"
PUBLIC = ("203.0.113.0/28", "2001:db8:1::/124")


@contextmanager
def world(lab: LabName, droplets: Sequence[str]) -> Iterator[Namespace]:
    """Until the block ends."""
    with plugged(lab, "world") as own:
        for address in (f"{WORLD4}/32", f"{WORLD6}/128"):
            nodad = ["nodad"] if ":" in address else []
            command("ip", "-n", own, "addr", "add", address, "dev", "wire", *nodad)
        for prefix in PUBLIC:
            command("ip", "-n", own, "route", "add", prefix, "dev", "wire")
        for droplet in droplets:
            for prefix in ("198.51.100.0/24", "2001:db8:f::/64"):
                command("ip", "-n", lab.droplet_namespace(droplet), "route", "add", prefix, "dev", "eth0")
        with Namespace.by_name(own) as namespace:
            yield namespace
