# SPDX-License-Identifier: Apache-2.0
"""What is found on the host, read through mizar.kernel. Called by host. It must never change anything."""

from __future__ import annotations

from mizar.kernel import topology_features
from mizar.kernel.topology_links import TopologyLinks
from mizar.topology.present import Present
from mizar.topology.wishes import Wishes


def look(links: TopologyLinks, wishes: Wishes) -> Present:
    """Everything that a plan for these wishes depends on: all named namespaces too, since what a topology once made
    may be in one that it no longer names."""
    seen = links.read()
    devices, no_devices = topology_features.devices() if wishes.eswitches else ([], "")
    return Present(
        namespaces=seen.namespaces,
        enterable=seen.enterable,
        links={found.link.key: found for found in seen.links},
        devices=tuple(devices),
        no_devices=no_devices,
        missing=topology_features.missing(wishes.features),
    )
