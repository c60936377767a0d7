# SPDX-License-Identifier: Apache-2.0
"""Rules between objects that need no store: the API looks the others up and asks here. Pure.

Each returns every problem, none when all is well; `field` is a path in the object that is checked.
"""

from __future__ import annotations

from collections.abc import Iterable

from mizar.model.errors import Problem
from mizar.model.resources import VPC, Droplet, Endpoint, Network, Resource


def check_immutable(old: Resource, new: Resource) -> list[Problem]:
    """Fields that cannot change while the object lives; same kind and name."""
    raise NotImplementedError


def check_network(network: Network, vpc: VPC, siblings: Iterable[Network]) -> list[Problem]:
    """Within the VPC's CIDRs, and no overlap with other networks of the VPC (`siblings`; itself is skipped)."""
    raise NotImplementedError


def check_endpoint(endpoint: Endpoint, network: Network, droplet: Droplet) -> list[Problem]:
    """Requested addresses are usable addresses of the network; a workload exactly where there is a daemon."""
    raise NotImplementedError
