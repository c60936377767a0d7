# SPDX-License-Identifier: Apache-2.0
"""Networks inside of networks: an address belongs to the network of its VPC with the longest prefix, and to no other.

Called by mizar.manager.intake. It must never write: it looks at a draft and answers with problems.
"""

from __future__ import annotations

from itertools import islice

from mizar.manager.draft import Draft
from mizar.manager.registry import vpc_of
from mizar.model.addresses import parse_address
from mizar.model.errors import Problem
from mizar.model.resources import Endpoint, Network

_NAMED = 10


def outside(endpoint: Endpoint, network: Network, draft: Draft) -> list[Problem]:
    """Requested addresses that another network of the VPC, with a longer prefix, has."""
    problems = []
    for place, text in enumerate(endpoint.spec.addresses):
        found = draft.network_at(vpc_of(network), parse_address(text))
        if found is not None and found[1] != network.ref:
            message = f"{text} belongs to {found[1]}, whose prefix {found[0]} is longer than that of {network.ref}"
            problems.append(Problem(message, f"spec.addresses[{place}]", str(endpoint.ref)))
    return problems


def squatters(network: Network, draft: Draft) -> list[Problem]:
    """A new network whose addresses endpoints of a network around it have already."""
    named = [f"{found.name} ({', '.join(found.status.addresses)})" for found in draft.squatters(network)]
    if not named:
        return []
    more = f" and {len(named) - _NAMED} more" if len(named) > _NAMED else ""
    message = (
        f"{', '.join(network.spec.cidrs)} holds addresses of endpoints of another network: "
        f"{', '.join(islice(named, _NAMED))}{more}; delete those first, or choose another prefix"
    )
    return [Problem(message, "spec.cidrs", str(network.ref))]
