# SPDX-License-Identifier: Apache-2.0
"""The routes that a network has on account of its VPC's functions, beside its own. Called by facts and appliances."""

from __future__ import annotations

from mizar.manager.nat_gateways import with_gateways
from mizar.manager.registry import Registry
from mizar.manager.vpns import with_vpns
from mizar.model.resources import Network


def routed(registry: Registry, network: Network) -> Network:
    """The same with all its routes: what is behind VPN connections, and the world behind NAT gateways."""
    return with_gateways(registry, with_vpns(registry, network))
