# SPDX-License-Identifier: Apache-2.0
"""The droplet that golden.py tells of, as the oracle's tables, and what it would be with fewer or other roles."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mizar.oracle.tables import Agent, Droplet, Endpoint, Leg, Network, Tunnel, Vpc
from tests.oracle.droplets import BOUNCER, HOST, KNOWN, ME, MY_MAC, RED, address, even, mac_of, prefix


def droplet() -> Droplet:
    """As golden.py tells; the agent sends at interface 1."""
    own = Endpoint(1, mac_of(1, 11), ME, ifindex=1, uid="a")
    rows = {11: own, 21: Endpoint(1, mac_of(1, 21), HOST), 31: Endpoint(1, mac_of(1, 31), BOUNCER, Tunnel.VXLAN)}
    legs = {
        family: Leg(address(family, 1, 11), address(family, 1, 1), prefix(family, 1)[1]) for family in (4, 6)
    }  # fmt: skip
    return Droplet(
        ME,
        MY_MAC,
        KNOWN,
        {RED: Vpc(even(HOST))},
        {(RED, *prefix(family, 1)): Network(1, legs[family].gateway, even(ME), bounced_here=True) for family in legs},
        {(RED, address(family, 1, host)): row for family in (4, 6) for host, row in rows.items()},
        {1: Agent("a", RED, 1, mac_of(1, 11), Tunnel.GENEVE, even(ME), True, False, legs[4], legs[6])},
    )


def hosting() -> Droplet:
    """It merely hosts 10.0.1.11; a divider is elsewhere."""
    here = droplet()
    mine = {key: row for key, row in here.endpoints.items() if row.ifindex}
    nets = {key: replace(row, bouncers=even(HOST), bounced_here=False) for key, row in here.networks.items()}
    agent = replace(here.agents[1], bounced_here=False, bouncers=even(HOST))
    return replace(here, endpoints=mine, networks=nets, agents={1: agent})


def dividing() -> Droplet:
    """It divides the VPC, and hosts 10.0.1.11."""
    here = hosting()
    nets = {key: replace(row, routed_here=True) for key, row in here.networks.items()}
    agent = replace(here.agents[1], routed_here=True)
    return replace(here, networks=nets, agents={1: agent}, vpcs={RED: Vpc(even(ME), divided_here=True)})


in_every_role = pytest.mark.parametrize("here", [droplet, hosting, dividing], ids=lambda make: make.__name__)
